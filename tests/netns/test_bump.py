"""docs/examples/gso_bump.py between hosts with default offloads: all passes whole, the wire has ESP only, bad frames do no harm."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "dataplane"))
from bump_lab import SPI, BumpLab, sh
from datagrams import header_bytes, pieces, received, send_super, udp_socket
from inner_packets import tcp, udp
from lab import Namespace, wait_for

from ipsec_fast.demo.namespaces import in_namespace

pytestmark = pytest.mark.netns
FAR, NEAR = {4: "10.2.0.10", 6: "fd02::10"}, {4: "10.1.0.10", 6: "fd01::10"}
MEGABYTES = 24


@pytest.fixture
def lab() -> Iterator[BumpLab]:
    with BumpLab() as made:
        yield made


def open_in(namespace: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    return in_namespace(f"/run/netns/{namespace.name}", lambda: socket.socket(family, kind, protocol))


def carry(sender: Namespace, receiver: Namespace, address: str, version: int) -> None:
    """MEGABYTES of random bytes by TCP; what arrives is what was sent."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    data, digest = os.urandom(1 << 20), hashlib.sha256()
    with (
        open_in(receiver, family, socket.SOCK_STREAM) as listening,
        open_in(sender, family, socket.SOCK_STREAM) as client,
    ):
        listening.bind((address, 7002))
        listening.listen()
        client.settimeout(20)
        client.connect((address, 7002))
        accepted, _ = listening.accept()
        accepted.settimeout(20)

        def send() -> None:
            for _ in range(MEGABYTES):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        with accepted:
            while chunk := accepted.recv(1 << 20):
                digest.update(chunk)
        thread.join()
    expected = hashlib.sha256()
    for _ in range(MEGABYTES):
        expected.update(data)
    assert digest.digest() == expected.digest()


@contextmanager
def wire(lab: BumpLab) -> Iterator[list[bytes]]:
    """What crosses the wire meanwhile: the first 64 bytes of each IP packet, from its Ethernet header on."""
    seen: list[bytes] = []
    every = 3
    with open_in(lab.a, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
        tap.bind(("wan", every))
        yield seen
        tap.setblocking(False)
        while True:
            try:
                frame = tap.recv(64)
            except BlockingIOError:
                return
            if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
                seen.append(frame)


def is_ours(frame: bytes) -> bool:
    """ESP in UDP between the two boxes, of one of their SPIs; or the kernels' own ND and MLD between neighbours."""
    if frame[12:14] == b"\x86\xdd":
        return frame[38:40] in (b"\xff\x02", b"\xfe\x80")
    ports, spi = struct.unpack_from("!HH", frame, 34), struct.unpack_from("!I", frame, 42)[0]
    return frame[23] == 17 and ports == (4500, 4500) and spi in SPI.values()


def test_hosts_with_default_offloads_talk_and_the_wire_carries_esp_only(lab: BumpLab) -> None:
    with lab.both() as (a, b), wire(lab) as seen:
        for version in (4, 6):
            assert lab.h.ping(FAR[version]) == 3
            carry(lab.h, lab.r, FAR[version], version)
            carry(lab.r, lab.h, NEAR[version], version)
        assert lab.r.ping(NEAR[4]) == 3
        reports = a.report(), b.report()
    assert len(seen) > 100
    assert all(is_ours(frame) for frame in seen), next(frame.hex() for frame in seen if not is_ours(frame))
    for report, side in zip(reports, "ab", strict=True):
        counters = report["all"]
        assert report["peer_mac"] == lab.mac(side)
        # super-packets in both directions, or each frame would be smaller than the MTU
        assert counters["tun_read_bytes"] / counters["tun_reads"] > 1500
        assert counters["tun_write_bytes"] / counters["tun_writes"] > 1500
        assert counters["bytes_out"] > 2 * MEGABYTES << 20
        assert counters["tun_write_failed"] == counters["merge_refused"] == counters["inner_refused"] == 0
        assert {name for name, n in counters.items() if name.startswith("drop_") and n} <= {"drop_policy_discard"}
    assert reports[0]["all"]["packets_out"] == reports[1]["all"]["packets_in"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("length", "size"), [(5500, 1000), (63 * 1000 + 1, 1000)])
def test_super_packet_of_udp_passes_as_one_frame_in_and_one_out(
    lab: BumpLab, version: int, length: int, size: int
) -> None:
    data = os.urandom(length)
    expected = pieces(data, size)
    with lab.both() as (a, b):
        with udp_socket(lab.r.name, version, FAR[version]) as receiver, udp_socket(lab.h.name, version) as sender:
            send_super(sender, FAR[version], data, size)
            assert received(receiver, len(expected)) == expected
        out, into = a.report()["all"], b.report()["all"]
    assert out["bytes_out"] == length + header_bytes(FAR[version])
    assert out["packets_out"] == into["packets_in"] == into["merged"] == len(expected)
    assert into["merge_refused"] == 0


def test_hosts_without_offloads_have_their_equal_packets_joined_on_the_way(lab: BumpLab) -> None:
    for host in (lab.h, lab.r):
        host.run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", check=False)
    with lab.both() as (a, b):
        carry(lab.h, lab.r, FAR[4], 4)
        carry(lab.h, lab.r, FAR[6], 6)
        out, into = a.report()["all"], b.report()["all"]
    assert out["udp_messages_out"] < out["packets_out"]
    assert into["merged"] > into["packets_in"] / 2
    assert out["drop_bad_inner"] == into["drop_bad_inner"] == 0


def test_two_workers_share_an_interface_and_keep_each_flow_in_order(lab: BumpLab) -> None:
    with lab.both(workers=2) as (a, b):
        with udp_socket(lab.r.name, 4, FAR[4]) as receiver:
            senders = [udp_socket(lab.h.name, 4) for _ in range(16)]
            for turn in range(25):
                for n, sender in enumerate(senders):
                    sender.sendto(bytes([n, turn]) + bytes(300), (FAR[4], 7001))
            found = received(receiver, 400)
            for sender in senders:
                sender.close()
        carry(lab.h, lab.r, FAR[6], 6)
        reports = a.report(), b.report()
    for n in range(16):
        assert [data[1] for data in found if data[0] == n] == list(range(25))
    assert all(worker["packets_out"] for worker in reports[0]["workers"])
    assert all(worker["packets_in"] for worker in reports[1]["workers"])
    assert reports[1]["all"]["drop_replay_old"] == reports[1]["all"]["drop_replay_seen"] == 0


def test_too_big_packets_are_answered_to_the_host(lab: BumpLab) -> None:
    with lab.both() as (a, _):
        said = lab.h.run(
            "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", "-M", "do", "-s", "1460", FAR[4], check=False
        ).stdout
        assert "mtu = 1438" in said
        said = lab.h.run(
            "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", "-M", "do", "-s", "1440", FAR[6], check=False
        ).stdout
        assert "1438" in said
        assert a.report()["all"]["too_big_answered"] == 2


def test_packet_larger_than_the_interface_takes_is_dropped_and_counted_never_sent(lab: BumpLab) -> None:
    sh(f"ip -n {lab.b.name} link set lan mtu 1300")
    with lab.both() as (_, b):
        assert lab.h.ping(FAR[4]) == 3
        lab.h.run("ping", "-n", "-c", "2", "-i", "0.1", "-W", "0.3", "-s", "1400", FAR[4], check=False)
        with udp_socket(lab.h.name, 4) as sender:
            send_super(sender, FAR[4], bytes(14000), 1400)
        found = wait_for("all written or dropped", lambda: lab.h.ping(FAR[4])) and b.report()["all"]
    assert found["merged"] == 0
    assert found["tun_write_failed"] == 12


def frames_that_lie(own: bytes, host: bytes) -> list[bytes]:
    """Ethernet frames that hold no sound IP packet."""
    v4, v6 = own + host + b"\x08\x00", own + host + b"\x86\xdd"
    packet, packet6 = udp(NEAR[4], FAR[4], b"x" * 60), udp(NEAR[6], FAR[6], b"x" * 60)
    longer = packet[:2] + b"\xff\xff" + packet[4:]
    shorter = packet[:2] + b"\x00\x05" + packet[4:]
    return [
        v4 + b"\x45",
        v4 + packet[:19],
        v4 + longer,
        v4 + shorter,
        v4 + b"\x4f" + packet[1:24],
        v4 + b"\x95" + packet[1:],
        v4 + packet6,
        v6 + packet,
        v6 + packet6[:39],
        v6 + packet6[:4] + b"\xff\xff" + packet6[6:],
        v6 + packet6[:6] + b"\x00" + packet6[7:40] + b"\x11\xff" + bytes(6),
    ]


def lying_headers(own: bytes, host: bytes) -> list[bytes]:
    """virtio-net headers that do not fit their frame; the kernel of the sender lets some of them through."""
    link4, link6 = own + host + b"\x08\x00", own + host + b"\x86\xdd"
    found = []
    for flags, kind, head, size, start, offset in (
        (1, 0, 0, 0, 0, 16), (1, 0, 0, 0, 13, 0), (1, 0, 0, 0, 14, 6), (1, 0, 0, 0, 34, 0xFFFF), (1, 0, 0, 0, 0xFFFF, 16),
        (1, 0, 0, 0, 100, 3000), (1, 1, 54, 0, 34, 16), (1, 1, 54, 1, 34, 16), (1, 1, 54, 65535, 34, 16), (1, 1, 0, 1000, 34, 16),
        (1, 1, 65535, 1000, 34, 16), (1, 4, 54, 1000, 34, 16), (1, 5, 42, 1000, 34, 6), (1, 3, 42, 1000, 34, 6), (0, 1, 54, 1000, 0, 0),
        (0, 5, 42, 1000, 0, 0), (1, 0x81, 54, 1000, 34, 16), (1, 77, 54, 1000, 34, 16), (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
    ):  # fmt: skip
        vnet = struct.pack("=BBHHHH", flags, kind, head, size, start, offset)
        for link, make, ends in (
            (link4, tcp, (NEAR[4], FAR[4])),
            (link4, udp, (NEAR[4], FAR[4])),
            (link6, tcp, (NEAR[6], FAR[6])),
        ):
            found += [vnet + link + make(*ends, bytes(3000)), vnet + link + make(*ends, b"")]
    return found


def test_bad_frames_do_no_harm_and_tagged_ones_are_refused_and_counted(lab: BumpLab) -> None:
    host = bytes.fromhex(lab.mac("a").replace(":", ""))
    with lab.both() as (a, b):
        own = in_namespace(f"/run/netns/{lab.a.name}", lambda: address_of("lan"))
        with open_in(lab.h, socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("eth0", 0))
            bad = frames_that_lie(own, host)
            for frame in bad:
                sender.send(frame)
            for kind in (b"\x81\x00", b"\x88\xa8"):
                sender.send(own + host + kind + b"\x00\x05\x08\x00" + udp(NEAR[4], FAR[4], b"x" * 60))
            sender.send(own + own + b"\x08\x00" + udp(NEAR[4], FAR[4], b"x" * 60))
            sender.setsockopt(263, 15, 1)  # PACKET_VNET_HDR
            passed = sum(was_sent(sender, frame) for frame in lying_headers(own, host))
        assert passed > 10
        assert lab.h.ping(FAR[4]) == lab.h.ping(FAR[6]) == 3
        carry(lab.h, lab.r, FAR[4], 4)
        found, other = a.report(), b.report()
    assert found["peer_mac"] == lab.mac("a")
    # two tags, one that claims to be ours, two of the wrong version
    assert found["all"]["inner_refused"] >= 5
    assert found["all"]["drop_bad_inner"] >= len(bad) - 2
    assert other["all"]["drop_bad_icv"] == 0


def was_sent(sender: socket.socket, frame: bytes) -> bool:
    try:
        sender.send(frame)
    except OSError:
        return False
    return True


def address_of(device: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asked:
        asked.bind((device, 0))
        return bytes(asked.getsockname()[4])


def test_host_that_was_never_heard_gets_nothing_until_it_speaks(lab: BumpLab) -> None:
    silent = [f"ip netns exec {lab.b.name} ip neigh add 10.2.0.10 lladdr 02:00:00:00:00:77 dev lan nud permanent"]
    for command in silent:  # whoever asks for it asks a station that is not there
        sh(command)
    with lab.both() as (_, b):
        assert lab.h.ping(FAR[4], count=2) == 0
        lab.r.run("ping", "-n", "-c", "1", "-W", "1", NEAR[4], check=False)
        assert lab.h.ping(FAR[4], count=2) == 2
        report = b.report()
    assert report["all"]["inner_no_peer"] >= 2
    assert report["peer_mac"] == lab.mac("b")


def test_peer_that_is_configured_is_not_learned(lab: BumpLab) -> None:
    with lab.bump("a", "--peer-mac", "02:00:00:00:00:77") as a, lab.bump("b"):
        assert lab.h.ping(FAR[4], count=2) == 0
        report = a.report()
    assert report["peer_mac"] == "02:00:00:00:00:77"
    assert report["all"]["packets_in"] == 2


def test_interface_that_goes_down_is_told_and_taken_up_again_and_one_that_is_gone_harms_nothing(lab: BumpLab) -> None:
    with lab.both() as (_, b):
        assert lab.h.ping(FAR[4]) == 3
        sh(f"ip -n {lab.b.name} link set lan down")
        assert lab.h.ping(FAR[4], count=2) == 0
        sh(f"ip -n {lab.b.name} link set lan up")
        assert wait_for("traffic again", lambda: lab.h.ping(FAR[4], count=1)) == 1
        sh(f"ip -n {lab.b.name} link del lan")
        assert lab.h.ping(FAR[4], count=2) == 0
        report = b.report()
    assert report["notices"].count("INNER_DOWN") == 2
    assert report["all"]["tun_write_failed"] >= 2


def test_errors_of_the_example_are_one_line() -> None:
    with BumpLab() as lab:
        sh(f"ip netns exec {lab.a.name} sysctl -qw net.ipv4.conf.lan.forwarding=1")
        assert "the kernel forwards what arrives on lan" in lab.bump("a").said
        done = subprocess.run(
            lab.a.command(sys.executable, "-c", "from ipsec_fast.dataplane.packet_socket import PacketSocket; PacketSocket('nope')"),
            capture_output=True, text=True,
        )  # fmt: skip
        assert "there is no such interface" in done.stderr.splitlines()[-1]
