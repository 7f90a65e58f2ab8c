"""The measurement of `ipsec-fast bench gateway`: two hosts talk through two gateways, ours and others' in turn, in one run.

Each round brings every path up once, in an order that turns with the round, so that a busy moment of the machine hurts all alike; the
figures are medians over the rounds. Generators are iperf3 (TCP cubic) and ping. Called by gateway_face.py.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import re
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from ..demo.gateways import TICKS_PER_S
from ..errors import HostError
from .tunnels import SERVER, Kind, Tunnel, open_tunnel

FIGURES = (
    "tcp1_gbit_per_s", "tcp4_gbit_per_s", "tcp1_no_tso_gbit_per_s", "udp64_kpps", "rtt_ms_median", "cpu_s_per_gbyte", "rss_mbytes",
)  # fmt: skip
SIOCETHTOOL = 0x8946
ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x1F, 0x24, 0x2C
UDP_BYTES = 64
PINGS = 300


@dataclass(frozen=True, slots=True)
class Result:
    """One row, of medians; the field names are the JSON's. None: there is no gateway process to look at."""

    path: str
    engine: str | None
    pinned: bool
    tcp1_gbit_per_s: float | None
    tcp4_gbit_per_s: float | None
    tcp1_no_tso_gbit_per_s: float | None
    udp64_kpps: float | None
    rtt_ms_median: float | None
    cpu_s_per_gbyte: float | None
    rss_mbytes: float | None


Spread = dict[str, float]  # by figure: (largest - smallest) / median over the rounds
Ends = dict[str, tuple[float, float]]  # by figure: smallest and largest


def run_bench_gateway(
    kinds: Sequence[Kind], layouts: Iterable[bool], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[tuple[Result, Spread, Ends]]:
    """`seconds` for each TCP and UDP figure of each path and round; layouts: pinned or not. HostError where a path fails."""
    layouts = tuple(layouts)
    found: dict[tuple[Kind, bool], list[dict[str, float]]] = {(kind, pin): [] for pin in layouts for kind in kinds}
    for number in range(rounds):
        for pinned in layouts:
            turn = number % len(kinds)
            for kind in (*kinds[turn:], *kinds[:turn]):
                say(f"round {number + 1} of {rounds}, {'pinned' if pinned else 'free'}: {kind}")
                found[kind, pinned].append(_measure(kind, pinned, seconds))
    return [combine(kind, pinned, figures) for (kind, pinned), figures in found.items()]


def combine(kind: Kind, pinned: bool, rounds: list[dict[str, float]]) -> tuple[Result, Spread, Ends]:
    """The row of all rounds."""
    values: dict[str, Any] = {}
    spread: Spread = {}
    ends: Ends = {}
    for name in FIGURES:
        each = [one[name] for one in rounds if name in one]
        values[name] = round(statistics.median(each), 4) if each else None
        if each and values[name]:
            spread[name] = round((max(each) - min(each)) / values[name], 2)
            ends[name] = (round(min(each), 4), round(max(each), 4))
    return Result(kind.name, kind.engine, pinned, **values), spread, ends


def _measure(kind: Kind, pinned: bool, seconds: float) -> dict[str, float]:
    with open_tunnel(kind, pinned) as tunnel:
        figures = {"rtt_ms_median": _round_trip(tunnel)}
        before = _cpu_seconds(tunnel)
        sent = _iperf(tunnel, seconds, "-C", "cubic")["sum_received"]
        used = _cpu_seconds(tunnel) - before
        figures["tcp1_gbit_per_s"] = sent["bits_per_second"] / 1e9
        if tunnel.gateways:
            figures["cpu_s_per_gbyte"] = used / (sent["bytes"] / 1e9)
        four = _iperf(tunnel, seconds, "-C", "cubic", "-P", "4")["sum_received"]
        figures["tcp4_gbit_per_s"] = four["bits_per_second"] / 1e9
        if tunnel.gateways:
            figures["rss_mbytes"] = max(_resident_bytes(process.pid) for process in tunnel.gateways) / 1e6
        small = _iperf(tunnel, seconds, "-u", "-b", "0", "-l", str(UDP_BYTES))["sum"]
        figures["udp64_kpps"] = (small["packets"] - small["lost_packets"]) / small["seconds"] / 1e3
        _switch_off_offload(tunnel)
        plain = _iperf(tunnel, seconds, "-C", "cubic")["sum_received"]
        figures["tcp1_no_tso_gbit_per_s"] = plain["bits_per_second"] / 1e9
        return figures


def _switch_off_offload(tunnel: Tunnel) -> None:
    """The hosts' stacks hand and take single segments, as those of other machines on a wire do."""

    def switch(sock: socket.socket) -> None:
        for command in (ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO):
            value = array.array("I", (command, 0))
            request = struct.pack("16sP16x", b"lan", value.buffer_info()[0])
            fcntl.ioctl(sock, SIOCETHTOOL, request)

    for node in ("host1", "host2"):
        with tunnel.net.socket(node, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            switch(sock)


def _iperf(tunnel: Tunnel, seconds: float, *words: str) -> dict[str, Any]:
    """The `end` of iperf3's report, of a server that lives as long."""
    net = tunnel.net
    server = net.start(
        "host2",
        *tunnel.words("host2", "iperf3", "-s", "-1", "-B", SERVER),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        last = ""
        for _ in range(100):
            command = tunnel.words("host1", "iperf3", "-J", "-c", SERVER, "-t", f"{seconds:g}", *words)
            done = net.run("host1", *command, check=False, timeout=seconds + 30)
            with contextlib.suppress(ValueError):
                report = json.loads(done.stdout)
                if done.returncode == 0 and "error" not in report:
                    return dict(report["end"])
                last = str(report.get("error", ""))
            if "refused" not in last or server.poll() is not None:
                break
            time.sleep(0.05)
        raise HostError(f"iperf3 {' '.join(words)} through the tunnel says {last or done.stderr.strip() or 'nothing'}")
    finally:
        server.kill()
        server.wait()


def _round_trip(tunnel: Tunnel) -> float:
    done = tunnel.net.run("host1", *tunnel.words("host1", "ping", "-i", "0.002", "-c", str(PINGS), "-W", "1", SERVER))
    times = [float(word) for word in re.findall(r"time=([0-9.]+) ms", done.stdout)]
    if len(times) < PINGS // 2:
        raise HostError(f"{len(times)} of {PINGS} pings came back")
    return statistics.median(times)


def _cpu_seconds(tunnel: Tunnel) -> float:
    """User and system time of both gateways' processes so far."""
    total = 0
    for process in tunnel.gateways:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def _resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
