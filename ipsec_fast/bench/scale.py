"""The measurement of `ipsec-fast bench sa-scale`: what it costs a packet that it is one of many SAs' instead of one of few.

Every number of SAs gets as many packets and searches as the largest, each for an SA that nothing before it hints at, and
the numbers take turns. The search alone is timed in batches, as the kernels do it, and one by one; of its passes the
fastest counts, for whoever else used the memory can only have added. Then ESP from Python, 64 packets a call, out (each
packet's SA is given) and in (it is searched for), the medians. The 64 slots are always the same, as a gateway's are: what
grows in ESP beside the search is the SAs themselves and their keys, which no cache holds any more.
Called by: the package's face.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithms import esp_suite
from ..dataplane.packet import PacketBatch, protect, unprotect
from ..dataplane.sad import SA
from ..dataplane.sad_table import SAD
from ..errors import IpsecFastError, UsageError
from .lookup import lookup_ns

DEFAULT_COUNTS = (10, 1000, 100_000)
DEFAULT_ALGORITHM = "aes128gcm16"
BATCH = 64
LOOKUP_PASSES = 5  # in a row: the first finds the tables out of every cache, where other passes have put them
LEAST_FOR_BYTES = 10_000  # fewer SAs drown in what an allocator keeps in hand
MOST_SAS = 1_000_000
SEED = 4301


@dataclass(frozen=True, slots=True)
class Result:
    """One row; the field names are the JSON's. Ratios are to the first row, of the same run."""

    sas: int
    lookup_ns: float
    lookup_ratio: float
    single_lookup_ns: float
    single_lookup_ratio: float
    esp_ns_per_packet: float
    esp_ratio: float
    esp_out_ns_per_packet: float
    esp_out_ratio: float
    bytes_per_sa: int | None
    longest_search: int
    algorithm: str
    engine: str
    packet_bytes: int


class Crowd:
    """So many inbound SAs in a SAD, their senders, and a packet for a random one in every slot."""

    def __init__(self, sas: int, packets: int, algorithm: str, packet_bytes: int, engine: str) -> None:
        rng = np.random.default_rng(SEED)
        self.spis = rng.choice(np.uint32(0xFFFF_FF00), size=sas, replace=False).astype(np.uint32) + np.uint32(256)
        key = bytes(range(esp_suite(algorithm).keymat_bytes))
        before = resident_bytes()
        self.sad = SAD(bare=True)
        for spi in self.spis.tolist():
            self.sad.add(SA("in", spi, algorithm, key, engine=engine))
        self.bytes_per_sa = (resident_bytes() - before) // sas if sas >= LEAST_FOR_BYTES else None
        senders = [SA("out", spi, algorithm, key, engine=engine) for spi in self.spis.tolist()]
        self.engine = senders[0].engine
        self.order = rng.permutation(np.arange(packets) % sas)
        self.searched = self.spis[self.order].byteswap()
        self.senders = senders
        self.length = packet_bytes
        stride = (
            (senders[0].headroom + packet_bytes + senders[0].tailroom + 63) // 64 | 1
        ) * 64  # an odd number of lines
        self.starts = (np.arange(BATCH, dtype=np.uint32) * stride + senders[0].headroom).astype(np.uint32)
        self.buffer = np.zeros(BATCH * stride, np.uint8)
        self.offsets, self.lengths = self.starts.copy(), np.zeros(BATCH, np.uint32)
        self.verdicts = np.zeros(BATCH, np.uint8)
        self.opening = PacketBatch(self.buffer, self.offsets, self.lengths, self.sad, self.verdicts)
        self.header = np.frombuffer(b"\x45\0" + packet_bytes.to_bytes(2, "big") + bytes(16), np.uint8)
        self.header_at = self.starts[:, None] + np.arange(20, dtype=np.uint32)
        self.lookups: list[float] = []
        self.singles: list[float] = []
        self.out: list[float] = []
        self.into: list[float] = []

    def turn(self) -> None:
        """Some passes of the search, one of ESP each way, over all packets."""
        packets = len(self.searched)
        for _ in range(LOOKUP_PASSES):
            self.lookups.append(lookup_ns(self.sad, self.searched, False) / packets)
            self.singles.append(lookup_ns(self.sad, self.searched, True) / packets)
        sealed, opened = zip(*(self.cross(order) for order in self.order.reshape(-1, BATCH)), strict=True)
        self.out.append(statistics.median(sealed) / BATCH)
        self.into.append(statistics.median(opened) / BATCH)

    def cross(self, order: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[int, int]:
        """Nanoseconds of sealing a packet for each of these SAs, and of opening them."""
        senders = [self.senders[i] for i in order]
        sealing = PacketBatch(self.buffer, self.offsets, self.lengths, senders, self.verdicts)
        self.buffer[self.header_at] = self.header
        self.offsets[:], self.lengths[:] = self.starts, self.length
        start = time.perf_counter_ns()
        good = protect(sealing)
        between = time.perf_counter_ns()
        also_good = unprotect(self.opening)
        end = time.perf_counter_ns()
        if (good, also_good) != (BATCH, BATCH):
            raise IpsecFastError(f"the benchmark lost {2 * BATCH - good - also_good} packets")
        return between - start, end - between


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_bench_sa_scale(
    counts: Sequence[int] = DEFAULT_COUNTS,
    algorithm: str = DEFAULT_ALGORITHM,
    packet_bytes: int = 256,
    seconds: float = 5.0,
    engine: str = "auto",
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """A row for each number of SAs; raises AlgorithmError, UsageError."""
    name = esp_suite(algorithm).name
    possible = counts and all(1 <= count <= MOST_SAS for count in counts) and len(set(counts)) == len(counts)
    if not possible or not 20 <= packet_bytes <= 9000 or seconds <= 0:
        raise UsageError(f"bench: 1 to {MOST_SAS} SAs, no number twice, packets of 20 to 9000 bytes, seconds above 0")
    packets = -(-max(*counts, 1 << 14) // BATCH) * BATCH
    crowds: list[Crowd] = []
    for count in sorted(counts, reverse=True):  # the largest first: its memory is then not what a smaller one left
        on_progress(f"making {count} SAs")
        crowds.insert(0, Crowd(count, packets, name, packet_bytes, engine))
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(crowds[0].into) < 3:
        for crowd in crowds:
            crowd.turn()
    rows = {len(crowd.sad): crowd for crowd in crowds}
    return [row_of(rows[count], rows[counts[0]], name, packet_bytes) for count in counts]


def row_of(crowd: Crowd, first: Crowd, algorithm: str, packet_bytes: int) -> Result:
    lookup, single = min(crowd.lookups), min(crowd.singles)
    out, into = statistics.median(crowd.out), statistics.median(crowd.into)
    return Result(
        sas=len(crowd.sad),
        lookup_ns=round(lookup, 2),
        lookup_ratio=round(lookup / min(first.lookups), 3),
        single_lookup_ns=round(single, 2),
        single_lookup_ratio=round(single / min(first.singles), 3),
        esp_ns_per_packet=round(into, 1),
        esp_ratio=round(into / statistics.median(first.into), 3),
        esp_out_ns_per_packet=round(out, 1),
        esp_out_ratio=round(out / statistics.median(first.out), 3),
        bytes_per_sa=crowd.bytes_per_sa,
        longest_search=crowd.sad.longest_search,
        algorithm=algorithm,
        engine=crowd.engine,
        packet_bytes=packet_bytes,
    )
