"""The elements of the maps, in both spellings: netlink attributes for changes in operation, text for a whole table.

Each carries the name of its policy (and its priority, if it has one) as a comment, by which `nft list ruleset` shows whose it is and
a later start knows what an earlier one left. Called by host_policy.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Iterable, Iterator

from .netlink import CREATE, DELSETELEM, EXCLUSIVE, NEWSETELEM, attribute, attributes, nested, nft_body, text
from .policies import ANY_PORT, BITS, Action, Box, Placed
from .table import MapKey, lengths_of, map_name

_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _DATA, _USERDATA, _KEY_END = 1, 1, 2, 6, 10
_VALUE, _VERDICT, _CODE, _CHAIN = 1, 2, 1, 2
_GOTO = struct.pack("!i", -4)
_UDATA_COMMENT = 0
COMMENT_MAX = 120  # nft shows 128 bytes
PRIORITY_WORD = ", priority "
MESSAGE_ELEMENTS = 100  # a nested attribute holds 64 KiB

Stored = tuple[Placed, MapKey]


def requests_of(table: str, removed: Iterable[Stored], added: Iterable[Stored]) -> list[tuple[int, int, bytes]]:
    """Deletions before additions, so that a box may take the place of one that it overlaps."""
    return [
        *_requests(table, DELSETELEM, 0, removed, with_data=False),
        *_requests(table, NEWSETELEM, CREATE | EXCLUSIVE, added, with_data=True),
    ]


def _requests(
    table: str, kind: int, flags: int, elements: Iterable[Stored], *, with_data: bool
) -> Iterator[tuple[int, int, bytes]]:
    by_map: dict[MapKey, list[Placed]] = {}
    for one, key in elements:
        by_map.setdefault(key, []).append(one)
    for key, members in by_map.items():
        is_hash = lengths_of(key[2]) is not None
        for at in range(0, len(members), MESSAGE_ELEMENTS):
            part = members[at : at + MESSAGE_ELEMENTS]
            listed = nested(_ELEMENTS, *(_element(one, is_hash=is_hash, with_data=with_data) for one in part))
            yield kind, flags, nft_body(text(_TABLE, table), text(_SET, map_name(*key)), listed)


def _element(one: Placed, *, is_hash: bool, with_data: bool) -> bytes:
    low, high = _keys(one.box)
    parts = [nested(_KEY, attribute(_VALUE, low))]
    if not is_hash:
        parts.append(nested(_KEY_END, attribute(_VALUE, high)))
    if with_data:
        verdict = nested(_VERDICT, attribute(_CODE, _GOTO), text(_CHAIN, one.action.value))
        comment = comment_of(one).encode() + b"\0"
        parts += [
            nested(_DATA, verdict),
            attribute(_USERDATA, bytes((_UDATA_COMMENT, len(comment))) + comment),
        ]
    return nested(_ELEMENT, *parts)


def _keys(box: Box) -> tuple[bytes, bytes]:
    """Start and end; each field is padded to four bytes."""
    size = 4 if box.version == 4 else 16
    return tuple(  # type: ignore[return-value]  # two
        box.remote[end].to_bytes(size, "big") + box.local[end].to_bytes(size, "big") + _tail(box, end) for end in (0, 1)
    )


def _tail(box: Box, end: int) -> bytes:
    if box.kind == "nets":
        return b""
    tail = bytes((box.protocol, 0, 0, 0))
    if box.kind in ("types", "ports"):
        tail += struct.pack("!Hxx", box.remote_ports[end])
    if box.kind == "ports":
        tail += struct.pack("!Hxx", box.local_ports[end])
    return tail


def element_text(one: Placed, kind: str) -> str:
    """`kind` of the map that it is in."""
    box = one.box
    fields = [_addresses(box.version, box.remote), _addresses(box.version, box.local)]
    if lengths_of(kind):
        fields = [field.split("-")[0] for field in fields]
    if box.kind != "nets":
        fields.append(str(box.protocol))
    if box.kind in ("types", "ports"):
        fields.append(f"{box.remote_ports[0]}-{box.remote_ports[1]}")
    if box.kind == "ports":
        fields.append(f"{box.local_ports[0]}-{box.local_ports[1]}")
    return f'{" . ".join(fields)} comment "{comment_of(one)}" : goto {one.action.value}'


def _addresses(version: int, found: tuple[int, int]) -> str:
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return f"{kind(found[0])}-{kind(found[1])}"


def comment_of(one: Placed) -> str:
    return mark_of(one.name) + (f"{PRIORITY_WORD}{one.priority}" if one.priority else "")


def mark_of(name: str) -> str:
    """A policy's name as its elements carry it: what is too long or could end nft's quotes is shortened to a digest."""
    most = COMMENT_MAX - len(PRIORITY_WORD) - 10
    if len(name.encode()) <= most and name.isascii() and name.isprintable() and not set(name) & {'"', "\\", ","}:
        return name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_./") else "_" for c in name)
    return f"{plain[: most - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def read_element(version: int, kind: str, data: bytes) -> tuple[str, int, Action, Box] | None:
    """(name, priority, action, box) of one element of a dump; None where it is none of ours."""
    found = attributes(data)
    lengths = lengths_of(kind)
    try:
        low = attributes(found[_KEY])[_VALUE]
        high = low if lengths else attributes(found[_KEY_END])[_VALUE]
        verdict = attributes(attributes(found[_DATA])[_VERDICT])
        action = Action(verdict[_CHAIN].rstrip(b"\0").decode())
        userdata = found[_USERDATA]
        comment = userdata[2 : 2 + userdata[1]].rstrip(b"\0").decode()
    except (KeyError, ValueError, IndexError):
        return None
    name, _, priority = comment.partition(PRIORITY_WORD)
    size = 4 if version == 4 else 16
    remote, local = (
        (int.from_bytes(low[at : at + size], "big"), int.from_bytes(high[at : at + size], "big")) for at in (0, size)
    )
    priority_value = int(priority) if priority.isdigit() else 0
    if lengths:
        ends = [
            start + (1 << (BITS[version] - length)) - 1
            for (start, _), length in zip((remote, local), lengths, strict=True)
        ]
        return name, priority_value, action, Box(version, (remote[0], ends[0]), (local[0], ends[1]))
    rest = 2 * size
    protocol = low[rest] if kind != "nets" else 0
    ports, more = (_port_range(low, high, rest + at) for at in (4, 8))
    box = Box(version, remote, local, kind, protocol, ports, more)
    return name, priority_value, action, box


def _port_range(low: bytes, high: bytes, at: int) -> tuple[int, int]:
    if at + 2 > len(low):
        return ANY_PORT
    return struct.unpack_from("!H", low, at)[0], struct.unpack_from("!H", high, at)[0]
