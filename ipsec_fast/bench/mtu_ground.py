"""Where `bench mtu` and the tests of path MTUs take place: two hosts, two gateways, and a router between these whose MTU changes.

    host1 10.1.0.10 --- 10.1.0.1 gw1 192.0.2.1 === 192.0.2.2 router 198.51.100.2 === 198.51.100.1 gw2 10.2.0.1 --- 10.2.0.10 host2
          fd00:1::10    fd00:1::1    2001:db8:1::1                  2001:db8:2::1                     fd00:2::1    fd00:2::10

`set_path` gives the router's routes to both gateways an MTU: what is longer it answers by ICMP, and with `filtered` it says nothing. A
`Transfer` is one TCP connection through the tunnel, paced, whose receiver notes when bytes arrive. Called by mtu.py and the tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..demo.namespaces import in_namespace, python_path
from ..errors import HostError
from ..gateway.vici.client import ViciClient
from ..gateway.vici.codec import to_text
from ..gateway.vici.status import read_status

NODES = ("host1", "gw1", "router", "gw2", "host2")
LINKS = (
    ("host1", "lan", "gw1", "lan"),
    ("gw1", "wan", "router", "left"),
    ("router", "right", "gw2", "wan"),
    ("gw2", "lan", "host2", "lan"),
)
ADDRESSES = {
    ("host1", "lan"): ("10.1.0.10/24", "fd00:1::10/64"),
    ("gw1", "lan"): ("10.1.0.1/24", "fd00:1::1/64"),
    ("gw1", "wan"): ("192.0.2.1/24", "2001:db8:1::1/64"),
    ("router", "left"): ("192.0.2.2/24", "2001:db8:1::2/64"),
    ("router", "right"): ("198.51.100.2/24", "2001:db8:2::2/64"),
    ("gw2", "wan"): ("198.51.100.1/24", "2001:db8:2::1/64"),
    ("gw2", "lan"): ("10.2.0.1/24", "fd00:2::1/64"),
    ("host2", "lan"): ("10.2.0.10/24", "fd00:2::10/64"),
}  # fmt: skip
DEFAULT_ROUTES = {
    "host1": ("10.1.0.1", "fd00:1::1"),
    "gw1": ("192.0.2.2", "2001:db8:1::2"),
    "gw2": ("198.51.100.2", "2001:db8:2::2"),
    "host2": ("10.2.0.1", "fd00:2::1"),
}
OUTER = {"gw1": {4: "192.0.2.1", 6: "2001:db8:1::1"}, "gw2": {4: "198.51.100.1", 6: "2001:db8:2::1"}}
HOST = {"host1": {4: "10.1.0.10", 6: "fd00:1::10"}, "host2": {4: "10.2.0.10", 6: "fd00:2::10"}}
TOWARDS = {"gw1": "left", "gw2": "right"}
FILTER = (
    "table inet mute { chain out { type filter hook output priority 0; "
    "icmp type { destination-unreachable, time-exceeded, echo-reply } drop; icmpv6 type packet-too-big drop; }; }"
)
CONFIG = """\
[gateway]
socket = "{folder}/vici"
{gateway}
[connections.site]
local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
proposals = ["aes128gcm16-prfsha256-x25519"]
local = {{ auth = "psk", id = "{node}.example" }}
remote = {{ auth = "psk", id = "{peer}.example" }}
{connection}
[connections.site.children.net]
local_ts = ["10.{here}.0.0/24", "fd00:{here}::/64"]
remote_ts = ["10.{there}.0.0/24", "fd00:{there}::/64"]
esp_proposals = ["{esp}"]
{child}
[secrets.ike-site]
file = "{psk}"
"""
PORT = 7100
SO_MAX_PACING_RATE = 47
SIOCETHTOOL, ETHTOOL_GSTRINGS, ETHTOOL_GSSET_INFO, ETHTOOL_SFEATURES = 0x8946, 0x1B, 0x37, 0x3B
ETH_SS_FEATURES, NAME_BYTES = 4, 32
PACE_BYTES_PER_S = 4_000_000  # so that no queue but the pacer's is full, and a stall is the path's
WAIT_S = 20.0
Tree = dict[str, Any]


class Ground:
    """The namespaces while they exist; `with Ground(folder, mtu=1500) as ground:`. `folder` takes configurations and logs."""

    def __init__(self, folder: Path, *, mtu: int = 1500, inside: int | None = None, prefix: str = "mtu") -> None:
        self.folder, self.mtu = folder, mtu
        self.inside = mtu if inside is None else inside
        self._stem = f"{prefix}-{os.getpid()}"
        self._processes: list[subprocess.Popen[Any]] = []
        self.psk = folder / "site.psk"
        self.psk.write_text(os.urandom(24).hex())
        self.psk.chmod(0o600)

    def __enter__(self) -> Ground:
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
        return f"{self._stem}-{node}"

    def run(self, node: str, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.name(node), *words], capture_output=True, text=True, timeout=60
        )
        if check and done.returncode:
            raise HostError(f"{' '.join(words)} in {node}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def start(self, node: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
        process = subprocess.Popen(["ip", "netns", "exec", self.name(node), *words], **options)
        self._processes.append(process)
        return process

    def socket(
        self, node: str, family: socket.AddressFamily = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        return in_namespace(f"/run/netns/{self.name(node)}", lambda: socket.socket(family, kind))

    def gateway(self, node: str, **config: Any) -> Gateway:
        return Gateway(self, node, **config)

    def close(self) -> None:
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
        for node in NODES:
            subprocess.run(["ip", "netns", "del", self.name(node)], capture_output=True)

    # --- the path

    def set_path(self, mtu: int | None, *, filtered: bool | None = None) -> None:
        """What is longer is not forwarded any more, in either direction; None: the links' own MTU again."""
        if filtered is not None:
            self.set_filter(filtered)
        for node, device in TOWARDS.items():
            for version, length in ((4, 32), (6, 128)):
                target = f"{OUTER[node][version]}/{length}"
                words = [f"-{version}", "route", "del" if mtu is None else "replace", target, "dev", device]
                limit = [] if mtu is None else ["mtu", "lock", str(mtu)]
                self.run("router", "ip", *words, *limit, check=mtu is not None)

    def set_filter(self, filtered: bool) -> None:
        """Whether the router keeps its ICMP to itself."""
        self.run("router", "nft", "delete", "table", "inet", "mute", check=False)
        if filtered:
            self.run("router", "nft", FILTER)

    def set_link(self, node: str, mtu: int) -> None:
        """The link between the router and this gateway, both ends."""
        self.run(node, "ip", "link", "set", "wan", "mtu", str(mtu))
        self.run("router", "ip", "link", "set", TOWARDS[node], "mtu", str(mtu))

    def cut_before_capture(self, node: str, device: str = "wan") -> None:
        """tx-udp-segmentation off: a capture there sees packets as they are on the wire, not super-packets."""
        in_namespace(f"/run/netns/{self.name(node)}", lambda: _switch_off(device, b"tx-udp-segmentation"))

    def _build(self) -> None:
        for node in NODES:
            subprocess.run(["ip", "netns", "del", self.name(node)], capture_output=True)
            _ip("netns", "add", self.name(node))
            for key in ("all", "default"):
                self._write(node, f"net/ipv4/conf/{key}/rp_filter", "0")
                self._write(node, f"net/ipv6/conf/{key}/accept_dad", "0")
            _ip("-n", self.name(node), "link", "set", "lo", "up")
        for left, left_device, right, right_device in LINKS:
            mtu = str(self.inside if "lan" in (left_device, right_device) else self.mtu)
            peer = ("peer", "name", right_device, "netns", self.name(right))
            _ip("-n", self.name(left), "link", "add", left_device, "mtu", mtu, "type", "veth", *peer)
            _ip("-n", self.name(right), "link", "set", right_device, "mtu", mtu)
        for (node, device), addresses in ADDRESSES.items():
            for address in addresses:
                _ip(
                    "-n",
                    self.name(node),
                    "addr",
                    "add",
                    address,
                    "dev",
                    device,
                    *(("nodad",) if ":" in address else ()),
                )
            _ip("-n", self.name(node), "link", "set", device, "up")
        for node, gateways in DEFAULT_ROUTES.items():
            for via in gateways:
                _ip("-n", self.name(node), "route", "add", "default", "via", via)
        for node in ("gw1", "router", "gw2"):
            self._write(node, "net/ipv4/ip_forward", "1")
            self._write(node, "net/ipv6/conf/all/forwarding", "1")
        for node in ("host1", "host2"):
            with contextlib.suppress(OSError):  # what TCP does about a stall shall not depend on the host's taste
                self._write(node, "net/ipv4/tcp_congestion_control", "cubic")

    def _write(self, node: str, name: str, value: str) -> None:
        in_namespace(f"/run/netns/{self.name(node)}", lambda: Path("/proc/sys", name).write_text(value))


class Gateway:
    """One gateway process; `connection`, `child`, `gateway` are more lines of its configuration's sections."""

    def __init__(
        self, ground: Ground, node: str, *, outer: int = 4, esp: str = "aes128gcm16",
        connection: str = "", child: str = "", gateway: str = "",
    ) -> None:  # fmt: skip
        self.node, self._ground = node, ground
        peer = "gw2" if node == "gw1" else "gw1"
        self.folder = ground.folder / node
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "site.toml"
        config.write_text(
            CONFIG.format(
                folder=self.folder,
                node=node,
                peer=peer,
                local=OUTER[node][outer],
                remote=OUTER[peer][outer],
                here=node[2],
                there=peer[2],
                esp=esp,
                connection=connection,
                child=child,
                gateway=gateway,
                psk=ground.psk,
            )
        )
        self.log = self.folder / "gateway.log"
        with open(self.log, "ab") as log:
            self.process = ground.start(
                node, sys.executable, "-m", "ipsec_fast", "gateway", str(config),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.wait_until("it listens", self._answers)

    def client(self) -> ViciClient:
        return ViciClient(str(self.folder / "vici"))

    def initiate(self) -> None:
        with self.client() as client:
            answer = to_text(client.request("initiate", {"child": "net", "ike": "site", "timeout": "15000"}))
        if answer.get("success") != "yes":
            raise HostError(f"{self.node}: {answer.get('errmsg')}; {self.words()}")

    def probe(self) -> None:
        with self.client() as client:
            client.request("probe-mtu", {"child": "net"})

    def status(self) -> Tree:
        with self.client() as client:
            return read_status(client)

    def child(self) -> Tree:
        """The youngest Child SA that is installed; empty where there is none."""
        found = [child for sa in self.status()["ike_sas"] for child in sa["child-sas"] if child["state"] == "INSTALLED"]
        return max(found, key=lambda child: int(child["uniqueid"]), default={})

    def counters(self) -> dict[str, int]:
        with self.client() as client:
            return {key: int(value) for key, value in to_text(client.request("stats")).get("counters", {}).items()}

    def wait_for_mtu(self, mtu: int) -> Tree:
        """Its Child SA, once its path has this MTU."""
        found: Tree = self.wait_until(f"a path MTU of {mtu}", lambda: (c := self.child()).get("path-mtu") == mtu and c)
        return found

    def wait_for_source(self, source: str) -> None:
        """Until its path's MTU comes from there."""
        self.wait_until(f"a path MTU by {source}", lambda: self.child().get("path-mtu-source") == source)

    def wait_until(self, what: str, look: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        until = time.monotonic() + seconds
        while not (found := look()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise HostError(f"{self.node}: not within {seconds:g} s: {what}; {self.words()}")
            time.sleep(0.02)
        return found

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.request("version")
        except HostError:
            return False
        return True


class Transfer:
    """TCP from one host to the other until `stop`. `arrivals`: (monotonic seconds, bytes so far) at the receiver."""

    _ports = itertools.count(PORT)

    def __init__(
        self,
        ground: Ground,
        source: str = "host1",
        target: str = "host2",
        *,
        version: int = 4,
        pace: int = PACE_BYTES_PER_S,
    ) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.arrivals: list[tuple[float, int]] = []
        self._end = threading.Event()
        self._listener = ground.socket(target, family)
        self._sender = ground.socket(source, family)
        try:
            self._listener.bind((HOST[target][version], next(self._ports)))
            self._listener.listen(1)
            self._sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
            self._sender.settimeout(WAIT_S)
            self._sender.connect(self._listener.getsockname()[:2])
            self._receiver, _ = self._listener.accept()
        except OSError as error:
            self._listener.close()
            self._sender.close()
            raise HostError(f"no TCP connection from {source} to {target}: {error}") from None
        self._threads = [
            threading.Thread(target=self._send, daemon=True),
            threading.Thread(target=self._receive, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def mss(self) -> int:
        """What the sender puts into a segment now."""
        return self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    @property
    def received(self) -> int:
        return self.arrivals[-1][1] if self.arrivals else 0

    def wait_for(self, more_bytes: int, seconds: float = WAIT_S) -> None:
        """Until so many bytes more have arrived."""
        wanted, until = self.received + more_bytes, time.monotonic() + seconds
        while self.received < wanted:
            if time.monotonic() > until:
                raise HostError(
                    f"the transfer stands still: {wanted - self.received} of {more_bytes} bytes did not come in {seconds:g} s"
                )
            time.sleep(0.005)

    def longest_gap_s(self, since: float, until: float) -> float:
        """The longest time without a byte, between two moments."""
        times = [since, *(at for at, _ in self.arrivals if since <= at <= until), until]
        return max(b - a for a, b in itertools.pairwise(times))

    def stop(self) -> int:
        """Ends it; how many bytes arrived."""
        self._end.set()
        for thread in self._threads:
            thread.join(10)
        for one in (self._sender, self._receiver, self._listener):
            one.close()
        return self.received

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def _send(self) -> None:
        data = bytes(65536)
        self._sender.settimeout(0.2)
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                self._sender.send(data)
        with contextlib.suppress(OSError):
            self._sender.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> None:
        self._receiver.settimeout(0.2)
        total = 0
        while not self._end.is_set():
            try:
                data = self._receiver.recv(1 << 20)
            except TimeoutError:
                continue
            if not data:
                return
            total += len(data)
            self.arrivals.append((time.monotonic(), total))


def _switch_off(device: str, feature: bytes) -> None:
    """As `ethtool -K DEVICE FEATURE off` (linux/ethtool.h)."""

    def ask(data: bytes) -> bytes:
        value = ctypes.create_string_buffer(data, len(data))
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value)))
        return value.raw

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        (count,) = struct.unpack_from(
            "=I", ask(struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0)), 16
        )
        names = ask(struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * NAME_BYTES))[12:]
        found = [names[at : at + NAME_BYTES].rstrip(b"\0") for at in range(0, len(names), NAME_BYTES)].index(feature)
        blocks = [[0, 0] for _ in range(-(-count // 32))]
        blocks[found // 32][0] = 1 << found % 32  # which bits are meant; what they shall be is 0
        ask(
            struct.pack("=II", ETHTOOL_SFEATURES, len(blocks))
            + b"".join(struct.pack("=II", *block) for block in blocks)
        )


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"`ip {' '.join(words)}` says {done.stderr.strip()}")
