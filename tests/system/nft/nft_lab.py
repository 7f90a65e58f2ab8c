"""A gateway in the test's own network namespace, with a host inside, a router outside and a TUN that the test holds.

    10.1.0.10 host (lan) 10.1.0.1 gateway 192.0.2.1 (wan) 192.0.2.2 router
    fd00:1::10           fd00:1::1        2001:db8::1     2001:db8::2

Whatever is not connected goes to the router, so a packet that should have been protected would be seen there in clear; 10.1.0.0/16 and
fd00:1::/32 are behind the host. Frames are made by hand: any source, from either side. After each packet a stop packet of
another protocol follows the same way, so that nothing is waited for that does not come; wherever it comes out counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from policy_twin import Packet

from ipsec_fast.demo.namespaces import in_namespace

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
STOP = 253  # a protocol for experiments (RFC 3692); no policy of a test covers it with these addresses
STOP_ENDS = {
    ("lan", 4): ("10.1.255.1", "198.18.0.2"),
    ("lan", 6): ("fd00:1:ffff::1", "2001:2::2"),
    ("wan", 4): ("198.18.0.1", "198.18.0.2"),
    ("wan", 6): ("2001:2::1", "2001:2::2"),
}
ETH = {4: 0x0800, 6: 0x86DD}
WAIT_S = 5.0


def sh(line: str) -> str:
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def upper_of(packet: Packet, payload: bytes) -> bytes:
    if packet.protocol == 6:
        assert packet.ports
        return struct.pack("!HHIIBBHHH", *packet.ports, 1, 0, 0x50, 2, 1024, 0, 0) + payload
    if packet.protocol in (17, 132, 136):
        assert packet.ports
        return struct.pack("!HHHH", *packet.ports, 8 + len(payload), 0) + payload
    if packet.protocol in (1, 58):
        assert packet.ports
        body = struct.pack("!HHHH", packet.ports[0], 0, 7, 1) + payload
        pseudo = (
            b""
            if packet.protocol == 1
            else packet.source.packed + packet.target.packed + struct.pack("!II", len(body), 58)
        )
        return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return payload


def ip_of(packet: Packet, payload: bytes, *, fragment: int = 0, hops: int = 9) -> bytes:
    """`fragment`: the field of IPv4 (flags and offset); `payload` is then the piece itself."""
    upper = payload if fragment else upper_of(packet, payload)
    if packet.source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(upper), packet.protocol, hops)
        return head + packet.source.packed + packet.target.packed + upper
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), 0x4242, fragment, hops, packet.protocol, 0)
    head += packet.source.packed + packet.target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + upper


@dataclass(frozen=True)
class Arrived:
    """Where the packet was seen: "tun", "wan", "lan", "local"; None nowhere."""

    where: str | None
    data: bytes = b""


class Tun:
    def __init__(self, name: str = "ipsec0") -> None:
        self.name = name
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
        sh(f"sysctl -qw net.ipv6.conf.{name}.addr_gen_mode=1; ip link set {name} up mtu 1400")
        self.index = socket.if_nametoindex(name)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Lab:
    """`gateway` is the thread that made it; `close` takes everything away."""

    def __init__(self) -> None:
        self.names = {side: f"nl{os.getpid()}{side}" for side in ("host", "router")}
        self.tun: Tun | None = None
        self._open: list[socket.socket] = []

    def build(self, rp_filter: int = 0) -> None:
        host, router = self.names["host"], self.names["router"]
        sh(f"ip link set lo up; ip netns add {host}; ip netns add {router}")
        for device, name in (("lan", host), ("wan", router)):
            sh(f"ip link add {device} type veth peer name {device} netns {name}; ip link set {device} up")
            sh(f"ip -n {name} link set lo up; ip -n {name} link set {device} up")
        sh(
            "ip addr add 10.1.0.1/24 dev lan; ip addr add fd00:1::1/64 dev lan nodad;"
            "ip addr add 192.0.2.1/24 dev wan; ip addr add 2001:db8::1/64 dev wan nodad;"
            "ip route add default via 192.0.2.2; ip route add default via 2001:db8::2;"
            "ip route add 10.1.0.0/16 via 10.1.0.10; ip route add fd00:1::/32 via fd00:1::10;"
            f"ip -n {host} addr add 10.1.0.10/24 dev lan; ip -n {host} addr add fd00:1::10/64 dev lan nodad;"
            f"ip -n {router} addr add 192.0.2.2/24 dev wan; ip -n {router} addr add 2001:db8::2/64 dev wan nodad"
        )
        self.rp_filter(rp_filter)
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        self._neighbours()
        self.ends = {
            device: self._capture(
                in_namespace(f"/run/netns/{name}", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)),
                device,
                name,
            )
            for device, name in (("lan", host), ("wan", router))
        }
        self.macs = {
            device: bytes.fromhex(sh(f"cat /sys/class/net/{device}/address").strip().replace(":", ""))
            if False
            else self._mac(device)
            for device in ("lan", "wan")
        }
        self.open_tun()

    def _mac(self, device: str) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            return fcntl.ioctl(one, 0x8927, struct.pack("256s", device.encode()))[18:24]

    def _neighbours(self) -> None:
        """The other sides' addresses are known, so that the first packet waits for nobody."""
        for device, name, addresses in (
            ("lan", self.names["host"], ("10.1.0.10", "fd00:1::10")),
            ("wan", self.names["router"], ("192.0.2.2", "2001:db8::2")),
        ):
            mac = sh(f"ip -n {name} -o link show {device}").split("link/ether ")[1].split()[0]
            for address in addresses:
                sh(f"ip neigh replace {address} lladdr {mac} dev {device} nud permanent")

    def rp_filter(self, value: int) -> None:
        for device in ("all", "default", "lan", "wan", *(["ipsec0"] if self.tun else [])):
            sh(f"sysctl -qw net.ipv4.conf.{device}.rp_filter={value}")

    def open_tun(self, name: str = "ipsec0") -> Tun:
        self.tun = Tun(name)
        return self.tun

    def _capture(self, one: socket.socket, device: str, name: str) -> socket.socket:
        index = int(sh(f"ip -n {name} -o link show {device}").split(":")[0])
        in_namespace(f"/run/netns/{name}", lambda: one.bind((device, 3)))
        assert index
        one.setblocking(False)
        self._open.append(one)
        return one

    # --- packets

    def send(self, side: str, packet: bytes) -> None:
        """From "lan" or "wan" to the gateway, or out of the "tun"."""
        if side == "tun":
            assert self.tun
            os.write(self.tun.fd, packet)
            return
        head = self.macs[side] + bytes.fromhex("020000000001") + struct.pack("!H", ETH[packet[0] >> 4])
        self.ends[side].send(head + packet)

    def where(self, side: str, packet: Packet, *, payload: bytes = b"payload payload", hops: int = 9) -> str | None:
        """Where a packet comes out that arrives at `side`: "tun", "lan", "wan", "local" or None."""
        return self.pass_through(side, [ip_of(packet, payload, hops=hops)], packet)[0]

    def pass_through(self, side: str, packets: list[bytes], packet: Packet) -> tuple[str | None, list[bytes]]:
        """The same for several (fragments), with what was seen."""
        self.drain()
        local = self._local(packet)
        for one in packets:
            self.send(side, one)
        version = packet.source.version
        for end in ("wan", "lan"):
            ends = [ipaddress.ip_address(one) for one in STOP_ENDS[end, version]]
            self.send(end, ip_of(Packet(ends[0], ends[1], STOP), b"stop"))
        seen: dict[str, list[bytes]] = {}
        until = time.monotonic() + WAIT_S
        stops = 0
        while stops < 2:
            assert time.monotonic() < until, "the stop packet did not come"
            for name, data in self._read():
                if _is_stop(data):
                    stops += 1
                elif _same_ends(data, packet):
                    seen.setdefault(name, []).append(data)
        with contextlib.suppress(BlockingIOError), local as one:
            while True:
                data, sender = one.recvfrom(65536)
                if sender[0].split("%")[0] == str(packet.source):
                    seen.setdefault("local", []).append(data)
        assert len(seen) <= 1, f"{packet} was seen at {sorted(seen)}"
        return next(iter(seen.items()), (None, []))

    def drain(self) -> None:
        while self._read(0):
            pass

    def _local(self, packet: Packet) -> socket.socket:
        family = socket.AF_INET if packet.source.version == 4 else socket.AF_INET6
        one = socket.socket(family, socket.SOCK_RAW, packet.protocol)
        one.setblocking(False)
        return one

    def _read(self, timeout_s: float = 0.05) -> list[tuple[str, bytes]]:
        """(device, IP packet) of what left the gateway."""
        files = {**{one: name for name, one in self.ends.items()}}
        if self.tun and self.tun.fd >= 0:
            files[self.tun.fd] = "tun"  # type: ignore[index]
        found: list[tuple[str, bytes]] = []
        try:
            ready, _, _ = select.select(list(files), [], [], timeout_s)
        except OSError:  # a test closes the TUN meanwhile
            return found
        for one in ready:
            with contextlib.suppress(OSError):
                if isinstance(one, int):
                    found.append(("tun", os.read(one, 65536)))
                    continue
                data, sender = one.recvfrom(65536)
                if sender[2] != socket.PACKET_OUTGOING:
                    found.append((files[one], data[14:]))
        return found

    def close(self) -> None:
        if self.tun:
            self.tun.close()
        for one in self._open:
            one.close()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _is_stop(data: bytes) -> bool:
    return (data[0] >> 4 == 4 and data[9] == STOP) or (data[0] >> 4 == 6 and data[6] == STOP)


def _same_ends(data: bytes, packet: Packet) -> bool:
    if not data or data[0] >> 4 != packet.source.version or _is_stop(data):
        return False
    if packet.source.version == 4:
        return data[12:20] == packet.source.packed + packet.target.packed and data[9] == packet.protocol
    return data[8:40] == packet.source.packed + packet.target.packed and data[6] in (packet.protocol, 44)


@contextlib.contextmanager
def lab(rp_filter: int = 0) -> Iterator[Lab]:
    made = Lab()
    try:
        made.build(rp_filter)
        yield made
    finally:
        made.close()
