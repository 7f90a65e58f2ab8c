"""The last responses of deleted IKE SAs, kept for 30 s, because a peer whose copy
was lost asks again (RFC 7296 section 2.1).

Responses to authenticated peers and to others are kept apart, so that a flood displaces only the
others. The oldest goes first. Used by core.py.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

REST_S = 30.0
MOST = 1024
MOST_OF_STRANGERS = 256


@dataclass(frozen=True, slots=True)
class Tombstone:
    """`digest` is that of the request that `datagrams` answer."""

    peer_spi: bytes
    digest: bytes
    datagrams: tuple[bytes, ...]
    until: float


class Tombstones:
    """By our own SPI."""

    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, Tombstone] = OrderedDict()
        self._strangers: OrderedDict[bytes, Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers) + len(self._strangers)

    def __contains__(self, own_spi: bytes) -> bool:
        return self.get(own_spi) is not None

    def get(self, own_spi: bytes) -> Tombstone | None:
        return self._peers.get(own_spi) or self._strangers.get(own_spi)

    def add(self, own_spi: bytes, tombstone: Tombstone, *, authenticated: bool) -> None:
        row, most = (self._peers, MOST) if authenticated else (self._strangers, MOST_OF_STRANGERS)
        row[own_spi] = tombstone
        if len(row) > most:
            row.popitem(last=False)

    def expire(self, now: float) -> None:
        for row in (self._peers, self._strangers):
            while row and next(iter(row.values())).until <= now:
                row.popitem(last=False)

    def next_at(self) -> float | None:
        return min((next(iter(row.values())).until for row in (self._peers, self._strangers) if row), default=None)
