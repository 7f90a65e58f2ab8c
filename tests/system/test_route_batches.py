"""Batches of routes against a real kernel: cost of N prefixes, our books, a kernel that refuses or does not answer."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from ipsec_fast.control.routing import Routing
from ipsec_fast.errors import HostError
from ipsec_fast.model import TrafficSelector
from ipsec_fast.system import netlink as netlink_module
from ipsec_fast.system.links import Links
from ipsec_fast.system.netlink import Netlink
from ipsec_fast.system.routes import Network, Routes

pytestmark = pytest.mark.netns
Shell = Callable[[str], str]
CPU_S = 3.0  # for 840 networks, or for 1,000 children
LOCAL = (TrafficSelector.parse("10.1.0.0/24"),)


class Counting(Netlink):
    """`calls` to pyroute2, by what they are for; the rest goes in batches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def call(self, what, function, *, ignore=()):  # type: ignore[no-untyped-def]
        self.calls.append(what)
        return super().call(what, function, ignore=ignore)


@pytest.fixture
def netlink(private_net: Shell) -> Iterator[Counting]:
    private_net("ip link set lo up; ip addr add 10.1.0.1/24 dev lo; ip tuntap add ipsec0 mode tun")
    with Counting() as found:
        yield found


def ours(shell: Shell) -> str:
    return shell(
        "for f in -4 -6; do ip $f rule | grep proto || :; ip $f route show table all | grep 'proto 73' || :; done"
    )


def routing_of(netlink: Netlink) -> tuple[Routing, Routes]:
    routes = Routes(netlink, "ipsec0")
    return Routing(routes, Links(netlink).set_up("ipsec0", 1438), lambda: []), routes


def finish(routing: Routing) -> None:
    until, now = time.monotonic() + 60, 0.0
    while (at := routing.get_timer()) is not None and time.monotonic() < until:
        now = max(now + 0.001, at)
        routing.handle_timer(now)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_840_networks_of_one_child_go_without_one_look_at_the_kernels_tables(private_net, netlink):
    routing, _ = routing_of(netlink)
    ranges = [TrafficSelector.parse(f"10.{100 + i}.0.1-10.{100 + i}.0.254") for i in range(60)]
    netlink.calls.clear()
    began = cpu_s()
    routing.add_child(1, LOCAL, ranges)
    assert ours(private_net).count("dev ipsec0") == 840
    routing.remove_child(1)
    finish(routing)
    assert cpu_s() - began < CPU_S
    assert netlink.calls == []
    assert ours(private_net) == ""


@pytest.mark.parametrize("version", [4, 6])
def test_a_thousand_children_of_one_address_come_and_go_without_one_look_at_the_kernels_tables(
    private_net, netlink, version
):
    routing, _ = routing_of(netlink)
    local = LOCAL if version == 4 else (TrafficSelector.parse("fd00:1::/64"),)
    hosts = [f"10.200.{i // 250}.{i % 250}/32" if version == 4 else f"fd00:2::{i + 1:x}/128" for i in range(1000)]
    netlink.calls.clear()
    began = cpu_s()
    for number, host in enumerate(hosts):
        routing.add_child(number, local, [TrafficSelector.parse(host)])
    for number in range(1000):
        routing.remove_child(number)
    finish(routing)
    assert cpu_s() - began < 2 * CPU_S
    assert netlink.calls == []
    assert ours(private_net) == ""


def test_a_throw_route_goes_with_the_last_prefix_that_it_lies_in(private_net, netlink):
    _, routes = routing_of(netlink)
    wide, wider, own = map(ip_network, ("10.0.0.0/9", "10.0.0.0/8", "10.1.9.0/24"))
    index = Links(netlink).index("ipsec0")
    for network in (wide, wider):
        routes.add(network, index, around=[own])
    routes.remove(wider, keep_prohibit=False)
    assert "throw 10.1.9.0/24" in ours(private_net)
    routes.remove(wide, keep_prohibit=True)
    assert "throw 10.1.9.0/24" in ours(private_net)
    routes.remove(wide, keep_prohibit=False)
    assert ours(private_net) == ""


def test_what_a_crash_left_is_in_the_books_throw_routes_too(private_net, netlink):
    _, crashed = routing_of(netlink)
    wide, narrow, own = map(ip_network, ("10.0.0.0/8", "10.9.0.0/24", "10.1.9.0/24"))
    crashed.add(wide, Links(netlink).index("ipsec0"), around=[own])
    crashed.prohibit(narrow)
    again = Routes(netlink, "ipsec0")
    assert again.adopt([wide]) == [wide, narrow]
    netlink.calls.clear()
    for network in (wide, narrow):
        again.remove(network, keep_prohibit=False)
    assert netlink.calls == []
    assert ours(private_net) == ""


def test_a_start_that_fails_leaves_closed_what_a_crash_left_closed_and_nothing_else(private_net, netlink):
    left, fresh = ip_network("10.2.0.0/24"), ip_network("10.3.0.0/24")
    Routes(netlink, "ipsec0").prohibit(left)
    again = Routes(netlink, "ipsec0")
    again.adopt([left])
    again.prohibit(fresh)
    again.close(keep_adopted=True)
    text = ours(private_net)
    assert "prohibit 10.2.0.0/24" in text
    assert "10.3.0.0/24" not in text
    again.close()
    assert ours(private_net) == ""


def test_one_refusal_in_a_batch_hurts_nobody_else(private_net, netlink):
    _, routes = routing_of(netlink)
    good, bad = ip_network("10.2.0.0/24"), ip_network("10.3.0.0/24")
    index = Links(netlink).index("ipsec0")
    with pytest.raises(HostError, match=r"cannot replace the route of 10\.3\.0\.0/24: "):
        # the source is no address of this host
        routes.add_all({bad: ip_address("10.77.0.1"), good: None}, index)
    assert "10.2.0.0/24 dev ipsec0" in ours(private_net)
    removal = routes.remove_all({bad: False, good: False})
    assert removal.is_done(5.0)
    assert removal.refused() == {}
    assert ours(private_net) == ""


def test_a_prohibit_route_that_was_refused_is_not_taken_for_one_that_stands(private_net, netlink, monkeypatch):
    _, routes = routing_of(netlink)
    network = ip_network("10.2.0.0/24")
    real = netlink.batch
    monkeypatch.setattr(netlink, "batch", lambda messages: [105] + [0] * (len(messages) - 1))
    with pytest.raises(HostError, match="No buffer space"):
        routes.prohibit(network)
    monkeypatch.setattr(netlink, "batch", real)
    routes.prohibit(network)
    assert "prohibit 10.2.0.0/24" in ours(private_net)


def test_the_tun_made_again_gets_all_its_routes_back(private_net, netlink):
    routing, _ = routing_of(netlink)
    children: list[Network] = [ip_network(f"10.{i}.0.0/24") for i in range(20, 120)]
    for number, network in enumerate(children):
        routing.add_child(number, LOCAL, [TrafficSelector.parse(str(network))])
    before = ours(private_net)
    private_net("ip link del ipsec0; ip tuntap add ipsec0 mode tun")
    assert "dev ipsec0" not in ours(private_net)
    routing.move(Links(netlink).set_up("ipsec0", 1438))
    assert sorted(ours(private_net).split()) == sorted(before.split())


# --- a kernel that does not answer: somebody else holds its lock


def test_nobody_waits_behind_a_request_that_hangs(netlink, monkeypatch):
    monkeypatch.setattr(netlink_module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(netlink_module, "BATCH_PATIENCE_S", 0.05)
    free = threading.Event()
    with pytest.raises(HostError, match="no answer from the kernel"):
        netlink.call("hang", lambda ip: free.wait(30))
    routing, _ = Routing(Routes(netlink, "ipsec0"), 1, lambda: []), None
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(HostError, match="has not answered an earlier request"):
            netlink.call("ask for something", lambda ip: None)
        with pytest.raises(HostError, match="has not answered an earlier request"):
            routing.add_child(1, LOCAL, [TrafficSelector.parse("10.9.0.0/24")])
    assert time.monotonic() - began < 25
    assert routing.get_timer() is not None, "the removal of what may have come is still to be carried out"
    free.set()
    finish(routing)
    assert netlink.call("ask again", lambda ip: 7) == 7


def test_requests_are_carried_out_in_their_order(private_net, netlink):
    routing, _ = routing_of(netlink)
    selector = [TrafficSelector.parse("10.9.0.0/24")]
    hold = threading.Event()
    netlink._thread.submit(hold.wait, 30)
    threading.Timer(0.2, hold.set).start()
    for number in range(20):  # each waits behind what was posted before it
        routing.add_child(number, LOCAL, selector)
        routing.remove_child(number)
    routing.add_child(99, LOCAL, selector)
    finish(routing)
    assert "10.9.0.0/24 dev ipsec0" in ours(private_net)
