"""TCP through two bumps in the wire on each engine, beside the plain route over the same veth pairs, in turn in one run: ratios carry over.

    unshare -nm sh -c 'mount -t tmpfs tmpfs /run && exec python bench/bump.py --rounds 5 --seconds 1' > bench/results/bump.json

Pinned as `bench gateway` is: host and bump A on CPU 0, bump B and host on CPU 1; the route, which has no process, then runs on CPU 0
alone. Free: wherever the scheduler wants. Hosts have their default offloads; MTU 1500 on every link, so a packet of the bump holds 62 bytes
less. Congestion control is cubic. The namespaces are those of tests/netns/bump_lab.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "netns"))
from bump_lab import NET, BumpLab, sh
from lab import wait_for

from ipsec_fast.bench.machine import machine
from ipsec_fast.dataplane.engine import engines

SERVER = "10.2.0.10"


@contextmanager
def route(lab: BumpLab) -> Iterator[None]:
    """The two boxes forward, as any router does."""
    for side, other, via in (("a", "b", "192.0.2.2"), ("b", "a", "192.0.2.1")):
        name = lab.bumps[side].name
        sh(f"ip netns exec {name} sysctl -qw net.ipv4.conf.all.forwarding=1")
        sh(f"ip -n {name} route replace {NET[other][0]}.0/24 via {via}")
    yield
    for side, other in ("ab", "ba"):
        name = lab.bumps[side].name
        sh(f"ip netns exec {name} sysctl -qw net.ipv4.conf.all.forwarding=0")
        sh(f"ip -n {name} route replace blackhole {NET[other][0]}.0/24")


@contextmanager
def bumps(lab: BumpLab, engine: str, pinned: bool) -> Iterator[None]:
    with (
        lab.bump("a", "--engine", engine, prefix=on_cpu(0, pinned)),
        lab.bump("b", "--engine", engine, prefix=on_cpu(1, pinned)),
    ):
        yield


def on_cpu(number: int, pinned: bool) -> str:
    return f"taskset -c {number}" if pinned else ""


def tcp_gbit_per_s(lab: BumpLab, seconds: int, pinned: bool) -> float:
    wait_for("the hosts reach each other", lambda: lab.h.ping(SERVER, count=1))
    server = subprocess.Popen(
        lab.r.command(*on_cpu(1, pinned).split(), "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL
    )
    try:
        wait_for("iperf3 listens", lambda: ":5201" in lab.r.run("ss", "-tlnH").stdout)
        words = (*on_cpu(0, pinned).split(), "iperf3", "-J", "-c", SERVER, "-t", str(seconds), "-C", "cubic")
        report = json.loads(lab.h.run(*words, check=False).stdout)
        assert "error" not in report, report["error"]
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds",
        type=int,
        choices=range(1, 61),
        default=1,
        metavar="1..60",
        help="of each measurement: iperf3 counts in whole ones",
    )
    given = parser.parse_args()
    paths: list[tuple[str, str | None]] = [("veth", None), *(("bump", engine) for engine in engines())]
    found: dict[tuple[str, str | None, bool], list[float]] = {
        (*path, pinned): [] for pinned in (True, False) for path in paths
    }
    with BumpLab() as lab:
        for turn in range(given.rounds):
            order = list(found)
            for key in order[turn % len(order) :] + order[: turn % len(order)]:
                path, engine, pinned = key
                with route(lab) if engine is None else bumps(lab, engine, pinned):
                    found[key].append(tcp_gbit_per_s(lab, given.seconds, pinned))
                print(f"{path} {engine or ''} pinned={pinned}: {found[key][-1]:.2f} Gbit/s", file=sys.stderr)
    results = [
        {
            "path": path,
            "engine": engine,
            "pinned": pinned,
            "tcp1_gbit_per_s": round(statistics.median(values), 2),
            "spread": [round(min(values), 2), round(max(values), 2)],
            "ratio_to_veth": round(statistics.median(values) / statistics.median(found["veth", None, pinned]), 2),
        }
        for (path, engine, pinned), values in found.items()
    ]
    print(json.dumps({"machine": machine(), "rounds": given.rounds, "results": results}, indent=1))


if __name__ == "__main__":
    main()
