"""Watches our own TUN device (rtnetlink(7)): whether it was deleted, renamed, moved or set down, and its addresses.

The kernel removes a device's addresses before it reports the removal of the device. So addresses that were
removed less than LOST_WITH_S before count as lost with the device. Left out: making it again
(gateway/tun_keeper.py). Called by gateway.daemon.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterable

from .watch import READ_BYTES, READS, RTM_DELLINK, RTM_NEWLINK, messages_of, open_groups

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
RTM_NEWADDR, RTM_DELADDR = 20, 21
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFLA_IFNAME = 3
IFF_UP = 0x1
LOST_WITH_S = 1.0
_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class OwnDevice:
    """`fd` is readable while `take` may have something. HostError without netlink."""

    def __init__(
        self,
        index: int,
        addresses: Iterable[Interface] = (),
        clock: Callable[[], float] = time.monotonic,
        name: str = "",
    ) -> None:
        """`name`: under another one the device is as good as gone; left out, any will do."""
        self._index, self._name = index, name
        self._clock = clock
        self._addresses: dict[Interface, None] = dict.fromkeys(addresses)
        self._left: dict[Interface, float] = {}  # when each was removed
        self.is_broken = False  # deleted, renamed, moved or down
        self._socket = open_groups(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR, "our own device")

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def addresses(self) -> list[Interface]:
        """The addresses that it should have: those that it has, and those lost with it."""
        return list(self._addresses)

    def take(self) -> None:
        """Read the kernel's messages."""
        for _ in range(READS):
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError:  # no more messages, or more than the buffer holds
                break
            for kind, body in messages_of(data):
                with contextlib.suppress(struct.error, ValueError):
                    self._hear(kind, body)
        now = self._clock()
        self._left = {one: at for one, at in self._left.items() if now - at < LOST_WITH_S}

    def move(self, index: int) -> None:
        """Note that the device was made again, or brought up."""
        self._index, self.is_broken = index, False

    def _hear(self, kind: int, body: bytes) -> None:
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            _, _, index, flags, _ = _LINK.unpack_from(body)
            is_ours = index == self._index and body[0] == socket.AF_UNSPEC
            if is_ours and (kind == RTM_DELLINK or not flags & IFF_UP or self._is_renamed(body)):
                self._break()
        elif kind in (RTM_NEWADDR, RTM_DELADDR) and _ADDRESS.unpack_from(body)[4] == self._index:
            found = _interface_of(body)
            if found is None or found.is_link_local:
                return
            if kind == RTM_NEWADDR:
                self._addresses[found] = None
                self._left.pop(found, None)
            elif found in self._addresses and not self.is_broken:
                del self._addresses[found]
                self._left[found] = self._clock()

    def _is_renamed(self, body: bytes) -> bool:
        name = _attributes(body, _LINK.size).get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        return bool(self._name and name) and name != self._name

    def _break(self) -> None:
        self.is_broken = True
        self._addresses.update(dict.fromkeys(self._left))
        self._left.clear()

    def close(self) -> None:
        self._socket.close()


def _interface_of(body: bytes) -> Interface | None:
    found = _attributes(body, _ADDRESS.size)
    data = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
    return None if data is None else ipaddress.ip_interface(f"{ipaddress.ip_address(data)}/{body[1]}")


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        found[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    return found
