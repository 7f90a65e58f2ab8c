"""The kernel as it really steers: a TUN device with three queues, and three sockets of one port."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap

import pytest

from ipsec_fast.errors import HostError
from ipsec_fast.system.steering import RULES_MAX, Rule, TunSteering, build_program, steer_by_spi

QUEUES = 3
N = ipaddress.ip_network


def test_what_is_no_tun_device_takes_no_program_and_is_asked_once() -> None:
    reader, writer = os.pipe()
    try:
        steering = TunSteering(reader, QUEUES)
        steering.set_rules([Rule(N("10.0.0.0/8"), 1)])
        assert not steering.works
        steering.set_rules([Rule(N("10.0.0.0/8"), 2)])
        assert not steering.works
    finally:
        os.close(reader)
        os.close(writer)


def test_a_tcp_socket_cannot_be_steered_by_spi() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, pytest.raises(HostError, match="by SPI"):
        steer_by_spi(one, QUEUES)


def test_a_program_stays_short_whatever_the_selectors_are() -> None:
    rules = [Rule(N(f"fd00:{number:x}::/128"), 1) for number in range(RULES_MAX)]
    assert len(build_program(rules, QUEUES)) // 8 < 4096  # what the kernel lets anybody load


# --- in a namespace of its own, as the processes of the tests share one

LAB = """
import fcntl, ipaddress, json, os, socket, struct, subprocess, sys, time
from ipsec_fast.system.steering import Rule, TunSteering
N = ipaddress.ip_network
queues = []
for _ in range(3):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"steer0", 0x0001 | 0x1000 | 0x0100))
    queues.append(fd)
for line in ("address add 10.9.0.1/24 dev steer0", "link set steer0 up", "route add 10.0.0.0/8 dev steer0",
             "-6 address add fd09::1/64 dev steer0 nodad", "-6 route add fd00::/8 dev steer0"):
    subprocess.run(["ip", *line.split()], check=True)
sockets = {4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 6: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)}
for one in sockets.values():
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
def drain():
    found = []
    for number, fd in enumerate(queues):
        while True:
            try:
                packet = os.read(fd, 65535)
            except BlockingIOError:
                break
            if packet[0] >> 4 == 4 and packet[9] == 17 or packet[0] >> 4 == 6 and packet[6] in (17, 44):
                found.append((number, packet))
    return found
def where(target, port=9, size=1):
    address = ipaddress.ip_address(target)
    sockets[address.version].sendto(bytes(size), (target, port))
    return [number for number, _ in drain()]
steering = TunSteering(queues[0], 3)
drain()
def show(value):
    print(json.dumps(value))
"""


def lab(code: str) -> object:
    """What `code` shows in network and user namespaces of its own."""
    command = [
        "unshare",
        *(["-n"] if os.geteuid() == 0 else ["-Urn"]),
        sys.executable,
        "-c",
        LAB + textwrap.dedent(code),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.netns
def test_the_narrowest_network_decides() -> None:
    shown = lab(
        """
        steering.set_rules([Rule(N("10.1.0.0/16"), 2), Rule(N("10.1.5.0/24"), 1), Rule(N("10.1.5.7/32"), 0),
                            Rule(N("fd01::/32"), 1), Rule(N("fd01:0:0:5::/64"), 2), Rule(N("fd01:0:0:5::9/128"), 0)])
        show([steering.works, [where(t) for t in ("10.1.1.1", "10.1.5.9", "10.1.5.7", "fd01::5", "fd01:0:0:5::1", "fd01:0:0:5::9")]])
        """
    )
    assert shown == [True, [[2], [1], [0], [1], [2], [0]]]


@pytest.mark.netns
@pytest.mark.parametrize(
    "other", ["", "Rule(N('10.1.0.0/16'), 1), Rule(N('fd01::/32'), 1),", "Rule(N('10.1.0.0/16'), None),"]
)
def test_a_selector_of_every_address_is_a_rule_as_any_other(other: str) -> None:
    shown = lab(
        f"""
        steering.set_rules([{other} Rule(N("0.0.0.0/0"), 2), Rule(N("::/0"), 2), Rule(N("0.0.0.0/0"), 0)])
        first = [steering.works, where("fd02::1")]
        steering.set_rules([{other} Rule(N("0.0.0.0/0"), 2)])
        second = [steering.works, where("10.2.0.1")]
        steering.set_rules([{other} Rule(N("0.0.0.0/0"), None), Rule(N("::/0"), None)])
        show([first, second, steering.works, len(where("10.2.0.1"))])
        """
    )
    assert shown == [[True, [2]], [True, [2]], True, 1]


@pytest.mark.netns
def test_flows_are_spread_evenly_and_each_stays_where_it_is() -> None:
    shown = lab(
        """
        steering.set_rules([Rule(N("10.0.0.0/8"), None)])
        first = {t: [where(t, 1000 + port)[0] for port in range(150)] for t in ("10.2.0.1", "fd02::1")}
        again = {t: [where(t, 1000 + port)[0] for port in range(150)] for t in ("10.2.0.1", "fd02::1")}
        show([first == again, [[one.count(q) for q in range(3)] for one in first.values()]])
        """
    )
    assert shown[0] is True  # type: ignore[index]
    assert all(count > 20 for counts in shown[1] for count in counts), shown  # type: ignore[index]


@pytest.mark.netns
def test_all_fragments_of_a_packet_are_together() -> None:
    shown = lab(
        """
        steering.set_rules([Rule(N("10.0.0.0/8"), None)])
        show([[where(t, port, 5000) for port in range(2000, 2020)] for t in ("10.2.0.1", "fd02::1")])
        """
    )
    assert all(len(queues) > 2 and len(set(queues)) == 1 for version in shown for queues in version), shown  # type: ignore[attr-defined]


@pytest.mark.netns
def test_both_directions_of_a_flow_have_one_number() -> None:
    """An answer, written by hand, is sent out again by the kernel's forwarding, with the ends exchanged."""
    shown = lab(
        """
        subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.steer0.rp_filter=0",
                        "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.steer0.send_redirects=0"], check=True)
        steering.set_rules([Rule(N("10.0.0.0/8"), None)])
        def packet(source, target, sport, dport):
            ends = [ipaddress.ip_address(end).packed for end in (source, target)]
            head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 29, 1, 0, 64, 17, 0, *ends)
            total = sum(struct.unpack(">10H", head))
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
            return head + struct.pack(">HHHH", sport, dport, 9, 0) + b"x"
        def forwarded(*flow):
            drain()
            os.write(queues[0], packet(*flow))
            return [number for number, _ in drain()]
        flows = [("10.3.0.%d" % (n % 7 + 1), "10.4.0.%d" % (n % 5 + 1), 1000 + 17 * n, 5000 + n) for n in range(40)]
        show([[forwarded(a, b, s, d), forwarded(b, a, d, s)] for a, b, s, d in flows])
        """
    )
    assert all(len(there) == 1 and there == back for there, back in shown), shown  # type: ignore[attr-defined]
    assert len({there[0] for there, _ in shown}) == QUEUES  # type: ignore[attr-defined]


@pytest.mark.netns
def test_datagrams_come_to_the_socket_of_their_spi_and_ike_to_the_first() -> None:
    sockets = []
    try:
        for number in range(QUEUES):
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(one)
            one.settimeout(5)
            if number:
                sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", sockets[0].getsockname()[1] if number else 0))
        steer_by_spi(sockets[0], QUEUES)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in (struct.pack(">II", 0xFFFFFF00 + n, 1) for n in range(3 * QUEUES)):
                sender.sendto(datagram, sockets[0].getsockname())
                owner = sockets[int.from_bytes(datagram[:4], "big") % QUEUES]
                assert owner.recv(100) == datagram
            for datagram in (bytes(4) + b"IKE", b"\xff", b"ab"):
                sender.sendto(datagram, sockets[0].getsockname())
                assert sockets[0].recv(100) == datagram
    finally:
        for one in sockets:
            one.close()
