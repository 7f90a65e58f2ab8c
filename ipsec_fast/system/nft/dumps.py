"""What the kernel has of our table: whose it is, the policies of its elements, its counters. Read at start and by `status` only.

Called by host_policy.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from .elements import read_element
from .netlink import (
    GETOBJ,
    GETSET,
    GETSETELEM,
    GETTABLE,
    INET,
    SUBSYSTEM,
    NetlinkSocket,
    attribute_list,
    attributes,
    nft_body,
    text,
)
from .policies import Action, Box
from .table import COUNTERS

MAP_NAME = re.compile(r"v([46])_(\d+)_(nets|protos|types|ports|\d+_\d+)")
_TABLE, _NAME, _USERDATA, _ELEMENTS = 1, 2, 6, 3


@dataclass(frozen=True, slots=True)
class Counter:
    packets: int
    bytes: int


@dataclass(slots=True)
class Found:
    """A policy as its elements tell it."""

    action: Action
    priority: int
    boxes: list[Box] = field(default_factory=list)


def table_comment(netlink: NetlinkSocket, table: str) -> str | None:
    """None where there is no such table."""
    for body in netlink.dump(SUBSYSTEM << 8 | GETTABLE, nft_body()):
        found = attributes(body[4:])
        if body[0] == INET and _string(found.get(_TABLE, b"")) == table:
            userdata = found.get(_USERDATA, b"")
            return _string(userdata[2 : 2 + userdata[1]]) if len(userdata) > 2 and userdata[0] == 0 else ""
    return None


def read_policies(netlink: NetlinkSocket, table: str) -> dict[str, Found]:
    """By the names that the elements carry."""
    policies: dict[str, Found] = {}
    for body in netlink.dump(SUBSYSTEM << 8 | GETSET, nft_body(text(_TABLE, table))):
        name = _string(attributes(body[4:]).get(_NAME, b""))
        match = MAP_NAME.fullmatch(name)
        if match is None:
            continue
        request = nft_body(text(_TABLE, table), text(_NAME, name))
        for part in netlink.dump(SUBSYSTEM << 8 | GETSETELEM, request):
            for _, data in attribute_list(attributes(part[4:]).get(_ELEMENTS, b"")):
                one = read_element(int(match[1]), match[3], data)
                if one is not None:
                    owner, priority, action, box = one
                    policies.setdefault(owner, Found(action, priority)).boxes.append(box)
    return policies


def read_counters(netlink: NetlinkSocket, table: str) -> dict[str, Counter]:
    """Of table.COUNTERS; those that are missing are zero."""
    found = dict.fromkeys(COUNTERS, Counter(0, 0))
    for body in netlink.dump(SUBSYSTEM << 8 | GETOBJ, nft_body(text(_TABLE, table))):
        one = attributes(body[4:])
        name = _string(one.get(2, b""))
        if name in found and _string(one.get(1, b"")) == table:
            values = attributes(one[4])
            octets, packets = (struct.unpack("!Q", values[kind])[0] for kind in (1, 2))
            found[name] = Counter(packets, octets)
    return found


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
