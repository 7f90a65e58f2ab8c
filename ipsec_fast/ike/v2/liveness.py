"""Whether the peer is there (RFC 7296 section 2.4): what was sent and heard, and the quick verdict.

Any fresh message or ESP packet of the peer's proves that it lives, and then nothing is asked. It is asked when we have been sending
for UNHEARD_S and nothing at all came back, or when all was silent for dpd_delay. A request of ours (any, not only a liveness check)
that stays unanswered for dpd_timeout is the verdict: PeerSilent, whereupon the shell may begin a replacement. The IKE SA itself
stays until its retransmissions have ended or the replacement stands; if the peer is heard again, PeerBack.
Nothing here sends; called by inbound, outbound and the endpoint.
"""

from __future__ import annotations

from ..events import PeerBack, PeerSilent
from ..timers import TimerKey, TimerKind
from .ike_sa import IkeSA
from .states import State

UNHEARD_S = 3.0
LEAST_DELAY_S = 0.01  # with less, a check would be due before any answer could arrive
HINT_EVERY_S = 5.0
HINT_VERDICT_S = 1.0
_ROUNDING_S = 0.001
_WATCHED = (State.ESTABLISHED, State.REKEYING)


def is_watched(sa: IkeSA) -> bool:
    return sa.state in _WATCHED and sa.established_at is not None and sa.config.dpd_delay_s > 0


# --- what was heard and sent


def note_heard(sa: IkeSA, at: float) -> None:
    """A valid message or packet of the peer's came."""
    sa.last_inbound_at = max(sa.last_inbound_at, at)
    if sa.sent_unheard_at is not None and at >= sa.sent_unheard_at:
        sa.sent_unheard_at = None
    if sa.silent_since is not None and at > sa.silent_since:
        sa.silent_since = None
        sa.progress(f"{sa.path.remote} is there again")
        sa.core.emit(PeerBack(sa.ike_id, sa.name))
        _give_up_replacements(sa)


def note_traffic(sa: IkeSA, sent_at: float | None, received_at: float | None) -> None:
    """When the last ESP packets of its children left and came, as the dataplane knows it."""
    if received_at is not None and received_at > sa.last_inbound_at:
        note_heard(sa, received_at)
    if sent_at is None or sent_at <= sa.last_inbound_at or sa.sent_unheard_at is not None or not is_watched(sa):
        return
    sa.sent_unheard_at = sa.core.now
    due = check_due(sa)
    armed = sa.core.timers.at(TimerKey(sa.ike_id, TimerKind.LIVENESS))
    if armed is None or due < armed:
        sa.set_timer(TimerKind.LIVENESS, due - sa.core.now)


def delay_of(sa: IkeSA) -> float:
    """A time later than `now` even after rounding; otherwise the timer would be due for ever."""
    return max(sa.config.dpd_delay_s, LEAST_DELAY_S)


def check_due(sa: IkeSA) -> float:
    """When the peer is to be asked, if nothing is heard until then."""
    delay_s = delay_of(sa)
    due = sa.last_inbound_at + delay_s
    if sa.sent_unheard_at is not None:
        due = min(due, sa.sent_unheard_at + min(UNHEARD_S, delay_s))
    return due


# --- the verdict


def expect_answer(sa: IkeSA) -> None:
    """A request has left for the first time."""
    sa.asked_at = sa.core.now
    if is_watched(sa):
        sa.set_timer(TimerKind.SILENT, sa.config.dpd_timeout_s)


def judge(sa: IkeSA) -> None:
    """The time for an answer is over, unless something was heard meanwhile."""
    own, now = sa.window.outstanding, sa.core.now
    if own is None or own.answered or sa.silent_since is not None or not is_watched(sa):
        return
    heard = max(sa.asked_at, sa.last_inbound_at)
    due = heard + sa.config.dpd_timeout_s
    if sa.hint_at is not None and sa.hint_at >= heard:
        due = min(due, sa.hint_at + HINT_VERDICT_S)
    if now + _ROUNDING_S < due:
        sa.set_timer(TimerKind.SILENT, due - now)
        return
    sa.silent_since = now
    sa.core.counters["peers_silent"] += 1
    reason = (
        f"{sa.path.remote} is silent: nothing heard for {now - sa.last_inbound_at:.1f} s, {own.sends} sends unanswered"
    )
    sa.progress(reason)
    sa.core.emit(PeerSilent(sa.ike_id, sa.name, reason))


def take_hint(sa: IkeSA) -> None:
    """Somebody who is not authenticated says that the peer has forgotten this IKE SA: ask again now, and wait less long.

    Changes nothing else: where the peer is there, its answer comes and all is as before.
    """
    now = sa.core.now
    if sa.hint_at is not None and now - sa.hint_at < HINT_EVERY_S:
        return
    sa.hint_at = now
    sa.core.counters["hints_taken"] += 1
    own = sa.window.outstanding
    if is_watched(sa) and own is not None and not own.answered:
        sa.set_timer(TimerKind.RETRANSMIT, 0.0)
        sa.set_timer(TimerKind.SILENT, min(HINT_VERDICT_S, sa.config.dpd_timeout_s))


# --- replacements


def silent_twins(sa: IkeSA) -> frozenset[int]:
    """Silent IKE SAs of the connection of an IKE SA that is being begun."""
    others = (other for other in sa.core.sas.values() if other is not sa and other.connection is not None)
    return frozenset(other.ike_id for other in others if other.silent_since is not None and other.name == sa.name)


def _give_up_replacements(sa: IkeSA) -> None:
    """Those that were begun because this one was silent, unless the peer has been told already that they replace it."""
    for other in tuple(sa.core.sas.values()):
        if sa.ike_id in other.stands_in_for and other.state is State.CONNECTING and other.active is None:
            other.close(f"not needed: {sa.path.remote} is there again", failed=False)
