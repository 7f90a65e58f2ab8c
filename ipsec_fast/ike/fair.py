"""Rate limits on actions that unauthenticated senders cause: in all, by network and by
address, so that none uses up all of it.

Each level must have a token: the bucket of the address, those of the networks around it (prefixes.py), and the one of
all. Each level remembers 1,024 buckets. A forgotten bucket is full again, but the levels above it still limit. `Meter`
only measures whether something happens often. Used by strangers.py; time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ..model import Address
from .prefixes import LEVELS, Prefix, prefixes_of

KEYS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, `per_s` in the long run."""

    burst: float
    per_s: float


class Bucket:
    """A token bucket, full at first; a time before `at` counts as `at`."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, at: float) -> None:
        self._rate, self._tokens, self._at = rate, rate.burst, at

    def has_one(self, now: float) -> bool:
        self._tokens = min(self._rate.burst, self._tokens + max(0.0, now - self._at) * self._rate.per_s)
        self._at = now
        return self._tokens >= 1

    def spend(self) -> None:
        self._tokens -= 1

    def take(self, now: float) -> bool:
        """Take a token if there is one; whether there was."""
        if not self.has_one(now):
            return False
        self.spend()
        return True


class FairBucket:
    """`each` limits an address, `networks` the networks around it from wide to narrow, `everybody` all together."""

    def __init__(self, each: Rate, networks: tuple[Rate, Rate], everybody: Rate) -> None:
        self._rates = (*networks, each)
        self._all = Bucket(everybody, 0.0)
        self._levels: tuple[OrderedDict[Prefix, Bucket], ...] = tuple(OrderedDict() for _ in range(LEVELS - 1))

    def take(self, address: Address, now: float) -> bool:
        """Take a token at every level if each has one; whether it had."""
        buckets = [self._all, *self._buckets(address, now)]
        if not all(bucket.has_one(now) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.spend()
        return True

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def _buckets(self, address: Address, now: float) -> list[Bucket]:
        found = []
        for level, rate, prefix in zip(self._levels, self._rates, prefixes_of(address)[1:], strict=True):
            bucket = level.get(prefix)
            if bucket is None:
                bucket = level[prefix] = Bucket(rate, now)
                if len(level) > KEYS_MAX:
                    level.popitem(last=False)
            else:
                level.move_to_end(prefix)
            found.append(bucket)
        return found


class Meter:
    """A leaky bucket that counts events: it leaks `per_s`, and a level above `burst` is much."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._level, self._at = 0.0, 0.0

    def count(self, now: float) -> None:
        self._leak(now)
        self._level = min(self._level + 1, 2 * self._rate.burst)

    def is_much(self, now: float) -> bool:
        self._leak(now)
        return self._level >= self._rate.burst

    def _leak(self, now: float) -> None:
        self._level = max(0.0, self._level - max(0.0, now - self._at) * self._rate.per_s)
        self._at = now
