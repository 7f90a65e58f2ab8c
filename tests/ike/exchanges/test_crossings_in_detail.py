"""Crossing exchanges message by message: which request arrives before which response is laid down, not left to time.

RFC 7296 sections 2.8.1, 2.8.2, 2.25.1, 2.25.2. What the RFC leaves to chance is played with several nonces, so that
either side loses. The end is the same everywhere: both sides mean one pair, no packet was without an SA.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from agreement import (
    CREATE_CHILD_SA,
    INFORMATIONAL,
    QUIET_S,
    REQUEST,
    RESPONSE,
    Holding,
    come_to_rest,
    kind_of,
    names_of,
)
from pair import Pair, child, connection

from ipsec_fast.ike.events import AskInstallChild, ChildDown, ChildFailed, ChildUp, IkeUp
from ipsec_fast.ike.v2.create_child import CreateChild
from ipsec_fast.ike.v2.informational import DeleteChild
from ipsec_fast.ike.v2.outbound import submit

SEEDS = range(6)
FLIGHT_S = 0.015  # one way and a little


def begun(seed: int = 1, **options: object) -> Pair:
    return Pair(seed=seed, **options).up().start_traffic(0.004)


def rekey(pair: Pair, *sides: str, what: str = "child") -> None:
    for side in sides:
        view = pair.shell(side).views("ESTABLISHED", "REKEYING")[-1]
        pair.call(side, f"rekey_{what}", view.children[-1].child_id if what == "child" else view.ike_id)


def ends_well(pair: Pair, *, children: int = 1, gaps: bool = False) -> None:
    assert come_to_rest(pair) == "", f"{pair.a.log}\n---\n{pair.b.log}"
    assert len(names_of(pair.a)) == children, f"{pair.a.log}\n---\n{pair.b.log}"
    if not gaps:
        assert [*pair.a.gaps, *pair.b.gaps] == []


def spi_of(pair: Pair) -> int:
    return pair.a.view.children[-1].spi_in


# --- a rekey that one side begins


def test_a_soft_limit_of_a_replaced_child_begins_nothing() -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("a", INFORMATIONAL, REQUEST)
    rekey(pair, "a")
    pair.run(0.2)
    old = pair.b.view.children[0]
    assert old.state == "REKEYED"
    before = len(pair.sent)
    pair.call("b", "rekey_child", old.child_id)  # as the dataplane reports a soft limit
    pair.run(0.1)
    assert [kind_of(s) for s in pair.sent[before:] if kind_of(s)[:2] == ("b", CREATE_CHILD_SA)] == []
    wire.let_go()
    ends_well(pair)


def test_a_hard_limit_of_a_replaced_child_deletes_it_and_the_new_one_carries_on() -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("a", INFORMATIONAL, REQUEST)
    rekey(pair, "a")
    pair.run(0.2)
    pair.call("b", "child_expired", pair.b.view.children[0].child_id, "its time is over")
    pair.run(0.1)
    wire.let_go()
    ends_well(pair)
    assert len(pair.a.of(ChildUp)) == len(pair.b.of(ChildUp)) == 2


@pytest.mark.parametrize("who", ["a", "b"])
def test_the_new_child_is_deleted_before_the_old_one(who: str) -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("a", INFORMATIONAL, REQUEST)
    rekey(pair, "a")
    pair.run(0.2)
    new = pair.shell(who).view.children[-1].child_id
    pair.call(who, "terminate_child", new)
    pair.run(0.05)
    if wire.held:
        wire.let_go()
    ends_well(pair, children=0, gaps=True)
    assert {event.name for event in pair.b.of(ChildDown)} == {"net"}


def test_a_child_that_the_responder_lost_is_made_anew() -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", INFORMATIONAL, REQUEST)
    pair.call("b", "child_expired", pair.b.view.children[0].child_id, "lost")
    wire.lose()
    pair.b.endpoint._core.sas[1].queue.clear()  # and forgets to make it anew
    rekey(pair, "a")
    assert come_to_rest(pair) == ""
    assert set(names_of(pair.a)) == {"net"}


@pytest.mark.parametrize("delete_first", [True, False])
def test_a_responder_that_deletes_the_old_child_itself(delete_first: bool) -> None:
    """Wrong, but it happens: its DELETE may come before its response to our rekey."""
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", CREATE_CHILD_SA, RESPONSE)
    rekey(pair, "a")
    pair.run(FLIGHT_S)
    sa = pair.b.endpoint._core.sas[1]
    old = sa.children[1]
    pair.b.endpoint._core.now = pair.now
    submit(sa, DeleteChild(old, "wrongly"))
    if not delete_first:
        wire.let_go()
    pair.run(FLIGHT_S)
    if delete_first:
        wire.let_go()
    ends_well(pair, gaps=True)
    assert all(gap - 1000 < 3 for gap in [*pair.a.gaps, *pair.b.gaps])  # none once the response is there


def test_a_peer_that_never_answers_the_delete_of_the_old_child_is_given_up_once() -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", INFORMATIONAL, RESPONSE)
    rekey(pair, "a")
    pair.start_traffic(1.0)
    pair.run(80)
    assert [c.state for c in pair.a.view.children] == ["DELETING", "INSTALLED"]
    assert pair.a.gaps == []  # it is up and carries everything
    pair.run(60)
    assert pair.a.endpoint.counters["given_up"] == 1
    assert not pair.a.views()
    downs = [event.child_id for event in pair.a.of(ChildDown)]
    assert sorted(downs) == sorted(set(downs)) == [1, 2]


@pytest.mark.parametrize("what", ["child", "ike"])
def test_a_rekey_whose_group_the_peer_does_not_want(what: str) -> None:
    options = {"ike": ("aes128gcm16-prfsha256-x25519-ecp256",)}
    esp = ("aes128gcm16-x25519-ecp256",)
    a = connection("a", children=(child(esp=esp),), **options)
    one = child(local="10.2.0.0/24", remote="10.1.0.0/24", esp=("aes128gcm16-ecp256",))
    b = connection("b", children=(one,), ike=("aes128gcm16-prfsha256-ecp256",))
    pair = Pair(a, b).up().start_traffic(0.004)
    first = spi_of(pair), pair.a.view.spi_i
    rekey(pair, "a", what=what)
    ends_well(pair)
    assert (spi_of(pair), pair.a.view.spi_i) != first


# --- both rekey the Child SA


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("late", ["a", "b"])
def test_child_rekeys_cross_and_one_response_is_late(seed: int, late: str) -> None:
    """The other side has settled it, and deleted, before this one hears."""
    pair = begun(seed)
    first = spi_of(pair)
    wire = Holding(pair)
    wire.hold(late, CREATE_CHILD_SA, RESPONSE)
    rekey(pair, "a", "b")
    pair.run(0.2)
    wire.let_go()
    ends_well(pair)
    assert spi_of(pair) != first


@pytest.mark.parametrize("seed", SEEDS)
def test_child_rekeys_cross_and_the_new_one_is_deleted_before_the_late_response(seed: int) -> None:
    pair = begun(seed)
    wire = Holding(pair)
    wire.hold("b", CREATE_CHILD_SA, RESPONSE)
    rekey(pair, "a", "b")
    pair.run(0.2)
    for view in pair.b.view.children:
        if view.state == "INSTALLED":
            pair.call("b", "terminate_child", view.child_id)
    pair.run(0.1)
    wire.let_go()
    assert come_to_rest(pair) == "", f"{pair.a.log}\n---\n{pair.b.log}"
    assert len(names_of(pair.a)) <= 1  # the one that b asked an end of was perhaps the loser


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("deleted_first", [False, True])
def test_child_rekeys_cross_and_one_request_is_late(seed: int, deleted_first: bool) -> None:
    """B never notices: A's request comes when the old one is replaced, or deleted, at B already."""
    pair = begun(seed)
    wire = Holding(pair)
    wire.hold("a", CREATE_CHILD_SA, REQUEST)
    rekey(pair, "a", "b")
    pair.run(0.2 if deleted_first else FLIGHT_S * 2)
    wire.let_go()
    ends_well(pair)
    refused = ("TEMPORARY_FAILURE", "CHILD_SA_NOT_FOUND")
    assert any(word in pair.b.log for word in refused)


@pytest.mark.parametrize("seed", SEEDS)
def test_child_rekeys_cross_one_request_is_late_and_the_next_rekey_overtakes_it(seed: int) -> None:
    pair = begun(seed)
    wire = Holding(pair)
    wire.hold("a", CREATE_CHILD_SA, REQUEST)
    rekey(pair, "a", "b")
    pair.run(0.1)
    rekey(pair, "b")
    pair.run(0.1)
    wire.let_go()
    ends_well(pair)


@pytest.mark.parametrize("seed", SEEDS)
def test_child_rekeys_cross_one_request_is_late_and_the_child_is_deleted_meanwhile(seed: int) -> None:
    pair = begun(seed)
    wire = Holding(pair)
    wire.hold("a", CREATE_CHILD_SA, REQUEST)
    rekey(pair, "a", "b")
    pair.run(0.1)
    pair.call("b", "terminate_child", pair.b.view.children[-1].child_id)
    pair.run(0.1)
    wire.let_go()
    assert come_to_rest(pair) == "", f"{pair.a.log}\n---\n{pair.b.log}"


def two_groups(seed: int) -> Pair:
    """Each side begins with a group that the other takes only second, so both rekeys go twice."""
    esp_a, esp_b = ("aes128gcm16-x25519", "aes128gcm16-ecp256"), ("aes128gcm16-ecp256", "aes128gcm16-x25519")
    ike_a, ike_b = "aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-ecp256"
    a = connection("a", children=(child(esp=esp_a),), ike=(ike_a, ike_b))
    b_child = child(local="10.2.0.0/24", remote="10.1.0.0/24", esp=esp_b)
    b = connection("b", children=(b_child,), ike=(ike_b, ike_a))
    return Pair(a, b, seed=seed).up().start_traffic(0.004)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("late", [False, True])
def test_rekeys_cross_with_groups_that_the_other_does_not_want(seed: int, what: str, late: bool) -> None:
    pair = two_groups(seed)
    first = spi_of(pair), pair.a.view.spi_i
    wire = Holding(pair)
    rekey(pair, "a", "b", what=what)
    pair.run(FLIGHT_S)
    if late:  # the second try of A
        wire.hold("a", CREATE_CHILD_SA, REQUEST)
    pair.run(0.2)
    if late and wire.held:
        wire.let_go()
    ends_well(pair)
    assert (spi_of(pair), pair.a.view.spi_i) != first


@pytest.mark.parametrize("seed", SEEDS)
def test_child_rekeys_cross_and_the_loser_deletes_the_old_child_too(seed: int) -> None:
    """A peer that deletes the old one although it lost: the DELETEs cross."""
    pair = begun(seed)
    rekey(pair, "a", "b")
    pair.run(FLIGHT_S * 2)
    for shell in (pair.a, pair.b):
        sa = shell.endpoint._core.sas[1]
        if old := sa.children.get(1):
            shell.endpoint._core.now = pair.now
            submit(sa, DeleteChild(old, "wrongly"))
    ends_well(pair)


# --- a rekey against a delete of the Child SA


@pytest.mark.parametrize("what", ["delete", "rekey", "response to the delete", "response to the rekey"])
@pytest.mark.parametrize("fate", ["late", "lost"])
def test_a_child_rekey_crosses_its_delete(what: str, fate: str) -> None:
    pair = begun()
    wire = Holding(pair)
    kind = {
        "rekey": ("a", CREATE_CHILD_SA, REQUEST),
        "delete": ("b", INFORMATIONAL, REQUEST),
        "response to the rekey": ("b", CREATE_CHILD_SA, RESPONSE),
        "response to the delete": ("a", INFORMATIONAL, RESPONSE),
    }[what]
    wire.hold(*kind)
    rekey(pair, "a")
    pair.call("b", "terminate_child", pair.b.view.children[0].child_id)
    pair.run(0.2)
    wire.let_go() if fate == "late" else wire.lose()
    ends_well(pair, children=0, gaps=True)


def test_a_rekey_of_a_child_that_is_being_deleted_is_refused_for_now() -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", INFORMATIONAL, REQUEST)
    pair.call("b", "terminate_child", pair.b.view.children[0].child_id)
    rekey(pair, "a")
    pair.run(0.1)
    assert "refused with TEMPORARY_FAILURE" in pair.b.log
    wire.let_go()
    ends_well(pair, children=0, gaps=True)


@pytest.mark.parametrize("fate", ["passes", "late", "lost"])
def test_both_delete_the_child(fate: str) -> None:
    pair = begun()
    wire = Holding(pair)
    if fate != "passes":
        wire.hold("b", INFORMATIONAL, REQUEST)
    for side in "ab":
        pair.call(side, "terminate_child", pair.shell(side).view.children[0].child_id)
    pair.run(0.2)
    if fate != "passes":
        wire.let_go() if fate == "late" else wire.lose()
    ends_well(pair, children=0, gaps=True)
    for shell in (pair.a, pair.b):
        assert len(shell.of(ChildDown)) == 1


# --- Child exchanges against the IKE SA's


@pytest.mark.parametrize("held", [("a", CREATE_CHILD_SA, REQUEST), ("b", CREATE_CHILD_SA, REQUEST), None])
def test_a_child_rekey_crosses_an_ike_rekey(held: tuple[str, int, bool] | None) -> None:
    pair = begun()
    first = spi_of(pair), pair.a.view.spi_i
    wire = Holding(pair)
    if held:
        wire.hold(*held)
    rekey(pair, "a")
    rekey(pair, "b", what="ike")
    pair.run(0.2)
    if held:
        wire.let_go()
    ends_well(pair)
    assert (spi_of(pair), pair.a.view.spi_i) != first


@pytest.mark.parametrize("exchange", ["rekey_child", "terminate_child", "initiate_child"])
@pytest.mark.parametrize("held", ["a", "b", ""])
def test_a_child_exchange_crosses_the_delete_of_the_ike_sa(exchange: str, held: str) -> None:
    pair = begun()
    wire = Holding(pair)
    if held:
        wire.hold(held, INFORMATIONAL if held == "b" else CREATE_CHILD_SA, REQUEST)
    view = pair.a.view
    if exchange == "initiate_child":
        pair.call("a", exchange, view.ike_id, pair.a.configs[0].children[0])
    else:
        pair.call("a", exchange, view.children[0].child_id)
    pair.call("b", "terminate_ike", pair.b.view.ike_id)
    pair.run(0.2)
    if wire.held:
        wire.let_go()
    pair.run(QUIET_S)
    pair.check_nothing_left()


@pytest.mark.parametrize("held", [True, False])
def test_a_child_delete_crosses_an_ike_rekey(held: bool) -> None:
    pair = begun()
    wire = Holding(pair)
    if held:
        wire.hold("a", INFORMATIONAL, REQUEST)
    pair.call("a", "terminate_child", pair.a.view.children[0].child_id)
    rekey(pair, "b", what="ike")
    pair.run(0.2)
    if held:
        wire.let_go()
    ends_well(pair, children=0, gaps=True)


def test_a_new_child_crosses_an_ike_rekey_and_comes_on_the_new_ike_sa() -> None:
    more_a, more_b = (
        child("more", local="10.3.0.0/24", remote="10.4.0.0/24"),
        child("more", local="10.4.0.0/24", remote="10.3.0.0/24"),
    )
    a, b = connection("a"), connection("b")
    pair = Pair(replace(a, children=(*a.children, more_a)), replace(b, children=(*b.children, more_b)))
    pair.initiate("a", "net")
    pair.run(2)
    pair.call("a", "initiate_child", pair.a.view.ike_id, more_a)
    rekey(pair, "b", what="ike")
    ends_well(pair, children=2)
    assert "CHILD SA more put off by the peer with TEMPORARY_FAILURE; again in" in pair.a.log
    assert pair.a.of(ChildFailed) == []


def test_a_child_like_one_that_stands_is_made_beside_it_only_when_asked_for() -> None:
    pair = begun()
    pair.call("a", "initiate_child", pair.a.view.ike_id, pair.a.configs[0].children[0])
    ends_well(pair, children=2)


# --- both rekey the IKE SA


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("late", ["a", "b"])
def test_ike_rekeys_cross_and_one_response_is_late(seed: int, late: str) -> None:
    pair = begun(seed)
    first = pair.a.view.spi_i
    wire = Holding(pair)
    wire.hold(late, CREATE_CHILD_SA, RESPONSE)
    rekey(pair, "a", "b", what="ike")
    pair.run(1.5)  # beyond the moment at which the winner deletes the old one
    wire.let_go()
    ends_well(pair)
    assert pair.a.view.spi_i != first


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fate", ["lost", "late", "later than the delete"])
def test_ike_rekeys_cross_and_one_request_is_not_seen(seed: int, fate: str) -> None:
    """B does not notice the crossing: it has its new IKE SA and deletes the old one."""
    pair = begun(seed)
    first = pair.a.view.spi_i
    wire = Holding(pair)
    wire.hold("a", CREATE_CHILD_SA, REQUEST)
    rekey(pair, "a", "b", what="ike")
    pair.run(0.2 if fate == "later than the delete" else 2 * FLIGHT_S)
    if fate == "lost":
        wire.lose()
    else:
        wire.let_go()
    ends_well(pair)
    assert pair.a.view.spi_i != first


@pytest.mark.parametrize("fate", ["passes", "late", "lost"])
def test_an_ike_rekey_crosses_the_delete(fate: str) -> None:
    pair = begun()
    wire = Holding(pair)
    if fate != "passes":
        wire.hold("b", INFORMATIONAL, REQUEST)
    rekey(pair, "a", what="ike")
    pair.call("b", "terminate_ike", pair.b.view.ike_id)
    pair.run(0.2)
    if fate != "passes":
        wire.let_go() if fate == "late" else wire.lose()
    pair.run(QUIET_S)
    pair.check_nothing_left()
    assert len(pair.a.of(IkeUp)) == 1


@pytest.mark.parametrize("fate", ["passes", "late", "lost"])
def test_both_delete_the_ike_sa(fate: str) -> None:
    pair = begun()
    wire = Holding(pair)
    if fate != "passes":
        wire.hold("b", INFORMATIONAL, REQUEST)
    for side in "ab":
        pair.call(side, "terminate_ike", pair.shell(side).view.ike_id)
    pair.run(0.2)
    if wire.held:
        wire.let_go() if fate == "late" else wire.lose()
    pair.run(QUIET_S)
    pair.check_nothing_left()


@pytest.mark.parametrize("side", ["a", "b"])
def test_one_deletes_the_ike_sa(side: str) -> None:
    pair = begun()
    pair.call(side, "terminate_ike", pair.shell(side).view.ike_id)
    pair.run(QUIET_S)
    pair.check_nothing_left()


@pytest.mark.parametrize("side", ["a", "b"])
def test_one_deletes_the_child(side: str) -> None:
    pair = begun()
    pair.call(side, "terminate_child", pair.shell(side).view.children[0].child_id)
    ends_well(pair, children=0, gaps=True)


# --- the peer uses an IKE SA that stands aside here


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["terminate_child", "rekey_child", "initiate_child", "rekey_ike"])
@pytest.mark.parametrize("fate", ["late", "lost"])
def test_the_peer_goes_on_with_its_new_ike_sa_while_our_own_rekey_is_not_settled(
    seed: int, what: str, fate: str
) -> None:
    pair = begun(seed)
    wire = Holding(pair)
    wire.hold("a", CREATE_CHILD_SA, REQUEST)
    rekey(pair, "a", "b", what="ike")
    view = pair.b.view
    if what == "initiate_child":
        pair.call("b", what, view.ike_id, pair.b.configs[0].children[0])
    elif what != "rekey_ike":
        pair.call("b", what, view.children[0].child_id)
    pair.run(0.2)
    if what == "rekey_ike":
        rekey(pair, "b", what="ike")
        pair.run(0.1)
    wire.let_go() if fate == "late" else wire.lose()
    ends_well(pair, children={"terminate_child": 0, "initiate_child": 2}.get(what, 1), gaps=what.endswith("e_child"))


@pytest.mark.parametrize("verb", ["rekey_ike", "terminate_ike", "reauthenticate", "initiate_child"])
def test_what_is_asked_of_an_ike_sa_that_stands_aside_is_asked_of_the_one_it_may_follow(verb: str) -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", CREATE_CHILD_SA, RESPONSE)
    rekey(pair, "a", "b", what="ike")
    pair.run(FLIGHT_S * 2)
    old, aside = pair.a.views()
    more = (pair.a.configs[0].children[0],) if verb == "initiate_child" else ()
    pair.call("a", verb, aside.ike_id, *more)
    pair.run(0.05)
    wire.let_go()
    if verb == "terminate_ike":
        pair.run(QUIET_S)
        pair.check_nothing_left()
    else:
        ends_well(pair, children=2 if more else 1, gaps=bool(more))
    assert old.ike_id not in {view.ike_id for view in pair.a.views()}


# --- a DELETE that overtakes the response that made what it deletes


@pytest.mark.parametrize("what", ["rekey_child", "initiate_child"])
def test_the_peer_deletes_what_it_made_before_its_response_comes(what: str) -> None:
    pair = begun()
    wire = Holding(pair)
    wire.hold("b", CREATE_CHILD_SA, RESPONSE)
    if what == "rekey_child":
        rekey(pair, "a")
    else:
        pair.call("a", what, pair.a.view.ike_id, pair.a.configs[0].children[0])
    pair.run(FLIGHT_S)
    pair.call("b", "terminate_child", pair.b.view.children[-1].child_id)
    pair.run(0.1)
    wire.let_go()
    ends_well(pair, children=0 if what == "rekey_child" else 1, gaps=True)
    assert "deleted it before its response came" in pair.a.log


@pytest.mark.parametrize("what", ["rekey_child", "initiate_child"])
@pytest.mark.parametrize("forgets", [False, True])
def test_the_peer_rekeys_what_it_made_before_its_response_comes(what: str, forgets: bool) -> None:
    pair = begun()
    if forgets:  # as a peer answers that does not think of it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CreateChild, "makes_child", False)
            _rekey_too_early(pair, what)
            assert "refused with CHILD_SA_NOT_FOUND" in pair.a.log
    else:
        _rekey_too_early(pair, what)
        assert "refused with TEMPORARY_FAILURE" in pair.a.log
    ends_well(pair, children=1 if what == "rekey_child" else 2, gaps=True)


def _rekey_too_early(pair: Pair, what: str) -> None:
    wire = Holding(pair)
    wire.hold("b", CREATE_CHILD_SA, RESPONSE)
    more = (pair.a.configs[0].children[0],)
    pair.call(
        "a", what, *((pair.a.view.ike_id, *more) if what == "initiate_child" else (pair.a.view.children[0].child_id,))
    )
    pair.run(FLIGHT_S)
    pair.call("b", "rekey_child", pair.b.view.children[-1].child_id)
    pair.run(0.1)
    wire.let_go()


def test_the_peer_deletes_a_child_that_is_being_installed() -> None:
    pair = begun()
    pair.a.rest.add(AskInstallChild)
    rekey(pair, "a")
    pair.run(0.1)
    pair.call("b", "terminate_child", pair.b.view.children[-1].child_id)
    pair.run(0.1)
    pair.a.rest.clear()
    (ask,) = pair.a.resting
    pair.a.reply(ask, pair.now)
    pair.flush()
    assert come_to_rest(pair) == "", f"{pair.a.log}\n---\n{pair.b.log}"
