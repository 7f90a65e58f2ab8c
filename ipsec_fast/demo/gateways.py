"""The demo's two gateways: real `ipsec-fast gateway` processes, seen and driven through their control sockets only.

gw1 is London and initiates, gw2 is Paris and answers. Called by main.py and the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import HostError, StateError
from ..gateway.vici.client import ViciClient
from ..gateway.vici.codec import Decoded, to_text
from ..gateway.vici.status import read_status
from .namespaces import python_path
from .topology import Topology

Tree = dict[str, Any]
CHILD = "net"
PSK_FILE = "site.psk"
# of each gateway: the connection's name, own and peer's address, own and peer's identity, own and peer's networks
SITES = {
    "gw1": ("paris", "192.0.2.1", "192.0.2.2", "london.example", "paris.example", "1", "2"),
    "gw2": ("london", "192.0.2.2", "192.0.2.1", "paris.example", "london.example", "2", "1"),
}
CONFIG = """\
[gateway]
socket = "{folder}/vici"
state_dir = "{folder}/state"
state_key = "{folder}/state.key"
workers = {workers}
{gateway}

[connections.{connection}]
local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
proposals = [{proposals}]
local = {{ auth = "psk", id = "{local_id}" }}
remote = {{ auth = "psk", id = "{remote_id}" }}

[connections.{connection}.children.{child}]
local_ts = ["10.{here}.0.0/24", "fd00:{here}::/64"]
remote_ts = ["10.{there}.0.0/24", "fd00:{there}::/64"]
esp_proposals = ["{cipher}"]
rekey_time = "1h"

[secrets.ike-site]
id = ["{local_id}", "{remote_id}"]
file = "{psk}"
"""
PROPOSALS = ("aes128gcm16-prfsha256-x25519",)  # of IKE
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def write_psk(folder: Path) -> Path:
    """A random pre-shared key, readable by its owner only."""
    return write_secret(folder / PSK_FILE)


def write_secret(path: Path) -> Path:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(os.urandom(24).hex().encode() + b"\n")
    return path


class DemoGateway:
    """One gateway process in its node; `folder` holds its configuration, socket, state and log. One worker, unless `workers` says more."""

    command: tuple[str, ...] = ("-m", "ipsec_fast", "gateway")

    def __init__(
        self,
        net: Topology,
        node: str,
        folder: Path,
        psk: Path,
        *,
        cipher: str,
        gateway: str = "",
        workers: int | str = 1,
        proposals: Sequence[str] = PROPOSALS,
    ) -> None:
        self.node = node
        self.connection, local, remote, local_id, remote_id, here, there = SITES[node]
        self.folder = folder
        folder.mkdir(mode=0o700)
        write_secret(folder / "state.key")
        self.config = folder / "site.toml"
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                gateway=gateway,
                workers=json.dumps(workers),
                proposals=", ".join(f'"{proposal}"' for proposal in proposals),
                connection=self.connection,
                local=local,
                remote=remote,
                psk=psk,
                local_id=local_id,
                remote_id=remote_id,
                child=CHILD,
                here=here,
                there=there,
                cipher=cipher,
            )
        )
        self.log = folder / "gateway.log"
        self._net = net
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """The process; what it logs comes after what earlier ones logged."""
        with open(self.log, "ab") as log:
            self.process = self._net.start(
                self.node, sys.executable, *self.command, str(self.config),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        return self.process

    def kill(self) -> None:
        """`kill -9`: it has no time to say anything to its peer."""
        self.process.kill()
        self.process.wait()

    def client(self) -> ViciClient:
        return ViciClient(str(self.folder / "vici"))

    def wait_until_listening(self, seconds: float = 20) -> None:
        """Until its control socket answers; HostError with the gateway's last words where it ends before."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.client() as client:
                    client.request("version")
                return
            except HostError:
                if self.process.poll() is not None:
                    raise HostError(f"the gateway in {self.node} did not start: {self.last_words()}") from None
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the gateway in {self.node} has no control socket after {seconds:.0f} s: {self.last_words()}"
                    ) from None
            time.sleep(0.05)

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            raise HostError(
                f"the gateway in {self.node} ended with status {self.process.returncode}: {self.last_words()}"
            )

    def initiate(self, on_log: Callable[[str], None], timeout_s: float = 15) -> None:
        """Set up the child; each step of the negotiation goes to `on_log`. StateError where it fails."""

        def hear(message: Decoded) -> None:
            on_log(str(to_text(message).get("msg", "")))

        with self.client() as client:
            request = {"child": CHILD, "ike": self.connection, "timeout": str(int(timeout_s * 1000)), "loglevel": "1"}
            self._check(client.stream("initiate", "control-log", hear, request), "initiate")

    def rekey(self, what: str) -> None:
        """Ask for a rekey, of the `child` or of the `ike` SA; returns at once."""
        selector = {"child": CHILD} if what == "child" else {"ike": self.connection}
        with self.client() as client:
            self._check(client.request("rekey", selector), f"rekey of the {what} SA")

    def status(self) -> Tree:
        """The document of `ipsec-fast status --json`."""
        with self.client() as client:
            return read_status(client)

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def last_words(self, lines: int = 1) -> str:
        text = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return "; ".join(text[-lines:]) or "its log is empty"

    def _check(self, response: Decoded, what: str) -> None:
        answer = to_text(response)
        if answer.get("success", "yes") != "yes":
            raise StateError(f"{what} in {self.node} failed: {answer.get('errmsg') or 'no reason given'}")


def newest(status: Tree, what: str) -> Tree | None:
    """The youngest installed child or established IKE SA of a status; None where there is none."""
    if what == "ike":
        found = [sa for sa in status["ike_sas"] if sa["state"] == "ESTABLISHED"]
    else:
        found = [child for sa in status["ike_sas"] for child in sa["child-sas"] if child["state"] == "INSTALLED"]
    return max(found, key=lambda sa: int(sa["uniqueid"]), default=None)


def wait_for_rekey(gateways: list[DemoGateway], what: str, old: dict[str, int], seconds: float = 10) -> None:
    """Until every gateway shows a younger SA than `old` (by node); HostError names the one that does not."""
    deadline = time.monotonic() + seconds
    waiting = list(gateways)
    while waiting:
        for gateway in list(waiting):
            gateway.check_alive()
            sa = newest(gateway.status(), what)
            if sa is not None and int(sa["uniqueid"]) > old[gateway.node]:
                waiting.remove(gateway)
        if waiting and time.monotonic() > deadline:
            names = " and ".join(gateway.node for gateway in waiting)
            raise HostError(f"no rekey of the {what} SA within {seconds:.0f} s in {names}: {waiting[0].last_words(2)}")
        time.sleep(0.02)
