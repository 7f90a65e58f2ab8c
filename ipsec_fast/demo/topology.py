"""Two hosts behind two gateways, in network namespaces joined by veth pairs; no tunnel yet.

    host1 10.1.0.10 --- 10.1.0.1 gw1 192.0.2.1 === 192.0.2.2 gw2 10.2.0.1 --- 10.2.0.10 host2
          fd00:1::10    fd00:1::1    2001:db8::1   2001:db8::2   fd00:2::1    fd00:2::10

With `relay=True` two more nodes stand between the gateways, each with the address of the gateway on the other side:
a process with sockets in both carries what passes (bench.relay).

    gw1 192.0.2.1 === 192.0.2.2 relay1    relay2 192.0.2.1 === 192.0.2.2 gw2

Names carry a prefix and the process number of their maker, so that runs do not meet; what an aborted run left is removed
by the next one. Processes started here die with us. Called by the demo, bench and the tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import HostError
from .namespaces import first_line, in_namespace

NODES = ("host1", "gw1", "gw2", "host2")
RELAY_NODES = ("relay1", "relay2")
ADDRESSES = {  # of each node: interface -> addresses
    "host1": {"lan": ("10.1.0.10/24", "fd00:1::10/64")},
    "gw1": {"lan": ("10.1.0.1/24", "fd00:1::1/64"), "wan": ("192.0.2.1/24", "2001:db8::1/64")},
    "gw2": {"lan": ("10.2.0.1/24", "fd00:2::1/64"), "wan": ("192.0.2.2/24", "2001:db8::2/64")},
    "host2": {"lan": ("10.2.0.10/24", "fd00:2::10/64")},
    "relay1": {"wan": ("192.0.2.2/24", "2001:db8::2/64")},
    "relay2": {"wan": ("192.0.2.1/24", "2001:db8::1/64")},
}
LAN_LINKS = (("host1", "lan", "gw1", "lan"), ("gw2", "lan", "host2", "lan"))
WAN_LINKS = (("gw1", "wan", "gw2", "wan"),)
RELAY_LINKS = (("gw1", "wan", "relay1", "wan"), ("relay2", "wan", "gw2", "wan"))
DEFAULT_ROUTES = {"host1": ("10.1.0.1", "fd00:1::1"), "host2": ("10.2.0.1", "fd00:2::1")}
SYSCTLS = (
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
)
FORWARDING = (("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
NETNS_FOLDER = Path("/run/netns")


class Topology:
    """The namespaces while they exist; `with Topology() as net:` takes them away again, and every process in them."""

    def __init__(self, prefix: str = "demo", *, mtu: int = 1500, relay: bool = False) -> None:
        self.prefix = prefix
        self.mtu = mtu
        self.nodes = (*NODES, *RELAY_NODES) if relay else NODES
        self._links = (*LAN_LINKS, *(RELAY_LINKS if relay else WAN_LINKS))
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Topology:
        remove_leftovers(self.prefix)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def name(self, node: str) -> str:
        return f"{self.prefix}-{os.getpid()}-{node}"

    def path(self, node: str) -> str:
        return str(NETNS_FOLDER / self.name(node))

    def command(self, node: str, *words: str) -> list[str]:
        """The command line that runs `words` in a node. Not `ip netns exec`: that remounts /sys, which containers refuse."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path(node)}", *words]

    def run(self, node: str, *words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in a node to its end; HostError with its first line of stderr where it fails."""
        done = subprocess.run(self.command(node, *words), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise HostError(f"`{' '.join(words)}` in {node} says {first_line(done.stderr or done.stdout)}")
        return done

    def start(self, node: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a node; close() ends it where it still runs."""
        process = subprocess.Popen(self.command(node, *words), **options)
        self._processes.append(process)
        return process

    def socket(self, node: str, family: int, kind: int) -> socket.socket:
        """A socket that lives in a node, usable from here."""
        return in_namespace(self.path(node), lambda: socket.socket(family, kind))

    def write_sysctl(self, node: str, name: str, value: str) -> None:
        """Set `net/...` of one node."""
        try:
            in_namespace(self.path(node), lambda: Path("/proc/sys", name).write_text(value))
        except OSError as error:
            raise HostError(f"/proc/sys/{name} cannot be set in a namespace: {error.strerror}") from None

    def close(self) -> None:
        """End the processes, then delete the namespaces."""
        self.close_processes()
        for node in self.nodes:
            if NETNS_FOLDER.joinpath(self.name(node)).exists():
                subprocess.run(["ip", "netns", "del", self.name(node)], capture_output=True)

    def close_processes(self) -> None:
        """End what start() started: SIGTERM, and SIGKILL 5 s later."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._processes.clear()

    def _build(self) -> None:
        for node in self.nodes:
            _ip("netns", "add", self.name(node))
            for name, value in (*SYSCTLS, *(FORWARDING if node.startswith("gw") else ())):
                self.write_sysctl(node, name, value)
            self._ip(node, "link", "set", "lo", "up")
        for left, left_name, right, right_name in self._links:
            peer = ("peer", "name", right_name, "netns", self.name(right))
            self._ip(left, "link", "add", left_name, "mtu", str(self.mtu), "type", "veth", *peer)
            self._ip(right, "link", "set", right_name, "mtu", str(self.mtu))
        for node in self.nodes:
            for interface, addresses in ADDRESSES[node].items():
                for address in addresses:
                    self._ip(node, "addr", "add", address, "dev", interface, *(("nodad",) if ":" in address else ()))
                self._ip(node, "link", "set", interface, "up")
        for node, gateways in DEFAULT_ROUTES.items():
            for gateway in gateways:
                self._ip(node, "route", "add", "default", "via", gateway)

    def _ip(self, node: str, *words: str) -> None:
        _ip("-n", self.name(node), *words)


def remove_leftovers(prefix: str) -> list[str]:
    """Delete the namespaces of runs whose process is gone; returns their names."""
    removed = []
    shape = re.compile(rf"{re.escape(prefix)}-(\d+)-({'|'.join((*NODES, *RELAY_NODES))})")
    for path in NETNS_FOLDER.glob(f"{prefix}-*"):
        match = shape.fullmatch(path.name)
        if match and not Path("/proc", match[1]).exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
            removed.append(path.name)
    return removed


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"`ip {' '.join(words)}` says {first_line(done.stderr)}")
