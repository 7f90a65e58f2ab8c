"""Where IKE_SA_INIT requests wait, so that a flood of them takes neither the event loop nor the places of other peers.

A socket is emptied at once and what is not such a request is worked on at once. The requests take turns, network by network
(ike/half_open.py), in slices of a few milliseconds between which the loop runs, and for no more than a share of the time. When too many
wait, whoever has most of them loses the oldest. Called by daemon.py.
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
SAVED_S = 1.0  # of work that may be done at once after a rest


class Handle(Protocol):
    def cancel(self) -> None: ...


class Waiting:
    """One request; compared by what it is, not by its bytes."""

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
        """One slice; the next one comes when the loop has looked at everything else, or when there is time left for it."""
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
    """Of an IKE SA that does not exist yet: what anybody may send."""
    return (
        len(data) >= HEADER_BYTES
        and data[18] == ExchangeType.IKE_SA_INIT
        and not data[19] & FLAG_RESPONSE
        and data[8:16] == bytes(8)
    )
