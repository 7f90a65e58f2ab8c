"""What the demo measures with other people's programs: iperf3 for TCP, ping for the round trip.

Called by the demo and the tests.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import HostError
from .namespaces import first_line
from .topology import Topology

IPERF_PORT = 5201


@dataclass(frozen=True)
class TcpResult:
    gbit_per_s: float
    bytes_received: int
    seconds: float
    retransmits: int


def measure_tcp(
    net: Topology,
    client: str,
    server: str,
    address: str,
    *,
    seconds: int,
    streams: int = 1,
    while_running: Callable[[], None] = lambda: None,
) -> TcpResult:
    """iperf3 with cubic from `client` to `server`; `while_running` is called about every 100 ms."""
    listener = net.start(
        server, "iperf3", "-s", "-1", "-B", address, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    _wait_for_listener(net, server, listener)
    command = ["iperf3", "-c", address, "-C", "cubic", "-J", "-t", str(seconds), "-P", str(streams)]
    process = net.start(
        client, *command, "--connect-timeout", "5000", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + seconds + 15
    # iperf3 writes its report at the very end, a few KB: the pipe holds it
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise HostError(f"iperf3 did not end within {seconds + 15} s: TCP does not flow to {address}")
        while_running()
        time.sleep(0.1)
    output, errors = process.communicate()
    return parse_iperf(output, errors, address)


def parse_iperf(output: str, errors: str, address: str) -> TcpResult:
    """The figures of iperf3's report; HostError with its own words where it failed."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise HostError(f"iperf3 to {address} gave no report: {first_line(errors or output)}") from None
    if "error" in report:
        raise HostError(f"iperf3 to {address}: {report['error']}")
    received, sent = report["end"]["sum_received"], report["end"]["sum_sent"]
    if not received["bytes"]:
        raise HostError(f"no TCP data arrived at {address}")
    return TcpResult(
        received["bits_per_second"] / 1e9, int(received["bytes"]), received["seconds"], int(sent.get("retransmits", 0))
    )


def _wait_for_listener(net: Topology, server: str, listener: subprocess.Popen[Any]) -> None:
    for _ in range(100):
        if listener.poll() is not None:
            raise HostError(f"iperf3 -s ended at once: {first_line(listener.communicate()[1])}")
        if f":{IPERF_PORT}" in net.run(server, "ss", "-Hltn").stdout:
            return
        time.sleep(0.05)
    raise HostError("iperf3 -s does not listen after 5 s")


@dataclass(frozen=True)
class PingResult:
    sent: int
    times_ms: tuple[float, ...]

    @property
    def lost(self) -> int:
        return self.sent - len(self.times_ms)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)


def measure_ping(
    net: Topology, node: str, address: str, *, count: int = 100, interval_s: float = 0.01, size_bytes: int = 56
) -> PingResult:
    """Echo requests from a node; HostError where none is answered."""
    command = ["ping", "-n", "-c", str(count), "-i", f"{interval_s:g}", "-s", str(size_bytes), "-W", "1", address]
    done = net.run(node, *command, check=False, timeout=count * interval_s + 20)
    result = PingResult(count, tuple(float(ms) for ms in re.findall(r"time=([\d.]+) ms", done.stdout)))
    if not result.times_ms:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "From " in line or "rror" in line]
        raise HostError(f"no answer to {count} pings from {node} to {address}{': ' + said[0] if said else ''}")
    return result
