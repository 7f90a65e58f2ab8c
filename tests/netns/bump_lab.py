"""Two bumps in the wire (docs/examples/gso_bump.py) in namespaces, a host with its default offloads behind each.

h 10.1.0.10 --- 10.1.0.1 lan a wan 192.0.2.1 ===== 192.0.2.2 wan b lan 10.2.0.1 --- 10.2.0.10 r
  fd01::10      fd01::1                                               fd02::1       fd02::10
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import Namespace

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "gso_bump.py"
SPI = {"a": 0x1001, "b": 0x2001}
NET = {"a": ("10.1.0", "fd01:"), "b": ("10.2.0", "fd02:")}


class BumpLab:
    def __init__(self) -> None:
        self.h, self.a, self.b, self.r = (Namespace(f"bump{os.getpid()}{letter}") for letter in "habr")
        self.hosts = {"a": self.h, "b": self.r}
        self.bumps = {"a": self.a, "b": self.b}

    def __enter__(self) -> BumpLab:
        for namespace in (self.h, self.a, self.b, self.r):
            sh(f"ip netns add {namespace.name}")
            sh(f"ip -n {namespace.name} link set lo up")
            sh(f"ip netns exec {namespace.name} sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
        sh(f"ip link add wan netns {self.a.name} type veth peer name wan netns {self.b.name}")
        for side, other in ("ab", "ba"):
            host, bump, (v4, v6), far = self.hosts[side].name, self.bumps[side].name, NET[side], NET[other]
            sh(f"ip link add eth0 netns {host} type veth peer name lan netns {bump}")
            for device in ("lan", "wan"):
                sh(
                    f"ip netns exec {bump} sysctl -qw net.ipv4.conf.{device}.forwarding=0 net.ipv6.conf.{device}.forwarding=0"
                )
            last = 1 if side == "a" else 2
            for line in (
                f"-n {bump} address add 192.0.2.{last}/24 dev wan",
                f"-n {bump} address add {v4}.1/24 dev lan",
                f"-n {bump} address add {v6}:1/64 dev lan nodad",
                f"-n {host} address add {v4}.10/24 dev eth0",
                f"-n {host} address add {v6}:10/64 dev eth0 nodad",
                f"-n {bump} link set wan up",
                f"-n {bump} route add blackhole {far[0]}.0/24",
                f"-n {bump} -6 route add blackhole {far[1]}:/64",
                f"-n {bump} link set lan up",
                f"-n {host} link set eth0 up",
                f"-n {host} route add {far[0]}.0/24 via {v4}.1",
                f"-n {host} route add {far[1]}:/64 via {v6}:1",
            ):
                sh(f"ip {line}")
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (self.h, self.a, self.b, self.r):
            sh(f"ip netns del {namespace.name}", check=False)

    def mac(self, side: str) -> str:
        """Of the host behind a bump."""
        return str(json.loads(self.hosts[side].run("ip", "-j", "link", "show", "eth0").stdout)[0]["address"])

    def bump(self, side: str, *extra: str, workers: int = 1, prefix: str = "") -> Bump:
        """`extra`: arguments of the example."""
        other = "b" if side == "a" else "a"
        words = [
            *prefix.split(), sys.executable, str(EXAMPLE), "--inner", "lan", "--outer", f"192.0.2.{1 if side == 'a' else 2}",
            "--peer", f"192.0.2.{2 if side == 'a' else 1}", "--spi-out", str(SPI[side]),
            "--spi-in", str(SPI[other]), "--host", f"{NET[side][0]}.10", *extra,
        ]  # fmt: skip
        for local, remote, rest in zip(NET[side], NET[other], (".0/24", ":/64"), strict=True):
            words += ["--protect", f"{local}{rest}={remote}{rest}"]
        for number in range(workers):
            keys = {one: bytes([SPI[one] >> 8 & 0xFF, number, *range(18)]).hex() for one in "ab"}
            words += ["--key-out", keys[side], "--key-in", keys[other]]
        return Bump(self.bumps[side], words)

    @contextmanager
    def both(self, *extra: str, workers: int = 1) -> Iterator[tuple[Bump, Bump]]:
        with self.bump("a", *extra, workers=workers) as a, self.bump("b", *extra, workers=workers) as b:
            yield a, b


class Bump:
    """A running example; `report` ends it and gives what it counted, the workers' counters added up under "all"."""

    def __init__(self, namespace: Namespace, words: list[str]) -> None:
        self.process = subprocess.Popen(
            namespace.command(*words), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def __enter__(self) -> Bump:
        assert self.said == "ready", self.said
        return self

    def report(self) -> dict[str, Any]:
        self.process.terminate()
        text, _ = self.process.communicate(timeout=10)
        found: dict[str, Any] = json.loads(text)
        found["all"] = {name: sum(w[name] for w in found["workers"]) for name in found["workers"][0]}
        return found

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=10)


def sh(command: str, check: bool = True) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
