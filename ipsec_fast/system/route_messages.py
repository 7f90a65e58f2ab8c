"""Routes and rules as rtnetlink(7) messages, and the answers of the kernel to a batch of them.

One `send` carries a whole batch and the kernel acknowledges each message, so a route takes some microseconds;
with pyroute2 it takes half a millisecond. Nothing here dumps a table. Left out: what a route is for
(routes.py). Called by routes.py and netlink.py.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..model import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 24, 25, 32, 33
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
NLMSG_ERROR = 2
UNICAST, PROHIBIT, THROW = 1, 8, 9  # RTN_*
LOOKUP, INVERT = 1, 2  # FR_ACT_TO_TBL, FIB_RULE_INVERT
SCOPE_UNIVERSE, SCOPE_NOWHERE = 0, 255  # the latter matches any scope in a deletion
TABLE_COMPAT = 252  # the table's number is in an attribute
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE = 1, 4, 6, 7, 8, 15
_RTAX_MTU = 2
_FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
_HEADER, _BODY = struct.Struct("=IHHII"), struct.Struct("=8BI")
_NETLINK_CAP_ACK, _SOL_NETLINK = 10, 270  # acknowledgements do not repeat the message
PER_SEND = 64  # messages whose answers fit a receive buffer of the default size


@dataclass(frozen=True, slots=True)
class Message:
    """One change. `what` names it for people; an answer of `ignored` is as good as success."""

    what: str
    kind: int
    flags: int
    body: bytes
    ignored: frozenset[int] = frozenset()


GONE = frozenset((errno.ESRCH, errno.ENOENT, errno.ENODEV))
_KINDS = {UNICAST: "", PROHIBIT: "prohibit ", THROW: "throw "}


def route_message(
    verb: str,
    network: Network,
    kind: int,
    *,
    table: int,
    protocol: int,
    metric: int,
    index: int | None = None,
    source: Address | None = None,
    mtu: int | None = None,
) -> Message:
    """`verb` is "replace" or "del"; deleting a route that does not exist is no error."""
    deletes = verb == "del"
    scope = SCOPE_NOWHERE if deletes else SCOPE_UNIVERSE
    body = _BODY.pack(FAMILY[network.version], network.prefixlen, 0, 0, TABLE_COMPAT, protocol, scope, kind, 0)
    body += _attribute(_RTA_DST, network.network_address.packed) + _u32(_RTA_TABLE, table) + _u32(_RTA_PRIORITY, metric)
    if index is not None:
        body += _u32(_RTA_OIF, index)
    if source is not None:
        body += _attribute(_RTA_PREFSRC, source.packed)
    if mtu is not None:
        body += _attribute(_RTA_METRICS, _u32(_RTAX_MTU, mtu))
    what = f"{verb} the {_KINDS[kind]}route of {network}"
    if deletes:
        return Message(what, RTM_DELROUTE, 0, body, GONE)
    return Message(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def rule_message(
    verb: str, version: int, *, table: int, protocol: int, priority: int, unmarked: int, suppress: bool
) -> Message:
    """`verb` is "add" or "del". Packets without the mark `unmarked` look into `table`;
    `suppress`: the /0 of `table` does not match.
    """
    body = _BODY.pack(FAMILY[version], 0, 0, 0, table if table < 256 else 0, 0, 0, LOOKUP, INVERT)
    body += _u32(_FRA_PRIORITY, priority) + _u32(_FRA_TABLE, table)
    body += _u32(_FRA_FWMARK, unmarked) + _u32(_FRA_FWMASK, 0xFFFFFFFF)
    body += _attribute(_FRA_PROTOCOL, bytes([protocol]))
    if suppress:
        body += _u32(_FRA_SUPPRESS, 0)
    what = f"{verb} the rule for table {table}"
    if verb == "add":
        return Message(what, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body, frozenset((errno.EEXIST,)))
    return Message(what, RTM_DELRULE, 0, body, frozenset((errno.ENOENT, errno.EAFNOSUPPORT)))


class RouteSocket:
    """A netlink socket for batches; for one thread at a time. OSError if it cannot be opened."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._number = 0

    def send(self, messages: Sequence[Message]) -> list[int]:
        """Send all in order, also after a refusal; returns the errno of each, 0 also for
        those that the message ignores. OSError.
        """
        found: list[int] = []
        for at in range(0, len(messages), PER_SEND):
            found += self._send_some(messages[at : at + PER_SEND])
        return found

    def _send_some(self, messages: Sequence[Message]) -> list[int]:
        first = self._number + 1 if self._number < 1 << 31 else 1
        self._number = first + len(messages) - 1
        packed = (self._pack(message, first + i) for i, message in enumerate(messages))
        self._socket.send(b"".join(packed))
        answers: dict[int, int] = {}
        while len(answers) < len(messages):
            for number, code in _answers(self._socket.recv(1 << 16)):
                if first <= number <= self._number:  # others are answers to an earlier batch that an error has ended
                    answers[number - first] = code
        return [0 if answers[i] in message.ignored else answers[i] for i, message in enumerate(messages)]

    def _pack(self, message: Message, number: int) -> bytes:
        flags = NLM_F_REQUEST | NLM_F_ACK | message.flags
        return _HEADER.pack(_HEADER.size + len(message.body), message.kind, flags, number, 0) + message.body

    def close(self) -> None:
        self._socket.close()


def refusal(message: Message, code: int) -> str:
    """The refusal as a text for the operator."""
    return f"cannot {message.what}: {os.strerror(code)}"


def _answers(data: bytes) -> list[tuple[int, int]]:
    """(number, errno) of each acknowledgement."""
    found, at = [], 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if kind == NLMSG_ERROR:
            found.append((number, -struct.unpack_from("=i", data, at + _HEADER.size)[0]))
        at += max(_HEADER.size, (length + 3) & ~3)
    return found


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _u32(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)
