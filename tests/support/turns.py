"""Tests marked `alone` run while no other worker process runs any: they measure, or need the whole machine. Called by tests/conftest.py.

Every test of a worker holds a lock of the room, shared, and one that is alone holds it for itself. All pass a door first, where that one
waits for the room to be empty, so that a stream of short tests cannot keep it out. The kernel drops the locks of a process that dies.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# any two files that all workers see; their content is of no matter
DOOR, ROOM = Path(__file__), Path(__file__).with_name("tally.py")


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    with DOOR.open("rb") as door, ROOM.open("rb") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # not by closing alone: a child process made by fork has the same open file
            fcntl.flock(room, fcntl.LOCK_UN)
