"""Raw netlink of nf_tables: transactions of set elements, dumps, counters; and what rules and watch need of rtnetlink.

libnftables reads its cache of all elements before each deletion (39 ms at 10,000), this does not. One transaction is one send:
the kernel takes all of it or nothing, and names the message that it refused. Everything is synchronous: when `send` returns, the
answer is in the receive buffer. Used by elements, rules, watch and host_policy.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from ...errors import HostError

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
EXCLUSIVE, CREATE, REPLACE = 0x200, 0x400, 0x100
NESTED, TYPE_MASK = 0x8000, 0x3FFF
NLMSG_ERROR, NLMSG_DONE = 2, 3
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
GETSET, NEWSETELEM, GETSETELEM, DELSETELEM = 10, 12, 13, 14
NEWGEN, NEWOBJ, GETOBJ = 15, 18, 19
INET = 1  # NFPROTO_INET
HEADER = struct.Struct("=IHHII")
BUFFER_BYTES = 64 << 20
READ_BYTES = 1 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10


class Refused(HostError):
    """The kernel's refusal: `number` is the errno, `sequence` the message of the request that it names."""

    def __init__(self, number: int, sequence: int, what: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(number)}" if what else os.strerror(number))
        self.number, self.sequence = number, sequence


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= length <= len(data) - at:
            return
        yield kind & TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, sequence, port ID, body) of each."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, sequence, port = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, sequence, port, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def nft_body(*parts: bytes, family: int = INET, resource: int = 0) -> bytes:
    return struct.pack("!BBH", family, 0, resource) + b"".join(parts)


class NetlinkSocket:
    """One socket; `groups` are the multicast groups that it hears. HostError where netlink cannot be had."""

    def __init__(self, protocol: int, groups: Sequence[int] = ()) -> None:
        self._sequence = 0
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
            )
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, 1, group)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        except OSError as error:
            raise HostError(f"cannot open a netlink socket: {error.strerror}") from None
        for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except OSError:  # in a user namespace: as much as net.core.wmem_max and rmem_max allow
                self._socket.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def commit(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        """One nf_tables transaction of (type, flags, body); Refused, and nothing changed, where the kernel says no to any."""
        if not requests:
            return
        first = self._sequence + 1
        parts = [self._message(BATCH_BEGIN, REQUEST, nft_body(family=0, resource=SUBSYSTEM))]
        for number, (kind, flags, body) in enumerate(requests, 1):
            last = ACK if number == len(requests) else 0
            parts.append(self._message(SUBSYSTEM << 8 | kind, REQUEST | flags | last, body))
        parts.append(self._message(BATCH_END, REQUEST, nft_body(family=0, resource=SUBSYSTEM)))
        self._send(b"".join(parts), first)
        self._check(first)

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """One request outside of a transaction (rtnetlink)."""
        message = self._message(kind, REQUEST | ACK | flags, body)
        self._send(message, self._sequence)
        self._check(self._sequence)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers."""
        self._send(self._message(kind, REQUEST | DUMP, body), self._sequence)
        found: list[bytes] = []
        while True:
            for answer, sequence, _, rest in messages(self._socket.recv(READ_BYTES)):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    raise Refused(-struct.unpack_from("=i", rest)[0], sequence)
                found.append(rest)

    def hear(self) -> list[tuple[int, int, bytes]] | None:
        """(type, port ID, body) of the news since the last call; None where there was more than room."""
        heard: list[tuple[int, int, bytes]] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return None if lost else heard
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise HostError(f"netlink ended: {error.strerror}") from None
                lost = True
                continue
            heard += [(kind, port, body) for kind, _, port, body in messages(data)]

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body

    def _send(self, data: bytes, first: int) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise Refused(error.errno or errno.EIO, first) from None

    def _check(self, first: int) -> None:
        refused: Refused | None = None
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            for kind, sequence, _, body in messages(data):
                if kind == NLMSG_ERROR and sequence >= first:
                    (code,) = struct.unpack_from("=i", body)
                    if code and refused is None:
                        refused = Refused(-code, sequence)
        if refused is not None:
            raise refused
