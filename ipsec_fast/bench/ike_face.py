"""`ipsec-fast bench ike`: its arguments, what it prints. The measurements are ike.py and ike_gateways.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from ..algorithms import parse_ike_proposal
from ..errors import HostError, UsageError
from . import charon
from .arguments import command_words, within
from .ike import PROPOSALS, Measure, Result, combine, measure_endpoints, run_rounds
from .inside import go_inside, say
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report

ROUNDS, SECONDS, PARALLEL = 5, 1.0, 8
MOST_PARALLEL = 24  # a gateway keeps 32 IKE SAs of one peer, those that are being deleted included
HEAD = (
    f"{'path':9} {'responder':10} {'proposal':30} {'handshakes/s':>12} {'smallest':>8} {'largest':>8} {'initiator':>9} {'responder':>9}\n"
    f"{'':9} {'':10} {'':30} {'':12} {'':8} {'':8} {'CPU ms':>9} {'CPU ms':>9}"
)


def main(arguments: argparse.Namespace) -> int:
    """0 with every handshake done."""
    rounds = ROUNDS if arguments.rounds is None else arguments.rounds
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    parallel = PARALLEL if arguments.parallel is None else arguments.parallel
    within("rounds", rounds, 1, 100)
    within("seconds", seconds, 0.05, 600)
    within("parallel", parallel, 1, MOST_PARALLEL)
    proposals = list(dict.fromkeys(arguments.proposal or PROPOSALS))
    for proposal in proposals:
        parse_ike_proposal(proposal)
    paths = arguments.path or ["endpoints", "gateways"]
    if "gateways" in paths:
        check_outside_run(arguments)
    check_report(arguments)
    if "gateways" in paths:
        go_inside(command_words(arguments))
    responders, absent = _responders(paths, arguments.responder)
    versions = {"charon": charon.version()} if "charon" in responders else {}
    with (
        Meter(arguments, rounds * len(responders) * len(proposals), lines="gateways" in paths) as meter,
        contextlib.ExitStack() as stack,
    ):
        opened = run_rounds(rounds, proposals, seconds, responders, _opener(stack, parallel), meter.begin)
    results = combine(opened, parallel, proposals)
    where = machine()
    if arguments.json:
        document = {
            "machine": where | versions,
            "results": [asdict(result) for result in results],
            "rounds": rounds,
            "seconds": seconds,
            "absent": absent,
        }
        print(json.dumps(document, indent=1))
    else:
        others = "".join(f", {name} {version}" for name, version in versions.items())
        print(
            f"{describe(where)}{others}\n{parallel} at once with gateways, one by one in memory, medians, rounds: {rounds}\n{HEAD}"
        )
        for result in results:
            print(_row(result))
    write_report(arguments, report_of(results, rounds, versions), where)
    return 0


def _responders(paths: Sequence[str], wanted: str | None) -> tuple[list[str], list[str]]:
    """Who answers in this run, and who is absent with what is lacking."""
    if wanted is not None and "gateways" not in paths:
        raise UsageError(f"--responder {wanted} is of --path gateways; endpoints in memory answer each other")
    found, absent = (["endpoints"] if "endpoints" in paths else []), []
    if "gateways" in paths:
        found += ["ipsec_fast"] if wanted in (None, "ipsec_fast") else []
        lacking = charon.missing()
        if wanted == "charon" and lacking:
            raise HostError(lacking)
        if wanted is None and lacking:
            absent.append(f"charon: {lacking}")
            say(f"left out: {absent[0]}")
        if wanted in (None, "charon") and not lacking:
            found.append("charon")
    return found, absent


def _opener(stack: contextlib.ExitStack, parallel: int) -> Callable[[str, Sequence[str]], Measure]:
    gateways: list[Callable[[str, Sequence[str]], Measure]] = []

    def open_responder(name: str, proposals: Sequence[str]) -> Measure:
        if name == "endpoints":
            return measure_endpoints
        if not gateways:
            from .ike_gateways import Responders  # late: namespaces, which endpoints in memory do without

            gateways.append(stack.enter_context(Responders(parallel)).open)
        return gateways[0](name, proposals)

    return open_responder


def _row(r: Result) -> str:
    low, high = r.spread["handshakes_per_s"]
    return (
        f"{r.path:9} {r.responder:10} {r.proposal:30} {r.handshakes_per_s:12.1f} {low:8.1f} {high:8.1f} {r.initiator_cpu_ms:9.2f} "
        f"{r.responder_cpu_ms:9.2f}"
    )


def report_of(results: Sequence[Result], rounds: int, versions: Mapping[str, str]) -> Report:
    def bars(figure: str) -> list[Bar]:
        return [Bar(getattr(r, figure), *r.spread[figure]) for r in results]

    names = [f"{_who(r)}: {r.proposal.rpartition('-')[2]}" for r in results]
    suites = sorted({r.proposal.rpartition("-")[0] for r in results})
    cpu = {"initiator": bars("initiator_cpu_ms"), "responder": bars("responder_cpu_ms")}
    fields = [name for name in asdict(results[0]) if name != "spread"]
    return Report(
        "IKE handshakes: IKE_SA_INIT, IKE_AUTH and the first Child SA",
        f"{', '.join(suites)} with a PSK. In memory: one by one, both sides on one core. Gateways: our initiator over UDP, "
        f"{max(r.parallel for r in results)} at once, deletion included. Medians, rounds: {rounds}, in turn; the thin lines go from "
        "the smallest to the largest.",
        [
            Chart(
                "Handshakes", "per second, more is better", names, {"handshakes": bars("handshakes_per_s")}, digits=0
            ),
            Chart("CPU time of a handshake", "ms, less is better", names, cpu, digits=2, beside=True),
        ],
        fields,
        [[asdict(r)[name] for name in fields] for r in results],
        versions,
    )


def _who(r: Result) -> str:
    return "in memory" if r.path == "endpoints" else f"{r.responder} answers"
