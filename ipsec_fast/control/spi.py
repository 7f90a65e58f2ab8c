"""Inbound SPIs: 32 random bits, never 0..255 (reserved, RFC 4303 section 2.1), never one that somebody has (RFC 7296 section 2.6)."""

from __future__ import annotations

from collections.abc import Callable

FIRST_SPI = 256


class SpiPool:
    """Hands out SPIs and takes them back. `random` gives n bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._used: set[int] = set()

    def take(self) -> int:
        while True:
            spi = int.from_bytes(self._random(4), "big")
            if spi >= FIRST_SPI and spi not in self._used:
                self._used.add(spi)
                return spi

    def give_back(self, spi: int) -> None:
        self._used.discard(spi)

    def __len__(self) -> int:
        return len(self._used)
