"""`bench mtu`: how long does a TCP transfer stand still when its path's MTU changes, with the router's ICMP and without?

For each case a ground of its own: two gateways, a router between them, one paced TCP connection from host1 to host2. While it runs the
router's MTU changes; the stall is the longest time without a byte at the receiver in the seconds that follow. In the cases "from
the start" the path is narrow before the gateways meet, and the transfer begins as soon as the Child SA is up. Called by mtu_face.py.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .mtu_ground import Gateway, Ground, Transfer

WARM_UP_BYTES = 400_000
WATCH_S = 3.0
START_BYTES = 200_000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """`before` None: the path has `after` from the start. `filtered`: the router says nothing."""

    before: int | None
    after: int
    filtered: bool
    outer: int = 4

    @property
    def name(self) -> str:
        return f"{self.before} -> {self.after}" if self.before is not None else f"{self.after} from the start"


CASES = (
    Case(1500, 1300, filtered=False),
    Case(1500, 1300, filtered=True),
    Case(1500, 1300, filtered=True, outer=6),
    Case(1500, 1280, filtered=True, outer=6),
    Case(1500, 1492, filtered=True),
    Case(9000, 1400, filtered=False),
    Case(9000, 1400, filtered=True),
    Case(None, 1300, filtered=True),
    Case(None, 1492, filtered=True),
)


@dataclass(frozen=True)
class Result:
    """A row of the JSON document. `known_s`: from the change until the gateway knew the new MTU; `mtu`: what it then took it for."""

    path: str
    icmp: bool
    outer: str
    rounds: int
    stall_s_median: float
    stall_s_max: float
    known_s_median: float
    mtu: int


def run_case(case: Case, rounds: int, say: Say) -> Result:
    """HostError where a transfer does not go on."""
    stalls, known, mtu = [], [], 0
    for number in range(rounds):
        with (
            tempfile.TemporaryDirectory(prefix="mtu-", dir="/run") as folder,
            Ground(Path(folder), mtu=case.before or 1500) as ground,
        ):
            stall, seconds, mtu = _round(case, ground)
        stalls.append(stall)
        known.append(seconds)
        say(
            f"{case.name}, {'ICMP' if not case.filtered else 'no ICMP'}, IPv{case.outer}, round {number + 1}: {stall:.3f} s"
        )
    return Result(
        path=case.name, icmp=not case.filtered, outer=f"ipv{case.outer}", rounds=rounds, stall_s_median=statistics.median(stalls),
        stall_s_max=max(stalls), known_s_median=statistics.median(known), mtu=mtu,
    )  # fmt: skip


def _round(case: Case, ground: Ground) -> tuple[float, float, int]:
    if case.before is None:
        ground.set_path(case.after, filtered=case.filtered)
    two, one = ground.gateway("gw2", outer=case.outer), ground.gateway("gw1", outer=case.outer)
    one.initiate()
    if case.before is None:
        return _from_the_start(case, ground, one)
    for gateway in (one, two):
        gateway.wait_for_source("probe")
    with Transfer(ground) as transfer:
        transfer.wait_for(WARM_UP_BYTES)
        changed = time.monotonic()
        ground.set_path(case.after, filtered=case.filtered)
        known = _known(one, case.after, changed)
        time.sleep(max(0.0, changed + WATCH_S - time.monotonic()))
        until = time.monotonic()
        transfer.wait_for(START_BYTES)
        return transfer.longest_gap_s(changed, until), known, int(one.child()["path-mtu"])


def _from_the_start(case: Case, ground: Ground, one: Gateway) -> tuple[float, float, int]:
    began = time.monotonic()
    with Transfer(ground) as transfer:
        known = _known(one, case.after, began)
        time.sleep(max(0.0, began + WATCH_S - time.monotonic()))
        until = time.monotonic()
        transfer.wait_for(START_BYTES)
        return transfer.longest_gap_s(began, until), known, int(one.child()["path-mtu"])


def _known(gateway: Gateway, mtu: int, since: float) -> float:
    """Seconds until the gateway takes the path for what it is, or less by what its packets cannot have."""
    gateway.wait_until(
        f"a path MTU of {mtu}", lambda: mtu - 16 < int(gateway.child().get("path-mtu", 0)) <= mtu, WATCH_S
    )
    return time.monotonic() - since
