"""charon as the peer on a path whose MTU changes in silence: its TUN's MTU is fixed at 1400, and it does not clamp.

Transfers from our side go on; from its side, those that begin after the change, since our clamp reaches both directions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from netns.daemon import Charon
from netns.lab import Namespace
from netns.site import Site

from ipsec_fast.bench.mtu_ground import OUTER, Gateway, Ground, Transfer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]
SOME = 300_000
INNER = (("net", ("10.2.0.0/24",), ("10.1.0.0/24",)),)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[tuple[Ground, Gateway]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmtu")))  # AF_UNIX wants a short path
        ground = stack.enter_context(Ground(folder, prefix="charonmtu"))
        ours, theirs = OUTER["gw1"][4], OUTER["gw2"][4]
        site = Site(theirs, ours, "gw2.example", "gw1.example", INNER, psk=ground.psk.read_text())
        charon = Charon(Namespace(ground.name("gw2")), folder / "charon", site)
        stack.callback(lambda: print(charon.log()[-3000:]))
        stack.enter_context(charon)
        one = ground.gateway("gw1")
        stack.callback(lambda: print(one.words()))
        one.initiate()
        yield ground, one


def settled(gateway: Gateway, mtu: int) -> None:
    gateway.wait_for_source("probe")
    gateway.wait_for_mtu(mtu)


def test_a_path_that_narrows_in_silence(ground: tuple[Ground, Gateway]) -> None:
    net, one = ground
    settled(one, 1500)
    with Transfer(net) as transfer:
        transfer.wait_for(SOME)
        net.set_path(1300, filtered=True)
        child = one.wait_for_mtu(1300)
        transfer.wait_for(SOME)
    with Transfer(net, "host2", "host1") as back:
        back.wait_for(SOME)
        assert back.mss() <= child["mss_ipv4"]


def test_a_path_that_is_narrow_from_the_start(ground: tuple[Ground, Gateway]) -> None:
    net, one = ground
    settled(one, 1500)
    net.set_path(1280, filtered=True)
    with one.client() as client:
        client.request("terminate", {"ike": "site", "timeout": "5000"})
    one.initiate()
    settled(one, 1280)
    with Transfer(net) as there, Transfer(net, "host2", "host1") as back:
        there.wait_for(SOME)
        back.wait_for(SOME)


def test_where_its_gateway_answers_no_ping_ike_finds_the_path(ground: tuple[Ground, Gateway]) -> None:
    net, one = ground
    net.run("gw2", "sysctl", "-q", "-w", "net.ipv4.icmp_echo_ignore_all=1")
    net.set_path(1400, filtered=True)
    with one.client() as client:
        client.request("terminate", {"ike": "site", "timeout": "5000"})
    one.initiate()
    settled(one, 1400)
    assert one.child()["path-mtu-probing"] == "ike"
