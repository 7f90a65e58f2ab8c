"""The UDP sockets of IKE: port 500 by asyncio's own selector, port 4500 through the worker, which shares it with
ESP (RFC 3948).

Both kinds carry our SO_MARK, send with DF and ignore ICMP (docs/mtu.md). Each configured local address has a socket. If
a connection names no local address, there are wildcard sockets, and IP_PKTINFO carries the local address. On port 4500
a message has four zero bytes before it (`Path.marker`); the worker removes them, `send` adds them. Called by
gateway.daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Sequence

from ..dataplane.notice import Punted
from ..dataplane.raw_socket import RawSocket
from ..dataplane.udp import UdpSocket
from ..errors import HostError
from ..ike.events import Outer
from ..model import Address, Path
from ..system.routes import MARK

IKE_PORT, NAT_PORT = 500, 4500
NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"
DATAGRAM_BYTES = 65535
BATCH = 64  # datagrams per wake-up, so that a flood on port 500 does not starve the rest of the loop
_SO_MARK, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT, _PMTUDISC_PROBE = 36, 10, 23, 0, 3
_REASONS = {  # what an operator can do about it
    errno.EADDRINUSE: "another program has it (is strongSwan's charon or another gateway running?)",
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; run the gateway as root",
    errno.EPERM: "the gateway needs CAP_NET_ADMIN; run it as root",
}
_IP_PKTINFO = 8

Receiver = Callable[[bytes, Path], None]


class IkeSockets:
    """Port 500 on some addresses. `receive` gets every datagram with its path, inside the event loop."""

    def __init__(self, receive: Receiver) -> None:
        self._receive = receive
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, addresses: Iterable[Address]) -> None:
        """HostError names the address that cannot be bound; `close` is still the caller's."""
        for address in addresses:
            self._sockets.append(_bind(address))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for one in self._sockets:
            loop.add_reader(one.fileno(), self._readable, one)

    def _readable(self, one: socket.socket) -> None:
        local_port = one.getsockname()[1]
        for _ in range(BATCH):
            try:
                data, ancillary, _, sender = one.recvmsg(DATAGRAM_BYTES, 256)
            except OSError:  # nothing (more) there, or an ICMP error of an earlier send: retransmission deals with that
                return
            local = _local_of(ancillary) or ipaddress.ip_address(one.getsockname()[0].partition("%")[0])
            remote = ipaddress.ip_address(sender[0].partition("%")[0])
            self._receive(data, Path(local, local_port, remote, sender[1]))

    def send(self, data: bytes, path: Path, outer: Outer = Outer.NEEDED) -> None:
        """Raises OSError with the kernel's reason."""
        for one in self._sockets:
            bound = ipaddress.ip_address(one.getsockname()[0].partition("%")[0])
            if bound.version == path.remote.version and (bound == path.local or bound.is_unspecified):
                ancillary = _pktinfo(path.local) if bound.is_unspecified and not path.local.is_unspecified else []
                _send_as(one, data, ancillary, path, outer)
                return
        raise OSError(f"no socket of port {IKE_PORT} has the address {path.local}")

    def close(self) -> None:
        for one in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(one.fileno())
            one.close()
        self._sockets.clear()


class NatSockets:
    """Port 4500 on the same addresses, then raw sockets for ESP: a worker's sockets, in the order that every worker counts them by."""

    def __init__(self) -> None:
        self.sockets: list[UdpSocket] = []
        self.raw: list[RawSocket] = []
        self._more: list[list[UdpSocket | RawSocket]] = []  # of the second worker on
        self._no_raw = "this gateway has no raw sockets"

    def open(self, addresses: Iterable[Address], make: Callable[[Address], UdpSocket]) -> None:
        for address in addresses:
            self.sockets.append(make(address))

    def open_raw(self, addresses: Iterable[Address], make: Callable[[Address], RawSocket]) -> None:
        """All of them or none: only who wants ESP without UDP, or outer fragments, is told that they are missing."""
        try:
            for address in addresses:
                self.raw.append(make(address))
        except HostError as error:
            self._no_raw = str(error)
            for one in self.raw:
                one.close()
            self.raw.clear()

    def open_more(self, beside: Callable[[UdpSocket], UdpSocket], raw: Callable[[RawSocket], RawSocket]) -> None:
        """The same again for one more worker."""
        row: list[UdpSocket | RawSocket] = []
        self._more.append(row)
        for one in self.sockets:
            row.append(beside(one))
        for other in self.raw:
            row.append(raw(other))

    def of_worker(self, index: int) -> list[UdpSocket | RawSocket]:
        return [*self.sockets, *self.raw] if index == 0 else self._more[index - 1]

    def raw_index_of(self, local: Address) -> int:
        """Which raw socket sends from this address; HostError if none does."""
        for index, one in enumerate(self.raw, len(self.sockets)):
            if one.version == local.version and (one.local is None or one.local == local):
                return index
        raise HostError(self._no_raw if not self.raw else f"no raw socket has the address {local}")

    def index_of(self, local: Address) -> int:
        """Which socket sends from this address; HostError if none does."""
        for index, one in enumerate(self.sockets):
            if one.version == local.version and (one.local is None or one.local == local):
                return index
        raise HostError(f"no socket of port {NAT_PORT} has the address {local}")

    def path_of(self, punted: Punted) -> Path:
        bound = self.sockets[punted.socket_index].local
        unknown = ipaddress.ip_address("0.0.0.0" if punted.remote.version == 4 else "::")
        local = punted.local or bound or unknown
        return Path(local, punted.local_port, punted.remote, punted.remote_port, marker=True)

    def send(self, data: bytes, path: Path, outer: Outer = Outer.NEEDED) -> None:
        """Raises HostError with the kernel's reason."""
        one = self.sockets[self.index_of(path.local)]
        local = path.local if one.local is None and not path.local.is_unspecified else None
        one.sendto(
            (NON_ESP_MARKER + data) if path.marker else data,
            path.remote,
            path.remote_port,
            local,
            "never" if outer is Outer.NEVER else "needed",
        )

    def close(self) -> None:
        for one in (*self.sockets, *self.raw, *(one for row in self._more for one in row)):
            one.close()
        for kept in (self.sockets, self.raw, self._more):
            kept.clear()


def listening_addresses(wanted: Sequence[tuple[Address, ...]]) -> list[Address]:
    """Where to listen for connections with these local addresses: on each, or on the wildcards if one connection names none."""
    if not wanted or not all(wanted):
        wildcards: list[Address] = [ipaddress.IPv4Address(0)]
        if socket.has_ipv6 and _ipv6_works():
            wildcards.append(ipaddress.IPv6Address(0))
        return wildcards
    return list(dict.fromkeys(address for addresses in wanted for address in addresses))


def source_for(remote: Address) -> Address:
    """The address from which this host would send to `remote` outside of every tunnel; HostError if there is no route."""
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
            one.connect((str(remote), IKE_PORT))
            return ipaddress.ip_address(one.getsockname()[0].partition("%")[0])
    except OSError as error:
        raise HostError(f"no way to {remote}: {error.strerror}") from None


def _ipv6_works() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.bind(("::", 0))
        return True
    return False


def _bind(address: Address) -> socket.socket:
    version4 = address.version == 4
    one = socket.socket(socket.AF_INET if version4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        one.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
        _discover(one, _PMTUDISC_PROBE)
        if version4:
            one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        one.bind((str(address), IKE_PORT))
    except OSError as error:
        one.close()
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise HostError(f"cannot listen on {address} port {IKE_PORT}: {reason}") from None
    return one


def _send_as(
    one: socket.socket, data: bytes, ancillary: list[tuple[int, int, bytes]], path: Path, outer: Outer
) -> None:
    """As UdpSocket.sendto does it: in IP fragments where the interface takes nothing so long, unless it is never to be cut."""
    name = (str(path.remote), path.remote_port)
    try:
        one.sendmsg([data], ancillary, 0, name)
    except OSError as error:
        if error.errno != errno.EMSGSIZE or outer is Outer.NEVER:
            raise
        _discover(one, _PMTUDISC_DONT)
        try:
            one.sendmsg([data], ancillary, 0, name)
        finally:
            _discover(one, _PMTUDISC_PROBE)


def _discover(one: socket.socket, how: int) -> None:
    if one.family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)


def _local_of(ancillary: Iterable[tuple[int, int, bytes]]) -> Address | None:
    """The address that a datagram was sent to (struct in_pktinfo: index, spec_dst, addr; struct in6_pktinfo: addr, index)."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return ipaddress.IPv4Address(data[8:12])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return ipaddress.IPv6Address(data[:16])
    return None


def _pktinfo(local: Address) -> list[tuple[int, int, bytes]]:
    if local.version == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, local.packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local.packed + struct.pack("=i", 0))]
