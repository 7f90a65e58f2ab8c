"""At most one thing per key and interval, for answers that strangers can provoke; bounded in memory. Used by v2/hints."""

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
