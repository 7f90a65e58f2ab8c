"""Things that are compared take turns, pass by pass, so that a busy moment hurts all alike; medians and quartiles of the passes.

Called by esp.py, crypto.py, imix.py and gate.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST = 5  # passes, however short the time


@dataclass(frozen=True, slots=True)
class Sample:
    """The median of all passes, and its quartiles: half of them lie between `low` and `high`. In the unit of the passes."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """(high - low) / median."""
        return (self.high - self.low) / self.median


def sample_of(passes: Sequence[float]) -> Sample:
    low, median, high = statistics.quantiles(passes, n=4, method="inclusive")
    return Sample(median, low, high)


def take_turns(cases: Sequence[Callable[[], float]], seconds: float) -> list[Sample]:
    """A sample of each case; every other pass goes through them backwards. `seconds` in all."""
    for case in cases:
        for _ in range(3):
            case()
    passes: list[list[float]] = [[] for _ in cases]
    order = list(range(len(cases)))
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(passes[0]) < LEAST:
        for at in order:
            passes[at].append(cases[at]())
        order.reverse()
    return [sample_of(one) for one in passes]
