"""`ipsec-fast bench esp`: its arguments, what it prints. The measurement is esp.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .esp import DEFAULT_BATCHES, DEFAULT_SIZES, Result, call_overhead_ns, run_bench_esp
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_report, write_report
from .targets import ratio_target

SECONDS = 0.2
HEAD = (
    f"{'':3} {'algorithm':14} {'engine':8} {'bytes':>5} {'batch':>5} {'ns/packet':>10} {'spread':>6} {'raw ns':>8} {'ratio':>6} "
    f"{'Gbit/s':>7}"
)


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the command line to print."""
    check_report(arguments)
    where = machine()
    with Meter(arguments, None) as meter:
        shown = _Table(where, meter, quiet=arguments.json)
        results = run_bench_esp(
            arguments.algorithm,
            arguments.size or DEFAULT_SIZES,
            arguments.batch or DEFAULT_BATCHES,
            SECONDS if arguments.seconds is None else arguments.seconds,
            arguments.engine,
            on_result=shown.add,
            on_plan=meter.expect,
        )
        overhead = call_overhead_ns(SECONDS if arguments.seconds is None else arguments.seconds)
    if arguments.json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"machine": where, "call_overhead_ns": overhead, "results": rows}, indent=1))
    else:
        print(f"a call from Python costs {overhead:.0f} ns beside its packets")
    write_report(arguments, report_of(results), where)
    return 0


class _Table:
    """Rows as they come; the head is printed with the first one, so that an error stands alone."""

    def __init__(self, where: dict[str, Any], meter: Meter, *, quiet: bool) -> None:
        self._where, self._meter, self._quiet = where, meter, quiet
        self._is_begun = False

    def add(self, row: Result) -> None:
        self._meter.step()
        self._meter.note(f"{row.algorithm} {row.direction}")
        if self._quiet:
            return
        if not self._is_begun:
            self._meter.row(f"{describe(self._where)}\n{HEAD}")
            self._is_begun = True
        gbit = row.packet_bytes * 8 / row.ns_per_packet
        self._meter.row(
            f"{row.direction:3} {row.algorithm:14} {row.engine:8} {row.packet_bytes:5} {row.batch:5} {row.ns_per_packet:10.1f} "
            f"{row.spread:6.1%} {row.raw_ns_per_packet:8.1f} {row.ratio:6.2f} {gbit:7.2f}"
        )


def report_of(results: Sequence[Result]) -> Report:
    """A line of charts for each packet size; of several batch sizes the largest is drawn."""
    batch = max(row.batch for row in results)
    charts = []
    for size in sorted({row.packet_bytes for row in results}):
        rows = [row for row in results if (row.packet_bytes, row.batch) == (size, batch)]
        names = [f"{row.algorithm} ({row.engine}) {row.direction}" for row in rows]
        ours = [Bar(row.ns_per_packet, row.ns_low, row.ns_high) for row in rows]
        raw = [Bar(row.raw_ns_per_packet, row.raw_ns_low, row.raw_ns_high) for row in rows]
        ratios = [Bar(row.ratio, target=_target(row)) for row in rows]
        charts += [
            Chart(f"Packets of {size} bytes", "ns per packet", names, {"ipsec_fast": ours, "bare engine": raw}),
            Chart(
                "Ours by the bare engine",
                "ratio",
                names,
                {"ratio": ratios},
                "target, at most",
                2,
                baseline=1.0,
                beside=True,
            ),
        ]
    fields = list(asdict(results[0]))
    return Report(
        "ESP called from Python, one core, beside the bare engine",
        f"Tunnel mode, no I/O, {batch} packets a call; in and out: opening and sealing. Medians of calls that take turns; "
        "the thin lines hold half of them.",
        charts,
        fields,
        [[asdict(row)[name] for name in fields] for row in results],
    )


def _target(row: Result) -> float | None:
    return ratio_target(row.algorithm, row.engine, row.direction, row.packet_bytes, row.raw_ns_per_packet)
