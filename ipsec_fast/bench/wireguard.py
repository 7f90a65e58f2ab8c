"""wireguard-go on both gateways of a topology, set up through its control socket as `wg` does. Called by tunnels.py.

Each instance is told apart by its interface's name, which is its control socket's name too.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ..demo.topology import Topology
from ..errors import HostError

PACKAGE = "wireguard-go"
PORT = 51820
SOCKETS = Path("/run/wireguard")
# of each gateway: interface, address of the peer, network behind the peer
SITES = {"gw1": ("wg1", "192.0.2.2", "10.2.0.0/24"), "gw2": ("wg2", "192.0.2.1", "10.1.0.0/24")}


def missing() -> str:
    """What to install where wireguard-go is not here; empty where it is."""
    return "" if shutil.which("wireguard-go") else f"no wireguard-go: apt-get install --no-install-recommends {PACKAGE}"


def version() -> str:
    """Its first line of `--version`, or `unknown`."""
    done = subprocess.run(["wireguard-go", "--version"], capture_output=True, text=True, timeout=10)
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def start(net: Topology, mtu: int) -> list[subprocess.Popen[bytes]]:
    """Both instances, running and routed; HostError where one does not start."""
    keys = {node: X25519PrivateKey.generate() for node in SITES}
    processes = []
    for node, (name, peer, network) in SITES.items():
        processes.append(
            net.start(
                node, "wireguard-go", "-f", name,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | {"WG_PROCESS_FOREGROUND": "1"},
            )
        )  # fmt: skip
        other = next(key for where, key in keys.items() if where != node)
        private = keys[node].private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex()
        public = other.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        _configure(
            name,
            f"set=1\nprivate_key={private}\nlisten_port={PORT}\npublic_key={public}\nendpoint={peer}:{PORT}\n"
            f"allowed_ip={network}\n\n",
        )
        net.run(node, "ip", "link", "set", name, "mtu", str(mtu), "up")
        net.run(node, "ip", "route", "add", network, "dev", name)
    return processes


def _configure(name: str, text: str) -> None:
    path = SOCKETS / f"{name}.sock"
    deadline = time.monotonic() + 5
    while not path.exists():
        if time.monotonic() > deadline:
            raise HostError(f"wireguard-go has no control socket {path} after 5 s")
        time.sleep(0.02)
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(text.encode())
        answer = control.recv(4096).decode()
    if "errno=0" not in answer:
        raise HostError(f"wireguard-go refuses its configuration: {' '.join(answer.split())}")
