"""What a crew of threads gains an SA whose cipher is dear: one batch sealed alone and with the crew, in turn, on a quiet machine.

    python bench/crew.py [--threads N] [--json]

Prints ns per packet of both and their ratio, 1400 bytes, 256 packets a call, medians of 300. docs/cores.md says when a crew is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from ipsec_fast.algorithms import esp_suite
from ipsec_fast.bench.machine import describe, machine
from ipsec_fast.dataplane.crew import Crew
from ipsec_fast.dataplane.packet import PacketBatch, protect
from ipsec_fast.dataplane.sad import SA

PACKETS, PACKET_BYTES, STRIDE, FRONT, ROUNDS = 256, 1400, 1728, 64, 300
CASES = (
    ("aes128gcm16", "openssl"),
    ("chacha20poly1305", "openssl"),
    ("aes256-sha256", "openssl"),
    ("aes256-sha256", "auto"),
)


def sealer(algorithm: str, engine: str, crew: Crew | None) -> Callable[[], int]:
    """A function that seals a fresh batch and returns the nanoseconds it took."""
    key = bytes(esp_suite(algorithm).keymat_bytes)
    sa = SA("out", 0x1000, algorithm, key, engine=engine, crew=crew.size if crew else 0)
    buffer, verdicts = np.zeros((PACKETS, STRIDE), np.uint8), np.zeros(PACKETS, np.uint8)
    starts = np.arange(PACKETS, dtype=np.uint32) * STRIDE + FRONT
    offsets, lengths = starts.copy(), np.full(PACKETS, PACKET_BYTES, np.uint32)
    header = (0x45, 0, PACKET_BYTES >> 8, PACKET_BYTES & 255)
    buffer[:, FRONT : FRONT + 4] = header
    batch = PacketBatch(buffer, offsets, lengths, sa, verdicts, crew=crew)

    def run() -> int:
        offsets[:], lengths[:] = starts, PACKET_BYTES
        buffer[:, FRONT : FRONT + 4] = header
        began = time.perf_counter_ns()
        good = protect(batch)
        taken = time.perf_counter_ns() - began
        if good != PACKETS:
            raise SystemExit(f"the benchmark lost packets: {sa.counters()}")
        return taken

    return run


def measure(threads: int) -> list[dict[str, object]]:
    crew = Crew(threads)
    crew.start()
    rows: list[dict[str, object]] = []
    try:
        for algorithm, engine in CASES:
            alone, together = sealer(algorithm, engine, None), sealer(algorithm, engine, crew)
            pairs = [(alone(), together()) for _ in range(ROUNDS)]
            own, shared = (statistics.median(column) / PACKETS for column in zip(*pairs, strict=True))
            rows.append(
                {"algorithm": algorithm, "engine": engine, "alone_ns": round(own, 1), "crew_ns": round(shared, 1)}
            )
    finally:
        crew.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="What a crew of threads gains an SA whose cipher is dear.")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the crew (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    rows = measure(arguments.threads)
    if arguments.json:
        print(json.dumps({"machine": machine(), "threads": arguments.threads, "results": rows}, indent=1))
        return
    print(describe(machine()))
    for row in rows:
        gain = float(str(row["alone_ns"])) / float(str(row["crew_ns"]))
        print(
            f"{row['algorithm']:18} {row['engine']:8} alone {row['alone_ns']:7} ns, with the crew {row['crew_ns']:7} ns: {gain:.2f} x"
        )


if __name__ == "__main__":
    main()
