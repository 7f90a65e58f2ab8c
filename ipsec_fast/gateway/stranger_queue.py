"""A queue of IKE_SA_INIT requests, so that a flood of them takes neither the event loop's time nor other peers' places.

The daemon reads sockets at once and works at once on all other messages. The queued requests take turns by network
(ike/half_open.py), in slices of a few milliseconds between which the loop runs, and for at most SHARE of the time. When
the queue is full, the network with most requests in it loses its oldest. Called by daemon.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ..iana import ExchangeType
from ..ike.half_open import ByHolder
from ..ike.header import FLAG_RESPONSE, HEADER_BYTES
from ..model import Path

MOST = 512
SLICE_S = 0.002
SHARE = 0.5  # of the time, in the long run
SAVED_S = 1.0  # of working time that accumulates at most while there is nothing to do


class Handle(Protocol):
    def cancel(self) -> None: ...


class Waiting:
    """One request; compared by identity, since two may have the same bytes."""

    __slots__ = ("data", "path")

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path = data, path


class StrangerQueue:
    """`work` gets each request in its turn, `done` is called after each slice; `later(seconds, call)` is the loop's."""

    def __init__(
        self,
        work: Callable[[bytes, Path], None],
        later: Callable[[float, Callable[[], None]], Handle],
        done: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._later = later
        self._done = done
        self._clock = clock
        self._waiting: ByHolder[Waiting] = ByHolder()
        self._handle: Handle | None = None
        self._left_s, self._at = SAVED_S, clock()
        self.displaced = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes, path: Path) -> None:
        if len(self._waiting) >= MOST:
            self._waiting.discard(self._waiting.oldest_of_the_heaviest())
            self.displaced += 1
        self._waiting.add(Waiting(data, path), path.remote)
        if self._handle is None:
            self._handle = self._later(0.0, self._run)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._waiting = ByHolder()

    def _run(self) -> None:
        """One slice. The next one follows after one turn of the loop, or when the share of time allows it."""
        self._handle = None
        began = self._clock()
        self._left_s = min(SAVED_S, self._left_s + (began - self._at) * SHARE)
        now = began
        try:
            while len(self._waiting) and now - began < min(SLICE_S, self._left_s):
                one = self._waiting.next_in_turn()
                self._waiting.discard(one)
                self._work(one.data, one.path)
                now = self._clock()
            self._done()
        finally:
            now = self._clock()
            self._left_s -= now - began
            self._at = began
            if len(self._waiting):
                rest_s = 0.0 if self._left_s > SLICE_S else (SLICE_S - self._left_s) / SHARE
                self._handle = self._later(rest_s, self._run)


def is_sa_init_request(data: bytes) -> bool:
    """Whether it is an IKE_SA_INIT request for a new IKE SA, which anybody may send."""
    return (
        len(data) >= HEADER_BYTES
        and data[18] == ExchangeType.IKE_SA_INIT
        and not data[19] & FLAG_RESPONSE
        and data[8:16] == bytes(8)
    )
