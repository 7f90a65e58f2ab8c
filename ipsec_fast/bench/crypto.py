"""`ipsec-fast bench crypto`: what each engine takes for the bare cipher and ICV of a packet, every engine in turn on the same sizes.

This is the limit that `bench esp` is held against. Engines take turns batch by batch, so that a busy moment hurts all alike. One core.
Called by the package's face.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from ..algorithms import esp_suite, esp_suite_names
from ..dataplane.engine import engines
from ..dataplane.raw import RawBatch
from ..errors import UsageError
from .esp import DEFAULT_SIZES, USUAL, machine

BATCH = 64
HEAD = f"{'algorithm':18} {'engine':8} {'dir':3} {'bytes':>5} {'batch':>5} {'ns/packet':>10} {'Gbit/s':>7} {'spread':>6} {'of best':>7}"


@dataclass(frozen=True, slots=True)
class Result:
    """One row; the field names are the JSON's. `spread`: half of the samples lie within it, as a share of the median.

    `of_best`: ns_per_packet / that of the fastest engine in this run for the same packets.
    """

    algorithm: str
    engine: str
    direction: str
    packet_bytes: int
    batch: int
    ns_per_packet: float
    gbit_per_s: float
    spread: float
    of_best: float


def main(arguments: argparse.Namespace) -> int:
    shown: Callable[[Result], None] | None = None
    where = machine()
    if not arguments.json:
        print(f"{where['cpu']}, {where['openssl']}, ipsec-mb {where['ipsecmb'] or 'absent'}\n{HEAD}")
        shown = _print_row
    results = run_bench_crypto(
        arguments.algorithm,
        arguments.size or DEFAULT_SIZES,
        arguments.batch or (BATCH,),
        0.1 if arguments.seconds is None else arguments.seconds,
        arguments.engine,
        shown,
    )
    if arguments.json:
        print(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=1))
    return 0


def run_bench_crypto(
    algorithms: Iterable[str],
    sizes: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    engine: str = "auto",
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Each algorithm x direction x size x batch on every engine that carries it, `seconds` for each; `all` names every algorithm."""
    known = engines()
    if engine != "auto" and engine not in known:
        raise UsageError(f"engine {engine!r} is not available here; there is {', '.join(known)}")
    if not 0 < seconds <= 600 or any(not 20 <= n <= 65000 for n in sizes) or any(not 1 <= n <= 4096 for n in batches):
        raise UsageError("bench: packets are 20 to 65000 bytes, batches 1 to 4096 packets, seconds above 0")
    wanted = list(algorithms) or list(USUAL)
    names = list(esp_suite_names()) if "all" in wanted else [esp_suite(name).name for name in wanted]
    found = []
    for name in names:
        carried = [one for one in known if name in known[one] and engine in ("auto", one)]
        if not carried:
            raise UsageError(f"engine {engine} does not carry {name}")
        for direction in ("out", "in"):
            for size in sizes:
                for batch in batches:
                    rows = _compare(name, carried, direction, size, batch, seconds)
                    found += rows
                    if on_result is not None:
                        for row in rows:
                            on_result(row)
    return found


def _compare(name: str, carried: Sequence[str], direction: str, size: int, batch: int, seconds: float) -> list[Result]:
    cases = {one: RawBatch(name, size, batch, direction == "out", one) for one in carried}
    samples: dict[str, list[int]] = {one: [] for one in carried}
    for case in cases.values():
        case.run()
    end = time.monotonic() + seconds * len(cases)
    while time.monotonic() < end or len(samples[carried[0]]) < 5:
        for one, case in cases.items():
            samples[one].append(case.run())
    medians = {one: statistics.median(taken) / batch for one, taken in samples.items()}
    best = min(medians.values())
    rows = []
    for one in carried:
        low, _, high = statistics.quantiles(samples[one], n=4)
        rows.append(
            Result(
                name, one, direction, size, batch,
                ns_per_packet=round(medians[one], 1),
                gbit_per_s=round(size * 8 / medians[one], 2),
                spread=round((high - low) / batch / medians[one], 3),
                of_best=round(medians[one] / best, 2),
            )
        )  # fmt: skip
    return rows


def _print_row(row: Result) -> None:
    print(
        f"{row.algorithm:18} {row.engine:8} {row.direction:3} {row.packet_bytes:5} {row.batch:5} {row.ns_per_packet:10.1f} "
        f"{row.gbit_per_s:7.2f} {row.spread:6.1%} {row.of_best:7.2f}",
        flush=True,
    )
