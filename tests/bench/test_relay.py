"""The relay between two pairs of sockets on the loopback device: what it does to packets, and that its stop loses none."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ipsec_fast.bench.load import Receiver, Sender
from ipsec_fast.bench.relay import Relay
from ipsec_fast.errors import StateError, UsageError

UDP_GRO = 104


def socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two UDP sockets that are connected to each other."""
    left, right = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (left, right):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    return left, right


class Wire:
    """a and b are what the gateways would have, the relay is between; the second pair is not IKE's."""

    def __init__(self, stack: ExitStack, **how: float) -> None:
        (self.ike_a, first), (second, self.ike_b) = socket_pair(stack), socket_pair(stack)
        (self.a, third), (fourth, self.b) = socket_pair(stack), socket_pair(stack)
        for sock in (first, second, third, fourth):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.relay = Relay([(first, second), (third, fourth)], **how)  # type: ignore[arg-type]
        stack.callback(self.relay.stop)
        self.relay.start()

    def carry(self, packets: list[bytes]) -> list[bytes]:
        """What arrives at b of what a sends; the relay is stopped, so that nothing is under way any more."""
        for packet in packets:
            self.a.send(packet)
        self.relay.stop()
        return arrived(self.b)


def arrived(sock: socket.socket) -> list[bytes]:
    found = []
    while select.select([sock], [], [], 0)[0]:
        found.append(sock.recv(65536))
    return found


@contextmanager
def wire(**how: float) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(stack, **how)


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [number.to_bytes(4, "big") * (size // 4) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "how",
    [{"loss": 1.1}, {"reorder": -0.1}, {"reorder_places": 0}, {"reorder_places": 257}, {"delay_s": 2}, {"delay_s": -1}],
)
def test_impossible_habits_are_refused(how: dict[str, float]) -> None:
    with ExitStack() as stack, pytest.raises(UsageError):
        Relay([socket_pair(stack)], **how)  # type: ignore[arg-type]


def test_a_relay_without_sockets_is_refused_and_one_runs_once() -> None:
    with pytest.raises(UsageError, match="1 to 8 pairs"):
        Relay([])
    with wire() as one, pytest.raises(StateError):
        one.relay.start()


def test_without_habits_everything_passes_in_order_both_ways() -> None:
    packets = numbered(500)
    with wire() as one:
        for packet in packets:
            one.b.send(packet)
        assert one.carry(packets) == packets
        assert arrived(one.a) == packets
        there, back = one.relay.counters()
    assert there["received"] == there["sent"] == back["received"] == back["sent"] == 500
    assert there["lost"] == there["duplicated"] == there["reordered"] == there["overflowed"] == there["refused"] == 0


def test_datagrams_of_every_length_keep_it() -> None:
    packets = [bytes([length % 251]) * length for length in (1, 1400, 1400, 1400, 300, 1400, 8, 8, 9, 20000, 1)]
    with wire(delay_s=0.001) as one:
        # what is too long to be held goes at once
        assert sorted(one.carry(packets)) == sorted(packets)


def test_lost_packets_are_counted_and_the_others_keep_their_order() -> None:
    packets = numbered(2000)
    with wire(loss=0.3) as one:
        found = one.carry(packets)
        there, _ = one.relay.counters()
    assert there["lost"] == 2000 - len(found)
    assert 500 < there["lost"] < 700
    assert found == [packet for packet in packets if packet in set(found)]


def test_duplicated_packets_come_twice() -> None:
    packets = numbered(1000)
    with wire(duplicate=0.2) as one:
        found = one.carry(packets)
        there, _ = one.relay.counters()
    assert set(found) == set(packets)
    assert len(found) == 1000 + there["duplicated"]
    assert 120 < there["duplicated"] < 280


@pytest.mark.parametrize("places", [1, 64])
def test_a_reordered_packet_is_late_by_no_more_than_the_places_and_none_is_missing(places: int) -> None:
    packets = numbered(3000)
    with wire(reorder=0.1, reorder_places=places) as one:
        found = one.carry(packets)
        there, _ = one.relay.counters()
    assert sorted(found) == packets
    assert 200 < there["reordered"] < 400
    highest, late = 0, 0
    for packet in found:
        number = int.from_bytes(packet[:4], "big")
        late = max(late, highest - number)
        highest = max(highest, number)
    assert places // 2 < late <= places


def test_the_seed_decides_what_happens() -> None:
    def run(seed: int) -> list[bytes]:
        # silence would set held packets free; the stop comes before
        with wire(loss=0.1, duplicate=0.1, seed=seed) as one:
            return one.carry(numbered(1000))

    assert run(1) == run(1) != run(2)


def test_delayed_packets_arrive_after_the_delay_in_order() -> None:
    packets = numbered(50)
    with wire(delay_s=0.05) as one:
        for packet in packets:
            one.a.send(packet)
        assert not select.select([one.b], [], [], 0.02)[0]
        assert select.select([one.b], [], [], 2)[0]
        one.relay.stop()
        assert arrived(one.b) == packets


def test_held_packets_leave_after_a_silence() -> None:
    with wire(reorder=1.0) as one:
        one.a.send(b"alone")
        assert select.select([one.b], [], [], 2)[0]
        assert one.b.recv(100) == b"alone"


def test_loss_of_ike_spares_esp() -> None:
    esp, marked = numbered(300), [bytes(4) + packet for packet in numbered(300)]
    with wire(ike_loss=1.0) as one:
        one.ike_a.send(b"the first pair is IKE's port")
        assert one.carry([packet for both in zip(esp, marked, strict=True) for packet in both]) == esp
        assert arrived(one.ike_b) == []


def test_a_load_through_the_relay_is_counted_exactly() -> None:
    with wire(duplicate=0.1, reorder=0.1, loss=0.05) as one:
        receiver = Receiver(one.b, run=7, limit=5000)
        receiver.start()
        sender = Sender(one.a, run=7, packets_per_s=50_000, limit=5000)
        sender.start()
        sender.wait(10)
        one.relay.stop()
        receiver.stop()
        there, _ = one.relay.counters()
    assert sender.stop() == 5000
    # one that is lost is not duplicated
    assert receiver.received == 5000 - there["lost"]
    assert receiver.duplicates == there["duplicated"]
    assert len(receiver.missing(5000)) == there["lost"]
    assert receiver.overtaken > 0
