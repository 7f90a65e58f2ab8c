"""`ipsec-fast bench crypto`: its arguments, what it prints. The measurement is crypto.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .crypto import Result, run_bench_crypto
from .esp import DEFAULT_SIZES
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_report, write_report

BATCH, SECONDS = 64, 0.1
HEAD = f"{'algorithm':18} {'engine':8} {'dir':3} {'bytes':>5} {'batch':>5} {'ns/packet':>10} {'Gbit/s':>7} {'spread':>6} {'of best':>7}"


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the command line to print."""
    check_report(arguments)
    where = machine()
    with Meter(arguments, None) as meter:
        shown = _Table(where, meter, quiet=arguments.json)
        results = run_bench_crypto(
            arguments.algorithm,
            arguments.size or DEFAULT_SIZES,
            arguments.batch or (BATCH,),
            SECONDS if arguments.seconds is None else arguments.seconds,
            arguments.engine,
            on_result=shown.add,
            on_plan=meter.expect,
        )
    if arguments.json:
        print(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=1))
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
        self._meter.row(
            f"{row.algorithm:18} {row.engine:8} {row.direction:3} {row.packet_bytes:5} {row.batch:5} {row.ns_per_packet:10.1f} "
            f"{row.gbit_per_s:7.2f} {row.spread:6.1%} {row.of_best:7.2f}"
        )


def report_of(results: Sequence[Result]) -> Report:
    """A chart for each packet size, the engines beside each other; of several batch sizes the largest is drawn."""
    batch = max(row.batch for row in results)
    engines = list(dict.fromkeys(row.engine for row in results))
    charts = []
    for size in sorted({row.packet_bytes for row in results}):
        found = {
            (row.algorithm, row.direction, row.engine): Bar(row.ns_per_packet, row.ns_low, row.ns_high)
            for row in results
            if (row.packet_bytes, row.batch) == (size, batch)
        }
        cases = list(dict.fromkeys((algorithm, direction) for algorithm, direction, _ in found))
        series = {engine: [found.get((*case, engine)) for case in cases] for engine in engines}
        names = [f"{algorithm} {direction}" for algorithm, direction in cases]
        charts.append(Chart(f"Packets of {size} bytes", "ns per packet", names, series))
    fields = list(asdict(results[0]))
    return Report(
        "The bare cipher and ICV of a packet, engine by engine, one core",
        f"No ESP, {batch} packets a call; in and out: opening and sealing. Medians of calls that take turns; the thin lines hold half "
        "of them.",
        charts,
        fields,
        [[asdict(row)[name] for name in fields] for row in results],
    )
