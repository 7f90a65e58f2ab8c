"""What several tests of control share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder of ours on a tmpfs where there is one: the state directory is made for that, and these tests write a lot."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="ipsec-fast-test-", dir=shm if shm.is_dir() else None))
    yield folder
    shutil.rmtree(folder)
