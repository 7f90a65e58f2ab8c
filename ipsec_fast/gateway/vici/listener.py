"""The control socket's file: made for its owner alone, taken over only where nobody answers, removed only if still ours.

Called by server.py.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import Protocol

from ...errors import HostError

BACKLOG = 64


class HasSocketOptions(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def open_listener(path: str) -> socket.socket:
    """A listening unix socket at `path`, mode 0600. HostError where somebody listens there, or the place will not do."""
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # so that the file never exists with more rights than 0600
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(f"control socket {path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def remove_listener(path: str, listener: socket.socket, identity: tuple[int, int] | None) -> None:
    """Closes it, and removes the file unless another process has put its own there since."""
    listener.close()
    if identity is not None and file_identity(path) == identity:
        os.unlink(path)


def file_identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def peer_uid(connection: HasSocketOptions) -> int:
    """The user at the other end (SO_PEERCRED)."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def _clear_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"control socket {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise HostError(f"control socket {path}: there is something that is no socket; it was left alone")
    if _somebody_answers(path):
        raise HostError(f"control socket {path} is in use: another gateway listens there")
    try:
        os.unlink(path)
    except OSError as error:
        raise HostError(f"control socket {path}: cannot replace the stale one: {error.strerror}") from None


def _somebody_answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)  # EAGAIN: a full queue is a live one
        return True
