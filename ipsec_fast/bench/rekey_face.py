"""`ipsec-fast bench rekey`: its arguments, its namespaces, what it prints. The measurement is rekey.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from ..errors import HostError, UsageError
from . import charon
from .arguments import command_words
from .ground import Wire
from .inside import go_inside, say
from .machine import describe, machine
from .progress import Meter
from .rekey import Case, Result, run_case
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report

COUNTS = {"ours": (1000, 100), "charon": (200, 20)}
SECONDS = 10.0
# the wire is slow enough for two requests to cross on it
SLOW = Wire(delay_s=0.005)
BAD = Wire(delay_s=0.005, reorder=0.1, reorder_places=64, duplicate=0.01)
HEAD = f"{'peer':10} {'child':>5} {'ike':>4} {'load':>5} {'sent':>10} {'received':>10} {'lost':>6} {'twice':>6} {'control':>7} {'void':>4}"


def cases(peer: str | None, child: int | None, ike: int | None) -> list[Case]:
    """What is run: our own at half the rate and, on a bad wire, at 80 %; charon at half the rate."""
    found = []
    for name in (peer,) if peer else ("ours", "charon"):
        childs, ikes = (COUNTS[name][0] if child is None else child), (COUNTS[name][1] if ike is None else ike)
        if name == "ours":
            found += [Case("ipsec_fast", 0.5, childs, ikes, SLOW), Case("ipsec_fast", 0.8, childs, ikes, BAD)]
        else:
            found.append(Case("charon", 0.5, childs, ikes, SLOW))
    return found


def main(arguments: argparse.Namespace) -> int:
    """0 where every packet of every case came once, 1 where one was lost, came twice, or every trial was void."""
    for name in ("child", "ike"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value <= 100_000:
            raise UsageError(f"--{name} {value}: 0 to 100000 are possible")
    if arguments.rate is not None and not 100 <= arguments.rate <= 1_000_000:
        raise UsageError(f"--rate {arguments.rate}: 100 to 1000000 are possible")
    if not 1 <= arguments.workers <= 64:
        raise UsageError(f"--workers {arguments.workers}: 1 to 64 are possible")
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    if not 0.5 <= seconds <= 600:
        raise UsageError(f"--seconds {seconds:g}: 0.5 to 600 are possible")
    planned = [
        replace(case, workers=arguments.workers) for case in cases(arguments.peer, arguments.child, arguments.ike)
    ]
    if any(case.child + case.ike == 0 for case in planned):
        raise UsageError("--child 0 and --ike 0: there is nothing to measure")
    check_outside_run(arguments)
    check_report(arguments)
    go_inside(command_words(arguments))
    lacking = charon.missing()
    if lacking and arguments.peer == "charon":
        raise HostError(lacking)
    if lacking and arguments.peer is None:
        say(f"charon is left out: {lacking}")
        planned = [case for case in planned if case.peer != "charon"]
    results = []
    with Meter(arguments, len(planned), ticking=True) as meter:
        for case in planned:
            meter.note(f"{case.peer}, {case.child} and {case.ike} rekeys")
            results.append(run_case(case, seconds, meter.tell, arguments.rate))
            meter.step()
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": [asdict(result) for result in results]}, indent=1))
    else:
        print(f"{describe(machine())}\n{HEAD}")
        for result in results:
            print(_row(result))
    write_report(arguments, report_of(results), machine())
    return 0 if all(is_clean(result) for result in results) else 1


def report_of(results: Sequence[Result]) -> Report:
    names = [f"{r.peer}, {r.child_rekeys} + {r.ike_rekeys} rekeys at {r.load_share:.0%}" for r in results]
    losses = {
        "lost": [Bar(r.sent - r.received) for r in results],
        "came twice": [Bar(r.duplicates) for r in results],
        "lost by controls": [Bar(r.lost_control) for r in results],
    }
    sent = {"sent": [Bar(r.sent / 1e6) for r in results]}
    fields = list(asdict(results[0]))
    return Report(
        "Packets lost while keys change under load",
        "Numbered UDP of 1,000 bytes both ways between two gateways; Child SA and IKE SA rekeys begun by one side, "
        "the other, and both at once.",
        [
            Chart("What went wrong", "packets, 0 is wanted", names, losses, digits=0),
            Chart("While keys changed", "million packets sent", names, sent, digits=2, beside=True),
        ],
        fields,
        [[asdict(r)[name] for name in fields] for r in results],
    )


def is_clean(result: Result) -> bool:
    return result.sent == result.received and result.duplicates == 0 and result.lost_control == 0


def _row(r: Result) -> str:
    return (
        f"{r.peer:10} {r.child_rekeys:5} {r.ike_rekeys:4} {r.load_share:5.0%} {r.sent:10} {r.received:10} "
        f"{r.sent - r.received:6} {r.duplicates:6} {r.lost_control:7} {r.voided:4}"
    )
