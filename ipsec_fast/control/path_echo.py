"""Probes of one path by inner echoes (RFC 792, RFC 4443 section 4): who answers, and
which sizes come through. No I/O, no clock.

`targets` are addresses of the peer that may answer. First a small echo goes to each; the first that answers is
asked from then on. `probe` sends all sizes of a set at once, and again those that stay unanswered for max(2
RTT, 100 ms), with a small one next to them: if that is unanswered too, the peer does not answer at all, and
nothing is said about sizes. As long as that is so, only the small one is sent again, so that a silent peer does
not cause more traffic. Called by control.paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..model import Address

WAIT_S = 0.1
LOOK_FOR_S = (0.0, 0.15, 0.35)  # when the small echoes that look for somebody go out
GIVE_UP_S = 0.7
NUMBERS = 1024  # so many echoes are remembered
SMALL = 0

Send = Callable[["Target", int, int], None]  # to whom, outer bytes (SMALL: as few as can be), number


@dataclass(frozen=True, slots=True)
class Target:
    """An echo from `source` to `address` inside this child."""

    child_id: int
    source: Address
    address: Address


@dataclass(slots=True)
class _Trial:
    left: int  # tries
    until: float


class EchoProber:
    """`next_number` makes numbers that no other prober has; `send` sends an echo request."""

    def __init__(self, send: Send, next_number: Callable[[], int]) -> None:
        self._send = send
        self._next_number = next_number
        self._targets: Sequence[Target] = ()
        self.target: Target | None = None
        self.rtt_s: float | None = None
        self._looking: list[float] = []  # when to look for somebody again
        self._give_up_at: float | None = None
        self._sent: dict[int, tuple[int, float, Target]] = {}
        self._trials: dict[int, _Trial] = {}
        self._search = 0
        self._hurry = False
        self._quiet_left = 0  # rounds without any answer left until the peer counts as silent
        self._small_answered_at = float("-inf")
        self._round_at = 0.0

    @property
    def wait_s(self) -> float:
        return max(WAIT_S, 2 * (self.rtt_s or 0.0))

    def knows(self, number: int) -> bool:
        return number in self._sent

    # --- who answers

    def look_for(self, targets: Iterable[Target], now: float) -> None:
        """Ask each of them; `get_timer` and `handle_timer` go on with it."""
        self._targets, self.target = tuple(targets), None
        self._trials.clear()
        self._looking = [now + after for after in LOOK_FOR_S] if self._targets else []
        self._give_up_at = now + (GIVE_UP_S if self._targets else 0.0)

    def move(self, targets: Sequence[Target]) -> None:
        """The child that carried the probes was replaced: the same address is asked by way of another."""
        self._targets = tuple(targets)
        if self.target is not None:
            address = self.target.address
            self.target = next((one for one in targets if one.address == address), self.target)

    @property
    def is_looking(self) -> bool:
        return self._give_up_at is not None

    # --- sizes

    def probe(self, sizes: frozenset[int], tries: int, now: float, search: int = 0, *, hurry: bool = False) -> None:
        """These are wanted now; what is under way and is not among them, or belongs to another search, is of no interest any more.

        `hurry`: the tries follow each other in a third of the time; only the last one is waited for in full.
        """
        for size in [size for size in self._trials if size not in sizes or search != self._search]:
            del self._trials[size]
        self._search = search
        fresh = sorted(sizes.difference(self._trials), reverse=True)
        if not fresh or self.target is None:
            return
        self._round_at, self._hurry, self._quiet_left = now, hurry, tries
        self._transmit(self.target, SMALL, now)
        for size in fresh:
            self._trials[size] = _Trial(tries - 1, now + self._patience(tries - 1))
            self._transmit(self.target, size, now)

    def answer(self, number: int, now: float) -> int | None:
        """An echo came back: its size (SMALL among them), None where nobody asked. The first that answers while we look is the target."""
        found = self._sent.pop(number, None)
        if found is None:
            return None
        size, sent_at, target = found
        rtt = max(0.0, now - sent_at)
        self.rtt_s = rtt if self.rtt_s is None else max(rtt, 0.75 * self.rtt_s + 0.25 * rtt)
        self._small_answered_at = now
        if self._give_up_at is not None:
            self.target, self._give_up_at, self._looking = target, None, []
        if size:
            for other in [other for other in self._trials if other <= size]:
                del self._trials[other]
        return size

    def get_timer(self) -> float | None:
        times = [trial.until for trial in self._trials.values()]
        if self._give_up_at is not None:
            times.append(min([self._give_up_at, *self._looking]))
        return min(times, default=None)

    def handle_timer(self, now: float) -> list[int] | None:
        """Sends what is to be sent again. The sizes that are lost; None: nobody answers at all."""
        if self._give_up_at is not None:
            while self._looking and self._looking[0] <= now:
                self._looking.pop(0)
                for target in self._targets:
                    self._transmit(target, SMALL, now)
            if now >= self._give_up_at:
                self._give_up_at = None
                return None
            return []
        due = sorted((size for size, trial in self._trials.items() if trial.until <= now), reverse=True)
        if due and self._small_answered_at < self._round_at:
            return self._wait_for_anything(due, now)
        over = [size for size in due if not self._trials[size].left]
        again = [size for size in due if self._trials[size].left]
        if again and self.target is not None:
            self._transmit(self.target, SMALL, now)
            for size in again:
                self._trials[size].left -= 1
                self._trials[size].until = now + self._patience(self._trials[size].left)
                self._transmit(self.target, size, now)
        for size in over:
            del self._trials[size]
        return over

    def _wait_for_anything(self, due: Sequence[int], now: float) -> list[int] | None:
        """Nothing of this round was answered: only the small echo is sent again, and no size loses a try."""
        self._quiet_left -= 1
        if self._quiet_left <= 0 or self.target is None:
            self._trials.clear()
            return None
        self._transmit(self.target, SMALL, now)
        for size in due:
            self._trials[size].until = now + self._patience(self._quiet_left - 1)
        return []

    def _patience(self, left: int) -> float:
        return self.wait_s / 3 if self._hurry and left else self.wait_s

    def _transmit(self, target: Target, size: int, now: float) -> None:
        number = self._next_number()
        self._sent[number] = (size, now, target)
        while len(self._sent) > NUMBERS:
            del self._sent[next(iter(self._sent))]
        self._send(target, size, number)
