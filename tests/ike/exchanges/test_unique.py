"""INITIAL_CONTACT and the `unique` policy with strongSwan's meanings, the bound per peer, and two sides that begin at once."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from live_pair import LivePair, downs
from pair import ADDRESS_A, ADDRESS_B, Pair, child, connection

from ipsec_fast.ike.config import EndpointSettings, Unique
from ipsec_fast.ike.events import IkeUp
from ipsec_fast.model import Identity, Path

ELSEWHERE = ip_address("192.0.2.7")


def pair_with(unique: Unique, **settings) -> LivePair:
    pair = LivePair(connection("a"), connection("b", unique=unique), settings=EndpointSettings(**settings))
    return pair.up()


def initiate_from(pair: LivePair, address=ADDRESS_A, port: int = 500) -> None:
    """A second IKE SA of a's identity, from an address of its own."""
    path = Path(address, port, ADDRESS_B, 500)
    pair.at = lambda arrival: {ADDRESS_A: "a", ELSEWHERE: "a", ADDRESS_B: "b"}.get(arrival.local)  # type: ignore[method-assign]
    pair.a.endpoint.initiate(pair.a.configs[0], (), path, pair.now)
    pair.flush()
    pair.run(3.0)


def established(pair: LivePair, side: str = "b") -> int:
    return len(pair.shell(side).views("ESTABLISHED", "REKEYING"))


# --- a second IKE SA without INITIAL_CONTACT


@pytest.mark.parametrize("address", [ADDRESS_A, ELSEWHERE])
@pytest.mark.parametrize("unique", [Unique.NO, Unique.NEVER])
def test_no_and_never_let_the_second_one_stand_beside_the_first(unique: Unique, address) -> None:
    pair = pair_with(unique)
    initiate_from(pair, address)
    pair.run(30.0)
    assert established(pair) == established(pair, "a") == 2


def test_keep_refuses_the_second_one_from_another_address() -> None:
    pair = pair_with(Unique.KEEP)
    first = pair.b.view.ike_id
    initiate_from(pair, ELSEWHERE)
    assert "unique = keep" in pair.b.log
    assert pair.b.view.ike_id == first
    pair.check_one_pair()


def test_keep_takes_what_may_be_a_reauthentication() -> None:
    pair = pair_with(Unique.KEEP)
    initiate_from(pair)
    assert established(pair) == 2


def test_keep_takes_a_second_one_when_the_first_is_silent() -> None:
    pair = pair_with(Unique.KEEP)
    pair.b.endpoint._core.sas[pair.b.view.ike_id].silent_since = pair.now
    initiate_from(pair, ELSEWHERE)
    assert len(pair.b.of(IkeUp)) == 2


def test_replace_deletes_the_first_one_when_the_second_stands() -> None:
    pair = pair_with(Unique.REPLACE)
    first = pair.b.view.ike_id
    initiate_from(pair, ELSEWHERE)
    pair.run(3.0)
    (down,) = downs(pair.b)
    assert (down.ike_id, down.failed, down.by_peer) == (first, False, False)
    assert downs(pair.a)[0].by_peer, "it was told"
    pair.check_one_pair()


def test_replace_leaves_a_reauthentication_time_to_finish() -> None:
    pair = pair_with(Unique.REPLACE)
    initiate_from(pair)
    pair.run(4.0)
    assert established(pair) == 2
    pair.run(10.0)
    pair.check_one_pair()


def test_another_peer_is_none_of_its_business() -> None:
    other = connection("a", name="other", local_id=Identity.parse("c.example"))
    configs = [
        connection("b", unique=Unique.REPLACE),
        connection("b", name="to-c", remote_id=Identity.parse("c.example"), unique=Unique.REPLACE),
    ]
    pair = LivePair(b=configs).up()
    pair.a.configs.insert(0, other)
    pair.initiate()
    pair.run(20.0)
    assert {view.connection for view in pair.b.views("ESTABLISHED")} == {"to-a", "to-c"}


# --- INITIAL_CONTACT


@pytest.mark.parametrize(("unique", "left"), [(Unique.NO, 1), (Unique.KEEP, 1), (Unique.REPLACE, 1), (Unique.NEVER, 2)])
def test_initial_contact_is_obeyed_by_all_but_never(unique: Unique, left: int) -> None:
    pair = pair_with(unique)
    pair.lose_state("a")
    pair.initiate()
    pair.run(3.0)
    assert established(pair) == left


def test_never_does_not_send_it() -> None:
    pair = LivePair(connection("a", unique=Unique.NEVER), connection("b")).up()
    pair.lose_state("a")
    pair.initiate()
    pair.run(3.0)
    assert established(pair) == 2


def test_rekeys_are_not_touched_by_any_policy() -> None:
    for unique in Unique:
        pair = pair_with(unique)
        pair.call("b", "rekey_ike", pair.b.view.ike_id)
        pair.run(15.0)
        pair.call("a", "rekey_ike", pair.a.view.ike_id)
        pair.run(15.0)
        pair.check_one_pair()


# --- the bound


def test_one_peer_has_at_most_so_many_ike_sas() -> None:
    pair = pair_with(Unique.NO, ike_sas_per_peer=4)
    for _ in range(6):
        pair.initiate()
        pair.run(2.0)
    assert established(pair) == 4
    assert "4 are the most" in pair.b.log
    pair.lose_state("a")  # INITIAL_CONTACT is the way back
    pair.initiate()
    pair.run(3.0)
    assert established(pair) == 1


# --- both sides begin at once


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.015])
def test_two_sides_that_begin_at_once_end_with_one_pair(seed: int, delay_s: float) -> None:
    pair = LivePair(seed=seed)
    pair.initiate("a")
    pair.run(delay_s)
    pair.initiate("b")
    pair.run(15.0)
    pair.check_one_pair()


def test_the_other_side_deletes_it_when_its_initiator_does_not() -> None:
    pair = LivePair(connection("a", unique=Unique.NEVER), connection("b", unique=Unique.NEVER))
    pair.initiate("a")
    pair.initiate("b")
    pair.run(15.0)
    assert established(pair) == 2, "never leaves both alone"
    for seed in range(4):
        pair = LivePair(connection("a"), connection("b", unique=Unique.NEVER), seed=seed)
        pair.initiate("a")
        pair.initiate("b")
        pair.run(15.0)
        pair.check_one_pair()


def test_two_that_carry_different_children_both_stay() -> None:
    extra = child("extra", local="10.8.0.0/24", remote="10.9.0.0/24")
    mirrored = child("extra", local="10.9.0.0/24", remote="10.8.0.0/24")
    a = connection("a", children=(child(), extra))
    b = connection("b", children=(mirrored, child(local="10.2.0.0/24", remote="10.1.0.0/24")))
    pair = LivePair(a, b)
    pair.initiate("a", "net")
    pair.initiate("b", "extra")
    pair.run(15.0)
    assert established(pair) == 2


def test_one_that_was_begun_when_the_other_stood_is_no_crossing() -> None:
    pair = Pair().up()
    pair.initiate("b")
    pair.run(30.0)
    assert len(pair.a.views("ESTABLISHED")) == 2


def test_a_crossing_survives_the_loss_of_its_delete() -> None:
    pair = LivePair()
    pair.initiate("a")
    pair.initiate("b")
    pair.run(0.5)
    lost: list[int] = []

    def network(sent):
        if len(lost) < 2:
            lost.append(sent.number)
            return ()
        return (0.01,)

    pair.network = network
    pair.run(30.0)
    assert lost
    pair.check_one_pair()
