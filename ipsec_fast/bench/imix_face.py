"""`ipsec-fast bench imix`: its arguments, what it prints. The measurement is imix.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .imix import BATCH, SIMPLE_IMIX, Result, parse_mix, run_bench_imix
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_report, write_report

SECONDS = 0.5
HEAD = (
    f"{'':3} {'algorithm':18} {'engine':8} {'batch':>5} {'ns/packet':>10} {'spread':>6} {'raw ns':>8} {'ratio':>6} {'Gbit/s':>7} "
    f"{'Mpps':>7}"
)


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the command line to print."""
    mix = parse_mix(arguments.mix) if arguments.mix is not None else SIMPLE_IMIX
    check_report(arguments)
    where = machine()
    with Meter(arguments, None) as meter:
        shown = _Table(where, meter, quiet=arguments.json)
        results = run_bench_imix(
            arguments.algorithm,
            mix,
            BATCH if arguments.batch is None else arguments.batch,
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
            mix = f"packets x bytes {row.mix}, {row.mean_packet_bytes:g} bytes on average"
            self._meter.row(f"{describe(self._where)}\n{mix}\n{HEAD}")
            self._is_begun = True
        self._meter.row(
            f"{row.direction:3} {row.algorithm:18} {row.engine:8} {row.batch:5} {row.ns_per_packet:10.1f} {row.spread:6.1%} "
            f"{row.raw_ns_per_packet:8.1f} {row.ratio:6.2f} {row.gbit_per_s:7.2f} {row.mpps:7.3f}"
        )


def report_of(results: Sequence[Result]) -> Report:
    names = [f"{row.algorithm} ({row.engine}) {row.direction}" for row in results]
    ours = [Bar(row.ns_per_packet, row.ns_low, row.ns_high) for row in results]
    raw = [Bar(row.raw_ns_per_packet, row.raw_ns_low, row.raw_ns_high) for row in results]
    ratios, gbit = [Bar(row.ratio) for row in results], [Bar(row.gbit_per_s) for row in results]
    mpps = [Bar(row.mpps) for row in results]
    first = results[0]
    fields = list(asdict(first))
    return Report(
        "ESP over a mix of packet sizes, called from Python, one core",
        f"Packets x bytes {first.mix}, mixed within every batch of {first.batch}, {first.mean_packet_bytes:g} bytes on average; in "
        "and out: opening and sealing. Medians of cycles that take turns with the bare engine's; the thin lines hold half of them.",
        [
            Chart("What a packet costs", "ns per packet", names, {"ipsec_fast": ours, "bare engine": raw}),
            Chart("Ours by the bare engine", "ratio", names, {"ratio": ratios}, digits=2, baseline=1.0, beside=True),
            Chart("Throughput", "Gbit/s of inner IP packets", names, {"Gbit/s": gbit}, digits=1),
            Chart("Packet rate", "million packets per second", names, {"Mpps": mpps}, digits=2, beside=True),
        ],
        fields,
        [[asdict(row)[name] for name in fields] for row in results],
    )
