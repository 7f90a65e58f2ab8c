"""Inbound SPIs: 32 random bits, never 0..255 (reserved, RFC 4303 section 2.1), never one that somebody has (RFC 7296 section 2.6).

An SPI is promised when it goes into an offer and used from the installation on. Promises that came to nothing are forgotten, oldest first.
Its remainder by the number of workers says which of them owns the Child SA: arriving ESP is steered by nothing else.
Called by control.answers and control.children.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

FIRST_SPI = 256
PROMISES = (
    4096  # more than can be under way at once; one that is forgotten could only meet its number again by 1 in 2^32
)


def worker_of(spi_in: int, workers: int) -> int:
    """The worker, 0 to `workers` - 1, that owns both directions of the Child SA which is received with this SPI."""
    return spi_in % workers


class SpiPool:
    """Hands out SPIs and takes them back. `random` gives n bytes."""

    def __init__(self, random: Callable[[int], bytes], workers: int = 1) -> None:
        self._random = random
        self._workers = workers
        self._used: set[int] = set()
        self._promised: dict[int, None] = {}
        self._load: Counter[int] = Counter()  # SPIs used or promised, by worker

    def take(self, worker: int | None = None) -> int:
        """An SPI that this worker owns (by its remainder, so an SPI may name it too); without one, the worker that has the fewest."""
        if worker is None:
            worker = min(range(self._workers), key=lambda one: self._load[one])
        while True:
            drawn = int.from_bytes(self._random(4), "big")
            spi = drawn - drawn % self._workers + worker % self._workers
            if FIRST_SPI <= spi < 1 << 32 and spi not in self._used and spi not in self._promised:
                self._promise(spi)
                return spi

    def use(self, spi: int) -> None:
        if spi not in self._used:
            self._forget_promise(spi)
            self._used.add(spi)
            self._load[worker_of(spi, self._workers)] += 1

    def give_back(self, spi: int) -> None:
        self._forget_promise(spi)
        if spi in self._used:
            self._used.discard(spi)
            self._load[worker_of(spi, self._workers)] -= 1

    def _promise(self, spi: int) -> None:
        self._promised[spi] = None
        self._load[worker_of(spi, self._workers)] += 1
        if len(self._promised) > PROMISES:
            self._forget_promise(next(iter(self._promised)))

    def _forget_promise(self, spi: int) -> None:
        if spi in self._promised:
            del self._promised[spi]
            self._load[worker_of(spi, self._workers)] -= 1

    def __len__(self) -> int:
        return len(self._used) + len(self._promised)
