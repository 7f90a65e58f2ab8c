"""Which policy comes first where the traffic of several children overlaps (RFC 4301 section
4.4.1: an ordered list, the administrator's).

The configuration decides, not what a peer has narrowed to. A child with narrower configured selectors comes first
(10.2.0.0/24 before 10.0.0.0/8). Among children that are configured for the same networks, one whose SA has a peer that
answers comes before one without an SA; then the order in the file decides. Within one child the negotiated selectors
decide: narrow before wide, then the newest. Called by control.children.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise

from ..model import TrafficSelector

Key = tuple[str, str]  # connection, child
Pair = tuple[TrafficSelector, TrafficSelector]  # local, remote
Selectors = tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]]
Narrowness = tuple[int, int, int]
Rank = tuple[Narrowness, int, int, Narrowness]


class Readiness(IntEnum):
    """Of a policy's SA. Among children for the same networks it decides before the order of the file does."""

    SENDING = 0
    SILENT = 1  # its SA's peer does not answer
    WAITING = 2  # it has no SA


LAST = 1 << 62  # of a child that is not configured any more


class PolicyOrder:
    """Loading one more connection does not change the ranks of the others."""

    def __init__(self) -> None:
        self._selectors: dict[Key, Selectors] = {}
        self._places: dict[Key, int] = {}  # rising, with gaps
        self._next_place = 0
        self._twins: dict[Pair, set[Key]] = {}  # the children configured for exactly this pair
        self._stamps: dict[Key, int] = {}
        self._changes = 1
        self._order_changed = 0

    def learn(self, children: Mapping[Key, Selectors]) -> None:
        """Set the selectors of these children; new ones come after those that were known."""
        for key, selectors in children.items():
            self._learn(key, selectors)

    def arrange(self, children: Mapping[Key, Selectors]) -> None:
        """Take over the whole configuration, in its order."""
        for key in [key for key in self._places if key not in children]:
            self._forget(key)
        for key, selectors in children.items():
            self._learn(key, selectors)
        places = [self._places[key] for key in children]
        if any(place > after for place, after in pairwise(places)):
            self._places = {key: place for place, key in enumerate(children)}
            self._changes += 1
            self._order_changed = self._changes

    def _learn(self, key: Key, selectors: Selectors) -> None:
        if key in self._places and self._selectors[key] == selectors:
            return
        if key in self._places:
            self._drop_twins(key)
        else:
            self._places[key] = self._next_place
            self._next_place += 1
        self._selectors[key] = selectors
        for pair in _pairs(selectors):
            self._twins.setdefault(pair, set()).add(key)
        self._touch(key)

    def _forget(self, key: Key) -> None:
        self._drop_twins(key)
        del self._places[key], self._selectors[key]
        self._touch(key)
        del self._stamps[key]

    def _drop_twins(self, key: Key) -> None:
        for pair in _pairs(self._selectors[key]):
            twins = self._twins[pair]
            twins.discard(key)
            for twin in twins:
                self._touch(twin)
            if not twins:
                del self._twins[pair]

    def _touch(self, key: Key) -> None:
        self._changes += 1
        self._stamps[key] = self._changes

    def stamp(self, key: Key) -> tuple[int, int]:
        """A value that changes whenever the ranks of this child's policies may have changed."""
        return self._order_changed, self._stamps.get(key, 0)

    def rank(self, key: Key, local: TrafficSelector, remote: TrafficSelector) -> Rank:
        """The rank for `sort_key`; valid as long as `stamp` stays the same."""
        ours, theirs = self._selectors.get(key, ((), ()))
        pair = _around(local, ours), _around(remote, theirs)
        place = self._places.get(key, LAST)
        first = min((self._places[twin] for twin in self._twins.get(pair, ())), default=LAST)
        return _narrowness(*pair), first, place, _narrowness(local, remote)


def sort_key(rank: Rank, readiness: Readiness) -> tuple[Narrowness, int, Readiness, int, Narrowness]:
    """The key for a stable sort by rank."""
    configured, first, place, negotiated = rank
    return configured, first, readiness, place, negotiated


def _pairs(selectors: Selectors) -> Iterable[Pair]:
    return ((local, remote) for local in selectors[0] for remote in selectors[1])


def _around(ts: TrafficSelector, configured: Iterable[TrafficSelector]) -> TrafficSelector:
    """The narrowest configured selector that contains it; the selector itself if none does (`dynamic`)."""
    return min((one for one in configured if one.contains(ts)), key=_size, default=ts)


def _narrowness(local: TrafficSelector, remote: TrafficSelector) -> Narrowness:
    ports = sum(65536 if ts.is_opaque else ts.end_port - ts.start_port for ts in (local, remote))
    return _size(remote), _size(local), ports + (remote.protocol == 0) * (1 << 20)


def _size(ts: TrafficSelector) -> int:
    return int(ts.end) - int(ts.start)
