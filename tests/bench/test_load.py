"""The numbered load: what is refused, the steady rate, the exact count."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from ipsec_fast.bench.load import Receiver, Sender
from ipsec_fast.demo.stamped import STAMP
from ipsec_fast.errors import StateError, UsageError


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


@pytest.mark.parametrize(
    "wrong", [{"size_bytes": 15}, {"size_bytes": 1401}, {"segments": 0}, {"segments": 33}, {"packets_per_s": 0}]
)
def test_impossible_loads_are_refused(ends, wrong):
    with pytest.raises(UsageError):
        Sender(ends[0], **({"run": 1, "packets_per_s": 1000} | wrong))


@pytest.mark.parametrize("limit", [0, (1 << 32) + 1])
def test_an_impossible_count_is_refused(ends, limit):
    with pytest.raises(UsageError):
        Receiver(ends[1], run=1, limit=limit)


def test_each_end_runs_once(ends):
    for end in (Sender(ends[0], run=1, packets_per_s=1000), Receiver(ends[1], run=1, limit=10)):
        end.start()
        end.stop()
        with pytest.raises(StateError):
            end.start()


def test_what_is_lost_doubled_foreign_or_overtaken_is_told_apart(ends):
    sender, into = ends
    receiver = Receiver(into, run=5, limit=100)
    receiver.start()
    for number in (0, 1, 3, 2, 2, 99):
        sender.send(STAMP.pack(5, number))
    for stray in (STAMP.pack(6, 4), STAMP.pack(5, 100), STAMP.pack(5, 1 << 63), b"short"):
        sender.send(stray)
    receiver.stop()
    assert (receiver.received, receiver.duplicates, receiver.overtaken, receiver.strays) == (5, 1, 1, 4)
    assert receiver.missing(6) == [4, 5]
    assert receiver.missing(200, most=2) == [4, 5]
    assert len(receiver.missing(100)) == 95


def test_every_packet_sent_is_counted_on_both_ends(ends):
    receiver = Receiver(ends[1], run=9, limit=1 << 20)
    receiver.start()
    sender = Sender(ends[0], run=9, packets_per_s=20_000, size_bytes=200, limit=4001)
    sender.start()
    assert sender.wait(10)
    receiver.stop()
    assert sender.stop() == sender.sent == receiver.received == 4001
    assert receiver.duplicates == receiver.strays == 0
    assert receiver.missing(4001) == []


def test_the_rate_is_a_ceiling(ends):
    sender = Sender(ends[0], run=1, packets_per_s=4000, limit=1000)
    start = time.monotonic()
    sender.start()
    assert sender.wait(10)
    assert time.monotonic() - start >= 0.24


def test_a_send_that_the_kernel_refuses_is_not_counted_and_tried_again(ends):
    sender, into = ends
    into.close()  # the first packet is answered by an ICMP, which the second send reports
    load = Sender(sender, run=1, packets_per_s=2000, segments=1, limit=20)
    load.start()
    assert load.wait(10)
    assert load.stop() == 20
    assert load.refused > 0
