"""`ipsec-fast bench gateway`: its arguments, and what it prints. The measurement is gateway.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

from ..errors import HostError, UsageError
from .esp import machine
from .gateway import Result, run_bench_gateway
from .inside import go_inside, say
from .tunnels import CIPHER, INNER_MTU, all_paths, versions

ROUNDS, SECONDS = 5, 3.0
HEAD = (
    f"{'path':13} {'engine':8} {'layout':6} {'tcp1':>6} {'tcp4':>6} {'no tso':>6} {'udp64':>6} {'rtt':>6} {'cpu':>6} {'rss':>6}\n"
    f"{'':13} {'':8} {'':6} {'Gbit/s':>6} {'Gbit/s':>6} {'Gbit/s':>6} {'kpps':>6} {'ms':>6} {'s/GB':>6} {'MB':>6}"
)


def main(arguments: argparse.Namespace) -> int:
    """0 with every path measured."""
    rounds = ROUNDS if arguments.rounds is None else arguments.rounds
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    if not 1 <= rounds <= 100:
        raise UsageError(f"--rounds {rounds}: 1 to 100 are possible")
    if not 1 <= seconds <= 600:
        raise UsageError(f"--seconds {seconds:g}: 1 to 600 are possible")
    words = ["gateway", "--seconds", f"{seconds:g}", "--rounds", str(rounds)]
    for name in arguments.path:
        words += ["--path", name]
    words += ["--layout", arguments.layout] if arguments.layout else []
    go_inside([*words, *(["--json"] if arguments.json else [])])
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
    results = run_bench_gateway(kinds, layouts, rounds, seconds, say)
    if arguments.json:
        document = {
            "machine": machine() | versions(kinds) | {"algorithm": CIPHER, "inner_mtu": INNER_MTU, "seconds": seconds},
            "results": [asdict(result) for result, _ in results],
            "spread": [spread for _, spread in results],
            "rounds": rounds,
            "absent": absent,
        }
        print(json.dumps(document, indent=1))
        return 0
    print(HEAD)
    for result, _ in results:
        print(_row(result))
    return 0


def _row(r: Result) -> str:
    def number(value: float | None, digits: int) -> str:
        return f"{'-':>6}" if value is None else f"{value:6.{digits}f}"

    return (
        f"{r.path:13} {r.engine or '-':8} {'pinned' if r.pinned else 'free':6} {number(r.tcp1_gbit_per_s, 2)} "
        f"{number(r.tcp4_gbit_per_s, 2)} {number(r.tcp1_no_tso_gbit_per_s, 2)} {number(r.udp64_kpps, 0)} "
        f"{number(r.rtt_ms_median, 3)} {number(r.cpu_s_per_gbyte, 2)} {number(r.rss_mbytes, 1)}"
    )
