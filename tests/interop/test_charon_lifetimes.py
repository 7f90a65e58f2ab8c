"""Lifetimes against charon: rekeys and reauthentications begun by time or by traffic from either side, and no ping lost by them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import Connect, both_roles, one_of_each, up
from netns.lab import wait_for
from netns.site import LEFT, RIGHT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]
QUIET = (("rekey_time", "0"), ("life_time", "0"))  # of a child
REAUTH = (("reauth_time", "3s"), ("over_time", "60s"), ("rand_time", "0"))


def pings_lost(peers: Peers, seconds: float, during: Callable[[], object] = lambda: None) -> int:
    """A ping every 20 ms from a host behind ours to one behind charon."""
    command = peers.lab.l.command("ping", "-i", "0.02", "-c", str(int(seconds * 50)), "-W", "2", "10.2.0.10")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinging:
        during()
        text = pinging.communicate()[0]
    sent, received = re.search(r"(\d+) packets transmitted, (\d+) received", text).groups()
    return int(sent) - int(received)


@both_roles
def test_our_reauthentication(connect: Connect, initiator: str) -> None:
    peers = connect(LEFT.but(options=REAUTH, child_options=QUIET), RIGHT.but(child_options=QUIET))
    up(peers, initiator)
    before = peers.ours.established()[0].spis
    # charon, as responder, sends on a new SA before we can have its answer
    assert pings_lost(peers, 10) == 0
    wait_for("another IKE SA", lambda: peers.ours.established() and peers.ours.established()[0].spis != before)
    assert peers.ours.log().count("closed (child") >= 2


@both_roles
def test_charons_reauthentication_made_before_it_is_broken(connect: Connect, initiator: str) -> None:
    peers = connect(
        LEFT.but(child_options=QUIET),
        RIGHT.but(options=REAUTH, child_options=QUIET),
        settings="make_before_break = yes",
    )
    up(peers, initiator)
    before = peers.ours.established()[0].spis
    assert pings_lost(peers, 10) == 0
    assert "reauthenticating IKE_SA" in peers.charon.log()
    wait_for("another IKE SA", lambda: peers.ours.established() and peers.ours.established()[0].spis != before)


@both_roles
def test_our_rekeys_by_packets(connect: Connect, initiator: str) -> None:
    limits = (("rekey_packets", "100"), ("life_packets", "1000"), ("rand_packets", "20"))
    peers = connect(LEFT.but(child_options=limits), RIGHT.but(child_options=QUIET))
    before = up(peers, initiator)
    assert pings_lost(peers, 10) == 0
    assert set(one_of_each(peers)).isdisjoint(before)
    assert peers.ours.log().count("net rekeyed") >= 3


@both_roles
def test_charons_rekeys_by_time(connect: Connect, initiator: str) -> None:
    times = (("rekey_time", "2s"), ("life_time", "60s"), ("rand_time", "0"))
    peers = connect(LEFT.but(child_options=QUIET), RIGHT.but(child_options=times))
    before = up(peers, initiator)
    assert pings_lost(peers, 8) == 0
    assert set(one_of_each(peers)).isdisjoint(before)


def test_our_hard_limit_deletes_and_makes_anew(connect: Connect) -> None:
    peers = connect(LEFT.but(child_options=(("life_packets", "80"),)), RIGHT.but(child_options=QUIET))
    before = up(peers, "ours")
    pings_lost(peers, 2)  # 100, so that the second child is far from its own end
    assert "its lifetime is over" in peers.ours.log()
    assert set(one_of_each(peers)).isdisjoint(before)
    assert peers.lab.l.ping("10.2.0.10") == 3
