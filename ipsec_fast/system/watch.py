"""Tells that links or routes of this host changed (rtnetlink(7)), by a socket of its own that an event loop can wait for.

What changed is not told: whoever wants to know asks again. Routes of ours and our own device make no news. Called by gateway.daemon.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

from ..errors import HostError
from .routes import PROTOCOL

RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x1, 0x40, 0x400
RTM_NEWLINK, RTM_DELLINK, RTM_NEWROUTE, RTM_DELROUTE = 16, 17, 24, 25
RTM_F_CLONED = 0x200  # an entry of a cache, which strangers' ICMP can make
HEADER = struct.Struct("=IHHII")
READ_BYTES, READS = 65536, 64


class RouteWatch:
    """`fd` is readable while `take` may have something. `ignored`: the index of our own device. HostError without netlink."""

    def __init__(self, ignored: int) -> None:
        self._ignored = ignored
        self._socket = open_groups(RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE, "links and routes")

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def ignore(self, index: int) -> None:
        """Our own device has this index now."""
        self._ignored = index

    def take(self) -> bool:
        """Whether anything changed since the last call."""
        changed = False
        for _ in range(READS):
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more news than room: all of it counts as news
                    break
                changed = True
                continue
            changed = any(self._counts(kind, body) for kind, body in messages_of(data)) or changed
        return changed

    def _counts(self, kind: int, body: bytes) -> bool:
        with contextlib.suppress(struct.error):
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                return bool(struct.unpack_from("=i", body, 4)[0] != self._ignored)
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                (flags,) = struct.unpack_from("=I", body, 8)
                return body[5] != PROTOCOL and not flags & RTM_F_CLONED
        return False

    def close(self) -> None:
        self._socket.close()


def open_groups(groups: int, what: str) -> socket.socket:
    """A non-blocking rtnetlink socket in these multicast groups. HostError, which names `what`, if there is none."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        found = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        found.bind((0, groups))
    except OSError as error:
        raise HostError(f"cannot watch {what}: {error.strerror}") from None
    return found


def messages_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each netlink message."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3
