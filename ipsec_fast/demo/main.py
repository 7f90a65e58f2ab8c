"""`ipsec-fast demo`: two hosts behind two gateways, a negotiation, traffic, rekeys and a kill -9 in the middle, and the figures.

It starts itself again inside namespaces of its own (namespaces.py), so that nothing it makes outlives it.
Exit 1 with the reason where traffic does not flow. Called by the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..algorithms import encryption_by_id, esp_suite, integrity_by_id
from ..errors import AlgorithmError, HostError, IpsecFastError, UsageError
from ..iana import Encr, Integ
from .gateways import DemoGateway, Tree, newest, write_psk
from .namespaces import check_tun, describe, enter, find_mode, python_path
from .topology import Topology
from .traffic import TcpResult, measure_ping, measure_tcp
from .trials import HOST2, kill_under_traffic, rekey_under_traffic
from .view import View, choose_view

INSIDE = "IPSEC_FAST_DEMO_MODE"  # set for the copy of us that runs inside the namespaces
HOST2_IPV6 = "fd00:2::10"
SECONDS = 10


@dataclass(frozen=True)
class Figures:
    """The JSON document."""

    mode: str
    tcp1_gbit_per_s: float
    rtt_ms_median: float
    rekeys: int
    packets_lost_over_rekey: int
    cipher: str
    engine: str
    cpu_s_per_gbyte: float
    packets_sent_over_rekey: int
    packets_duplicated_over_rekey: int
    packets_lost_over_kill: int
    recovery_s: float  # from the last packet before the kill to the first one after it, the slower way of the two


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", metavar="N", type=int, default=SECONDS, help="length of the TCP run (default 10)")
    parser.add_argument("--plain", action="store_true", help="plain lines instead of a live view")
    parser.add_argument("--json", action="store_true", help="print one JSON document; progress goes to stderr")
    parser.add_argument("--cipher", metavar="NAME", default="aes128gcm16", help="ESP algorithm (default aes128gcm16)")


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when traffic flowed and the rekeys happened."""
    if not 1 <= arguments.seconds <= 3600:
        raise UsageError(f"--seconds {arguments.seconds}: 1 to 3600 are possible")
    try:
        esp_suite(arguments.cipher)
    except AlgorithmError as error:
        raise UsageError(f"--cipher: {error}") from None
    try:
        mode = os.environ.get(INSIDE)
        if mode is None:
            _start_inside(arguments)
        figures = _run(arguments, mode or "root")
    except IpsecFastError as error:
        if arguments.json:
            print(json.dumps({"error": str(error)}))
        raise
    print(json.dumps(asdict(figures), indent=2) if arguments.json else _summary(figures))
    return 0


def _start_inside(arguments: argparse.Namespace) -> None:
    mode = find_mode()
    check_tun()
    os.environ[INSIDE] = mode
    os.environ["PYTHONPATH"] = python_path()
    words = ["--seconds", str(arguments.seconds), "--cipher", arguments.cipher]
    words += [f"--{flag}" for flag in ("plain", "json") if getattr(arguments, flag)]
    sys.stdout.flush()
    enter(mode, [sys.executable, "-m", "ipsec_fast", "demo", *words])


def _run(arguments: argparse.Namespace, mode: str) -> Figures:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    check_tun()
    view = choose_view(json=arguments.json, plain=arguments.plain)
    # /run is a tmpfs of our own here: keys and logs in it are gone with us, whatever ends us
    with view, tempfile.TemporaryDirectory(prefix="demo-", dir="/run") as folder, Topology("demo") as net:
        view.step(describe(mode))
        with _gateways(net, Path(folder), arguments.cipher) as gateways:
            view.step("two gateways run; London sets up the tunnel to Paris")
            gateways[0].initiate(view.detail)
            _wait_installed(gateways)
            view.show(gateways[0].status())
            return _measure(arguments, mode, net, gateways, view)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _gateways(net: Topology, folder: Path, cipher: str) -> Iterator[list[DemoGateway]]:
    """Both gateways while they run; what they logged goes to stderr where something fails."""
    psk = write_psk(folder)
    gateways = [DemoGateway(net, node, folder / node, psk, cipher=cipher) for node in ("gw1", "gw2")]
    try:
        for gateway in gateways:
            gateway.wait_until_listening()
        yield gateways
    except IpsecFastError:
        for gateway in gateways:
            for line in gateway.log.read_text(errors="replace").splitlines()[-12:]:
                print(f"{gateway.node}: {line}", file=sys.stderr)
        raise
    finally:
        net.close_processes()


def _wait_installed(gateways: list[DemoGateway], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while any(newest(gateway.status(), "child") is None for gateway in gateways):
        if time.monotonic() > deadline:
            raise HostError(f"the tunnel is not up after {seconds:.0f} s: {gateways[0].last_words()}")
        time.sleep(0.05)


def _measure(
    arguments: argparse.Namespace, mode: str, net: Topology, gateways: list[DemoGateway], view: View
) -> Figures:
    ping = measure_ping(net, "host1", HOST2)
    measure_ping(net, "host1", HOST2_IPV6, count=10)
    view.step(f"ping from host to host: median {ping.median_ms:.3f} ms, and over IPv6")
    view.step("rekey of the Child SA by London, of the IKE SA by Paris, while numbered packets pass both ways")
    rekeys = rekey_under_traffic(net, gateways, lambda: view.show(gateways[0].status()))
    view.step(f"{rekeys.count} rekeys, {rekeys.lost} of {rekeys.sent} packets lost")
    view.step("kill -9 of London's gateway under the same traffic, and its start")
    kill = kill_under_traffic(net, gateways, view.detail)
    view.step(f"the tunnel is back after {kill.silence_s:.2f} s, {kill.lost} of {kill.sent} packets lost")
    view.show(gateways[0].status())
    view.step(f"TCP, one stream, {arguments.seconds} s")
    tcp, cpu_s = _tcp(arguments.seconds, net, gateways, view)
    view.step(f"TCP carried {tcp.gbit_per_s:.2f} Gbit/s, {tcp.retransmits} retransmits")
    status = gateways[0].status()
    return Figures(
        mode=mode,
        tcp1_gbit_per_s=round(tcp.gbit_per_s, 3),
        rtt_ms_median=round(ping.median_ms, 3),
        rekeys=rekeys.count,
        packets_lost_over_rekey=rekeys.lost,
        cipher=cipher_of(newest(status, "child") or {}),
        engine=str(status["gateway"].get("engine", "")),
        cpu_s_per_gbyte=round(cpu_s / (tcp.bytes_received / 1e9), 3),
        packets_sent_over_rekey=rekeys.sent,
        packets_duplicated_over_rekey=rekeys.duplicated,
        packets_lost_over_kill=kill.lost,
        recovery_s=round(kill.silence_s, 3),
    )


def _tcp(seconds: int, net: Topology, gateways: list[DemoGateway], view: View) -> tuple[TcpResult, float]:
    """The TCP run, and the CPU seconds of both gateways in it."""
    before = sum(gateway.cpu_seconds() for gateway in gateways)
    shown = time.monotonic()

    def look() -> None:
        nonlocal shown
        for gateway in gateways:
            gateway.check_alive()
        if time.monotonic() - shown >= 0.5:
            shown = time.monotonic()
            view.show(gateways[0].status())

    tcp = measure_tcp(net, "host1", "host2", HOST2, seconds=seconds, while_running=look)
    return tcp, sum(gateway.cpu_seconds() for gateway in gateways) - before


def cipher_of(child: Tree) -> str:
    """`aes128gcm16` of a child's `encr-alg`, `encr-keysize` and `integ-alg`, as strongSwan spells a proposal."""
    try:
        encryption = encryption_by_id(Encr[child["encr-alg"]], int(child.get("encr-keysize", 0)) or None)
        integrity = integrity_by_id(Integ[child["integ-alg"]]) if "integ-alg" in child else None
    except (KeyError, ValueError):
        encryption = integrity = None
    if encryption is None:
        return f"{child.get('encr-alg', 'unknown')}"
    return encryption.name + (f"-{integrity.name}" if integrity else "")


def _summary(figures: Figures) -> str:
    return (
        f"\n{figures.cipher} on {figures.engine}, {'as root' if figures.mode == 'root' else 'as an ordinary user'}:\n"
        f"  TCP, one stream      {figures.tcp1_gbit_per_s:.2f} Gbit/s, {figures.cpu_s_per_gbyte:.2f} CPU s per GB in both gateways\n"
        f"  round trip           {figures.rtt_ms_median:.3f} ms median\n"
        f"  {figures.rekeys} rekeys             {figures.packets_lost_over_rekey} of {figures.packets_sent_over_rekey} packets lost, "
        f"{figures.packets_duplicated_over_rekey} doubled\n"
        f"  kill -9              back after {figures.recovery_s:.2f} s, {figures.packets_lost_over_kill} packets lost meanwhile"
    )
