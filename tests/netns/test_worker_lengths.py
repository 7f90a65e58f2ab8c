"""Packets of mixed lengths, up to the largest of IP, arrive whole through a worker, by every driver and protocol."""

from __future__ import annotations

import itertools
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest
from lab import wait_for

from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.raw_socket import RawSocket
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.tun import Tun
from ipsec_fast.dataplane.udp import UdpSocket, set_endpoint, set_raw_endpoint
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.model import OuterHeader, TrafficSelector

pytestmark = pytest.mark.netns

NAMES = itertools.count()
OUTER = {4: ("127.0.0.1", "127.0.0.2"), 6: ("fd07::1", "fd07::2")}
ALGORITHMS = {50: ("aes128gcm16", "aes128-sha256"), 51: ("sha256", "aes128gmac", "sha512")}
KEYS = {"aes128gcm16": 20, "aes128-sha256": 48, "sha256": 32, "aes128gmac": 20, "sha512": 64}
SIZES = (40, 41, 42, 43, 60, 61, 62, 512, 513, 514, 1200, 1201)  # UDP payloads


def sh(line: str) -> None:
    subprocess.run(line.split(), check=True)


@contextmanager
def way(
    *, version: int = 4, protocol: int = 0, algorithm: str = "aes128gcm16", cut_at: int = 0, mtu: int = 1400,
    offload: Offload | None = None, spi: int = 0x1001,
) -> Iterator[tuple[Worker, Worker, socket.socket, Tun]]:  # fmt: skip
    """Sender, receiver, and a socket whose datagrams to 10.2.x.1 leave by the sender. `protocol` 0: ESP in UDP."""
    local, remote = (ip_address(text) for text in OUTER[version])
    for address in OUTER[6]:
        sh(f"ip addr replace {address}/128 dev lo nodad")
    number, offload = next(NAMES), offload or Offload()
    tuns = Tun(f"lenA{number}", offload=offload), Tun(f"lenB{number}", offload=offload)
    for side in "AB":
        sh(f"ip link set len{side}{number} mtu {mtu} up txqueuelen 10000")
    net = f"10.{number % 200}"
    sh(f"ip addr add {net}.1.1/24 dev lenA{number}")
    sh(f"ip route add {net}.2.0/24 dev lenA{number}")
    kind: dict[str, Any] = {"protocol": "ah" if protocol == 51 else "esp"}
    own: dict[str, Any] = {"src": local, "dst": remote} if protocol or cut_at else {}
    if cut_at:
        own["header"] = OuterHeader(df="clear")
        own["encap"] = None if protocol else (4500, 4500)
    key = bytes(range(KEYS[algorithm]))
    out = SA("out", spi, algorithm, key, **kind, **own)
    into = SA("in", spi, algorithm, key, **kind, **({"src": local, "dst": remote} if protocol == 51 else {}))
    here, there = TrafficSelector.parse(f"{net}.1.0/24"), TrafficSelector.parse(f"{net}.2.0/24")
    set_selectors(into, [there], [here])
    if own:
        set_raw_endpoint(out, 1, cut_at)
    else:
        set_endpoint(out, 0, None, remote, 4500)
    sockets = [[UdpSocket(a, 4500, offload=offload), RawSocket(a, protocol=protocol or 50)] for a in (local, remote)]
    sender, receiver = (Worker(tun, row, offload=offload) for tun, row in zip(tuns, sockets, strict=True))
    sender.publish(Tables([], [Policy("protect", here, there, out)]))
    receiver.publish(Tables([into], []))
    source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    source.connect((f"{net}.2.1", 9))
    try:
        yield sender, receiver, source, tuns[1]
    finally:
        sender.stop()
        receiver.stop()
        for one in (*tuns, *(one for row in sockets for one in row), source):
            one.close()


def losses(sender: Worker, receiver: Worker, count: int) -> dict[str, int]:
    def arrived() -> bool:
        return receiver.counters()["packets_in"] >= count

    with suppress(AssertionError):  # the caller says what is wrong, with the counters
        wait_for("all of them", arrived, 3)
    found = {
        name: n for one in (sender, receiver) for name, n in one.counters().items() if name.startswith("drop_") and n
    }
    found.pop("drop_policy_discard", None)  # what the host says of itself on a device that is up
    return found | {"lost": count - receiver.counters()["packets_in"]}


DRIVERS = {
    "UDP": {"protocol": 0},
    "UDP without UDP_SEGMENT": {"protocol": 0, "offload": Offload(udp_segment=False, udp_gro=False)},
    "ESP": {"protocol": 50},
    "AH": {"protocol": 51},
}


@pytest.mark.parametrize("cut_at", [0, 600], ids=["whole", "outer fragments"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("driver", "algorithm"),
    [(d, a) for d, options in DRIVERS.items() for a in ALGORITHMS[51 if options["protocol"] == 51 else 50]],
)
def test_packets_whose_lengths_differ_by_a_byte_arrive_whole(
    driver: str, algorithm: str, version: int, cut_at: int
) -> None:
    """In one batch: the kernel's lengths decide where a slot is cut, not a guess."""
    rng = random.Random(1)
    with way(version=version, algorithm=algorithm, cut_at=cut_at, **DRIVERS[driver]) as (sender, receiver, source, _):  # type: ignore[arg-type]
        receiver.start()
        for size in (100, 102, 101):  # they wait in the device: one batch
            source.send(bytes(size))
        time.sleep(0.05)
        sender.start()
        assert losses(sender, receiver, 3) == {"lost": 0}
        for at in range(1, 1201):
            source.send(bytes(rng.choice(SIZES)))
            if at % 50 == 0:
                wait_for("these", lambda at=at: sender.counters()["packets_out"] >= at + 3)
        assert losses(sender, receiver, 1203) == {"lost": 0}
        assert (sender.counters()["outer_fragments"] > 0) == bool(cut_at)


@pytest.mark.parametrize("protocol", [0, 50, 51], ids=["UDP", "ESP", "AH"])
def test_an_identification_at_its_wrap_neither_breaks_an_icv_nor_a_packet_in_fragments(protocol: int) -> None:
    """0 would be replaced by the kernel: another one for each fragment, and one that AH's ICV
    does not know (RFC 4302 section 3.3.3.1).
    """
    algorithm = "sha256" if protocol == 51 else "aes128gcm16"
    with way(protocol=protocol, algorithm=algorithm, cut_at=700, spi=0x1000FFFE) as (sender, receiver, source, _):
        receiver.start()
        sender.start()
        for _ in range(6):
            source.send(bytes(1000))
        assert losses(sender, receiver, 6) == {"lost": 0}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"protocol": 0, "offload": Offload(udp_gro=False)},
        {"protocol": 0},
        {"protocol": 50},
        {"protocol": 51, "algorithm": "sha256"},
    ],
    ids=["UDP", "GRO", "ESP", "AH"],
)
def test_packets_above_16_kilobytes_arrive(options: dict[str, Any], version: int) -> None:
    sizes = (1000, 16000, 16300, 17000, 40000, 64900)
    with way(version=version, mtu=65400, **options) as (sender, receiver, source, _):
        receiver.start()
        sender.start()
        for size in sizes:
            source.send(bytes(size))
            time.sleep(0.01)
        assert losses(sender, receiver, len(sizes)) == {"lost": 0}
        assert receiver.counters()["udp_truncated"] == 0


def test_a_slot_that_the_path_does_not_take_costs_a_few_calls() -> None:
    """A device that became narrower: each packet is refused, but not each is tried nine times."""
    sh("ip link set lo mtu 1280")  # below it there is no IPv6 any more
    try:
        with way(mtu=1400) as (sender, _, source, _):
            for _ in range(60):
                source.send(bytes(1250))
            time.sleep(0.05)
            before = sender.counters()["udp_sends"]
            sender.start()
            wait_for("they are refused", lambda: sender.counters()["udp_too_big"] == 60)
            assert sender.counters()["udp_sends"] - before <= 60  # it was 549
    finally:
        sh("ip link set lo mtu 65536")


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_ike_datagram_leaves_df_where_it_is(version: int) -> None:
    """It is cut by another socket: what the worker sends at that moment carries DF all the while."""
    local, remote = OUTER[version]
    with way(version=version) as (_, _, _, _):
        pass  # its addresses are there now
    sh("ip link set lo mtu 1500")
    got = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        got.bind((remote, 0))
        got.settimeout(5)
        own = UdpSocket(ip_address(local), 0)
        level, option = (socket.IPPROTO_IP, 10) if version == 4 else (socket.IPPROTO_IPV6, 23)  # *_MTU_DISCOVER
        seen: set[int] = set()
        done: list[int] = []

        def look() -> None:
            while not done:
                seen.add(own.socket.getsockopt(level, option))

        watcher = threading.Thread(target=look)
        watcher.start()
        for size in (3000, 60000) * 30:
            own.sendto(bytes(size), ip_address(remote), got.getsockname()[1])
            data, source = got.recvfrom(65535)
            assert (len(data), source[0], source[1]) == (size, local, own.port)
        done.append(1)
        watcher.join()
        assert seen == {3}  # IP_PMTUDISC_PROBE
        # nothing that comes to the port goes to the second socket instead
        for _ in range(20):
            got.sendto(b"x", (local, own.port))
        time.sleep(0.05)
        assert [own.socket.recv(10) for _ in range(20)] == [b"x"] * 20
        own.close()
    finally:
        got.close()
        sh("ip link set lo mtu 65536")
