"""`ipsec-fast bench gateway`: its arguments, and what it prints. The measurement is gateway.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..errors import HostError, UsageError
from .arguments import command_words, within
from .gateway import Ends, Result, Spread, run_bench_gateway
from .inside import go_inside, say
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report
from .targets import gateway_target
from .tunnels import CIPHER, INNER_MTU, all_paths, versions

ROUNDS, SECONDS = 5, 3.0
BATCH = 64  # packets that the kernels take at once
CHARTS = {  # figure: title, axis, digits
    "tcp1_gbit_per_s": ("One TCP stream", "Gbit/s, more is better", 2),
    "tcp4_gbit_per_s": ("Four TCP streams", "Gbit/s, more is better", 2),
    "tcp1_no_tso_gbit_per_s": ("One TCP stream, no offload inside", "Gbit/s, more is better", 2),
    "udp64_kpps": ("UDP of 64 bytes", "1000 packets/s received, more is better", 0),
    "rtt_ms_median": ("Round trip", "ms, less is better", 3),
    "cpu_s_per_gbyte": ("CPU of both gateways", "seconds per gigabyte, less is better", 2),
    "rss_mbytes": ("Resident memory", "MB of the larger gateway", 1),
}
HEAD = (
    f"{'path':13} {'engine':8} {'layout':6} {'tcp1':>6} {'tcp4':>6} {'no tso':>6} {'udp64':>6} {'rtt':>6} {'cpu':>6} {'rss':>6}\n"
    f"{'':13} {'':8} {'':6} {'Gbit/s':>6} {'Gbit/s':>6} {'Gbit/s':>6} {'kpps':>6} {'ms':>6} {'s/GB':>6} {'MB':>6}"
)


def main(arguments: argparse.Namespace) -> int:
    """0 with every path measured."""
    rounds = ROUNDS if arguments.rounds is None else arguments.rounds
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    within("rounds", rounds, 1, 100)
    within("seconds", seconds, 1, 600)
    check_outside_run(arguments)
    check_report(arguments)
    go_inside(command_words(arguments))
    kinds, absent = all_paths()
    if arguments.path:
        lacking = [line for line in absent if line.partition(":")[0] in arguments.path]
        if lacking:
            raise HostError(lacking[0])
        kinds, absent = [kind for kind in kinds if kind.name in arguments.path], []
    for line in absent:
        say(f"left out: {line}")
    layouts = {"pinned": (True,), "free": (False,)}.get(arguments.layout or "", (True, False))
    if True in layouts and len(os.sched_getaffinity(0)) < 2:
        raise UsageError("--layout pinned needs two CPUs; --layout free is possible")
    where = machine() | versions(kinds)
    with Meter(arguments, rounds * len(layouts) * len(kinds), lines=True, ticking=True) as meter:
        results = run_bench_gateway(kinds, layouts, rounds, seconds, meter.begin)
    if arguments.json:
        document = {
            "machine": where | {"algorithm": CIPHER, "inner_mtu": INNER_MTU, "batch": BATCH, "seconds": seconds},
            "results": [asdict(result) for result, *_ in results],
            "spread": [spread for _, spread, _ in results],
            "rounds": rounds,
            "absent": absent,
        }
        print(json.dumps(document, indent=1))
    else:
        others = "".join(f", {name} {version}" for name, version in versions(kinds).items())
        print(f"{describe(where)}{others}")
        print(f"{CIPHER}, inner MTU {INNER_MTU}, batches of up to {BATCH} packets, medians, rounds: {rounds}\n{HEAD}")
        for result, *_ in results:
            print(_row(result))
    write_report(arguments, report_of(results, rounds, versions(kinds)), machine())
    return 0


def report_of(results: Sequence[tuple[Result, Spread, Ends]], rounds: int, peers: Mapping[str, str]) -> Report:
    """A chart for each figure, the layouts beside each other."""
    names = list(dict.fromkeys(_name(result) for result, *_ in results))
    layouts = list(dict.fromkeys(result.pinned for result, *_ in results))
    charts = []
    for figure, (title, axis, digits) in CHARTS.items():
        others = {pinned: _others(results, figure, pinned) for pinned in layouts}
        found = {
            (_name(result), result.pinned): Bar(
                getattr(result, figure), *ends[figure], target=_target(result, figure, others[result.pinned])
            )
            for result, _, ends in results
            if figure in ends
        }
        series = {"pinned" if pinned else "free": [found.get((name, pinned)) for name in names] for pinned in layouts}
        beside = figure in ("tcp4_gbit_per_s", "udp64_kpps", "cpu_s_per_gbyte")
        goal = "target of this run" if any(bar.target is not None for bar in found.values()) else ""
        charts.append(Chart(title, axis, names, series, goal, digits, beside=beside))
    fields = list(asdict(results[0][0]))
    return Report(
        "Two hosts through two gateways",
        f"{CIPHER}, inner MTU {INNER_MTU}, batches of up to {BATCH} packets. pinned: client and gateway A on CPU 0, "
        f"gateway B and server on CPU 1; free: where the kernel puts them. Medians, rounds: {rounds}, in turn; the thin lines go from "
        "the smallest to the largest.",
        charts,
        fields,
        [[asdict(result)[name] for name in fields] for result, *_ in results],
        peers,
    )


def _others(results: Sequence[tuple[Result, Spread, Ends]], figure: str, pinned: bool) -> dict[str, float]:
    return {
        result.path: getattr(result, figure)
        for result, *_ in results
        if result.pinned == pinned and result.path != "ipsec_fast" and getattr(result, figure) is not None
    }


def _target(result: Result, figure: str, others: Mapping[str, float]) -> float | None:
    return gateway_target(figure, result.engine, others) if result.path == "ipsec_fast" else None


def _name(result: Result) -> str:
    return f"{result.path} ({result.engine})" if result.path == "ipsec_fast" else result.path


def _row(r: Result) -> str:
    def number(value: float | None, digits: int) -> str:
        return f"{'-':>6}" if value is None else f"{value:6.{digits}f}"

    return (
        f"{r.path:13} {r.engine or '-':8} {'pinned' if r.pinned else 'free':6} {number(r.tcp1_gbit_per_s, 2)} "
        f"{number(r.tcp4_gbit_per_s, 2)} {number(r.tcp1_no_tso_gbit_per_s, 2)} {number(r.udp64_kpps, 0)} "
        f"{number(r.rtt_ms_median, 3)} {number(r.cpu_s_per_gbyte, 2)} {number(r.rss_mbytes, 1)}"
    )
