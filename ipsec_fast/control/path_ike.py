"""Probes of one path by padded IKE requests, where no inner address answers: one at a time, since an IKE SA has one request under way.

What stays unanswered goes out again under its message ID in fragments of the next smaller size (RFC 7383; Endpoint.probe does it), so one
request walks down a ladder of sizes. Its answer says which of them passed; what had been tried before that one is lost. A peer without IKE
fragments, or that takes none here, is asked for one size at a time. The requests take the port that ESP in UDP uses. No I/O, no clock.
Called by control.paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import StateError, UsageError

WAIT_S = 0.1
RUNGS = 3  # sizes above the bottom in one walk: a peer that never answers gets no more probes
AGAIN_S, AGAIN = 0.1, 10  # the IKE SA may have another request under way

Send = Callable[[Sequence[int], float, float], None]  # falling sizes, how long each waits, now; StateError


@dataclass(frozen=True, slots=True)
class IkeAnswer:
    """What became of a request that probed: it was answered when its datagrams had up to `size` bytes, or (None) nobody will answer."""

    ike_id: int
    size: int | None
    waited_s: float = 0.0


class IkeProber:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.rtt_s: float | None = None
        self._ladder: tuple[int, ...] = ()  # under way
        self._waiting: tuple[int, ...] = ()  # to be sent
        self._again_at: float | None = None
        self._left = 0
        self._search = 0
        self._is_single = False  # fragments of a smaller size are of no use with this peer

    @property
    def wait_s(self) -> float:
        return max(WAIT_S, 2 * (self.rtt_s or 0.0))

    @property
    def is_busy(self) -> bool:
        return bool(self._ladder or self._waiting)

    def probe(self, sizes: frozenset[int], bottom: int, now: float, search: int = 0) -> bool:
        """Walk down the largest of these sizes, and `bottom`, which surely passes; the others are for the next walk.

        False if it cannot be done. Does nothing if a walk is under way.
        """
        if self.is_busy or not sizes:
            return True
        self._search = search
        rungs = sorted(sizes, reverse=True)[:RUNGS]
        self._waiting, self._left = tuple(sorted({*rungs, bottom}, reverse=True)), AGAIN
        return self._try(now)

    def answered(self, size: int, waited_s: float, search: int = 0) -> tuple[int, list[int]] | None:
        """The size that passed (0: none surely did), and those that did not; None where they were sent for another search.

        A request of a CBC cipher may be some bytes shorter than it should: what it proves is its own length.
        """
        ladder, self._ladder = self._ladder, ()
        if search != self._search:
            return None
        if (
            size == 0
        ):  # it was answered when it was sent without DF, so of the fragments nothing is known: some peers take none
            self._is_single = True
            return 0, list(ladder[:1])
        lost = [other for other in ladder if other > size]
        if not lost:
            self.rtt_s = waited_s if self.rtt_s is None else max(waited_s, 0.75 * self.rtt_s + 0.25 * waited_s)
        return size, lost

    def forget(self) -> None:
        """Nobody will answer."""
        self._ladder, self._waiting, self._again_at = (), (), None

    def get_timer(self) -> float | None:
        return self._again_at

    def handle_timer(self, now: float) -> bool:
        """False: it cannot be done."""
        if self._again_at is None or now < self._again_at:
            return True
        return self._try(now)

    def _try(self, now: float) -> bool:
        self._again_at = None
        sizes = self._waiting[:1] if self._is_single else self._waiting
        try:
            self._send(sizes, self.wait_s, now)
        except StateError:
            if len(sizes) > 1:  # perhaps only for want of IKE fragmentation
                self._is_single = True
                return self._try(now)
            self._left -= 1
            if self._left:
                self._again_at, self._is_single = now + AGAIN_S, False
                return True
            self._waiting = ()
            return False
        except UsageError:
            self._waiting = ()
            return False
        self._ladder, self._waiting = sizes, ()
        return True
