"""Namespaces for tests: two gateways joined by a link, a host behind each.

    l 10.1.0.10 --- 10.1.0.1 a 192.0.2.1 ===== 192.0.2.2 b 10.2.0.1 --- 10.2.0.10 r

b and r have 10.3.0.1 and 10.3.0.10 too, a second network behind b; r has 203.0.113.10, an address of no network that is named anywhere.
Names of namespaces are global: each Lab's hold the process id, and those of processes that are gone are removed first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T], limit_s: float = 8.0) -> T:
    """The first true value of `look`. Real daemons have their own time, so this polls."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}; last seen: {found!r}")
        time.sleep(0.05)
    return found


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout} {done.stderr}"
        return done

    def ping(self, target: str, *, count: int = 3, source: str | None = None) -> int:
        """How many of `count` pings were answered."""
        words = ["ping", "-n", "-c", str(count), "-i", "0.05", "-W", "1", *(["-I", source] if source else []), target]
        found = re.search(r"(\d+) received", self.run(*words, check=False).stdout)
        return int(found[1]) if found else 0


class Lab:
    def __init__(self, name: str = "lab") -> None:
        self.name, self.prefix = name, f"{name}{os.getpid()}"
        self.l, self.a, self.b, self.r = (Namespace(self.prefix + letter) for letter in "labr")

    def __enter__(self) -> Lab:
        remove_leftovers(self.name)
        self.close()
        batch = []
        for namespace in (self.l, self.a, self.b, self.r):
            subprocess.run(["ip", "netns", "add", namespace.name], check=True)
            batch.append(f"-n {namespace.name} link set lo up")
        links = (
            (self.a, "wan", ["192.0.2.1/24"], self.b, "wan", ["192.0.2.2/24"]),
            (self.l, "eth0", ["10.1.0.10/24"], self.a, "lan", ["10.1.0.1/24"]),
            (self.b, "lan", ["10.2.0.1/24", "10.3.0.1/24"], self.r, "eth0", ["10.2.0.10/24", "10.3.0.10/24", "203.0.113.10/32"]),
        )  # fmt: skip
        for left, left_device, left_addresses, right, right_device, right_addresses in links:
            batch.append(
                f"link add {left_device} netns {left.name} type veth peer name {right_device} netns {right.name}"
            )
            for end, device, addresses in ((left, left_device, left_addresses), (right, right_device, right_addresses)):
                batch += [f"-n {end.name} addr add {address} dev {device}" for address in addresses]
                batch.append(f"-n {end.name} link set {device} up")
        batch += [
            f"-n {self.l.name} route add default via 10.1.0.1",
            f"-n {self.r.name} route add default via 10.2.0.1",
            # b answers for what lies behind it, in clear, as a router would
            f"-n {self.b.name} route add 203.0.113.10/32 via 10.2.0.10",
        ]
        for line in batch:
            subprocess.run(["ip", *line.split()], check=True)
        settings = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
        for gateway in (self.a, self.b):
            gateway.run("sysctl", "-q", "-w", *settings)
        return self

    def tcp_mbit_per_s(self, seconds: float = 1.5, target: str = "10.2.0.10") -> float:
        """One TCP stream from l to r."""
        server = subprocess.Popen(self.r.command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
        try:
            wait_for("iperf3 listens", lambda: ":5201" in self.r.run("ss", "-tlnH").stdout)
            words = ["iperf3", "-J", "-c", target, "-t", str(seconds), "-C", "cubic", "--connect-timeout", "3000"]
            report: dict[str, Any] = json.loads(self.l.run(*words, check=False).stdout)
            assert "error" not in report, report["error"]
            return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
        finally:
            server.kill()
            server.wait()

    def close(self) -> None:
        for namespace in (self.l, self.a, self.b, self.r):
            subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_leftovers(name: str) -> None:
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for found in re.finditer(rf"^({re.escape(name)}(\d+)[labr])\b", listing, re.MULTILINE):
        if not Path("/proc", found[2]).exists():
            subprocess.run(["ip", "netns", "del", found[1]], capture_output=True)
