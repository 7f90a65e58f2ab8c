"""Notices that the host was suspended: CLOCK_MONOTONIC, by which all our timers run, stops meanwhile (time(7)).

Called by daemon.py at each timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_S = 1.0  # shorter suspensions change nothing


def asleep_s() -> float:
    """Seconds that the host was suspended since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class SuspendWatch:
    def __init__(self, asleep: Callable[[], float] = asleep_s) -> None:
        self._asleep = asleep
        self._known_s = asleep()

    def take(self) -> float:
        """Seconds of suspension since the last call; 0.0 if they are fewer than LEAST_S."""
        asleep_s = self._asleep()
        slept_s = asleep_s - self._known_s
        if slept_s < LEAST_S:
            return 0.0
        self._known_s = asleep_s
        return slept_s
