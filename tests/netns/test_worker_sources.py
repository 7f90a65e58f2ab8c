"""A worker reports the source of a peer's newest authentic packet (RFC 7296 section 2.23), once per request."""

from __future__ import annotations

import itertools
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from lab import wait_for

from ipsec_fast.control.spi import worker_of
from ipsec_fast.dataplane.notice import Notice, NoticeKind
from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.single import protect_packet
from ipsec_fast.dataplane.spd import Tables, set_selectors
from ipsec_fast.dataplane.tun import Tun
from ipsec_fast.dataplane.udp import UdpSocket, newest_source, set_endpoint, tell_source_again
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.dataplane.workers import Workers
from ipsec_fast.model import TrafficSelector

pytestmark = pytest.mark.netns

KEY = bytes(range(20))
ENDS = {4: ("127.0.0.1", "127.0.0.2", "127.0.0.3"), 6: ("fd07::1", "fd07::2", "fd07::3")}
NAMES = itertools.count()


class Receiver:
    """A worker that follows the peer of one inbound SA, and that peer: numbered packets from any of some sockets."""

    def __init__(self, version: int = 4, workers: int = 1, offload: Offload | None = None, follow: bool = True) -> None:
        self.local, self.peer, self.other = ENDS[version]
        if version == 6:
            for address in ENDS[6]:
                subprocess.run(["ip", "addr", "replace", f"{address}/128", "dev", "lo", "nodad"], check=True)
        offload = offload or Offload()
        name, local = f"src{next(NAMES)}", ip_address(self.local)
        self.tuns = [Tun(name, offload=offload) for _ in range(workers)]
        first = UdpSocket(local, 0, offload=offload)
        self.udp = [first] + [UdpSocket(local, first.port, offload=offload, beside=first) for _ in range(1, workers)]
        self.workers = Workers(
            workers,
            lambda i, n, crew: Worker(self.tuns[i], [self.udp[i]], offload=offload, index=i, count=n, crew=crew),
        )
        self.spi = 0x1000 + workers  # not the first worker's, where there are several
        self.out = SA("out", self.spi, "aes128gcm16", KEY)
        self.into = SA("in", self.spi, "aes128gcm16", KEY, window=64)
        self.into.tag = 7
        everything = [TrafficSelector.parse("10.0.0.0/8")]
        set_selectors(self.into, everything, everything)
        if follow:
            set_endpoint(self.into, 0, None, ip_address(self.peer), 4500)
        self.publish([self.into])
        self.workers.start()
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.count = 0

    def publish(self, inbound: list[SA]) -> None:
        count = self.workers.count
        self.workers.publish(lambda i: Tables([sa for sa in inbound if worker_of(sa.spi, count) == i], []))

    def sealed(self) -> bytes:
        header = bytes.fromhex("4500003000010000401100000a0100010a020001")
        return protect_packet(self.out, header + bytes(28))

    def send(self, data: bytes, address: str, port: int) -> None:
        if (address, port) not in self.sockets:
            family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
            one = socket.socket(family, socket.SOCK_DGRAM)
            one.bind((address, port))
            self.sockets[address, port] = one
        self.sockets[address, port].sendto(data, (self.local, self.udp[0].port))
        self.count += 1
        wait_for("it was received", lambda: self.workers.counters()["udp_messages_in"] >= self.count)
        time.sleep(0.01)  # the worker's turn is over

    def moved(self) -> list[Notice]:
        return [notice for notice in self.workers.take_notices() if notice.kind is NoticeKind.PEER_MOVED]

    def seen(self) -> tuple[str, int] | None:
        found = newest_source(self.into)
        return None if found is None else (str(found[0]), found[1])

    def close(self) -> None:
        self.workers.stop()
        for one in (*self.tuns, *self.udp, *self.sockets.values()):
            one.close()


@pytest.fixture(params=[(4, 1, True), (6, 1, True), (4, 1, False), (4, 2, True)], ids=["v4", "v6", "no GRO", "workers"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    version, workers, gro = request.param
    found = Receiver(version, workers, Offload(udp_gro=gro))
    yield found
    found.close()


def test_a_packet_from_where_the_peer_is_tells_nothing(receiver: Receiver) -> None:
    before = time.monotonic()
    receiver.send(receiver.sealed(), receiver.peer, 4500)
    assert receiver.moved() == []
    assert receiver.seen() == (receiver.peer, 4500)
    found = newest_source(receiver.into)
    assert found is not None
    assert before <= found[2] <= time.monotonic()


@pytest.mark.parametrize("place", ["port", "address"])
def test_the_newest_packet_from_elsewhere_is_told_once(receiver: Receiver, place: str) -> None:
    address, port = (receiver.peer, 4501) if place == "port" else (receiver.other, 4500)
    receiver.send(receiver.sealed(), receiver.peer, 4500)
    for _ in range(5):
        receiver.send(receiver.sealed(), address, port)
    (notice,) = receiver.moved()
    assert notice.spi == 7
    assert receiver.seen() == (address, port)


def test_what_came_while_control_did_not_look_is_not_lost(receiver: Receiver) -> None:
    receiver.send(receiver.sealed(), receiver.peer, 4501)
    assert len(receiver.moved()) == 1
    receiver.send(receiver.sealed(), receiver.other, 4502)
    assert receiver.moved() == []  # told already
    assert receiver.seen() == (receiver.other, 4502)
    tell_source_again(receiver.into)
    receiver.send(receiver.sealed(), receiver.other, 4502)
    assert len(receiver.moved()) == 1
    set_endpoint(receiver.into, 0, None, ip_address(receiver.other), 4502)  # it is followed
    tell_source_again(receiver.into)
    receiver.send(receiver.sealed(), receiver.other, 4502)
    assert receiver.moved() == []
    receiver.send(receiver.sealed(), receiver.peer, 4500)  # and back
    assert len(receiver.moved()) == 1


def test_late_repeated_and_forged_packets_move_nothing(receiver: Receiver) -> None:
    late, newest = receiver.sealed(), receiver.sealed()
    receiver.send(newest, receiver.peer, 4500)
    receiver.send(late, receiver.other, 4500)  # valid, within the window, and not the newest
    receiver.send(newest, receiver.other, 4501)
    receiver.send(late, receiver.other, 4502)
    forged = bytearray(receiver.sealed())
    forged[-1] ^= 1
    receiver.send(bytes(forged), receiver.other, 4503)
    assert receiver.moved() == []
    assert receiver.seen() == (receiver.peer, 4500)
    assert receiver.into.counters()["packets"] == 2


def test_a_packet_that_came_before_its_sa_says_where_the_peer_is(receiver: Receiver) -> None:
    receiver.publish([])
    receiver.send(receiver.sealed(), receiver.other, 4501)
    receiver.publish([receiver.into])
    wait_for("it is opened", lambda: receiver.into.counters()["packets"] == 1)
    wait_for("it is told", receiver.moved)
    assert receiver.seen() == (receiver.other, 4501)


def test_an_sa_that_is_not_followed_tells_nothing() -> None:
    found = Receiver(follow=False)
    found.send(found.sealed(), found.other, 4501)
    assert found.moved() == []
    assert found.seen() is None
    found.close()


def test_of_nested_packets_one_layer_is_opened() -> None:
    """ESP in ESP in ESP to ourselves is a packet for the device, not one to open
    again: what it costs is bounded by its length.
    """
    found = Receiver(follow=False)
    packet = bytes.fromhex("4500003000010000401100000a0100010a020001") + bytes(28)
    for depth in range(4):
        sealed = protect_packet(found.out, packet)
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(sealed), 1, 0, 64, 17, 0, b"\x0a\1\0\1", b"\x0a\2\0\1")
        packet = header + struct.pack("!HHHH", 4500, found.udp[0].port, 8 + len(sealed), 0) + sealed
        found.send(sealed, found.peer, 4500)
        assert found.into.counters()["packets"] == depth + 1
        assert found.workers.counters()["packets_in"] == depth + 1
    found.close()
