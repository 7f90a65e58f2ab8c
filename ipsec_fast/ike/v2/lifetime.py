"""Lifetimes at work: when an IKE SA or a Child SA is rekeyed, reauthenticated, closed for good, or closed for want of traffic.

RFC 7296 section 2.8: each side has limits of its own and whoever comes to its own first acts. A soft limit is tried again and
again (the exchanges' files); the hard limit ends the SA. Bytes and packets are the dataplane's to count: it gets its limits
with the installation and reports through `Endpoint.rekey_child` and `Endpoint.child_expired`. Called by ike_sa, child_sa, endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import CheckIdle
from ..lifetimes import Limits, TrafficLimits
from ..timers import TimerKey, TimerKind

if TYPE_CHECKING:
    from ..core import Core
    from .child_sa import ChildSA
    from .ike_sa import IkeSA

DEFERRED_S = 10.0  # a second child for the same traffic that is no rekey: if the peer does not use it first, we do
LEAST_WAIT_S = 0.01  # with less, rounding could make a timer due again at once, for ever
EARLIEST_S = 1.0  # a rekey begins so much later at the earliest, whatever was configured


_CHILD_TIMERS = (
    TimerKind.CHILD_REKEY,
    TimerKind.CHILD_EXPIRE,
    TimerKind.CHILD_LIFE,
    TimerKind.CHILD_SWITCH,
    TimerKind.CHILD_IDLE,
)


def draw_time(core: Core, rekey_s: float, rand_s: float) -> float | None:
    """Seconds until the soft limit; None without one."""
    if rekey_s <= 0:
        return None
    return max(core.jittered(rekey_s, rand_s / rekey_s), EARLIEST_S)


def draw_traffic(core: Core, in_bytes: Limits[int], in_packets: Limits[int]) -> TrafficLimits:
    return TrafficLimits(_draw(core, in_bytes), in_bytes.life, _draw(core, in_packets), in_packets.life)


def _draw(core: Core, limits: Limits[int]) -> int:
    if limits.rekey and limits.rand:
        return limits.rekey - limits.rand * int.from_bytes(core.random(4), "big") // 0xFFFFFFFF
    return limits.rekey


# --- IKE SA


def start_ike_timers(sa: IkeSA, replaces: IkeSA | None) -> None:
    """From its establishment on. A rekey proves nobody's identity, so the time of the next reauthentication survives it."""
    core, limits = sa.core, sa.config.lifetimes
    rekey_s = draw_time(core, limits.rekey_time_s, limits.rand_time_s)
    if replaces is None:
        reauth_s = draw_time(core, limits.reauth_time_s, limits.rand_time_s)
    else:
        due = core.timers.at(TimerKey(replaces.ike_id, TimerKind.REAUTH))
        reauth_s = None if due is None else max(due - core.now, EARLIEST_S)
    sa.set_timer(TimerKind.REKEY, rekey_s)
    sa.set_timer(TimerKind.REAUTH, reauth_s)
    first = min((after for after in (rekey_s, reauth_s) if after is not None), default=None)
    sa.set_timer(TimerKind.LIFE, None if first is None else first + limits.over_time_s)


# --- Child SA


def start_child_timers(sa: IkeSA, child: ChildSA) -> None:
    """From its installation on, and again when an IKE rekey has given it to another IKE SA."""
    core, limits = sa.core, child.config.lifetimes
    if child.rekey_at is None and child.life_at is None:
        soft = draw_time(core, limits.time.rekey, limits.time.rand)
        child.rekey_at = None if soft is None else child.installed_at + soft
        child.life_at = child.installed_at + limits.time.life if limits.time.life else None
    if child.rekey_at is not None:
        sa.set_timer(TimerKind.CHILD_REKEY, max(child.rekey_at - core.now, EARLIEST_S), child.child_id)
    if child.life_at is not None:
        sa.set_timer(TimerKind.CHILD_LIFE, max(child.life_at - core.now, 0.0), child.child_id)
    if child.outbound_deferred and child.replaces is None:
        sa.set_timer(TimerKind.CHILD_SWITCH, DEFERRED_S, child.child_id)
    if limits.inactivity_s:
        left = child.quiet_since + limits.inactivity_s - core.now
        sa.set_timer(TimerKind.CHILD_IDLE, max(left, EARLIEST_S), child.child_id)


def stop_child_timers(sa: IkeSA, child: ChildSA) -> None:
    for kind in _CHILD_TIMERS:
        sa.set_timer(kind, None, child.child_id)


def ask_idle(sa: IkeSA, child: ChildSA) -> None:
    """The shell knows when a packet passed; it answers by `Endpoint.child_used`."""
    sa.set_timer(TimerKind.CHILD_IDLE, max(child.config.lifetimes.inactivity_s, LEAST_WAIT_S), child.child_id)
    sa.core.emit(CheckIdle(child.child_id))


def note_used(sa: IkeSA, child: ChildSA, used_at: float | None) -> bool:
    """Whether it has carried nothing for so long that it is to be closed; otherwise it is looked at again when that could be."""
    limit_s = child.config.lifetimes.inactivity_s
    child.quiet_since = max(child.quiet_since, used_at if used_at is not None else child.quiet_since)
    left = child.quiet_since + limit_s - sa.core.now
    if limit_s and left > 0:
        sa.set_timer(TimerKind.CHILD_IDLE, max(left, LEAST_WAIT_S), child.child_id)
    return bool(limit_s) and left <= 0
