"""`ipsec-fast bench sa-scale`: its arguments, what it prints. The measurement is scale.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..errors import UsageError
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_report, write_report
from .scale import BATCH, DEFAULT_ALGORITHM, DEFAULT_COUNTS, Result, run_bench_sa_scale

HEAD = (
    f"{'SAs':>7} {'lookup ns':>9} {'ratio':>6} {'one by one':>10} {'ratio':>6} {'in ns':>7} {'ratio':>6} "
    f"{'out ns':>7} {'ratio':>6} {'bytes/SA':>8} {'rows':>4}"
)


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the command line to print."""
    if len(arguments.algorithm) > 1 or len(arguments.size) > 1:
        raise UsageError("bench sa-scale takes one --algorithm and one --size")
    check_report(arguments)
    where = machine()
    with Meter(arguments, None, lines=True) as meter:
        results = run_bench_sa_scale(
            tuple(arguments.sas) or DEFAULT_COUNTS,
            arguments.algorithm[0] if arguments.algorithm else DEFAULT_ALGORITHM,
            packet_bytes=arguments.size[0] if arguments.size else 256,
            seconds=5.0 if arguments.seconds is None else arguments.seconds,
            engine=arguments.engine,
            on_progress=meter.note,
        )
    if arguments.json:
        print(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=1))
    else:
        print(
            f"{describe(where)}\n{results[0].algorithm} on {results[0].engine}, {results[0].packet_bytes} bytes a packet, batch {BATCH}"
        )
        print(HEAD)
        for row in results:
            print(_row(row))
    write_report(arguments, report_of(results), where)
    return 0


def _row(row: Result) -> str:
    return (
        f"{row.sas:7} {row.lookup_ns:9.2f} {row.lookup_ratio:6.2f} {row.single_lookup_ns:10.2f} {row.single_lookup_ratio:6.2f} "
        f"{row.esp_ns_per_packet:7.1f} {row.esp_ratio:6.2f} {row.esp_out_ns_per_packet:7.1f} {row.esp_out_ratio:6.2f} "
        f"{row.bytes_per_sa or '-':>8} {row.longest_search:4}"
    )


def report_of(results: Sequence[Result]) -> Report:
    names = [f"{row.sas:,} SAs" for row in results]
    lookups = {
        "64 at a time": [Bar(row.lookup_ns) for row in results],
        "one by one": [Bar(row.single_lookup_ns) for row in results],
    }
    esp = {
        "in, with its lookup": [Bar(row.esp_ns_per_packet) for row in results],
        "out": [Bar(row.esp_out_ns_per_packet) for row in results],
    }
    fields = list(asdict(results[0]))
    return Report(
        "A packet among many SAs, in random order",
        f"{results[0].algorithm} on {results[0].engine}, inner packets of {results[0].packet_bytes} bytes, batch {BATCH}, one core.",
        [
            Chart("Finding the SA by its SPI", "ns per packet, the fastest pass", names, lookups, digits=2),
            Chart("ESP from Python", "ns per packet, median", names, esp, beside=True),
        ],
        fields,
        [[asdict(row)[name] for name in fields] for row in results],
    )
