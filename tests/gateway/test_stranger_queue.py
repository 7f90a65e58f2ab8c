"""IKE_SA_INIT requests of a flood wait: the rest of the loop has time, and every network has its turn."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from ipsec_fast.gateway.stranger_queue import MOST, SAVED_S, SHARE, SLICE_S, StrangerQueue, is_sa_init_request
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.model import Path

LOCAL = ip_address("192.0.2.1")
COST_S = 0.001


class Loop:
    """Virtual time: calls by the moment at which they are due; each request costs a millisecond."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.served: list[bytes] = []
        self.slices: list[float] = []
        self.queue = StrangerQueue(self.work, self.later, clock=lambda: self.now)

    def work(self, data: bytes, path: Path) -> None:
        self.now += COST_S
        self.served.append(data)

    def later(self, seconds: float, call: Callable[[], None]) -> Loop:
        self.calls.append((self.now + seconds, call))
        return self

    def cancel(self) -> None:
        self.calls.clear()

    def add(self, data: bytes, address: int) -> None:
        self.queue.add(data, Path(LOCAL, 500, ip_address(address), 500))

    def run(self, until: float) -> None:
        while self.calls and min(at for at, _ in self.calls) <= until:
            at, call = min(self.calls, key=lambda entry: entry[0])
            self.calls.remove((at, call))
            self.now = max(self.now, at)
            began = self.now
            call()
            self.slices.append(self.now - began)
        self.now = max(self.now, until)


def test_a_request_is_worked_on_in_the_next_round_of_the_loop() -> None:
    loop = Loop()
    loop.add(b"one", 1)
    loop.run(0.0)
    assert loop.served == [b"one"]
    assert not loop.calls


def test_a_slice_is_short_and_the_loop_has_its_turn_between_two() -> None:
    loop = Loop()
    for number in range(300):
        loop.add(b"%d" % number, number << 16)
    loop.run(10.0)
    assert len(loop.served) == 300
    assert max(loop.slices) <= SLICE_S + COST_S


def test_a_flood_gets_a_share_of_the_time_and_no_more() -> None:
    loop = Loop()
    end = 20.0
    while loop.now < end:
        for number in range(20):
            loop.add(b"x", number)
        loop.run(loop.now + 0.005)
    assert len(loop.served) * COST_S <= SAVED_S + end * SHARE * 1.02
    assert len(loop.served) * COST_S >= end * SHARE * 0.7


def test_a_good_peer_is_next_whatever_one_network_has_sent() -> None:
    loop = Loop()
    for number in range(5000):
        loop.add(b"flood", 0x0A000000 + number)
    loop.add(b"good", 0xC0000201)
    loop.run(0.0)
    assert b"good" in loop.served[:2]
    assert len(loop.queue) <= MOST
    assert loop.queue.displaced == 5001 - MOST


def test_what_waits_is_forgotten_at_the_end() -> None:
    loop = Loop()
    loop.add(b"one", 1)
    loop.queue.close()
    loop.run(1.0)
    assert not loop.served


def test_a_request_that_raises_does_not_stop_the_others() -> None:
    loop = Loop()

    def fail(data: bytes, path: Path) -> None:
        if data == b"bad":
            raise ValueError
        loop.served.append(data)

    loop.queue = StrangerQueue(fail, loop.later, clock=lambda: loop.now)
    loop.add(b"bad", 1)
    loop.add(b"good", 2)
    with pytest.raises(ValueError):
        loop.run(0.0)
    loop.run(1.0)
    assert loop.served == [b"good"]


@pytest.mark.parametrize(
    ("exchange", "response", "spi_r", "is_one"),
    [
        (34, False, bytes(8), True),
        (34, True, bytes(8), False),
        (34, False, b"x" * 8, False),
        (35, False, bytes(8), False),
    ],
)
def test_only_what_anybody_may_send_waits(exchange: int, response: bool, spi_r: bytes, is_one: bool) -> None:
    data = IkeHeader.make(b"12345678", spi_r, exchange, 0, initiator=True, response=response).encode()
    assert is_sa_init_request(data) == is_one
    assert not is_sa_init_request(data[:27])
