"""Entries that unauthenticated senders occupy, by address and network, so that the
one that holds most can lose its oldest.

No address has a limit of its own, because thousands of honest peers may be behind one NAT. The networks around the
addresses count too (prefixes.py), so a whole /16 is one holder. Adding, removing and finding who holds most take
constant time. Used by core.py for half-open IKE SAs and by the gateway for IKE_SA_INIT requests that wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from ..model import Address
from .prefixes import LEVELS, Prefix, prefixes_of

T = TypeVar("T", bound=Hashable)
ROOT: Prefix = (0, 0)


class Heaviest:
    """Counts by key, with the largest at hand: the keys of equal count form a
    row, and a count changes by one at a time.
    """

    def __init__(self) -> None:
        self.counts: OrderedDict[Hashable, int] = OrderedDict()
        self._rows: dict[int, OrderedDict[Hashable, None]] = {}
        self._most = 0

    def add(self, key: Hashable) -> None:
        count = self.counts.get(key, 0)
        self._move(key, count, count + 1)
        self._most = max(self._most, count + 1)

    def take(self, key: Hashable) -> None:
        count = self.counts[key]
        self._move(key, count, count - 1)
        if count == self._most and count not in self._rows:
            self._most -= 1

    @property
    def first(self) -> Hashable:
        """The key with the largest count; among several the one that has had it longest."""
        return next(iter(self._rows[self._most]))

    def next_in_turn(self) -> Hashable:
        """The next key in turn; after the last comes the first again."""
        key = next(iter(self.counts))
        self.counts.move_to_end(key)
        return key

    def _move(self, key: Hashable, old: int, new: int) -> None:
        if old:
            row = self._rows[old]
            del row[key]
            if not row:
                del self._rows[old]
        if new:
            self.counts[key] = new
            self._rows.setdefault(new, OrderedDict())[key] = None
        else:
            del self.counts[key]


class ByHolder(Generic[T]):
    """Entries with an address, in the order in which they came."""

    def __init__(self) -> None:
        self._homes: dict[T, tuple[Prefix, ...]] = {}
        self._inside: dict[Prefix, Heaviest] = {}  # of the root and of each wider network: the narrower ones in it
        self._rows: dict[Prefix, OrderedDict[T, None]] = {}  # of each narrowest network: its things, the oldest first

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, thing: T) -> bool:
        return thing in self._homes

    def __iter__(self) -> Iterator[T]:
        return iter(self._homes)

    def add(self, thing: T, address: Address) -> None:
        home = prefixes_of(address)
        self._homes[thing] = home
        for around, inner in zip((ROOT, *home), home, strict=False):
            self._inside.setdefault(around, Heaviest()).add(inner)
        self._rows.setdefault(home[-1], OrderedDict())[thing] = None

    def discard(self, thing: T) -> bool:
        """Remove it; whether it was there."""
        home = self._homes.pop(thing, None)
        if home is None:
            return False
        for around, inner in zip((ROOT, *home), home, strict=False):
            inside = self._inside[around]
            inside.take(inner)
            if not inside.counts:
                del self._inside[around]
        row = self._rows[home[-1]]
        del row[thing]
        if not row:
            del self._rows[home[-1]]
        return True

    def next_in_turn(self) -> T:
        """Networks take turns, then the narrower networks inside; from the narrowest its oldest entry."""
        at = ROOT
        for _ in range(LEVELS):
            at = self._inside[at].next_in_turn()  # type: ignore[assignment]
        return next(iter(self._rows[at]))

    def oldest_of_the_heaviest(self) -> T:
        """The oldest entry of the heaviest address in the heaviest /24 in the
        heaviest /16 (or their IPv6 counterparts).
        """
        at = ROOT
        for _ in range(LEVELS):
            at = self._inside[at].first  # type: ignore[assignment]
        return next(iter(self._rows[at]))
