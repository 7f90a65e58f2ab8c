"""How long SAs live: the soft limit (a new one is wanted), the hard limit (it ends), and the random part that keeps two peers apart.

strongSwan's meanings and defaults (swanctl.conf), in values that cannot be changed. RFC 7296 section 2.8 leaves lifetimes to each
side; nothing of them is negotiated. Who acts on them: v2/lifetime.py by time, the dataplane by bytes and packets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

N = TypeVar("N", int, float)

CHILD_REKEY_TIME_S = 3600.0
IKE_REKEY_TIME_S = 14400.0


@dataclass(frozen=True, slots=True)
class Limits(Generic[N]):
    """`rekey`: a new SA is wanted, up to `rand` earlier. `life`: the SA is closed. 0: no such limit."""

    rekey: N
    life: N
    rand: N


def time_limits(
    rekey: float = CHILD_REKEY_TIME_S, life: float | None = None, rand: float | None = None
) -> Limits[float]:
    """In seconds. What is left out is strongSwan's: 10 % more life than `rekey`, the difference of the two as `rand`."""
    life = rekey * 11 / 10 if life is None else life
    return Limits(rekey, life, _default_rand(rekey, life) if rand is None else rand)


def count_limits(rekey: int = 0, life: int | None = None, rand: int | None = None) -> Limits[int]:
    """In bytes or packets."""
    life = rekey * 11 // 10 if life is None else life
    return Limits(rekey, life, _default_rand(rekey, life) if rand is None else rand)


def _default_rand(rekey: N, life: N) -> N:
    """At most half of `rekey`: a life of many times the rekey must not let the rekey begin at once."""
    return min(max(life - rekey, rekey * 0), rekey // 2)


@dataclass(frozen=True, slots=True)
class ChildLifetimes:
    """`inactivity_s`: closed after so long without a packet in either direction; 0: never."""

    time: Limits[float] = field(default_factory=time_limits)
    bytes: Limits[int] = field(default_factory=count_limits)
    packets: Limits[int] = field(default_factory=count_limits)
    inactivity_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IkeLifetimes:
    """Seconds; 0 is never. `over_time_s` after the rekey or reauthentication was due the IKE SA is deleted."""

    rekey_time_s: float = IKE_REKEY_TIME_S
    reauth_time_s: float = 0.0
    over_time_s: float = IKE_REKEY_TIME_S / 10
    rand_time_s: float = IKE_REKEY_TIME_S / 10


def ike_lifetimes(
    rekey: float | None = None, reauth: float | None = None, over: float | None = None, rand: float | None = None
) -> IkeLifetimes:
    """What is left out is strongSwan's: no rekey beside a reauthentication, 10 % of the longer one to fail in, as much to vary."""
    if rekey is None:
        rekey = IKE_REKEY_TIME_S if reauth is None else 0.0
    reauth = reauth or 0.0
    if over is None:
        over = max(rekey, reauth) / 10
    if rand is None:
        shorter = min(rekey, reauth) if rekey and reauth else max(rekey, reauth)
        rand = min(over, shorter / 2)
    return IkeLifetimes(rekey, reauth, over, rand)


@dataclass(frozen=True, slots=True)
class TrafficLimits:
    """What one Child SA may carry each way, drawn for it: from `soft_*` on a new one is wanted, nothing goes past `hard_*`. 0: no limit."""

    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


NO_LIMITS = TrafficLimits()
