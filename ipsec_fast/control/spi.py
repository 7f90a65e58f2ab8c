"""Inbound SPIs: 32 random bits, never 0..255 (reserved, RFC 4303 section 2.1), never one that somebody has (RFC 7296 section 2.6).

An SPI is promised when it goes into an offer and used from the installation on. Promises that came to nothing are forgotten, oldest first.
Called by control.answers and control.children.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_SPI = 256
PROMISES = (
    4096  # more than can be under way at once; one that is forgotten could only meet its number again by 1 in 2^32
)


class SpiPool:
    """Hands out SPIs and takes them back. `random` gives n bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._used: set[int] = set()
        self._promised: dict[int, None] = {}

    def take(self) -> int:
        while True:
            spi = int.from_bytes(self._random(4), "big")
            if spi >= FIRST_SPI and spi not in self._used and spi not in self._promised:
                self._promised[spi] = None
                if len(self._promised) > PROMISES:
                    del self._promised[next(iter(self._promised))]
                return spi

    def use(self, spi: int) -> None:
        self._promised.pop(spi, None)
        self._used.add(spi)

    def give_back(self, spi: int) -> None:
        self._used.discard(spi)
        self._promised.pop(spi, None)

    def __len__(self) -> int:
        return len(self._used) + len(self._promised)
