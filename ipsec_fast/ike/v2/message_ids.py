"""The end of the message IDs (RFC 7296 section 2.2): an IKE SA is rekeyed before
they wrap, and closed if the rekey fails.

IDs count from 0 in both directions and never return to 0. Called by inbound after each exchange of either direction.
"""

from __future__ import annotations

from ..timers import TimerKey, TimerKind
from .ike_sa import IkeSA
from .informational import DeleteIke
from .outbound import submit
from .states import State

LAST_ID = (1 << 32) - 1
REKEY_FROM = LAST_ID - (1 << 16)  # leaves IDs for days while the rekey is retried
CLOSE_FROM = LAST_ID - 16  # leaves IDs for the DELETE
REKEY_WITHIN_S = 60.0
REASON = "its message IDs are used up"


def watch(sa: IkeSA) -> None:
    """Check both counters: the next ID of our own requests, and the next that the peer may use."""
    used = max(sa.window.next_own, sa.window.expected)
    if used < REKEY_FROM or sa.is_closed or not sa.is_authenticated:
        return
    if used > LAST_ID:
        sa.close(REASON, failed=sa.state is not State.DELETING)
    elif used >= CLOSE_FROM:
        _delete(sa)
    else:
        _rekey(sa)


def _delete(sa: IkeSA) -> None:
    if not any(isinstance(exchange, DeleteIke) for exchange in (sa.active, *sa.queue)):
        submit(sa, DeleteIke(REASON, failed=True))


def _rekey(sa: IkeSA) -> None:
    """Rekey at once, unless a rekey is due soon: a refused one has set the time of its next try."""
    core = sa.core
    due = core.timers.at(TimerKey(sa.ike_id, TimerKind.REKEY))
    if sa.state is State.ESTABLISHED and (due is None or due > core.now + REKEY_WITHIN_S):
        sa.progress(f"rekeying IKE SA {sa.label}: few message IDs are left")
        sa.set_timer(TimerKind.REKEY, 0.0)
