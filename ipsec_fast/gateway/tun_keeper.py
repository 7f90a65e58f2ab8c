"""Makes our TUN device again when somebody deletes it, renames it, moves it or sets it down (`ip link del`, NetworkManager).

Meanwhile the prohibit routes refuse packets for the tunnels. A lost device is made again at once; if it is lost again
within STOOD_S, after 1 s, 2 s, 4 s, up to a minute. The log has one line at the loss, one when the device exists again,
and one for each new reason why it cannot be made. Called by daemon.py; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HostError

FIRST_S, MOST_S, FACTOR = 1.0, 60.0, 2.0
STOOD_S = 60.0  # a device that existed that long resets the delay


class TunKeeper:
    """`remake` restores the device with routes, addresses and queues, or raises HostError and is called again."""

    def __init__(self, name: str, remake: Callable[[], None], log: Callable[[str], None]) -> None:
        self._name = name
        self._remake = remake
        self._log = log
        self._due: float | None = None
        self._lost_at = 0.0
        self._made_at = float("-inf")
        self._wait_s = FIRST_S
        self._told = ""

    @property
    def is_lost(self) -> bool:
        return self._due is not None

    def note_lost(self, now: float) -> None:
        """The device is deleted or down. May be called several times for one loss."""
        if self._due is not None:
            return
        self._lost_at = now
        if now - self._made_at >= STOOD_S:
            self._wait_s, self._due = FIRST_S, now
            when = "at once"
        else:
            self._due = now + self._wait_s
            when = f"in {self._wait_s:.0f} s"
            self._wait_s = min(self._wait_s * FACTOR, MOST_S)
        self._told = ""
        self._log(
            f"error: device {self._name} was deleted, renamed, moved or set down by somebody else; it is made again {when}, "
            "until then what the tunnels carry is refused"
        )

    def get_timer(self) -> float | None:
        return self._due

    def handle_timer(self, now: float) -> None:
        if self._due is None or now < self._due:
            return
        try:
            self._remake()
        except HostError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._log(f"error: device {self._name} cannot be made again: {error}; it is tried until it works")
            self._due = now + self._wait_s
            self._wait_s = min(self._wait_s * FACTOR, MOST_S)
            return
        self._due, self._made_at = None, now
        # the time makes it a line of its own: of equal ones in a row the log tells one
        self._log(f"device {self._name} is there again after {now - self._lost_at:.2f} s")
