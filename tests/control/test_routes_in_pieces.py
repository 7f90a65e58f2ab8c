"""Routes of removed children are removed in pieces, correctly whatever is installed meanwhile.

The cost depends on the child's own prefixes, and a refused removal is not forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

import pytest
from control.test_manager import Site, ask

from ipsec_fast.control.routing import AGAIN_MOST_S, PIECE, Removal, Routing
from ipsec_fast.errors import HostError
from ipsec_fast.ike.config import Action, ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import ChildDown, ChildUp
from ipsec_fast.model import Address, TrafficSelector
from ipsec_fast.system.routes import Network

LOCAL = (TrafficSelector.parse("10.1.0.0/24"),)


def host(number: int) -> TrafficSelector:
    return TrafficSelector.parse(f"{ip_address(0x0A800000 + number)}/32")


class Leaving:
    def __init__(self, kernel: Kernel, networks: Mapping[Network, bool]) -> None:
        self._kernel, self._networks = kernel, dict(networks)
        self._refused: dict[Network, str] = {}
        self.is_over = False

    def carry_out(self) -> None:
        for network, keep_prohibit in self._networks.items():
            if network in self._kernel.refuses:
                self._refused[network] = f"cannot del the route of {network}: Device or resource busy"
                continue
            self._kernel.routed.discard(network)
            if not keep_prohibit:
                self._kernel.prohibited.discard(network)
        self.is_over = True

    def is_done(self, wait_s: float = 0.0) -> bool:
        return self.is_over

    def refused(self) -> dict[Network, str]:
        return self._refused


class Kernel:
    """A table of many at a time; with `is_slow`, a removal is carried out by
    `answer`, or by what comes after it in the queue.
    """

    def __init__(self, *, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        self.routed: set[Network] = set()
        self.prohibited: set[Network] = set()
        self.refuses: set[Network] = set()
        self.pieces: list[int] = []
        self.calls = 0
        self._queue: list[Leaving] = []

    def adopt(self, wanted: Iterable[Network]) -> list[Network]:
        return []

    def prohibit(self, network: Network) -> None:
        raise NotImplementedError

    add = set_mtu = remove = prohibit  # type: ignore[assignment]

    def answer(self) -> None:
        while self._queue:
            self._queue.pop(0).carry_out()

    def prohibit_all(self, networks: Iterable[Network]) -> None:
        self.answer()
        self.prohibited |= set(networks)

    def add_all(self, sources: Mapping[Network, Address | None], index: int, around: Iterable[Network] = ()) -> None:
        self.calls += 1
        self.prohibit_all(sources)
        self.routed |= set(sources)

    def set_mtus(self, mtus: Mapping[Network, int]) -> None:
        self.calls += 1

    def remove_all(self, networks: Mapping[Network, bool]) -> Removal:
        self.calls += 1
        self.pieces.append(len(networks))
        leaving = Leaving(self, networks)
        self._queue.append(leaving)
        if not self.is_slow:
            self.answer()
        return leaving


def routing_of(kernel: Kernel) -> Routing:
    return Routing(kernel, 7, lambda: [])


def finish(routing: Routing, kernel: Kernel, now: float = 0.0) -> int:
    """Run turns of the event loop until nothing is left to do."""
    turns = 0
    while (at := routing.get_timer()) is not None:
        now = max(now, at)
        routing.handle_timer(now)
        kernel.answer()
        turns += 1
        assert turns < 1000
    return turns


def test_a_child_of_840_networks_goes_in_pieces_between_which_the_loop_runs() -> None:
    kernel = Kernel()
    routing = routing_of(kernel)
    routing.add_child(1, LOCAL, [TrafficSelector.parse(f"10.{100 + i}.0.1-10.{100 + i}.0.254") for i in range(60)])
    assert len(kernel.routed) == 840
    routing.remove_child(1)
    assert kernel.pieces == [PIECE]  # the rest is left to later turns
    assert finish(routing, kernel) >= 840 // PIECE
    assert max(kernel.pieces) <= PIECE
    assert sum(kernel.pieces) == 840
    assert (kernel.routed, kernel.prohibited) == (set(), set())


def test_a_thousand_children_cost_a_thousand_removals_whatever_else_is_there() -> None:
    """What is looked at is counted, not timed: a book that is walked per child would show here."""

    class Counting(dict):  # type: ignore[type-arg]
        walked = 0

        def items(self):  # type: ignore[no-untyped-def]
            Counting.walked += len(self)
            return super().items()

        def __iter__(self):  # type: ignore[no-untyped-def]
            Counting.walked += len(self)
            return super().__iter__()

    kernel = Kernel()
    routing = routing_of(kernel)
    routing._users = Counting()
    routing._networks_of = Counting()
    for number in range(2000):
        routing.add_child(number, LOCAL, [host(number)])
    Counting.walked = 0
    for number in range(1000):
        routing.remove_child(number)
    finish(routing, kernel)
    assert Counting.walked == 0
    assert sum(kernel.pieces) == 1000
    assert len(kernel.routed) == 1000


def test_a_prefix_that_is_wanted_again_before_its_turn_stays() -> None:
    kernel = Kernel()
    routing = routing_of(kernel)
    many = [host(number) for number in range(3 * PIECE)]
    routing.add_child(1, LOCAL, many)
    routing.remove_child(1)
    routing.add_child(2, LOCAL, many[-1:])
    finish(routing, kernel)
    assert kernel.routed == set(many[-1].networks())


def test_a_prefix_that_is_wanted_again_while_the_kernel_removes_it_comes_back() -> None:
    kernel = Kernel(is_slow=True)
    routing = routing_of(kernel)
    routing.add_child(1, LOCAL, [host(1)])
    routing.remove_child(1)
    assert routing.get_timer() is not None
    routing.add_child(2, LOCAL, [host(1)])
    finish(routing, kernel)
    assert kernel.routed == set(host(1).networks())


def test_a_kernel_that_does_not_answer_is_not_waited_for() -> None:
    kernel = Kernel(is_slow=True)
    routing = routing_of(kernel)
    for number in range(1000):
        routing.add_child(number, LOCAL, [host(number)])
    for number in range(1000):
        routing.remove_child(number)
    assert len(kernel.pieces) == 1  # and no further one is begun meanwhile
    for turn in range(10):
        assert routing.get_timer() is not None
        routing.handle_timer(turn * 0.01)
    assert len(kernel.pieces) == 1
    kernel.is_slow = False
    kernel.answer()
    finish(routing, kernel)
    assert not kernel.routed


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_the_kernel_has_in_the_end_what_is_wanted(seed: int) -> None:
    chance = random.Random(seed)
    kernel = Kernel(is_slow=bool(seed % 2))
    routing = routing_of(kernel)
    wanted: dict[int, list[TrafficSelector]] = {}
    child = TrafficSelector.parse("10.128.0.0/30")
    site = ConnectionConfig("x", children=(ChildConfig("net", remote_ts=(child, host(5)), start_action=Action.START),))
    closed: set[Network] = set()
    for step in range(300):
        number = chance.randrange(12)
        roll = chance.random()
        if roll < 0.4 and number not in wanted:
            wanted[number] = [host(chance.randrange(40)) for _ in range(chance.randrange(1, 5))]
            routing.add_child(number, LOCAL, wanted[number])
        elif roll < 0.7 and number in wanted:
            del wanted[number]
            routing.remove_child(number)
        elif roll < 0.75:
            started = chance.choice([[], [("x", "net")]])
            routing.expect([site], started)
            closed = {n for ts in site.children[0].remote_ts for n in ts.networks()} if started else set()
        elif roll < 0.85:
            kernel.refuses = {n for n in kernel.routed if chance.random() < 0.3}
        elif roll < 0.95:
            routing.handle_timer(float(step))
        else:
            kernel.answer()
    kernel.refuses = set()
    finish(routing, kernel, 1000.0)
    routed = {network for selectors in wanted.values() for ts in selectors for network in ts.networks()}
    assert kernel.routed == routed
    assert kernel.prohibited == routed | closed
    assert set(routing._users) == routed


# --- the kernel refuses


def test_one_refusal_while_a_child_goes_leaves_the_rest_of_it_right() -> None:
    kernel = Kernel()
    routing = routing_of(kernel)
    routing.add_child(1, LOCAL, [host(number) for number in range(5)])
    (busy,) = host(2).networks()
    kernel.refuses = {busy}
    routing.remove_child(1)
    assert kernel.routed == {busy}
    assert not routing._users
    (line,) = routing.take_reports()
    assert str(busy) in line
    assert "busy" in line


def test_what_was_refused_is_tried_again_later_each_time_and_told_twice_in_all() -> None:
    kernel = Kernel()
    routing = routing_of(kernel)
    routing.add_child(1, LOCAL, [host(1)])
    kernel.refuses = set(host(1).networks())
    routing.remove_child(1)
    now, waits, lines = 0.0, [], routing.take_reports()
    for _ in range(10):
        at = routing.get_timer()
        assert at is not None
        waits.append(at - now)
        now = at
        routing.handle_timer(now)
        lines += routing.take_reports()
    assert waits[1:4] == [1.0, 2.0, 4.0]
    assert max(waits) == AGAIN_MOST_S
    kernel.refuses = set()
    finish(routing, kernel, now)
    lines += routing.take_reports()
    assert len(lines) == 2
    assert not kernel.routed
    assert not kernel.prohibited


def test_a_refused_route_that_somebody_wants_again_is_not_removed() -> None:
    kernel = Kernel()
    routing = routing_of(kernel)
    routing.add_child(1, LOCAL, [host(1)])
    kernel.refuses = set(host(1).networks())
    routing.remove_child(1)
    routing.add_child(2, LOCAL, [host(1)])
    kernel.refuses = set()
    finish(routing, kernel)
    assert kernel.routed == set(host(1).networks())


class _HalfWay(Kernel):
    def add_all(self, sources: Mapping[Network, Address | None], index: int, around: Iterable[Network] = ()) -> None:
        super().add_all(dict(list(sources.items())[:2]), index, around)
        raise HostError("cannot replace the route: No buffer space available")


def test_a_child_that_is_refused_half_way_leaves_neither_routes_nor_prohibit_routes() -> None:
    kernel = _HalfWay()
    routing = routing_of(kernel)
    with pytest.raises(HostError):
        routing.add_child(1, LOCAL, [host(number) for number in range(4)])
    finish(routing, kernel)
    assert (kernel.routed, kernel.prohibited, routing._users) == (set(), set(), {})


def test_the_manager_tells_of_a_refusal_and_the_child_is_gone_all_the_same() -> None:
    site = Site()
    three = tuple(map(TrafficSelector.parse, ("10.3.0.0/24", "10.4.0.0/24", "10.5.0.0/24")))
    site.hear(ask(1, remote_ts=three), ChildUp(1, 1, "x", "net"))
    remove, refusals = site.routes.remove, [HostError("cannot del the route: Device or resource busy")]

    def once(network, *, keep_prohibit):  # type: ignore[no-untyped-def]
        if refusals:
            raise refusals.pop()
        remove(network, keep_prohibit=keep_prohibit)

    site.routes.remove = once  # type: ignore[method-assign]
    site.hear(ChildDown(1, 1, "x", "net", "gone"))
    assert site.routes.routed == {}
    assert "busy" in site.lines[0]
    site.routes.refuse = True
    refused = site.hear(ask(2, remote_ts=(TrafficSelector.parse("198.18.0.0/24"),)))
    assert isinstance(refused, HostError)
    assert ip_network("198.18.0.0/24") not in site.routes.closed
