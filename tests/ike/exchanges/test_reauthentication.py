"""Reauthentication, made before it is broken (RFC 7296 section 2.8.3): either role, loss, rekeys, both sides at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.pair import LATENCY_S, PSK, Pair, Sent, adverse, child, connection

from ipsec_fast.ike.config import Unique
from ipsec_fast.ike.events import ChildDown, IkeDown, IkeUp
from ipsec_fast.ike.lifetimes import ChildLifetimes, IkeLifetimes, time_limits

NEVER = IkeLifetimes(0, 0, 0, 0)
by_both_roles = pytest.mark.parametrize("who", ["a", "b"])  # a is the initiator of the first IKE SA
TWO = ("10.2.0.0/24", "10.3.0.0/24")


def pair(*, a: IkeLifetimes = NEVER, b: IkeLifetimes = NEVER, unique: Unique = Unique.NO, seed: int = 1) -> Pair:
    forever = ChildLifetimes(time_limits(0.0))
    children_a = tuple(child(f"net{i}", remote=net, lifetimes=forever) for i, net in enumerate(TWO))
    children_b = tuple(
        child(f"net{i}", local=net, remote="10.1.0.0/24", lifetimes=forever) for i, net in enumerate(TWO)
    )
    both = Pair(
        connection("a", children=children_a, lifetimes=a, unique=unique),
        connection("b", children=children_b, lifetimes=b, unique=unique),
        seed=seed,
    )
    both.initiate("a", "net0", "net1")
    both.run(2)
    both.check_one_pair(children=2)
    return both


def spis(both: Pair) -> tuple[bytes, bytes]:
    return both.a.view.spi_i, both.a.view.spi_r


def only(both: Pair, side: str, condition: Callable[[Sent], bool]) -> None:
    both.network = lambda sent: () if sent.sender == side and condition(sent) else (LATENCY_S,)


@by_both_roles
def test_either_role_makes_a_new_ike_sa_with_all_children_and_no_gap(who: str) -> None:
    both = pair().start_traffic(0.003)
    before, shell = spis(both), both.shell(who)
    both.call(who, "reauthenticate", shell.view.ike_id)
    both.run(5)
    both.check_one_pair(children=2)
    assert spis(both) != before
    assert shell.view.initiator, "whoever reauthenticates is the initiator of the new one"
    assert (both.a.gaps, both.b.gaps) == ([], [])
    assert not any(down.by_peer for down in both.a.of(ChildDown) + both.b.of(ChildDown))
    assert {down.inbound_grace_s for down in both.a.of(ChildDown) + both.b.of(ChildDown)} == {5.0}


@by_both_roles
def test_its_time_comes_again_and_again(who: str) -> None:
    lives = IkeLifetimes(0, 100, 20, 10)
    both = pair(**{who: lives}).start_traffic(0.5)
    both.run(1000)
    both.traffic_every_s = 0
    both.run(5)
    both.check_one_pair(children=2)
    assert 9 <= len(both.shell(who).of(IkeUp)) <= 13
    assert (both.a.gaps, both.b.gaps) == ([], [])


@by_both_roles
@pytest.mark.parametrize("seed", range(25))
def test_with_loss_it_succeeds_without_a_gap(who: str, seed: int) -> None:
    both = pair(seed=seed).start_traffic(0.02)
    before = spis(both)
    both.network = adverse(seed, loss=0.3, duplicate=0.2, jitter_s=0.2)
    both.call(who, "reauthenticate", both.shell(who).view.ike_id)
    both.run(90, until=lambda: len(both.a.views()) == len(both.b.views()) == 1 and spis(both) != before)
    both.network = adverse(seed)
    both.run(40)
    both.check_one_pair(children=2)
    assert (both.a.gaps, both.b.gaps) == ([], [])


def test_the_responder_sends_on_the_old_child_until_the_new_one_is_used() -> None:
    both = pair()
    both.call("a", "reauthenticate", both.a.view.ike_id)
    both.network = lambda sent: (
        () if sent.sender == "b" and len(both.b.views()) == 2 and sent.data[18] == 35 else (LATENCY_S,)
    )
    both.run(1)
    new = [installed for installed in both.b.live if installed.ask.outbound_deferred]
    assert len(new) == 1
    assert not new[0].sends, "the response that would make a receive on it was lost"
    both.network = lambda sent: (LATENCY_S,)
    both.run(5)
    both.check_one_pair(children=2)


def test_a_child_that_the_peer_never_uses_is_used_at_last() -> None:
    both = pair()
    both.initiate("a", "net0")  # a second IKE SA, which replaces nothing
    both.run(3)
    (second,) = [installed for installed in both.b.live if installed.ask.outbound_deferred]
    assert not second.sends
    both.run(10)
    assert second.sends


@by_both_roles
def test_a_refused_one_is_tried_again_and_the_old_one_carries_on(who: str) -> None:
    both = pair(**{who: IkeLifetimes(0, 100, 300, 0)}).start_traffic(0.5)
    before = spis(both)
    for shell in (both.a, both.b):
        shell.psk = b"somebody else's long secret" if shell.side != who else PSK
    both.run(150)
    assert spis(both) == before
    assert both.shell(who).log.count("reauthentication of IKE SA") >= 2
    both.a.psk = both.b.psk = PSK
    both.run(100)
    both.traffic_every_s = 0
    both.run(5)
    both.check_one_pair(children=2)
    assert spis(both) != before
    assert (both.a.gaps, both.b.gaps) == ([], [])


def test_what_cannot_be_reauthenticated_ends_at_its_hard_limit() -> None:
    both = pair(a=IkeLifetimes(0, 100, 50, 0))
    both.b.psk = b"somebody else's long secret"
    both.run(160)
    assert [down.reason for down in both.a.of(IkeDown)][-1] == "its lifetime is over"
    both.check_nothing_left()


def test_a_rekey_does_not_put_the_reauthentication_off() -> None:
    both = pair(a=IkeLifetimes(60, 200, 100, 0))
    due = both.a.view.reauth_at
    both.run(130)
    assert len(both.a.of(IkeUp)) >= 3
    assert both.a.view.reauth_at == pytest.approx(due)


@by_both_roles
def test_a_rekey_of_the_old_one_waits(who: str) -> None:
    both = pair()
    other = "b" if who == "a" else "a"
    both.call(who, "reauthenticate", both.shell(who).view.ike_id)
    both.call(other, "rekey_ike", both.shell(other).view.ike_id)
    both.run(20)
    both.check_one_pair(children=2)


@pytest.mark.parametrize("seed", range(10))
def test_from_both_sides_at_once_one_remains(seed: int) -> None:
    both = pair(seed=seed).start_traffic(0.05)
    before = spis(both)
    both.call("a", "reauthenticate", both.a.view.ike_id)
    both.call("b", "reauthenticate", both.b.view.ike_id)
    both.run(20)
    both.traffic_every_s = 0
    both.run(10)
    both.check_one_pair(children=2)
    assert spis(both) != before
    assert (both.a.gaps, both.b.gaps) == ([], [])


@by_both_roles
@pytest.mark.parametrize("unique", list(Unique))
def test_no_uniqueness_policy_stands_in_its_way(who: str, unique: Unique) -> None:
    both = pair(unique=unique).start_traffic(0.01)
    before = spis(both)
    both.call(who, "reauthenticate", both.shell(who).view.ike_id)
    both.run(30)
    both.traffic_every_s = 0
    both.run(5)
    both.check_one_pair(children=2)
    assert spis(both) != before
    assert (both.a.gaps, both.b.gaps) == ([], [])
