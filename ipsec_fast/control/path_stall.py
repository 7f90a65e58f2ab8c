"""When does the traffic of a path look as if big packets no longer pass? (RFC 8899 section 4.3, black hole detection.) No I/O, no clock.

A stall is: a big packet left, and since then, for max(2 RTT, 200 ms), nothing came in. Who only sends looks the same, so after a false
alarm the next one waits longer, up to 10 s, until something comes in. And as another flow may hide a stall, the size in use is
confirmed every half second while big packets leave. Called by control.paths.
"""

from __future__ import annotations

from enum import Enum

LOOK_EVERY_S = 0.05  # while big packets leave
IDLE_S = 3.0  # without a big packet nobody looks; the worker tells when one leaves again
QUIET_S = 0.2
CONFIRM_S = 0.5
PATIENCE_S = (0.5, 10.0)


class Look(Enum):
    NOTHING = 0
    CONFIRM = 1
    STALL = 2


class StallWatch:
    """Of one path. `is_active`: it is to be looked at every LOOK_EVERY_S."""

    def __init__(self) -> None:
        self.is_active = False
        self._quiet_since: float | None = None
        self._patience_s = PATIENCE_S[0]
        self._not_before = 0.0
        self._confirm_at = 0.0

    def big_left(self, now: float) -> None:
        """The worker saw the first big packet after a while."""
        if not self.is_active:
            self.is_active = True
            self._quiet_since = None
            self._confirm_at = now + CONFIRM_S

    def look(self, big_at: float | None, in_at: float | None, rtt_s: float, now: float) -> Look:
        """`big_at`, `in_at`: when the last big packet left, and the last packet of any size came in."""
        if big_at is None or now - big_at > IDLE_S:
            self.is_active = False
            return Look.NOTHING
        if in_at is not None and in_at >= big_at:
            self._quiet_since, self._patience_s = None, PATIENCE_S[0]
        elif self._quiet_since is None or (in_at is not None and in_at > self._quiet_since):
            # what left before the last packet that came in may have been what it answers
            self._quiet_since = now if in_at is None else max(in_at, min(big_at, now))
        elif now - self._quiet_since >= max(QUIET_S, 2 * rtt_s) and now >= self._not_before:
            self._not_before = now + self._patience_s
            self._patience_s = min(2 * self._patience_s, PATIENCE_S[1])
            self._confirm_at = now + CONFIRM_S
            return Look.STALL
        if now >= self._confirm_at and now - big_at <= CONFIRM_S:
            self._confirm_at = now + CONFIRM_S
            return Look.CONFIRM
        return Look.NOTHING
