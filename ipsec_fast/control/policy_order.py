"""Which policy comes first where the traffic of several children overlaps (RFC 4301 section 4.4.1: an ordered list, the administrator's).

What counts is the configuration, not what a peer has narrowed to. A child whose configured selectors are narrower comes first (10.2.0.0/24
before 10.0.0.0/8). Of children that are configured for the same networks, the one that stands first in the file does; but one that has an
SA, with a peer that is heard, goes before one that has none. Within one child what was negotiated decides: narrow before wide, then the
newest. Called by control.children.
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
    """Of what stands behind a policy: among children for the very same networks it decides before the order of the file."""

    SENDING = 0
    SILENT = 1  # its SA's peer does not answer
    WAITING = 2  # it has no SA


LAST = 1 << 62  # of a child that is not configured any more


class PolicyOrder:
    """A change costs what it changes: loading one connection more leaves the ranks of all others as they are."""

    def __init__(self) -> None:
        self._selectors: dict[Key, Selectors] = {}
        self._places: dict[Key, int] = {}  # rising, with gaps
        self._next_place = 0
        self._twins: dict[Pair, set[Key]] = {}  # who is configured for just these two
        self._stamps: dict[Key, int] = {}
        self._changes = 1
        self._order_changed = 0

    def learn(self, children: Mapping[Key, Selectors]) -> None:
        """These are configured so; who is new stands after those that were known."""
        for key, selectors in children.items():
            self._learn(key, selectors)

    def arrange(self, children: Mapping[Key, Selectors]) -> None:
        """The whole configuration, in its order."""
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
        """Another one if the ranks of this child's policies may have changed."""
        return self._order_changed, self._stamps.get(key, 0)

    def rank(self, key: Key, local: TrafficSelector, remote: TrafficSelector) -> Rank:
        """For `sort_key`; it holds as long as `stamp` says."""
        ours, theirs = self._selectors.get(key, ((), ()))
        pair = _around(local, ours), _around(remote, theirs)
        place = self._places.get(key, LAST)
        first = min((self._places[twin] for twin in self._twins.get(pair, ())), default=LAST)
        return _narrowness(*pair), first, place, _narrowness(local, remote)


def sort_key(rank: Rank, readiness: Readiness) -> tuple[Narrowness, int, Readiness, int, Narrowness]:
    """Sorts what comes first before the rest; equal ones stay in their order."""
    configured, first, place, negotiated = rank
    return configured, first, readiness, place, negotiated


def _pairs(selectors: Selectors) -> Iterable[Pair]:
    return ((local, remote) for local in selectors[0] for remote in selectors[1])


def _around(ts: TrafficSelector, configured: Iterable[TrafficSelector]) -> TrafficSelector:
    """The narrowest configured selector that holds it; itself, where it was not configured so (`dynamic`)."""
    return min((one for one in configured if one.contains(ts)), key=_size, default=ts)


def _narrowness(local: TrafficSelector, remote: TrafficSelector) -> Narrowness:
    ports = sum(65536 if ts.is_opaque else ts.end_port - ts.start_port for ts in (local, remote))
    return _size(remote), _size(local), ports + (remote.protocol == 0) * (1 << 20)


def _size(ts: TrafficSelector) -> int:
    return int(ts.end) - int(ts.start)
