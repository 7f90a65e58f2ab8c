"""Policies of the SPD as boxes, in order, and the layer of each box (RFC 4301 section 4.4.1); knows no kernel.

A box is a range in each of remote address, local address, protocol and ports. The first box in order that holds a packet decides.
The kernel's maps of intervals hold no two boxes that overlap, so each box gets a layer, one more than the highest layer of the
boxes before it that it overlaps; the layers are looked up one after the other, and the first hit is the first box in order: boxes
that share a packet have layers in their order. A box that lies in one box before it can never be hit and gets no layer.

Adding and removing cost what the box overlaps, found by an index over the remote side. Called by host_policy.
"""

from __future__ import annotations

import heapq
import ipaddress
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ...errors import UsageError
from ...model import Address, TrafficSelector

Range = tuple[int, int]
Width = tuple[int, int, bool, int]
ANY_PORT: Range = (0, 65535)
PORT_PROTOCOLS = (6, 17, 33, 132, 136)  # ports are the first four bytes of their header
TYPE_PROTOCOLS = {4: 1, 6: 58}  # type and code are the first two
MOBILITY = 135
LAYERS_MAX = 12
BOXES_MAX = 1024  # of one policy
BITS = {4: 32, 6: 128}
# what a selector must name to capture: multicast, broadcast and link-local
SPECIAL = {
    4: [(0xA9FE0000, 0xA9FEFFFF), (0xE0000000, 0xEFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)],
    6: [(0xFE80 << 112, (0xFE80 << 112) | ((1 << 118) - 1)), (0xFF << 120, (1 << 128) - 1)],
}


class Action(Enum):
    """The value is the chain of the table that a hit leads to."""

    PROTECT = "protect"
    PASS = "bypass"
    DROP = "discard"


@dataclass(frozen=True, slots=True)
class Policy:
    """One child: `name` is its key ("connection/child"). `priority` as in swanctl: lower first, 0 after all others.

    `sources`: per remote network the address that this host's own packets should come from.
    """

    name: str
    action: Action
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    priority: int = 0
    sources: tuple[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, Address], ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """`kind` says which fields count: "nets", "protos", "ports", or "types" (ICMP type and code, in remote_ports).

    `pair_width` is that of the selectors that it is a part of, which orders all their boxes alike.
    """

    version: int
    remote: Range
    local: Range
    kind: str = "nets"
    protocol: int = 0
    remote_ports: Range = ANY_PORT
    local_ports: Range = ANY_PORT
    pair_width: Width | None = field(default=None, compare=False)

    def overlaps(self, other: Box) -> bool:
        return (
            self.version == other.version
            and _meet(self.remote, other.remote)
            and _meet(self.local, other.local)
            and (not self.protocol or not other.protocol or self.protocol == other.protocol)
            and _meet(self.remote_ports, other.remote_ports)
            and _meet(self.local_ports, other.local_ports)
        )

    def holds(self, other: Box) -> bool:
        return (
            self.version == other.version
            and _in(other.remote, self.remote)
            and _in(other.local, self.local)
            and (not self.protocol or self.protocol == other.protocol)
            and _in(other.remote_ports, self.remote_ports)
            and _in(other.local_ports, self.local_ports)
        )

    @property
    def lengths(self) -> tuple[int, int] | None:
        """The prefix lengths of remote and local, where both are prefixes."""
        found = [_length(self.version, one) for one in (self.remote, self.local)]
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    @property
    def width(self) -> Width:
        """Narrow before wide: remote, local, protocol, ports."""
        if self.pair_width is not None:
            return self.pair_width
        ports = self.remote_ports[1] - self.remote_ports[0] + self.local_ports[1] - self.local_ports[0]
        return self.remote[1] - self.remote[0], self.local[1] - self.local[0], not self.protocol, ports


def boxes_of(policy: Policy) -> list[Box]:
    """UsageError where a policy covers no packet (families crossed, no common protocol) or needs more than BOXES_MAX."""
    found: dict[Box, None] = {}
    for local in policy.local_ts:
        for remote in policy.remote_ts:
            if local.version == remote.version:
                for box in _pair(local, remote, policy.action):
                    found[box] = None
                    if len(found) > BOXES_MAX:
                        raise UsageError(
                            f"{policy.name}: its selectors make more than {BOXES_MAX} pairs; split the child"
                        )
    if not found:
        raise UsageError(f"{policy.name}: no local and remote selector of one address family and protocol")
    return list(found)


def _pair(local: TrafficSelector, remote: TrafficSelector, action: Action) -> Iterator[Box]:
    if local.protocol and remote.protocol and local.protocol != remote.protocol:
        return
    protocol = local.protocol or remote.protocol
    ports = [one for one in (local, remote) if not one.is_any_port]
    size = [int(one.end) - int(one.start) for one in (remote, local)]
    width = (
        size[0],
        size[1],
        not protocol,
        sum(65536 if one.is_opaque else one.end_port - one.start_port for one in (local, remote)),
    )
    shapes: Iterable[tuple[str, int, Range, Range]]
    if not ports:
        shapes = [("protos" if protocol else "nets", protocol, ANY_PORT, ANY_PORT)]
    elif any(one.is_opaque for one in ports):
        # fragments are joined before the look-up, so only what never has ports is OPAQUE: closed as a whole, passed never
        shapes = [] if action is Action.PASS else [("protos" if protocol else "nets", protocol, ANY_PORT, ANY_PORT)]
    else:
        shapes = _port_shapes(local, remote, protocol, action)
    for kind, number, remote_ports, local_ports in shapes:
        for remote_range in _without_special(remote):
            for local_range in _without_special(local):
                yield Box(remote.version, remote_range, local_range, kind, number, remote_ports, local_ports, width)


def _port_shapes(
    local: TrafficSelector, remote: TrafficSelector, protocol: int, action: Action
) -> Iterator[tuple[str, int, Range, Range]]:
    remote_ports, local_ports = (remote.start_port, remote.end_port), (local.start_port, local.end_port)
    types = max(remote_ports[0], local_ports[0]), min(remote_ports[1], local_ports[1])
    for number in (protocol,) if protocol else (*PORT_PROTOCOLS, TYPE_PROTOCOLS[local.version]):
        if number in PORT_PROTOCOLS:
            yield "ports", number, remote_ports, local_ports
        elif number in TYPE_PROTOCOLS.values():
            if types[0] <= types[1]:
                yield "types", number, types, ANY_PORT
        elif number == MOBILITY and action is not Action.PASS:  # its type is not looked at: closed as a whole
            yield "protos", number, ANY_PORT, ANY_PORT


def _without_special(ts: TrafficSelector) -> list[Range]:
    """The range without multicast, broadcast and link-local, unless it lies in one of them."""
    whole = int(ts.start), int(ts.end)
    left = [whole]
    for special in SPECIAL[ts.version]:
        if _in(whole, special):
            return [whole]
        if not _meet(whole, special):
            continue
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, special[0] - 1)), (max(low, special[1] + 1), high))
            if piece[0] <= piece[1]
        ]
    return left


def _length(version: int, one: Range) -> int | None:
    size = one[1] - one[0] + 1
    if size & (size - 1) or one[0] % size:
        return None
    return BITS[version] + 1 - size.bit_length()


def _meet(one: Range, other: Range) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _in(one: Range, other: Range) -> bool:
    return other[0] <= one[0] and one[1] <= other[1]


Rank = tuple[int, Width, int, int]


@dataclass(slots=True, eq=False)
class Placed:
    """A box of a policy that is loaded. `layer` None: one before it takes all its packets."""

    name: str
    priority: int
    action: Action
    box: Box
    rank: Rank
    layer: int | None = None


Place = tuple[Placed, int]  # with its layer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy as the book holds it; `order` is its place among those of one priority and width."""

    name: str
    action: Action
    boxes: tuple[Box, ...]
    priority: int
    order: int


@dataclass(slots=True)
class Changes:
    """What the kernel must do to follow: first remove, then add."""

    remove: list[Place] = field(default_factory=list)
    add: list[Place] = field(default_factory=list)


class Book:
    """All policies that are loaded. `add` and `remove` take part in one Changes; `settle` says what came of them."""

    def __init__(self) -> None:
        self._policies: dict[str, list[Placed]] = {}
        self._indexes = {4: _Index(32), 6: _Index(128)}
        self._order = 0
        self._before: dict[int, tuple[Placed, int | None]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._policies

    def __len__(self) -> int:
        return len(self._policies)

    @property
    def names(self) -> list[str]:
        return list(self._policies)

    def placed(self) -> Iterator[Placed]:
        for boxes in self._policies.values():
            yield from boxes

    def add(self, name: str, action: Action, boxes: Sequence[Box], priority: int = 0) -> None:
        """UsageError, and nothing changed, where more than LAYERS_MAX would overlap."""
        if name in self._policies:
            raise UsageError(f"policy {name} is loaded already")
        self._order += 1
        try:
            self._insert(Loaded(name, action, tuple(boxes), priority, self._order), LAYERS_MAX)
        except UsageError:
            self.remove(name)
            raise

    def _insert(self, loaded: Loaded, layers_max: int | None) -> None:
        mine = [
            Placed(
                loaded.name,
                loaded.priority,
                loaded.action,
                box,
                (loaded.priority or 1 << 32, box.width, loaded.order, number),
            )
            for number, box in enumerate(loaded.boxes)
        ]
        self._policies[loaded.name] = mine
        for one in mine:
            self._remember(one)
            self._indexes[one.box.version].add(one)
        self._place(mine, layers_max)

    def remove(self, name: str) -> Loaded:
        """What `restore` takes to undo it."""
        mine = self._policies.pop(name)
        for one in mine:
            self._remember(one)
            self._indexes[one.box.version].remove(one)
            one.layer = None
        below = {id(other): other for one in mine for other in self._met(one) if other.rank > one.rank}
        self._place(below.values())
        first = mine[0]
        return Loaded(name, first.action, tuple(one.box for one in mine), first.priority, first.rank[2])

    def restore(self, loaded: Loaded) -> None:
        """Put back what `remove` took, in its old place."""
        self._insert(loaded, None)

    def settle(self) -> Changes:
        """What changed since the last call."""
        changes = Changes()
        for one, before in self._before.values():
            if one.layer == before:
                continue
            if before is not None:
                changes.remove.append((one, before))
            if one.layer is not None:
                changes.add.append((one, one.layer))
        self._before.clear()
        return changes

    def first_match(self, box: Box) -> Placed | None:
        """The box that decides for a packet (a box of one point), as the kernel finds it: by layers."""
        hits = [one for one in self._meeting(box) if one.layer is not None]
        return min(hits, key=lambda one: one.layer or 0, default=None)

    def _meeting(self, box: Box) -> list[Placed]:
        return self._indexes[box.version].meeting(box)

    def _met(self, one: Placed) -> list[Placed]:
        return self._meeting(one.box)

    def _remember(self, one: Placed) -> None:
        self._before.setdefault(id(one), (one, one.layer))

    def _place(self, changed: Iterable[Placed], layers_max: int | None = None) -> None:
        """Give each its layer, those before others first; whoever moved moves those after it.

        A removal has no limit: what it uncovers must be placed.
        """
        waiting = [(one.rank, one) for one in changed]
        heapq.heapify(waiting)
        done: Rank | None = None
        while waiting:
            rank, one = heapq.heappop(waiting)
            if rank == done:
                continue
            done = rank
            met = self._met(one)
            before = [other for other in met if other.rank < rank and other.layer is not None]
            layer: int | None = 1 + max((other.layer or 0 for other in before), default=-1)
            if any(other.box.holds(one.box) for other in before):
                layer = None
            if layer is not None and layers_max is not None and layer >= layers_max:
                raise UsageError(
                    f"{one.name}: more than {layers_max} policies overlap there, {before[0].name} is one of them"
                )
            if layer != one.layer:
                self._remember(one)
                one.layer = layer
                for other in met:
                    if other.rank > rank:
                        heapq.heappush(waiting, (other.rank, other))


class _Index:
    """Boxes by the smallest prefix that holds their remote range: two ranges meet only if one prefix holds the other."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._at: dict[tuple[int, int], dict[int, Placed]] = {}  # (start, length) -> by identity
        self._keys: list[tuple[int, int]] = []  # sorted
        self._lengths: dict[int, int] = {}  # how many keys have it

    def add(self, one: Placed) -> None:
        key = self._key(one.box.remote)
        if key not in self._at:
            self._at[key] = {}
            insort(self._keys, key)
            self._lengths[key[1]] = self._lengths.get(key[1], 0) + 1
        self._at[key][id(one)] = one

    def remove(self, one: Placed) -> None:
        key = self._key(one.box.remote)
        del self._at[key][id(one)]
        if not self._at[key]:
            del self._at[key]
            del self._keys[bisect_left(self._keys, key)]
            self._lengths[key[1]] -= 1
            if not self._lengths[key[1]]:
                del self._lengths[key[1]]

    def meeting(self, box: Box) -> list[Placed]:
        start, length = self._key(box.remote)
        found: list[Placed] = []
        for wider in self._lengths:
            if wider < length:
                shift = self._bits - wider
                found += self._of((start >> shift << shift, wider), box)
        end = start | ((1 << (self._bits - length)) - 1)
        at = bisect_left(self._keys, (start, length))
        while at < len(self._keys) and self._keys[at][0] <= end:
            found += self._of(self._keys[at], box)
            at += 1
        return found

    def _of(self, key: tuple[int, int], box: Box) -> list[Placed]:
        return [one for one in self._at.get(key, {}).values() if one.box.overlaps(box)]

    def _key(self, remote: Range) -> tuple[int, int]:
        shift = (remote[0] ^ remote[1]).bit_length()
        return remote[0] >> shift << shift, self._bits - shift
