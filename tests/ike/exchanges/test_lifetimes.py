"""Lifetimes by time on a virtual clock: soft limits with their jitter, retries until the hard limit, idle children."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.pair import LATENCY_S, Pair, Shell, child, connection

from ipsec_fast.errors import LocalError
from ipsec_fast.ike.events import AskInstallChild, AskKeyPair, ChildDown, ChildUp, IkeDown, IkeUp
from ipsec_fast.ike.lifetimes import ChildLifetimes, IkeLifetimes, Limits, count_limits, time_limits

NEVER = time_limits(0.0)


def sides(ike: IkeLifetimes | None = None, lives: ChildLifetimes | None = None) -> Pair:
    """Side a has these lifetimes, side b none at all."""
    never = {"lifetimes": IkeLifetimes(0, 0, 0, 0)}
    a = connection(
        "a", lifetimes=ike or never["lifetimes"], children=(child(lifetimes=lives or ChildLifetimes(NEVER)),)
    )
    b_child = child(local="10.2.0.0/24", remote="10.1.0.0/24", lifetimes=ChildLifetimes(NEVER))
    return Pair(a, connection("b", children=(b_child,), **never)).up()


def reasons(shell: Shell) -> list[str]:
    return [down.reason for down in shell.of(ChildDown)]


# --- soft limits of a child


@pytest.mark.parametrize("seed", range(20))
def test_the_jitter_is_taken_off_and_no_more(seed: int) -> None:
    lives = ChildLifetimes(Limits(1000.0, 2000.0, 300.0))
    pair = Pair(connection("a", children=(child(lifetimes=lives),)), seed=seed).up()
    (view,) = pair.a.view.children
    assert 700 <= view.rekey_at - view.installed_at <= 1000
    assert view.life_at - view.installed_at == 2000


def test_without_jitter_the_rekey_is_on_time() -> None:
    pair = sides(lives=ChildLifetimes(Limits(100.0, 200.0, 0.0)))
    at = pair.a.view.children[0].installed_at
    pair.run(200, until=lambda: len(pair.a.of(ChildUp)) == 2)
    assert pair.now == pytest.approx(at + 100 + 2 * LATENCY_S)
    pair.run(10)
    pair.check_one_pair()
    assert not pair.a.gaps


def test_a_child_without_a_rekey_ends_and_is_made_anew() -> None:
    pair = sides(lives=ChildLifetimes(Limits(0.0, 100.0, 0.0)))
    pair.run(101)
    assert reasons(pair.a) == ["its lifetime is over"]
    assert reasons(pair.b) == ["deleted by the peer"]
    assert [up.replaces for up in pair.a.of(ChildUp)] == [None, None]
    pair.check_one_pair()


def test_a_refused_rekey_is_tried_again_until_the_hard_limit() -> None:
    pair = sides(lives=ChildLifetimes(Limits(100.0, 400.0, 0.0)))
    at = pair.a.view.children[0].installed_at
    pair.b.refuse[AskInstallChild] = LocalError("no room")
    pair.run(399 + at - pair.now)
    assert pair.a.log.count("rekey of CHILD SA") >= 5
    assert len(pair.a.live) == 1, "below its hard limit it carries on"
    pair.run(1.5)
    assert reasons(pair.a)[-1] == "its lifetime is over"
    assert not pair.a.live
    assert not pair.b.live
    assert len(pair.a.views("ESTABLISHED")) == 1, "the IKE SA stands"


def test_at_its_hard_limit_a_child_stops_though_the_window_is_blocked() -> None:
    pair = sides(lives=ChildLifetimes(Limits(100.0, 110.0, 0.0)))
    at = pair.a.view.children[0].installed_at
    pair.network = lambda sent: ()
    pair.run(at + 110.01 - pair.now)
    assert not pair.a.live
    pair.network = lambda sent: (LATENCY_S,)
    pair.run(60)
    pair.check_one_pair()


def test_the_hard_limit_survives_an_ike_rekey() -> None:
    pair = sides(lives=ChildLifetimes(Limits(0.0, 100.0, 0.0)))
    life_at = pair.a.view.children[0].life_at
    pair.run(50)
    pair.call("b", "rekey_ike", pair.b.view.ike_id)
    pair.run(2)
    assert pair.a.view.children[0].life_at == life_at
    pair.run(life_at - pair.now + 1)
    assert "its lifetime is over" in reasons(pair.a)
    pair.check_one_pair()


def test_limits_of_traffic_go_to_the_dataplane() -> None:
    lives = ChildLifetimes(NEVER, count_limits(1000, 2000, 100), count_limits(50, 60, 0))
    limits = [
        Pair(connection("a", children=(child(lifetimes=lives),)), seed=s).up().a.live[0].ask.limits for s in range(20)
    ]
    assert all(900 <= one.soft_bytes <= 1000 for one in limits)
    assert len({one.soft_bytes for one in limits}) > 10
    assert {(one.hard_bytes, one.soft_packets, one.hard_packets) for one in limits} == {(2000, 50, 60)}


def test_what_the_dataplane_counts_out_is_deleted_and_made_anew() -> None:
    pair = sides()
    (view,) = pair.a.view.children
    pair.call("a", "child_expired", view.child_id, "its lifetime in packets is over")
    pair.run(1)
    assert reasons(pair.a) == ["its lifetime in packets is over"]
    pair.check_one_pair()
    pair.call("a", "child_expired", view.child_id, "once more")
    pair.run(1)
    pair.check_one_pair()


def test_an_expiry_while_its_rekey_is_under_way_makes_one_child() -> None:
    pair = sides()
    (view,) = pair.a.view.children
    pair.call("a", "rekey_child", view.child_id)
    pair.call("a", "child_expired", view.child_id, "its lifetime in bytes is over")
    pair.run(2)
    pair.check_one_pair()


# --- idle


def test_an_idle_child_is_closed_by_a_delete() -> None:
    pair = sides(lives=ChildLifetimes(NEVER, inactivity_s=30.0))
    pair.run(35)
    assert [(down.reason, down.idle) for down in pair.a.of(ChildDown)] == [("nothing passed for 30 s", True)]
    assert reasons(pair.b) == ["deleted by the peer"]
    pair.run(100)
    assert len(pair.a.of(ChildUp)) == 1, "it stays closed"


def test_traffic_keeps_a_child_open_and_its_end_closes_it() -> None:
    pair = sides(lives=ChildLifetimes(NEVER, inactivity_s=30.0)).start_traffic(20.0)
    pair.run(300)
    assert not pair.a.of(ChildDown)
    pair.traffic_every_s = 0.0
    pair.run(31)
    assert reasons(pair.a) == ["nothing passed for 30 s"]


def test_a_rekey_is_no_traffic() -> None:
    pair = sides(lives=ChildLifetimes(Limits(20.0, 40.0, 0.0), inactivity_s=50.0))
    pair.run(60)
    assert reasons(pair.a)[-1] == "nothing passed for 50 s"
    assert not pair.a.live


# --- the IKE SA


@pytest.mark.parametrize("seed", range(20))
def test_the_jitter_of_an_ike_sa(seed: int) -> None:
    pair = Pair(connection("a", lifetimes=IkeLifetimes(1000, 3000, 50, 200)), seed=seed).up()
    view = pair.a.view
    assert 800 <= view.rekey_at - view.established_at <= 1000
    assert 2800 <= view.reauth_at - view.established_at <= 3000


def test_an_ike_sa_that_cannot_be_rekeyed_ends_at_its_hard_limit() -> None:
    pair = sides(IkeLifetimes(100, 0, 50, 0))
    at = pair.a.view.established_at
    pair.b.refuse[AskKeyPair] = LocalError("no entropy")
    pair.run(at + 149 - pair.now)
    assert pair.a.log.count("rekey of IKE SA") >= 2
    assert pair.a.views("ESTABLISHED")
    pair.run(2)
    (down,) = pair.a.of(IkeDown)
    assert (down.reason, down.failed) == ("its lifetime is over", True)
    pair.check_nothing_left()


def test_a_rekeyed_ike_sa_has_a_hard_limit_of_its_own() -> None:
    pair = sides(IkeLifetimes(100, 0, 50, 0))
    pair.run(1000)
    assert not pair.a.of(IkeDown)[0].failed
    assert 10 <= len(pair.a.of(IkeUp)) <= 11
    pair.run(5)
    pair.check_one_pair()


def test_an_endless_ike_sa_is_left_alone() -> None:
    pair = sides()
    pair.run(10 * 86400)
    assert len(pair.a.of(IkeUp)) == 1
    assert pair.a.view.rekey_at is None
    assert replace(pair.a.view.children[0], state="INSTALLED").life_at is None
