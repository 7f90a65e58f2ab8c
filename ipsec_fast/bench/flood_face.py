"""`ipsec-fast bench flood`: its arguments and what it prints. The measurement is flood.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from .arguments import command_words, within
from .flood import KINDS, LIBRARY, LibraryResult, Result, measure_library, run_floods
from .inside import go_inside
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report

RATE, SECONDS = 2000.0, 8.0
HEAD = (
    f"{'flood':10} {'sent/s':>9} {'set-ups':>7} {'failed':>6} {'set-up ms':>9} {'max':>7} {'x idle':>6} {'status ms':>9} {'max':>7} "
    f"{'x idle':>6} {'RSS kB/s':>8} {'CPU %':>6} {'x idle':>6}"
)


def main(arguments: argparse.Namespace) -> int:
    """0 where good peers came up in every flood, 1 otherwise."""
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    rate = RATE if arguments.rate is None else float(arguments.rate)
    # ESP costs the gateway so little that only all that a socket takes is a flood
    rates = {kind: 0.0 if kind == "bad-icv" and arguments.rate is None else rate for kind in KINDS}
    within("seconds", seconds, 0.5, 300)
    within("rate", rate, 0, 1_000_000)
    kinds = list(dict.fromkeys(arguments.kind)) or [*KINDS, LIBRARY]
    with_gateway = [kind for kind in kinds if kind != LIBRARY]
    if with_gateway:
        check_outside_run(arguments)
    check_report(arguments)
    if with_gateway:
        go_inside(command_words(arguments))
    steps = (1 + len(with_gateway) if with_gateway else 0) + (LIBRARY in kinds)
    rows: list[Result] = []
    library: list[LibraryResult] = []
    with Meter(arguments, steps, lines=True) as meter:
        if with_gateway:
            rows = run_floods(with_gateway, rates, seconds, meter.begin)
        if LIBRARY in kinds:
            meter.begin(LIBRARY)
            library = [measure_library(min(seconds, 2.0))]
    if arguments.json:
        results = [*map(asdict, rows), *map(asdict, library)]
        print(json.dumps({"machine": machine(), "rate": rate, "results": results}, indent=1))
    else:
        print("\n".join([describe(machine()), *_table(rows), *map(_library_line, library)]))
    write_report(arguments, report_of(rows, library), machine())
    return 0 if all(row.setups for row in rows) else 1


def _table(rows: Sequence[Result]) -> list[str]:
    return [HEAD, *map(_row, rows)] if rows else []


def _row(r: Result) -> str:
    def ratio(value: float | None) -> str:
        return f"{'' if value is None else f'{value:.2f}':>6}"

    return (
        f"{r.flood:10} {r.sent_per_s:9.0f} {r.setups:7} {r.setups_failed:6} {r.setup_ms:9.1f} {r.setup_ms_max:7.1f} "
        f"{ratio(r.setup_ratio)} {r.status_ms:9.1f} {r.status_ms_max:7.1f} {ratio(r.status_ratio)} {r.rss_kbytes_per_s:8.1f} "
        f"{r.cpu_percent:6.1f} {ratio(r.cpu_ratio)}"
    )


def _library_line(r: LibraryResult) -> str:
    return (
        f"library: {r.mpps:.2f} Mpps of bad ICVs, {r.ns_per_packet:.0f} ns each, {r.ratio:.2f} of a good packet's "
        f"{r.good_ns_per_packet:.0f} ns; {r.packets} packets, RSS {r.rss_kbytes:+d} kB"
    )


def report_of(rows: Sequence[Result], library: Sequence[LibraryResult]) -> Report:
    names = [row.flood for row in rows]
    charts = [
        Chart("A good peer is up", "ms, less is better", names, {"set-up": [Bar(r.setup_ms, r.setup_ms, r.setup_ms_max) for r in rows]}),
        Chart("Status", "ms, less is better", names, {"status": [Bar(r.status_ms, r.status_ms, r.status_ms_max) for r in rows]}),
        Chart("CPU of the gateway", "percent of one core", names, {"CPU": [Bar(r.cpu_percent) for r in rows]}),
    ]  # fmt: skip
    if library:
        bars = {
            "bad ICV": [Bar(r.ns_per_packet) for r in library],
            "good": [Bar(r.good_ns_per_packet) for r in library],
        }
        charts.append(Chart("Opening a packet, called from Python", "ns, less is better", [LIBRARY], bars))
    columns = (
        [name for name in Result.__dataclass_fields__ if name != "counters"]
        if rows
        else list(LibraryResult.__dataclass_fields__)
    )
    table = [[getattr(row, name) for name in columns] for row in (rows or library)]
    return Report(
        "A gateway under floods of strangers",
        "Medians; the thin lines go to the longest. Each kind of flood has a gateway of its own; ratios are to the idle run.",
        [chart for chart in charts if chart.rows],
        columns,
        table,
    )
