"""The mark outside the state directory, by which an older copy of the directory is known.

Every file of the directory has a tag under the key: name, salt, counter and ICV, so another one for every time it is written. The
sum of the tags of all files (a multiset hash: order does not matter, one file changes it by one subtraction and one addition) names
the whole directory as it is. The mark holds the sum before a change and after it; it is written before the rename and, with the
new sum alone, behind it. So at any moment of a crash the directory has one of the two sums, and a copy of any earlier moment
has neither. One pwrite of 128 bytes each, into two slots by turns: the last good one counts.

Not synced to a disk: the state of another boot is refused anyway. Leaves out: a mark that is put back together with
the directory. Called by store_directory.py.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ..crypto.rest import RestKey
from ..errors import HostError, StateError
from .store_files import check_parent, check_private, lock

MAGIC = b"ipfmark1"
SLOT = struct.Struct("!8sQ16s32s32s")
SLOT_BYTES = SLOT.size + 32
MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class MarkState:
    """`instance` is drawn anew whenever a directory is begun afresh; `count` is the number of writes of the mark."""

    count: int
    instance: bytes
    before: int
    after: int


class Mark:
    def __init__(self, path: Path, key: RestKey) -> None:
        """HostError where the file cannot be ours."""
        self.path = path
        self._key = key
        try:
            check_parent(path)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        try:
            check_private(os.fstat(self._fd), path, "file")
            lock(self._fd, path)
        except BaseException:
            self.close()
            raise
        self.state = self._read()

    def begin(self, instance: bytes) -> None:
        """For a directory without a file."""
        self.state = MarkState(self.state.count if self.state else 0, instance, 0, 0)
        for _ in range(2):  # both slots: the older one must not name what was there before
            self.write(0, 0)

    def write(self, before: int, after: int) -> None:
        """The directory has one of these sums: two of them ahead of a change, twice the same behind it."""
        if self.state is None:
            raise StateError(f"{self.path}: begin() comes before the first write()")
        state = MarkState(self.state.count + 1, self.state.instance, before, after)
        body = SLOT.pack(MAGIC, state.count, state.instance, before.to_bytes(32, "big"), after.to_bytes(32, "big"))
        slot = body + self._key.tag(b"mark\0" + body)
        try:
            written = os.pwrite(self._fd, slot, state.count % 2 * SLOT_BYTES)
        except OSError as error:
            raise HostError(f"{self.path}: {(error.strerror or str(error)).lower()}") from None
        if written != SLOT_BYTES:
            raise HostError(f"{self.path}: no space left on device")
        self.state = state

    def close(self, *, remove: bool = False) -> None:
        if self._fd < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1

    def _read(self) -> MarkState | None:
        """The newer of the slots that verify; None where none does: no mark yet, another key, or a damaged one."""
        found: list[MarkState] = []
        for index in range(2):
            slot = os.pread(self._fd, SLOT_BYTES, index * SLOT_BYTES)
            body, tag = slot[: SLOT.size], slot[SLOT.size :]
            if len(slot) == SLOT_BYTES and hmac.compare_digest(tag, self._key.tag(b"mark\0" + body)):
                magic, count, instance, before, after = SLOT.unpack(body)
                if magic == MAGIC and count % 2 == index:
                    found.append(
                        MarkState(count, instance, int.from_bytes(before, "big"), int.from_bytes(after, "big"))
                    )
        return max(found, key=lambda state: state.count, default=None)


def file_tag(key: RestKey, name: str, sealed: bytes) -> int:
    """The share of one file in the sum."""
    return int.from_bytes(key.tag(b"file\0" + name.encode() + b"\0" + sealed[:40] + sealed[-16:]), "big")
