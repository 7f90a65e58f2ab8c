"""`ipsec-fast bench mtu`: its arguments and what it prints. The measurement is mtu.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from .arguments import command_words, within
from .inside import go_inside
from .machine import describe, machine
from .mtu import CASES, Result, run_case
from .progress import Meter
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report

ROUNDS = 5
MOST_S = 1.0  # what no transfer may stand still for longer
HEAD = ["path MTU", "ICMP", "outer", "stall, median", "stall, longest", "known after", "path MTU then"]


def main(arguments: argparse.Namespace) -> int:
    """0 where no transfer stood still for more than a second in the median, 1 otherwise."""
    rounds = ROUNDS if arguments.rounds is None else arguments.rounds
    within("rounds", rounds, 1, 1000)
    check_outside_run(arguments)
    check_report(arguments)
    go_inside(command_words(arguments))
    results = []
    with Meter(arguments, len(CASES) * rounds, ticking=True) as meter:

        def say(text: str) -> None:
            meter.tell(text)
            meter.step()

        for case in CASES:
            results.append(run_case(case, rounds, say))
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": [asdict(result) for result in results]}, indent=1))
    else:
        print("\n".join([describe(machine()), *table(results)]))
    write_report(arguments, report_of(results), machine())
    return 0 if all(result.stall_s_median <= MOST_S for result in results) else 1


def table(results: list[Result]) -> list[str]:
    """As it stands in docs/mtu.md."""
    lines = [HEAD, ["---"] * len(HEAD), *map(_cells, results)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def report_of(results: list[Result]) -> Report:
    names = [f"{r.path}, {'ICMP' if r.icmp else 'no ICMP'}, {r.outer}" for r in results]
    bars = {
        "median": [Bar(r.stall_s_median) for r in results],
        "longest": [Bar(r.stall_s_max) for r in results],
    }
    return Report(
        "TCP over a path whose MTU changes",
        f"The longest time without a byte at the receiver in the 3 s that follow; {results[0].rounds} rounds.",
        [Chart("Stall", "seconds", names, bars, digits=2)],
        HEAD,
        [_cells(result) for result in results],
    )


def _cells(r: Result) -> list[str]:
    outer = "IPv4" if r.outer == "ipv4" else "IPv6"
    stalls = [f"{r.stall_s_median:.2f} s", f"{r.stall_s_max:.2f} s", f"{r.known_s_median:.2f} s"]
    return [r.path, "yes" if r.icmp else "filtered", outer, *stalls, str(r.mtu)]
