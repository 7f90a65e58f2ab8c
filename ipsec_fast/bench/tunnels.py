"""What `bench gateway` compares: the same two hosts, joined by a route (veth), by us, by wireguard-go, by charon.

`open_tunnel` brings one of them up in namespaces of its own, checks that the hosts reach each other, and takes it down again.
Called by gateway.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..dataplane.engine import engines
from ..demo.gateways import DemoGateway, write_psk
from ..demo.topology import Topology
from ..errors import HostError
from . import charon, wireguard

INNER_MTU = 1400  # charon's TUN has no other
CIPHER = "aes128gcm16"
SERVER = "10.2.0.10"
CPUS = {"host1": 0, "gw1": 0, "gw2": 1, "host2": 1}


@dataclass(frozen=True)
class Kind:
    """One row's `path` and `engine`."""

    name: str
    engine: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.engine})" if self.name == "ipsec_fast" else self.name


class NullGateway(DemoGateway):
    """Ours, with an engine that does nothing."""

    command = ("-m", "ipsec_fast.bench.null_gateway")


@dataclass
class Tunnel:
    net: Topology
    pinned: bool
    gateways: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def words(self, node: str, *words: str) -> list[str]:
        """A command for `node`, on its CPU where the layout is pinned."""
        return ["taskset", "-c", str(CPUS[node]), *words] if self.pinned else list(words)

    def pin(self) -> None:
        """Every thread that the gateways have, and those that they will start."""
        if not self.pinned or not self.gateways:
            return
        for process, node in zip(self.gateways, ("gw1", "gw2"), strict=True):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), {CPUS[node]})


def all_paths() -> tuple[list[Kind], list[str]]:
    """Those that this host can have, and the names of the others with what they lack."""
    ours = [Kind("ipsec_fast", engine) for engine in engines()]
    found = [Kind("veth"), Kind("null", "null"), *ours]
    absent = []
    for name, lacking in (("wireguard-go", wireguard.missing()), ("charon", charon.missing())):
        if lacking:
            absent.append(f"{name}: {lacking}")
        else:
            found.append(Kind(name))
    return found, absent


def versions(kinds: Sequence[Kind]) -> dict[str, str]:
    """Of the others that take part."""
    tell = {"wireguard-go": wireguard.version, "charon": charon.version}
    return {kind.name: tell[kind.name]() for kind in kinds if kind.name in tell}


@contextlib.contextmanager
def open_tunnel(path: Kind, pinned: bool) -> Iterator[Tunnel]:
    """The tunnel, carrying packets; HostError where it does not come up."""
    with tempfile.TemporaryDirectory(prefix="ipsec-fast-bench-") as folder, Topology("speed") as net:
        for node in ("host1", "host2"):
            net.run(node, "ip", "link", "set", "lan", "mtu", str(INNER_MTU))
        tunnel = Tunnel(net, pinned)
        _start(tunnel, path, Path(folder))
        net.run("host1", "ping", "-c", "3", "-i", "0.2", "-W", "2", SERVER)
        tunnel.pin()
        yield tunnel


def _start(tunnel: Tunnel, path: Kind, folder: Path) -> None:
    net = tunnel.net
    if path.name == "veth":
        net.run("gw1", "ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2")
        net.run("gw2", "ip", "route", "add", "10.1.0.0/24", "via", "192.0.2.1")
        return
    if path.name == "wireguard-go":
        tunnel.gateways = wireguard.start(net, INNER_MTU)
        return
    psk = write_psk(folder)
    answering: DemoGateway
    initiating: DemoGateway
    if path.name == "charon":
        initiating, answering = (
            charon.CharonGateway(net, node, folder / node, psk, cipher=CIPHER) for node in ("gw1", "gw2")
        )
    else:
        kind = NullGateway if path.name == "null" else DemoGateway
        settings = "" if path.name == "null" else f'engine = "{path.engine}"'
        initiating, answering = (
            kind(net, node, folder / node, psk, cipher=CIPHER, gateway=settings, workers=1 if tunnel.pinned else "auto")
            for node in ("gw1", "gw2")
        )
    tunnel.gateways = [initiating.process, answering.process]
    for gateway in (initiating, answering):
        gateway.wait_until_listening()
    initiating.initiate(lambda line: None)
    _check_engine(initiating, path)


def _check_engine(gateway: DemoGateway, path: Kind) -> None:
    if path.engine is None:
        return
    used = gateway.status()["gateway"]["engine"]
    if used != path.engine:
        raise HostError(f"the gateway runs on {used}, not on {path.engine}")
