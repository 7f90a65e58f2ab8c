"""Two hand-made gateways in two network namespaces, for tests and measurements.

[ns a: TUN 10.1.0.1, fd01::1] gateway a -- 192.0.2.1 (veth) 192.0.2.2 -- gateway b [ns b: TUN 10.2.0.1, fd02::1]
                                           2001:db8::1      2001:db8::2
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HELPER = Path(__file__).with_name("hand_gateway.py")
ROOT = Path(__file__).resolve().parents[2]
# `./run asan` and `./run tsan` have a build of their own
LIBRARY = os.environ["PYTHONPATH"] if os.environ.get("IPSEC_FAST_SANITIZED") else str(ROOT)
INNER = {"a": ("10.1.0.1", "fd01::1"), "b": ("10.2.0.1", "fd02::1")}
OUTER = {4: {"a": "192.0.2.1", "b": "192.0.2.2"}, 6: {"a": "2001:db8::1", "b": "2001:db8::2"}}


def sh(command: str, check: bool = True, seconds: float = 60) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=seconds)
    if check and done.returncode:
        raise RuntimeError(f"`{command}`: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Gateway:
    def __init__(self, namespace: str, settings: dict[str, Any], prefix: str = "") -> None:
        self.namespace, self.settings = namespace, settings
        self.process = subprocess.Popen(
            [*f"ip netns exec {namespace} {prefix}".split(), sys.executable, str(HELPER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": LIBRARY},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == '"ready"'

    def do(self, name: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def counters(self) -> dict[str, int]:
        return self.do("counters")["worker"]

    def sh(self, command: str, check: bool = True, seconds: float = 60) -> str:
        return sh(f"ip netns exec {self.namespace} {command}", check, seconds)

    def popen(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(f"ip netns exec {self.namespace} {command}".split(), stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.write('{"do": "quit"}\n')
            self.process.stdin.close()
            self.process.wait(5)


class Pair:
    """`outer` 4 or 6; the other arguments are settings of both gateways; `a`, `b` are settings of one."""

    def __init__(
        self,
        outer: int = 4,
        *,
        pin: bool = False,
        a: dict[str, Any] | None = None,
        b: dict[str, Any] | None = None,
        **both: Any,
    ) -> None:
        stem = f"iowork{os.getpid()}"
        self.names = {"a": f"{stem}a", "b": f"{stem}b"}
        self.close_namespaces()
        self.gateways: list[Gateway] = []
        try:
            self._build(outer, pin, {"a": {**both, **(a or {})}, "b": {**both, **(b or {})}})
        except BaseException:
            self.__exit__()
            raise

    def _build(self, outer: int, pin: bool, settings: dict[str, dict[str, Any]]) -> None:
        for name in self.names.values():
            sh(f"ip netns add {name}")
            sh(f"ip -n {name} link set lo up")
            sh(f"ip netns exec {name} sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
        sh(f"ip -n {self.names['a']} link add v0 type veth peer name v0 netns {self.names['b']}")
        for side in "ab":
            sh(f"ip -n {self.names[side]} address add {OUTER[4][side]}/24 dev v0")
            sh(f"ip -n {self.names[side]} address add {OUTER[6][side]}/64 dev v0 nodad")
            sh(f"ip -n {self.names[side]} link set v0 up")
        # until a neighbour is found a packet waits for it, over IPv6 a second where the first question came too early
        sh(f"ip netns exec {self.names['a']} ping -n -c 1 -w 10 {OUTER[outer]['b']}")
        self.a = self._gateway("a", outer, 0x1001, 0x2002, settings["a"], "taskset -c 0" if pin else "")
        self.b = self._gateway("b", outer, 0x2002, 0x1001, settings["b"], "taskset -c 1" if pin else "")

    def _gateway(self, side: str, outer: int, spi_out: int, spi_in: int, extra: dict[str, Any], prefix: str) -> Gateway:
        other = "b" if side == "a" else "a"
        settings = {
            "tun": "ipsec0",
            "mtu": 1400,
            "inner": [f"{INNER[side][0]}/32", f"{INNER[side][1]}/128"],
            "routes": [f"{INNER[other][0]}/32", f"{INNER[other][1]}/128"],
            "outer": OUTER[outer][side],
            "remote": OUTER[outer][other],
            "policies": [
                [f"{INNER[side][0]}/32", f"{INNER[other][0]}/32"],
                [f"{INNER[side][1]}/128", f"{INNER[other][1]}/128"],
            ],
            "spi_out": spi_out,
            "spi_in": spi_in,
            **extra,
        }
        self.gateways.append(Gateway(self.names[side], settings, prefix))
        return self.gateways[-1]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for gateway in self.gateways:
            gateway.close()
        self.close_namespaces()

    def close_namespaces(self) -> None:
        for name in self.names.values():
            sh(f"ip netns del {name}", check=False)
