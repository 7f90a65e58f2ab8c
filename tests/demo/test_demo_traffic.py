"""The figures that the demo prints, from what iperf3 and the stamped packets say; then the same over plain routing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import pytest

from ipsec_fast.demo.stamped import StampedFlow, Tally, result_of
from ipsec_fast.demo.topology import NETNS_FOLDER, NODES, Topology, remove_leftovers
from ipsec_fast.demo.traffic import measure_ping, measure_tcp, parse_iperf
from ipsec_fast.errors import HostError


def tally_of(numbers):
    tally = Tally()
    for number in numbers:
        tally.add(number)
    return tally


def test_a_tally_counts_lost_doubled_and_overtaken_packets():
    result = result_of(tally_of([0, 2, 1, 2, 5, 5, 9]), 12)
    assert (result.sent, result.lost, result.duplicated, result.overtaken, result.longest_gap) == (12, 7, 2, 1, 3)


def test_a_tally_of_everything_in_order_is_clean():
    result = result_of(tally_of(range(100)), 100)
    assert (result.lost, result.duplicated, result.overtaken, result.longest_gap) == (0, 0, 0, 0)


def test_a_tally_of_nothing_lost_everything():
    assert result_of(Tally(), 5).lost == 5


@pytest.mark.parametrize(
    ("output", "errors", "reason"),
    [
        ("", "iperf3: unable to connect\nmore", "gave no report: iperf3: unable to connect"),
        ('{"error": "no route"}', "", "no route"),
        ('{"end": {"sum_received": {"bytes": 0}, "sum_sent": {}}}', "", "no TCP data"),
    ],
)
def test_a_failed_iperf_names_its_reason(output, errors, reason):
    with pytest.raises(HostError, match=reason):
        parse_iperf(output, errors, "10.2.0.10")


@pytest.fixture(scope="module")
def routed():
    """The four nodes with plain routes where the tunnel will be."""
    with Topology("testrouted") as net:
        net.run("gw1", "ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2")
        net.run("gw1", "ip", "route", "add", "fd00:2::/64", "via", "2001:db8::2")
        net.run("gw2", "ip", "route", "add", "10.1.0.0/24", "via", "192.0.2.1")
        net.run("gw2", "ip", "route", "add", "fd00:1::/64", "via", "2001:db8::1")
        yield net


@pytest.mark.netns
@pytest.mark.parametrize("address", ["10.2.0.10", "fd00:2::10"])
def test_ping_tcp_and_stamped_udp_over_plain_routing(routed, address):
    assert measure_ping(routed, "host1", address, count=5).lost == 0
    flow = StampedFlow(routed, "host1", "host2", address).start()
    calls = []
    tcp = measure_tcp(routed, "host1", "host2", address, seconds=1, while_running=lambda: calls.append(1))
    result = flow.stop()
    assert tcp.gbit_per_s > 0.1
    assert calls
    assert result.sent > 200
    assert (result.duplicated, result.overtaken) == (0, 0)


@pytest.mark.netns
def test_a_cut_wire_shows_as_loss(routed):
    flow = StampedFlow(routed, "host1", "host2", "10.2.0.10", packets_per_s=1000).start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        flow._threads[1].join(0.1)
        routed.run("gw1", "ip", "link", "set", "wan", "down")
        flow._threads[1].join(0.1)
    result = flow.stop(grace_s=0.1)
    routed.run("gw1", "ip", "link", "set", "wan", "up")
    routed.run("gw1", "ip", "route", "replace", "10.2.0.0/24", "via", "192.0.2.2")
    assert result.lost > 20
    assert flow.stop() == result  # a second stop tells the same


@pytest.mark.netns
def test_the_longest_silence_is_between_two_arrivals(routed):
    flow = StampedFlow(routed, "host1", "host2", "10.2.0.10", packets_per_s=1000).start()
    flow._threads[1].join(0.1)
    routed.run("gw2", "ip", "link", "set", "lan", "down")
    flow._threads[1].join(0.3)
    routed.run("gw2", "ip", "link", "set", "lan", "up")
    seen, until = flow.highest, time.monotonic() + 5
    while flow.highest <= seen and time.monotonic() < until:
        flow._threads[1].join(0.01)
    result = flow.stop()
    assert result.lost > 100
    assert result.longest_silence_s > 0.3


@pytest.mark.netns
def test_no_answer_to_a_ping_is_an_error(routed):
    with pytest.raises(HostError, match=r"no answer to 2 pings from host1 to 10\.9\.9\.9"):
        measure_ping(routed, "host1", "10.9.9.9", count=2)


@pytest.mark.netns
def test_a_topology_leaves_nothing_even_after_a_failure():
    sleepers = []

    def fail():
        with Topology("testgone") as net:
            sleepers.append(net.start("gw1", "sleep", "100"))
            net.run("gw1", "ip", "link", "set", "nothing", "up")

    with pytest.raises(HostError, match="in gw1 says"):
        fail()
    assert sleepers[0].poll() is not None
    assert not list(NETNS_FOLDER.glob("testgone-*"))


@pytest.mark.netns
def test_leftovers_of_a_killed_run_are_removed_and_those_of_a_living_one_are_not():
    script = (
        "import os, signal\nfrom ipsec_fast.demo.topology import Topology\n"
        "Topology('testleft').__enter__()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=os.getcwd())
    assert len(list(NETNS_FOLDER.glob("testleft-*"))) == len(NODES)
    with Topology("testleft") as living:
        assert {path.name for path in NETNS_FOLDER.glob("testleft-*")} == {living.name(node) for node in NODES}
        assert remove_leftovers("testleft") == []
    assert not list(NETNS_FOLDER.glob("testleft-*"))
