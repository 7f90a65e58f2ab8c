"""How often things may happen that others can provoke: `Limiter` for answers to strangers (v2/hints), `Allowance` for a peer's rekeys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

KEYS_MAX = 1024


class Limiter:
    def __init__(self, interval_s: float, most: int = KEYS_MAX) -> None:
        self._interval_s = interval_s
        self._most = most
        self._last: OrderedDict[Hashable, float] = OrderedDict()

    def allows(self, key: Hashable, now: float) -> bool:
        """Whether it may happen now; if so it counts as done. Where too many keys are fresh, nobody else gets anything."""
        while self._last and now - next(iter(self._last.values())) >= self._interval_s:
            self._last.popitem(last=False)
        if key in self._last or len(self._last) >= self._most:
            return False
        self._last[key] = now
        return True


class Allowance:
    """`burst` at once and `per_s` in the long run; what is not used up to the burst is kept."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Whether one more may happen now; if so it counts as done."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
