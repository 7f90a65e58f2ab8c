"""The measurement of `ipsec-fast bench ike`: IKE_SA_INIT, IKE_AUTH and the first Child SA, how many a second and at what CPU time.

Two paths: `endpoints`, two of them in memory in one thread, whose deletion is off the clock; and `gateways`, an initiator on real sockets
against a gateway in a namespace (ike_gateways.py). Each round takes every path and proposal in turn, beginning with another one each time;
the figures are medians over the rounds. Called by ike_face.py.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import HostError
from ..model import Path
from .ike_side import Side, connection_of

FIGURES = ("handshakes_per_s", "initiator_cpu_ms", "responder_cpu_ms")
PROPOSALS = tuple(f"aes128gcm16-prfsha256-{group}" for group in ("x25519", "ecp256", "ecp384", "modp2048"))
LEAST = 3  # handshakes of a figure, however short the time


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one path, proposal and round. CPU time is for each handshake."""

    handshakes: int
    handshakes_per_s: float
    initiator_cpu_ms: float
    responder_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """One row, of medians over the rounds; the field names are the JSON's. `parallel`: handshakes under way at once."""

    path: str
    initiator: str
    responder: str
    proposal: str
    parallel: int
    handshakes: int
    handshakes_per_s: float
    initiator_cpu_ms: float
    responder_cpu_ms: float
    spread: Mapping[str, tuple[float, float]]  # of each figure the smallest and the largest


Measure = Callable[[str, float], Figures]  # a proposal, for so many seconds
Key = tuple[str, str, str]  # path, responder, proposal


def run_rounds(
    rounds: int,
    proposals: Sequence[str],
    seconds: float,
    responders: Sequence[str],
    open_responder: Callable[[str, Sequence[str]], Measure],
    begin: Callable[[str], None],
) -> dict[Key, list[Figures]]:
    """Every responder (`endpoints` is one) and proposal once a round; `open_responder` brings one up until the next is asked for."""
    found: dict[Key, list[Figures]] = {}
    for number in range(rounds):
        for responder in _turned(responders, number):
            measure = open_responder(responder, proposals)
            for proposal in _turned(proposals, number):
                begin(f"round {number + 1} of {rounds}: {responder}, {proposal}")
                path = "endpoints" if responder == "endpoints" else "gateways"
                who = "ipsec_fast" if responder == "endpoints" else responder
                found.setdefault((path, who, proposal), []).append(measure(proposal, seconds))
    return found


def combine(found: Mapping[Key, Sequence[Figures]], parallel: int, proposals: Sequence[str]) -> list[Result]:
    """The rows, path by path, proposals in the order that was asked for."""
    rows = []
    for path, responder, proposal in sorted(
        found, key=lambda key: (key[0], key[1] != "ipsec_fast", proposals.index(key[2]))
    ):
        each = found[path, responder, proposal]
        values = {name: [float(getattr(one, name)) for one in each] for name in FIGURES}
        rows.append(
            Result(
                path, "ipsec_fast", responder, proposal, 1 if path == "endpoints" else parallel, sum(one.handshakes for one in each),
                **{name: round(statistics.median(of), 3) for name, of in values.items()},
                spread={name: (round(min(of), 3), round(max(of), 3)) for name, of in values.items()},
            )
        )  # fmt: skip
    return rows


def _turned(items: Sequence[str], by: int) -> Sequence[str]:
    at = by % len(items)
    return (*items[at:], *items[:at])


# --- two endpoints in memory


class EndpointPair:
    """London and Paris; what one sends the other gets at once."""

    def __init__(self, proposals: Iterable[str]) -> None:
        proposals = tuple(proposals)
        psk = os.urandom(32)
        self._sides = tuple(Side(connection_of(is_london, proposals), psk) for is_london in (True, False))
        self._cpu_ns = [0, 0]

    def handshake(self) -> tuple[int, int]:
        """CPU nanoseconds of initiator and responder; HostError where one does not come up. The SAs are deleted afterwards."""
        london, paris = self._sides
        self._cpu_ns = [0, 0]
        now = time.monotonic()
        started = time.thread_time_ns()
        ike_id = london.begin(now)
        self._cpu_ns[0] += time.thread_time_ns() - started
        up = self._talk(now)
        taken = self._cpu_ns[0], self._cpu_ns[1]
        if up != [1, 1]:
            raise HostError(f"{up[0]} and {up[1]} Child SAs came up where each side should have one")
        london.endpoint.terminate_ike(ike_id, now)
        self._talk(now)
        if london.endpoint.views() or paris.endpoint.views():
            raise HostError("an IKE SA is left after its deletion")
        return taken

    def _talk(self, now: float) -> list[int]:
        """Until nobody sends any more; how many Child SAs came up at each side."""
        up = [0, 0]
        waiting: list[tuple[Path, bytes]] = []
        at, silent = 0, 0
        while silent < 2:
            side = self._sides[at]
            started = time.thread_time_ns()
            for path, data in waiting:
                side.endpoint.receive_datagram(data, _arrival(path), now)
            heard = side.drain(now)
            waiting = side.datagrams(now)
            self._cpu_ns[at] += time.thread_time_ns() - started
            if heard.failures:
                raise HostError(f"a handshake in memory failed: {heard.failures[0]}")
            up[at] += len(heard.up)
            silent = 0 if waiting else silent + 1
            at = 1 - at
        return up


def _arrival(path: Path) -> Path:
    return Path(path.remote, path.remote_port, path.local, path.local_port, path.marker)


def measure_endpoints(proposal: str, seconds: float) -> Figures:
    """Handshakes one after the other; the rate is that of both sides on one core."""
    pair = EndpointPair([proposal])
    pair.handshake()
    taken: list[tuple[int, int]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(taken) < LEAST:
        taken.append(pair.handshake())
    initiator, responder = (statistics.median(one[side] for one in taken) / 1e6 for side in (0, 1))
    return Figures(len(taken), 1e3 / (initiator + responder), initiator, responder)
