"""Memory that others can make us hold: so many bytes over all IKE SAs, and the oldest holder gives way.

Whoever holds longest is dropped first: a peer that is honest sends the rest of its fragments within milliseconds. Used by v2/reassembly.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable


class Budget:
    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: OrderedDict[Hashable, tuple[int, Callable[[], None]]] = OrderedDict()
        self.bytes = 0

    def charge(self, key: Hashable, count: int, drop: Callable[[], None]) -> int:
        """`key` holds `count` bytes more; how many others had to go for it. `drop` is called if it must go itself one day.

        A single holder is bounded by its user, below what this budget has.
        """
        held, _ = self._held.get(key, (0, drop))
        self._held[key] = (held + count, drop)  # keeps its place in the row
        self.bytes += count
        dropped = 0
        while self.bytes > self._most:
            oldest = next((other for other in self._held if other != key), None)
            if oldest is None:
                break
            self._held[oldest][1]()
            self.release(oldest)
            dropped += 1
        return dropped

    def release(self, key: Hashable) -> None:
        self.bytes -= self._held.pop(key, (0, None))[0]
