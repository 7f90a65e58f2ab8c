"""charon dies, the wire is cut, charon deletes: the tunnel comes back by itself. The times are printed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import one_of_each, up
from netns.lab import Namespace, wait_for
from netns.site import LEFT, RIGHT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]
Connect = Callable[..., Peers]
STARTED = LEFT.but(child_options=(("start_action", "start"),))


def traffic(peers: Peers) -> subprocess.Popen[bytes]:
    return subprocess.Popen(peers.lab.l.command("ping", "-q", "-i", "0.1", "10.2.0.10"), stdout=subprocess.DEVNULL)


def seconds_until(what: str, look: Callable[[], object], limit_s: float) -> float:
    began = time.monotonic()
    wait_for(what, look, limit_s)
    return time.monotonic() - began


def is_back(peers: Peers) -> bool:
    return peers.lab.l.ping("10.2.0.10", count=1) == 1


def cut(namespace: Namespace) -> None:
    for line in (
        "add table inet cut",
        "add chain inet cut in { type filter hook input priority -300 ; policy accept ; }",
        "add chain inet cut out { type filter hook output priority -300 ; policy accept ; }",
        "add rule inet cut in iifname wan drop",
        "add rule inet cut out oifname wan drop",
    ):
        namespace.run("nft", line)


def test_charon_killed_without_state_is_set_up_anew(connect: Connect) -> None:
    peers = connect(ours=STARTED)
    wait_for("started by itself", lambda: peers.charon.established())
    wait_for("traffic", lambda: is_back(peers))
    pings = traffic(peers)
    try:
        time.sleep(1)
        peers.charon.kill()
        peers.charon.start()
        back_s = seconds_until("the tunnel is back", lambda: is_back(peers), 15.0)
        print(f"charon killed: the tunnel is back {back_s:.1f} s after its restart")
        wait_for("one pair", lambda: one_of_each(peers))
    finally:
        pings.kill()
        pings.wait()


@pytest.mark.parametrize("cut_s", [15.0, 1.0], ids=["long", "short"])
def test_a_cut_wire_is_found_and_mended(connect: Connect, cut_s: float) -> None:
    peers = connect(ours=STARTED)
    wait_for("started by itself", lambda: peers.charon.established())
    wait_for("traffic", lambda: is_back(peers))
    pings = traffic(peers)
    try:
        cut(peers.lab.b)
        if cut_s > 10.0:
            found_s = seconds_until("the peer is silent", lambda: "is silent" in peers.ours.log(), 10.0)
            print(f"cut wire: found after {found_s:.1f} s")
        time.sleep(cut_s - (10.0 if cut_s > 10.0 else 0.0))
        peers.lab.b.run("nft", "delete table inet cut")
        back_s = seconds_until("the tunnel is back", lambda: is_back(peers), 20.0)
        print(f"cut wire: back {back_s:.1f} s after it was mended")
        wait_for("one pair", lambda: len(peers.ours.sas()) == len(peers.charon.sas()) == 1, 15.0)
        one_of_each(peers)
    finally:
        peers.lab.b.run("nft", "delete table inet cut", check=False)
        pings.kill()
        pings.wait()


def test_charon_finds_us_dead_and_we_come_back_with_initial_contact(connect: Connect) -> None:
    peers = connect(ours=STARTED)
    wait_for("started by itself", lambda: peers.charon.established())
    peers.ours.kill()
    peers.ours.start()
    back_s = seconds_until("the tunnel is back", lambda: is_back(peers), 15.0)
    print(f"we killed: the tunnel is back {back_s:.1f} s after our restart")
    assert len(peers.charon.sas()) == 1
    one_of_each(peers)


def test_charon_deletes_and_close_action_brings_it_back(connect: Connect) -> None:
    peers = connect(ours=LEFT.but(child_options=(("close_action", "start"),)))
    before = up(peers, "ours")
    peers.charon.swanctl("--terminate", "--ike", "t")
    wait_for("set up again", lambda: peers.charon.established())
    wait_for("traffic", lambda: is_back(peers))
    assert set(one_of_each(peers)).isdisjoint(before)


def test_both_start_and_with_unique_replace_one_pair_is_left(connect: Connect) -> None:
    """With `no` charon keeps a second one that it began before it heard of ours; what both know to cross is settled."""
    both = {"child_options": (("start_action", "start"),), "options": (("unique", "replace"),)}
    peers = connect(LEFT.but(**both), RIGHT.but(**both))
    wait_for("traffic", lambda: is_back(peers))
    time.sleep(8.0)
    wait_for("one", lambda: len(peers.ours.sas()) == len(peers.charon.sas()) == 1, 10.0)
    assert peers.lab.l.ping("10.2.0.10") == 3
