"""The measurement of `ipsec-fast bench imix`: ESP called from Python over packets of several sizes, mixed within every batch.

The usual mix is the simple IMIX: of 12 IP packets 7 have 40 bytes, 4 have 576 and 1 has 1500, which are Ethernet frames of 64, 594 and 1518
bytes. There is no standard of it; RFC 6985 only says how a mix is to be described. Sizes are spread evenly over the sequence,
which runs on from batch to batch, so that a cycle of some batches holds the mix exactly. Ours and the bare engine get the same
sequence and take turns, cycle by cycle. Rates count inner IP bytes. Called by imix_face.py, bench/.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..algorithms import esp_suite, esp_suite_names
from ..dataplane.packet import PacketBatch, protect, unprotect
from ..dataplane.raw import RawBatch
from ..dataplane.sad import SA
from ..errors import IpsecFastError, UsageError
from .esp import BEFORE, BEHIND, USUAL
from .samples import take_turns

SIMPLE_IMIX = ((7, 40), (4, 576), (1, 1500))
BATCH = 64
MOST_PACKETS = 1 << 16  # of a cycle
Mix = tuple[tuple[int, int], ...]  # (packets, bytes) of each size


@dataclass(frozen=True, slots=True)
class Result:
    """One row, of medians; the field names are the JSON's."""

    direction: str
    algorithm: str
    engine: str
    mix: str
    mean_packet_bytes: float
    batch: int
    ns_per_packet: float
    raw_ns_per_packet: float
    ratio: float
    gbit_per_s: float
    mpps: float
    spread: float  # (ns_high - ns_low) / ns_per_packet
    ns_low: float  # half of the cycles lie between these two
    ns_high: float
    raw_ns_low: float
    raw_ns_high: float


def parse_mix(text: str) -> Mix:
    """`7x40,4x576,1x1500`; UsageError says what would be right."""
    found = [re.fullmatch(r"(\d{1,4})x(\d{1,5})", word.strip()) for word in text.split(",")]
    mix = tuple((int(one[1]), int(one[2])) for one in found if one is not None)
    if None in found or any(packets < 1 or not 20 <= size <= 65000 for packets, size in mix):
        raise UsageError(
            f"--mix {text}: it is packets x bytes, as in {text_of(SIMPLE_IMIX)}, packets from 1 to 9999, bytes from 20 to 65000"
        )
    return mix


def text_of(mix: Mix) -> str:
    return ",".join(f"{packets}x{size}" for packets, size in mix)


def interleave(mix: Mix) -> list[int]:
    """The sizes of one whole mix, each spread evenly: whoever is furthest behind its share comes next."""
    total = sum(packets for packets, _ in mix)
    behind = [0] * len(mix)
    sequence = []
    for _ in range(total):
        behind = [credit + packets for credit, (packets, _) in zip(behind, mix, strict=True)]
        at = behind.index(max(behind))
        behind[at] -= total
        sequence.append(mix[at][1])
    return sequence


def batches_of(mix: Mix, batch: int) -> list[list[int]]:
    """The fewest whole batches that hold the mix exactly; UsageError where that is too many packets."""
    once = interleave(mix)
    packets = math.lcm(len(once), batch)
    if packets > MOST_PACKETS:
        raise UsageError(
            f"--mix of {len(once)} packets in batches of {batch} repeats after {packets} only; at most {MOST_PACKETS} are possible"
        )
    sizes = once * (packets // len(once))
    return [sizes[at : at + batch] for at in range(0, packets, batch)]


class MixedBatch:
    """One batch of several sizes, and the steps that put it back to what it was."""

    def __init__(self, sizes: Sequence[int], out: SA, into: SA) -> None:
        self.batch = len(sizes)
        strides = [((BEFORE + size + BEHIND + 63) // 64 | 1) * 64 for size in sizes]
        ends = np.cumsum(strides)
        self.sizes = np.array(sizes, np.uint32)
        self.starts = (ends - strides + BEFORE).astype(np.uint32)
        self.buffer = np.zeros(int(ends[-1]), np.uint8)
        self.offsets, self.lengths = self.starts.copy(), self.sizes.copy()
        verdicts = np.zeros(self.batch, np.uint8)
        self.sealing = PacketBatch(self.buffer, self.offsets, self.lengths, out, verdicts)
        self.opening = PacketBatch(self.buffer, self.offsets, self.lengths, into, verdicts)
        self.headers = np.zeros((self.batch, 20), np.uint8)
        self.headers[:, 0] = 0x45
        self.headers[:, 2], self.headers[:, 3] = self.sizes >> 8, self.sizes & 255
        self.header_at = self.starts[:, None] + np.arange(20, dtype=np.uint32)

    def seal(self) -> int:
        """Nanoseconds."""
        self._fill()
        return self._timed(protect, self.sealing)

    def open(self) -> int:
        """Nanoseconds."""
        self._fill()
        protect(self.sealing)
        return self._timed(unprotect, self.opening)

    def _fill(self) -> None:
        self.buffer[self.header_at] = self.headers
        self.offsets[:], self.lengths[:] = self.starts, self.sizes

    def _timed(self, work: Callable[[PacketBatch], int], packets: PacketBatch) -> int:
        start = time.perf_counter_ns()
        good = work(packets)
        taken = time.perf_counter_ns() - start
        if good != self.batch:
            raise IpsecFastError(f"the benchmark lost {self.batch - good} of {self.batch} packets")
        return taken


class MixCase:
    """A cycle of batches under one pair of SAs, and the same for the bare engine."""

    def __init__(self, algorithm: str, batches: Sequence[Sequence[int]], direction: str, engine: str) -> None:
        key = bytes(range(esp_suite(algorithm).keymat_bytes))
        out, into = (SA(way, 0x1001, algorithm, key, engine=engine) for way in ("out", "in"))
        self.engine = out.engine
        self._batches = [MixedBatch(sizes, out, into) for sizes in batches]
        self._raw = [RawBatch(algorithm, sizes, len(sizes), direction == "out", engine) for sizes in batches]
        self._is_sealing = direction == "out"

    def run(self) -> int:
        """Nanoseconds of a cycle from Python."""
        return sum(one.seal() if self._is_sealing else one.open() for one in self._batches)

    def run_raw(self) -> int:
        return sum(one.run() for one in self._raw)


def run_bench_imix(
    algorithms: Iterable[str] = (),
    mix: Mix = SIMPLE_IMIX,
    batch: int = BATCH,
    seconds: float = 0.5,
    engine: str = "auto",
    on_result: Callable[[Result], None] | None = None,
    on_plan: Callable[[int], None] | None = None,
) -> list[Result]:
    """Each algorithm x direction, `seconds` each; raises AlgorithmError, UsageError. `all` names every algorithm."""
    if not 0 < seconds <= 600 or not 1 <= batch <= 4096:
        raise UsageError("bench imix: batches are 1 to 4096 packets, seconds above 0")
    wanted = list(algorithms) or list(USUAL)
    names = list(esp_suite_names()) if "all" in wanted else [esp_suite(name).name for name in wanted]
    batches = batches_of(mix, batch)
    for name in names:  # an engine that does not carry one of them is said now
        MixCase(name, [[20]], "out", engine)
    if on_plan is not None:
        on_plan(2 * len(names))
    results = []
    for name in names:
        for direction in ("out", "in"):
            results.append(_measure(name, direction, mix, batches, seconds, engine))
            if on_result is not None:
                on_result(results[-1])
    return results


def _measure(
    name: str, direction: str, mix: Mix, batches: Sequence[Sequence[int]], seconds: float, engine: str
) -> Result:
    case = MixCase(name, batches, direction, engine)
    own, bare = take_turns([case.run, case.run_raw], seconds)
    packets = sum(map(len, batches))
    mean = sum(map(sum, batches)) / packets
    ns = own.median / packets
    return Result(
        direction, name, case.engine, text_of(mix), round(mean, 1), len(batches[0]),
        ns_per_packet=round(ns, 1),
        raw_ns_per_packet=round(bare.median / packets, 1),
        ratio=round(own.median / bare.median, 3),
        gbit_per_s=round(mean * 8 / ns, 2),
        mpps=round(1e3 / ns, 3),
        spread=round(own.spread, 3),
        ns_low=round(own.low / packets, 1),
        ns_high=round(own.high / packets, 1),
        raw_ns_low=round(bare.low / packets, 1),
        raw_ns_high=round(bare.high / packets, 1),
    )  # fmt: skip
