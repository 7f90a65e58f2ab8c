"""The packet socket by itself: what it refuses, which frames it takes and which it leaves to the kernel, how flows stick to a socket."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from inner_packets import tcp, udp

from ipsec_fast.dataplane.inner import stripped
from ipsec_fast.dataplane.packet_socket import PacketSocket
from ipsec_fast.demo.namespaces import in_namespace
from ipsec_fast.errors import HostError, StateError, UsageError

OWN, HOST, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), bytes.fromhex("020000000003")
V4, V6 = ("10.1.0.10", "10.2.0.1"), ("fd01::10", "fd02::1")
IPV4, IPV6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
NEEDS_CSUM = 1


def vnet(flags: int = 0, start: int = 0) -> bytes:
    return struct.pack("=BBHHHH", flags, 0, 0, 0, start, 16)


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True)


# --- link headers, without a kernel ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        vnet(),
        vnet() + OWN + HOST + b"\x08",
        vnet() + HOST + OWN + IPV4 + udp(*V4, b"x"),
        vnet() + OWN + HOST + IPV6 + udp(*V4, b"x"),
        vnet() + OWN + HOST + IPV4 + udp(*V6, b"x"),
        vnet() + OWN + HOST + b"\x81\x00" + udp(*V4, b"x"),
        vnet(NEEDS_CSUM, 13) + OWN + HOST + IPV4 + tcp(*V4, b"x"),
        vnet(NEEDS_CSUM, 0) + OWN + HOST + IPV4 + tcp(*V4, b"x"),
    ],
    ids=[
        "empty",
        "no link header",
        "runt",
        "from ourselves",
        "v4 as v6",
        "v6 as v4",
        "tag",
        "sum in link header",
        "sum of all",
    ],
)
def test_frame_that_is_no_ip_packet_for_us_is_refused(frame: bytes) -> None:
    assert stripped(frame, OWN)[0] == "refused"


@pytest.mark.parametrize(("kind", "packet"), [(IPV4, tcp(*V4, b"x")), (IPV6, tcp(*V6, b"x"))])
def test_packet_is_taken_its_sum_starts_behind_the_link_header_and_its_sender_is_the_peer(
    kind: bytes, packet: bytes
) -> None:
    assert stripped(vnet(NEEDS_CSUM, 34) + OWN + HOST + kind + packet, OWN) == ("packet", 20, HOST)
    assert stripped(vnet(0, 34) + OWN + HOST + kind + packet, OWN) == ("packet", 34, HOST)


def test_link_header_alone_says_only_who_the_peer_is_and_no_group_is_one() -> None:
    assert stripped(vnet() + OWN + HOST + ARP, OWN) == ("none", 0, HOST)
    assert stripped(vnet() + OWN + b"\x33" + HOST[1:] + IPV6, OWN) == ("none", 0, bytes(6))
    assert stripped(vnet() + OWN + bytes(6) + IPV4, OWN) == ("none", 0, bytes(6))


# --- what it is asked for ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b"])
def test_name_that_no_interface_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="device name"):
        PacketSocket(name)


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "02:00",
        "zz:00:00:00:00:01",
        "33:33:00:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:00:00:00:00:01:02",
    ],
)
def test_peer_that_no_station_can_have(mac: str) -> None:
    with pytest.raises(UsageError, match="address of one station"):
        PacketSocket("eth0", peer_mac=mac)


class Link:
    """`far` in a namespace of its own, `near` here; frames are sent from far."""

    def __init__(self) -> None:
        self.namespace, self.near = f"pkt{os.getpid()}", f"pn{os.getpid() % 100000}"
        sh(f"ip netns add {self.namespace}")
        sh(
            f"ip link add {self.near} address {OWN.hex(':')} type veth peer name far address {HOST.hex(':')} netns {self.namespace}"
        )
        for family in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{family}/conf/{self.near}/forwarding").write_text("0")
        Path(f"/proc/sys/net/ipv6/conf/{self.near}/disable_ipv6").write_text("1")
        sh(f"ip netns exec {self.namespace} sysctl -qw net.ipv6.conf.far.disable_ipv6=1")
        sh(f"ip link set {self.near} up")
        sh(f"ip -n {self.namespace} link set far up")
        self.sender = in_namespace(
            f"/run/netns/{self.namespace}", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        )
        self.sender.bind(("far", 0))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sender.send(frame)

    def close(self) -> None:
        self.sender.close()
        sh(f"ip link del {self.near}")
        sh(f"ip netns del {self.namespace}")


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


def frames_of(opened: PacketSocket) -> list[bytes]:
    """What is queued, without virtio-net headers; veth delivers in the sender's call."""
    found = []
    while True:
        try:
            found.append(os.read(opened.fd, 70000)[10:])
        except BlockingIOError:
            return found


@pytest.mark.netns
def test_interface_that_is_missing_or_not_ethernet_or_down_is_refused(link: Link) -> None:
    with pytest.raises(HostError, match=r"no such interface"):
        PacketSocket("nosuch0")
    with pytest.raises(HostError, match=r"not Ethernet"):
        PacketSocket("lo")
    sh(f"ip link set {link.near} down")
    with pytest.raises(HostError, match=rf"is down: ip link set {link.near} up"):
        PacketSocket(link.near)


@pytest.mark.netns
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_interface_on_which_the_kernel_forwards_is_refused_unless_it_is_said(link: Link, family: str) -> None:
    Path(f"/proc/sys/net/{family}/conf/{link.near}/forwarding").write_text("1")
    with pytest.raises(HostError, match=rf"could leave in clear.*echo 0 > /proc/sys/net/{family}"):
        PacketSocket(link.near)
    PacketSocket(link.near, kernel_forwards=True).close()


@pytest.mark.netns
def test_what_it_says_of_itself_and_closing_twice(link: Link) -> None:
    opened = PacketSocket(link.near, peer_mac="02-00-00-00-00-09", qdisc_bypass=True)
    assert (opened.name, opened.mac, opened.mtu, opened.peer_mac) == (
        link.near,
        OWN.hex(":"),
        1500,
        "02:00:00:00:00:09",
    )
    assert opened.features == {"tso": True, "uso": True, "coalesce": True}
    with pytest.raises(StateError, match="fanout=True"):
        opened.another()
    with pytest.raises(HostError, match="needs an address of its network"):
        opened.solicit(ip_address("fd77::1"))
    opened.close()
    opened.close()
    assert opened.fd == -1


@pytest.mark.netns
def test_frames_that_are_the_kernels_are_not_queued_and_tagged_ones_are_cut(link: Link) -> None:
    opened = PacketSocket(link.near)
    good = [
        OWN + HOST + IPV4 + udp(*V4, b"x" * 40),
        OWN + HOST + IPV6 + udp(*V6, b"x" * 40),
        OWN + HOST + IPV6 + icmp_v6(128),
    ]
    no_tag = OWN + HOST + b"\x81\x00\xe0\x00" + IPV4 + udp(*V4, b"priority")  # VID 0
    tagged = [OWN + HOST + kind + b"\x00\x05" + IPV4 + udp(*V4, b"x" * 40) for kind in (b"\x81\x00", b"\x88\xa8")]
    tagged.append(OWN + HOST + b"\x81\x00\x00\x00\x81\x00\x00\x05" + IPV4 + udp(*V4, b"x" * 40))
    nd = [OWN + HOST + IPV6 + icmp_v6(kind) for kind in (133, 135, 136, 137)]
    link.send(
        OTHER + HOST + IPV4 + udp(*V4, b"x"),
        b"\xff" * 6 + HOST + IPV4 + udp(*V4, b"x"),
        b"\x33\x33\0\0\0\1" + HOST + IPV6 + udp(*V6, b"x"),
        b"\xff" * 6 + HOST + ARP + bytes(28),
        OWN + HOST + b"\x88\xcc" + bytes(40),
        *good, no_tag, *tagged, OWN + HOST + ARP + bytes(28), *nd,
    )  # fmt: skip
    found = frames_of(opened)
    assert found[:4] == [*good, OWN + HOST + IPV4 + no_tag[18:]]
    assert [len(frame) for frame in found[4:]] == [13] * 3 + [14] * 5
    own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    own.bind((link.near, 0))
    own.send(HOST + OWN + IPV4 + udp(*V4, b"x"))
    own.close()
    assert frames_of(opened) == []
    assert opened.take_dropped() == 0
    opened.close()


def icmp_v6(kind: int) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, 8, 58, 255) + ip_address(V6[0]).packed + ip_address(V6[1]).packed
    return head + bytes([kind]) + bytes(7)


@pytest.mark.netns
def test_promiscuous_takes_frames_to_other_stations(link: Link) -> None:
    opened = PacketSocket(link.near, promiscuous=True)
    frame = OTHER + HOST + IPV4 + udp(*V4, b"x" * 40)
    link.send(frame, b"\xff" * 6 + HOST + IPV4 + udp(*V4, b"x"))
    assert frames_of(opened) == [frame]
    opened.close()


@pytest.mark.netns
def test_flows_of_a_fanout_group_stick_to_one_socket_and_keep_their_order(link: Link) -> None:
    first = PacketSocket(link.near, fanout=True)
    sockets = [first, first.another(), first.another()]
    assert {s.group for s in sockets} == {first.group}
    for n in range(8):
        for port in range(2000, 2040):
            for kind, ends in ((IPV4, V4), (IPV6, V6)):
                link.send(OWN + HOST + kind + udp(*ends, bytes([n]) * 20, ports=(port, 53)))
    seen: dict[bytes, list[tuple[int, int]]] = {}
    for i, opened in enumerate(sockets):
        for frame in frames_of(opened):
            at = 14 + (20 if frame[12:14] == IPV4 else 40)
            seen.setdefault(frame[12:14] + frame[at : at + 2], []).append((i, frame[-1]))
    assert len(seen) == 80
    for flow in seen.values():
        assert [n for _, n in flow] == list(range(8))
        assert len({i for i, _ in flow}) == 1
    assert len({flow[0][0] for flow in seen.values()}) == 3
    for opened in sockets:
        opened.close()


@pytest.mark.netns
def test_fragments_between_two_addresses_all_go_to_one_socket_of_the_group(link: Link) -> None:
    first = PacketSocket(link.near, fanout=True)
    sockets = [first, first.another(), first.another()]
    for ident in range(40):
        ports = (3000 + ident, 53)
        for fragment in (0x2000, 0x2000 | 8, 16):  # each holds 64 bytes, more fragments but in the last
            link.send(OWN + HOST + IPV4 + udp(*V4, b"x" * 56, ports=ports, ident=ident, df=False, fragment=fragment))
    assert sorted(len(frames_of(opened)) for opened in sockets) == [0, 0, 120]
    for opened in sockets:
        opened.close()
