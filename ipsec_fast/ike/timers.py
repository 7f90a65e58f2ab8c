"""All timers of an endpoint: one heap, keyed, so that the next deadline is found without walking the SAs.

A key is (IKE SA, kind, Child SA or 0). Setting a key again moves it. Called by `Core`; time is always an argument.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from enum import Enum, auto
from typing import NamedTuple


class TimerKind(Enum):
    RETRANSMIT = auto()  # the outstanding request of ours goes out again, or gives up
    HALF_OPEN = auto()  # a responder's IKE SA that was not authenticated in time
    UNPROTECTED_ERROR = auto()  # the remembered error of an IKE_SA_INIT ends the attempt
    LIVENESS = auto()  # nothing was heard for dpd_delay_s, or nothing came back for what was sent
    SILENT = auto()  # a request of ours was not answered within dpd_timeout_s
    DUPLICATE = auto()  # both sides began an IKE SA at once: one of the two goes
    REKEY = auto()  # the IKE SA is to be rekeyed
    REAUTH = auto()  # the IKE SA is to be made anew, with authentication
    LIFE = auto()  # the hard limit of the IKE SA
    RETRY = auto()  # requests that the peer has put off are sent again
    CHILDLESS = auto()  # an authenticated IKE SA whose Child was refused
    EXPIRE = auto()  # a replaced or redundant SA that its closer forgot to close
    CHILD_REKEY = auto()
    CHILD_EXPIRE = auto()
    CHILD_LIFE = auto()  # the hard limit of a Child SA
    CHILD_SWITCH = auto()  # the peer has not used the child of a reauthentication yet
    CHILD_IDLE = auto()  # a Child SA may have carried nothing for too long
    MOVE = auto()  # the peer was found elsewhere, and may be followed again
    FRAGMENTS = auto()  # pieces of a message that never became whole
    ASK = auto()  # an ask that nobody answered
    TOMBSTONE = auto()  # the stored response of a deleted IKE SA


class TimerKey(NamedTuple):
    owner: int
    kind: TimerKind
    child: int = 0


class Timers:
    def __init__(self) -> None:
        self._deadlines: dict[TimerKey, float] = {}
        self._keys: dict[int, set[TimerKey]] = {}  # by owner, so that the end of one SA does not walk the timers of all
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._count = 0

    def set(self, key: TimerKey, at: float) -> None:
        self._deadlines[key] = at
        self._keys.setdefault(key.owner, set()).add(key)
        self._count += 1  # equal times fire in the order they were set
        heapq.heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._deadlines):
            self._compact()

    def cancel(self, key: TimerKey) -> None:
        if self._deadlines.pop(key, None) is None:
            return
        keys = self._keys[key.owner]
        keys.discard(key)
        if not keys:
            del self._keys[key.owner]

    def cancel_owner(self, owner: int) -> None:
        for key in self._keys.pop(owner, ()):
            del self._deadlines[key]

    def at(self, key: TimerKey) -> float | None:
        return self._deadlines.get(key)

    def advance(self, kinds: Collection[TimerKind], seconds: float, not_before: float) -> None:
        """Bring these timers forward by a time that the clock did not count, though not before `not_before`."""
        for key, at in list(self._deadlines.items()):
            if key.kind in kinds and at > not_before:
                self.set(key, max(at - seconds, not_before))

    def next_at(self) -> float | None:
        while self._heap and self._deadlines.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # cancelled or moved
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> TimerKey | None:
        """One key whose time has come, taken out; None when there is none."""
        at = self.next_at()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        self.cancel(key)
        return key

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._deadlines.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
