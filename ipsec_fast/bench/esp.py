"""The measurement of `ipsec-fast bench esp`: what a packet of ESP or AH costs, called from Python as an embedder calls.

Ours and the bare engine take turns, batch by batch, and the medians are compared, so that a busy machine hurts both
alike. One core, no I/O; what is sealed in place is put back off the clock. `ratio` is ns_per_packet / raw_ns_per_packet:
1.0 would mean that everything but the cipher is free. AH's rows are called `ah-sha256` and so on. Called by: the package's
face, bench/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..algorithms import ah_suite, ah_suite_names, esp_suite, esp_suite_names
from ..dataplane.packet import PacketBatch, protect, unprotect
from ..dataplane.raw import RawBatch
from ..dataplane.sad import SA
from ..errors import IpsecFastError, UsageError
from .samples import take_turns

DEFAULT_SIZES = (64, 256, 1400)
DEFAULT_BATCHES = (32, 64)
USUAL = (
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
    "aes128gmac",
    "aes128-sha1",
    "aes128-sha256",
    "aes256-sha256",
)
AH = "ah-"
BEFORE, BEHIND = 128, 64  # room round a packet in its slot


@dataclass(frozen=True, slots=True)
class Result:
    """One row, of medians; the field names are the JSON's."""

    direction: str
    algorithm: str
    engine: str
    packet_bytes: int
    batch: int
    ns_per_packet: float
    raw_ns_per_packet: float
    ratio: float
    spread: float  # (ns_high - ns_low) / ns_per_packet
    ns_low: float  # half of the calls lie between these two
    ns_high: float
    raw_ns_low: float
    raw_ns_high: float


class EspCase:
    """`batch` slots of one packet size, and the steps that put a batch back to what it was."""

    def __init__(self, algorithm: str, packet_bytes: int, batch: int, engine: str) -> None:
        self.out, self.into = make_sa("out", algorithm, engine), make_sa("in", algorithm, engine)
        self.length, self.batch = packet_bytes, batch
        stride = ((BEFORE + packet_bytes + BEHIND + 63) // 64) | 1  # an odd number of cache lines apart
        self.buffer = np.zeros(stride * 64 * batch, np.uint8)
        self.starts = (np.arange(batch, dtype=np.uint32) * (stride * 64) + BEFORE).astype(np.uint32)
        self.offsets, self.lengths = self.starts.copy(), np.zeros(batch, np.uint32)
        self.verdicts = np.zeros(batch, np.uint8)
        self.sealing = PacketBatch(self.buffer, self.offsets, self.lengths, self.out, self.verdicts)
        self.opening = PacketBatch(self.buffer, self.offsets, self.lengths, self.into, self.verdicts)
        self.plain = self.buffer.copy()
        header = np.frombuffer(b"\x45\0" + packet_bytes.to_bytes(2, "big") + bytes(16), np.uint8)
        self.plain[self.starts[:, None] + np.arange(20, dtype=np.uint32)] = header

    def fill(self) -> None:
        """Plaintext packets in every slot, all of it written anew: RawBatch does the same before it starts its clock."""
        np.copyto(self.buffer, self.plain)
        np.copyto(self.offsets, self.starts)
        self.lengths.fill(self.length)

    def fill_sealed(self) -> None:
        self.fill()
        protect(self.sealing)

    def protect_timed(self) -> int:
        """Nanoseconds of sealing a batch that `fill` made."""
        start = time.perf_counter_ns()
        good = protect(self.sealing)
        return self._done(start, good)

    def unprotect_timed(self) -> int:
        """Nanoseconds of opening a batch that `fill_sealed` made."""
        start = time.perf_counter_ns()
        good = unprotect(self.opening)
        return self._done(start, good)

    def seal(self) -> int:
        self.fill()
        return self.protect_timed()

    def open(self) -> int:
        self.fill_sealed()
        return self.unprotect_timed()

    def _done(self, start: int, good: int) -> int:
        taken = time.perf_counter_ns() - start
        if good != self.batch:
            raise IpsecFastError(f"the benchmark lost packets: {self.out.counters()} {self.into.counters()}")
        return taken


def make_sa(direction: Literal["out", "in"], algorithm: str, engine: str) -> SA:
    """ESP starts at its own header; AH is behind an IPv4 header, for it covers that."""
    if not algorithm.startswith(AH):
        return SA(direction, 0x1001, algorithm, bytes(range(esp_suite(algorithm).keymat_bytes)), engine=engine)
    suite = ah_suite(algorithm.removeprefix(AH))
    key = bytes(range(suite.keymat_bytes))
    return SA(direction, 0x1001, suite.name, key, protocol="ah", engine=engine, src="192.0.2.1", dst="192.0.2.2")


def make_raw(algorithm: str, packet_bytes: int, batch: int, direction: str, engine: str) -> RawBatch:
    """The bare engine on the same layout."""
    is_ah = algorithm.startswith(AH)
    kernel = ah_suite(algorithm.removeprefix(AH)).kernel if is_ah else algorithm
    return RawBatch(kernel, packet_bytes, batch, direction == "out", engine, is_ah)


def names_of(wanted: Iterable[str]) -> list[str]:
    """As we spell them; `all` is every algorithm, none the usual ones; raises AlgorithmError."""
    found = list(wanted) or [*USUAL, f"{AH}sha256"]
    if "all" in found:
        return [*esp_suite_names(), *(AH + name for name in ah_suite_names())]
    return [
        AH + ah_suite(name.removeprefix(AH)).name if name.startswith(AH) else esp_suite(name).name for name in found
    ]


def call_overhead_ns(seconds: float = 0.2) -> float:
    """What a call from Python costs beside its packets' cipher: one packet of 64 bytes, less the bare engine; the dearer direction's."""
    case = EspCase("aes128gcm16", 64, 1, "auto")
    costs = []
    for direction, ours in (("out", case.seal), ("in", case.open)):
        own, bare = take_turns([ours, make_raw("aes128gcm16", 64, 1, direction, "auto").run], seconds)
        costs.append(own.median - bare.median)
    return round(max(costs), 1)


def run_bench_esp(
    algorithms: Iterable[str] = (),
    sizes: Sequence[int] = DEFAULT_SIZES,
    batches: Sequence[int] = DEFAULT_BATCHES,
    seconds: float = 0.2,
    engine: str = "auto",
    on_result: Callable[[Result], None] | None = None,
    on_plan: Callable[[int], None] | None = None,
) -> list[Result]:
    """Each algorithm x direction x size x batch, `seconds` each; raises AlgorithmError, UsageError. `all` names every algorithm."""
    results = []
    names = names_of(algorithms)
    if (
        not 0 < seconds <= 600
        or any(not 20 <= size <= 65000 for size in sizes)
        or any(not 1 <= batch <= 4096 for batch in batches)
    ):
        raise UsageError("bench: packets are 20 to 65000 bytes, batches 1 to 4096 packets, seconds above 0")
    for name in names:  # an engine that does not carry one of them is said now
        EspCase(name, 20, 1, engine)
    if on_plan is not None:
        on_plan(len(names) * 2 * len(sizes) * len(batches))
    for name in names:
        for direction in ("out", "in"):
            for size in sizes:
                for batch in batches:
                    case = EspCase(name, size, batch, engine)
                    raw = make_raw(name, size, batch, direction, engine)
                    own, bare = take_turns([case.seal if direction == "out" else case.open, raw.run], seconds)
                    result = Result(
                        direction,
                        name,
                        case.out.engine,
                        size,
                        batch,
                        round(own.median / batch, 1),
                        round(bare.median / batch, 1),
                        round(own.median / bare.median, 3),
                        round(own.spread, 3),
                        round(own.low / batch, 1),
                        round(own.high / batch, 1),
                        round(bare.low / batch, 1),
                        round(bare.high / batch, 1),
                    )
                    results.append(result)
                    if on_result is not None:
                        on_result(result)
    return results
