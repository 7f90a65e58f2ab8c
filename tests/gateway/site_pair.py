"""Two of our gateways, as processes, in network namespaces; shared by the tests that need the whole.

    10.1.0.1 {prefix}a 192.0.2.1 ===== 192.0.2.2 {prefix}b 10.2.0.1

The inner addresses stand on the loopback devices; a route through the other side's outer address is there too, so that a packet that
should have been protected would find its way in clear.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ipsec_fast.bench.wiretap import Wiretap
from ipsec_fast.demo.namespaces import in_namespace

PSK = "a long shared secret, swordfish"
SIDES = {"a": ("1", "2", "b"), "b": ("2", "1", "a")}
OUTER = {"4": "192.0.2.", "6": "2001:db8::"}
INNER = {"4": "10.{}.0.0/24", "6": "fd00:{}::/64"}
INNER_ADDRESS = {"4": "10.{}.0.1", "6": "fd00:{}::1"}
INNER_NETWORKS = (IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24"))


def sh(line: str, *, check: bool = True) -> str:
    done = subprocess.run(line.split(), capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{line}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def write_config(directory: Path, side: str, *, start: str = "none", psk: str = PSK, **changes: str) -> Path:
    """`gateway`, `connection`, `child` are more lines of those sections; other
    `changes`: workers (one; "" for the default), outer and inner ("4" or "6"), local_id, remote_id, local_ts, remote_ts, proposals, esp."""
    own, other, peer = SIDES[side]
    outer, inner = OUTER[changes.get("outer", "4")], INNER[changes.get("inner", "4")]
    values = {
        "local_id": f"{side}.example",
        "remote_id": f"{peer}.example",
        "local_ts": inner.format(own),
        "remote_ts": inner.format(other),
        "proposals": "aes128gcm16-prfsha256-x25519",
        "esp": "aes128gcm16",
        "gateway": "",
        "workers": "workers = 1",
        "connection": "",
        "child": "",
    } | changes
    secret = directory / f"{side}.psk"
    secret.write_text(psk)
    secret.chmod(0o600)
    file = directory / f"{side}.toml"
    file.write_text(f"""
[gateway]
socket = "{directory}/{side}.vici"
{values["workers"]}
{values["gateway"]}
[connections.site]
local_addrs = ["{outer}{own}"]
remote_addrs = ["{outer}{other}"]
proposals = ["{values["proposals"]}"]
local = {{ auth = "psk", id = "{values["local_id"]}" }}
remote = {{ auth = "psk", id = "{values["remote_id"]}" }}
{values["connection"]}
[connections.site.children.net]
local_ts = ["{values["local_ts"]}"]
remote_ts = ["{values["remote_ts"]}"]
esp_proposals = ["{values["esp"]}"]
start_action = "{start}"
{values["child"]}
[secrets.ike-1]
file = "{secret}"
""")
    return file


class Gateway:
    """One process; `stop` is orderly, `kill` is not."""

    def __init__(self, netns: str, config: Path, without: str = "") -> None:
        """`without`: a capability that the process cannot have, as setpriv names it."""
        self.netns, self.config = netns, config
        self.log = config.with_suffix(".log")
        bound = ["setpriv", f"--bounding-set=-{without}"] if without else []
        command = ["ip", "netns", "exec", netns, *bound, sys.executable, "-m", "ipsec_fast", "gateway", str(config)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_for(self, text: str, limit_s: float = 30.0) -> Gateway:
        until = time.monotonic() + limit_s
        while text not in self.text():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{text!r} did not come (exit {self.process.poll()}):\n{self.text()}")
            time.sleep(0.02)
        return self

    def text(self) -> str:
        return self.log.read_text()

    def command(self, *words: str, check: bool = True) -> str:
        return sh(
            f"{sys.executable} -m ipsec_fast {' '.join(words)} --socket {self.config.with_suffix('.vici')}", check=check
        )

    def sas(self) -> list[dict]:
        return json.loads(self.command("status", "--json"))["ike_sas"]

    def exit_code(self, limit_s: float = 60.0) -> int:
        """Of one that is to end by itself; a busy host takes its time to start it."""
        return self.process.wait(limit_s)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(5)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)


def wait_until(what: str, look: Callable[[], object], limit_s: float) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def one_pair(*gateways: Gateway) -> bool:
    """Each has one IKE SA with one child, and it is the same."""
    sas = [gateway.sas() for gateway in gateways]
    return all(len(found) == 1 and len(found[0]["child-sas"]) == 1 for found in sas) and (
        len({found[0]["initiator-spi"] for found in sas}) == 1
    )


class SitePair:
    def __init__(self, prefix: str, directory: Path) -> None:
        self.prefix, self.directory = prefix, directory
        self.gateways: list[Gateway] = []

    def gateway(self, side: str, without: str = "", **config: str) -> Gateway:
        one = Gateway(self.netns(side), write_config(self.directory, side, **config), without)
        self.gateways.append(one)
        return one

    def netns(self, side: str) -> str:
        return f"{self.prefix}{side}"

    def nft(self, side: str, *lines: str, json_output: bool = False) -> str:
        command = ["ip", "netns", "exec", self.netns(side), "nft", *(["-j"] if json_output else []), "; ".join(lines)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cut(self, side: str) -> None:
        """Nothing comes in from the other side any more."""
        chain = "add chain inet cut in { type filter hook input priority -300 ; policy accept ; }"
        self.nft(side, "add table inet cut", chain, "add rule inet cut in iifname out drop")

    def mend(self, side: str) -> None:
        self.nft(side, "delete table inet cut")

    def ping(self, side: str = "a", count: int = 3, interval_s: float = 0.05, inner: str = "4") -> int:
        """How many of `count` came back."""
        source, target = (INNER_ADDRESS[inner].format(number) for number in SIDES[side][:2])
        words = f"-c{count} -i{interval_s} -W1 -I {source} {target}"
        text = sh(f"ip netns exec {self.netns(side)} ping {words}", check=False)
        return int(text.split(" received")[0].rsplit(" ", 1)[-1]) if " received" in text else 0

    def leftovers(self, side: str) -> str:
        """Everything of ours in the host's tables: routes, rules, the device, the control socket."""
        netns = self.netns(side)
        lines = [
            line
            for family in ("-4", "-6")
            for line in sh(f"ip -n {netns} {family} rule").splitlines()
            if "proto 73" in line
        ]
        for family in ("-4", "-6"):
            lines += [
                line for line in sh(f"ip -n {netns} {family} route show table all").splitlines() if "proto 73" in line
            ]
        lines += [line for line in sh(f"ip -n {netns} -o link").splitlines() if "ipsec" in line]
        lines += [str(path) for path in self.directory.glob(f"{side}.vici")]
        return "\n".join(lines)


@contextlib.contextmanager
def site_pair(prefix: str, directory: Path) -> Iterator[SitePair]:
    names = [f"{prefix}{side}" for side in SIDES]
    pair = SitePair(prefix, directory)
    try:
        for name in names:
            sh(f"ip netns del {name}", check=False)
            sh(f"ip netns add {name}")
            sh(f"ip -n {name} link set lo up")
        sh(f"ip link add out netns {names[0]} type veth peer name out netns {names[1]}")
        for name, (own, other, _) in zip(names, SIDES.values(), strict=True):
            sh(f"ip -n {name} link set out up")
            for version, length in (("4", 24), ("6", 64)):
                inner, nodad = INNER_ADDRESS[version].format(own), " nodad" if version == "6" else ""
                sh(f"ip -n {name} addr add {OUTER[version]}{own}/{length} dev out{nodad}")
                sh(f"ip -n {name} addr add {inner}/{length} dev lo{nodad}")
                sh(f"ip -n {name} route add {INNER[version].format(other)} via {OUTER[version]}{other}")
        yield pair
    finally:
        for gateway in pair.gateways:
            if gateway.process.poll() is None:
                gateway.kill()
        for name in names:
            sh(f"ip netns del {name}", check=False)


@contextlib.contextmanager
def watched(pair: SitePair) -> Iterator[Wiretap]:
    """Everything on the wire, at b's end of it."""
    raw = in_namespace(
        f"/run/netns/{pair.netns('b')}", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    )
    tap = Wiretap(raw, "out", INNER_NETWORKS)
    try:
        yield tap
    finally:
        tap.close()
    found = tap.findings
    assert tap.dropped == 0
    assert (found.repeated_numbers, found.repeated_ike_ivs, found.repeated_message_ids) == (0, 0, 0), found
    assert found.clear_packets == 0
    assert found.esp_packets


# not tcpdump: it insists on setgroups(), which a user namespace refuses
CAPTURE = """
import select, signal, socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
s.bind(("out", 3))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
print("ready", flush=True)
while select.select([s], [], [], 0.05)[0] or not stop:
    try:
        data, sender = s.recvfrom(65535, socket.MSG_DONTWAIT)
    except BlockingIOError:
        continue
    kind = sender[1]
    if kind == 0x800:
        at, protocol = (data[0] & 15) * 4, data[9]
        ends = [socket.inet_ntop(2, data[n : n + 4]) for n in (12, 16)]
    elif kind == 0x86DD:
        at, protocol = 40, data[6]
        ends = [socket.inet_ntop(10, data[n : n + 16]) for n in (8, 24)]
    else:
        continue
    port = struct.unpack_from(">H", data, at + 2)[0] if protocol == 17 else 0
    print(protocol, *ends, port)
print("lost", struct.unpack("II", s.getsockopt(263, 6, 8))[1])  # PACKET_STATISTICS
"""


@dataclass(frozen=True)
class Seen:
    """One packet on the outer device."""

    protocol: int
    source: str
    target: str
    port: int  # destination port of UDP, otherwise 0

    @property
    def is_clear(self) -> bool:
        """Traffic of the inner networks as it is; neighbours' talk (ICMPv6 between outer addresses) is none."""
        return any(end.startswith(("10.", "fd00:")) for end in (self.source, self.target))


@contextlib.contextmanager
def captured(netns: str) -> Iterator[list[Seen]]:
    """What passed the outer device meanwhile, filled in at the end; what the capture lost is an error."""
    seen: list[Seen] = []
    process = subprocess.Popen(
        ["ip", "netns", "exec", netns, sys.executable, "-c", CAPTURE], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield seen
    finally:
        process.terminate()
        *lines, last = process.communicate(timeout=5)[0].splitlines()
        assert last == "lost 0", last
        for protocol, source, target, port in (line.split() for line in lines):
            seen.append(Seen(int(protocol), source, target, int(port)))
