"""A directory of our own, and files in it that are whole or not there: private, locked, written beside and renamed.

Every step goes through the directory's descriptor, so nothing that happens to its path later leads a write elsewhere. What makes the
directory unusable (of somebody else, open to others, in use, holding files that are not ours) is a HostError and nothing in it is
touched. Leaves out: what the files hold (store_directory.py). Called by store_directory.py and store_mark.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import HostError, StateError

OURS = re.compile(r"header|(?:ike|marks)-[0-9]{1,20}")
BESIDE = ".new"
LARGEST = (1 << 22) + 1024
MOST_FILES = 1 << 20


class StateFiles:
    def __init__(self, path: Path) -> None:
        """HostError where this directory cannot be ours."""
        self.path = path
        self._fd = -1
        with _in_words(path):
            check_parent(path)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            self._fd = _open_directory(path)
        try:
            with _in_words(path):
                check_private(os.fstat(self._fd), path, "directory")
                lock(self._fd, path)
                self._sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def read(self, name: str) -> bytes:
        """All of a file. StateError where it is none that `write` would have made."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise StateError(f"{name} cannot be read: {error.strerror}") from None
        try:
            check_private(os.fstat(fd), Path(name), "file")
            data = _read_up_to(fd, LARGEST + 1)
        except (OSError, HostError) as error:
            raise StateError(str(error)) from None
        finally:
            os.close(fd)
        if len(data) > LARGEST:
            raise StateError(f"{name} has more than {LARGEST} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """The new content under the name, or HostError and the old content. `sync` makes the name durable too."""
        beside = name + BESIDE
        try:
            with _in_words(self.path):
                self._write_beside(beside, data)
                os.rename(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=self._fd)
            raise

    def sync(self) -> None:
        with _in_words(self.path):
            os.fsync(self._fd)

    def _write_beside(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        with _in_words(self.path), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def empty(self) -> None:
        for name in self.names():
            self.unlink(name)

    def remove(self) -> None:
        """Everything, and the directory where that is possible (its parent may belong to the service manager)."""
        self.empty()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _sweep(self) -> None:
        """Halves of a write that a crash cut off. A file that is not ours means that this is not our directory."""
        names = self.names()
        strangers = [name for name in names if not OURS.fullmatch(name.removesuffix(BESIDE))]
        if strangers or len(names) > MOST_FILES:
            raise HostError(
                f"{self.path}: holds {(strangers or names)[0]!r}, which is not ours; name an empty directory"
            )
        for name in names:
            if name.endswith(BESIDE):
                os.unlink(name, dir_fd=self._fd)


def check_parent(path: Path) -> None:
    """Whoever may rename in the folder above may put another directory or mark in place of ours."""
    status = path.parent.stat()
    others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if others_write or status.st_uid not in (0, os.geteuid()):
        raise HostError(
            f"{path}: {path.parent} may be changed by others; it must belong to us or root, mode 0755 or less"
        )


def check_private(status: os.stat_result, path: Path, kind: str) -> None:
    """HostError unless it is such a thing, ours, and nobody else's to read or write."""
    if not (stat.S_ISDIR if kind == "directory" else stat.S_ISREG)(status.st_mode):
        raise HostError(f"{path}: is no {kind}")
    if status.st_uid != os.geteuid():
        raise HostError(f"{path}: belongs to user {status.st_uid}; it must belong to us (user {os.geteuid()})")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        right = "700" if kind == "directory" else "600"
        raise HostError(f"{path}: may be read or changed by others (mode {mode:04o}); run: chmod {right} {path}")


def lock(fd: int, path: Path) -> None:
    """For as long as `fd` is open; ends with the process, however that ends."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(f"{path}: is in use by another gateway; give each its own state_dir") from None
    ours, there = os.fstat(fd), os.lstat(path)
    if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):  # removed by a gateway that stopped meanwhile
        raise HostError(f"{path}: was replaced while it was being opened; start again")


def _open_directory(path: Path) -> int:
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise HostError(f"{path}: is a symbolic link; name the directory itself")
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _read_up_to(fd: int, most: int) -> bytes:
    chunks: list[bytes] = []
    while most > 0 and (chunk := os.read(fd, most)):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{path}: {(error.strerror or str(error)).lower()}") from None
