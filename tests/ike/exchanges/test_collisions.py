"""Crossing exchanges (RFC 7296 sections 2.8.1, 2.8.2, 2.25): both sides at once, at every distance in time, undisturbed and not."""

from __future__ import annotations

import pytest
from pair import Network, Pair, Sent, adverse, perfect

from ipsec_fast.ike.header import FLAG_RESPONSE

# between "at the same moment" and "one after the other": the latency is 10 ms
GAPS_S = (0.0, 0.004, 0.009, 0.011, 0.019, 0.021, 0.035)
SEEDS = range(6)  # the nonces, hence the winner, come from the seed


def cross(pair: Pair, first: tuple[str, str], second: tuple[str, str], gap_s: float) -> None:
    """One verb at side a, the other at side b, `gap_s` later."""
    for (side, verb), wait_s in ((first, gap_s), (second, 0.0)):
        shell = pair.shell(side)
        views = shell.views("ESTABLISHED", "REKEYING")
        if not views:
            return
        target = views[-1].ike_id
        if verb.endswith("child"):
            if not views[-1].children:
                return
            target = views[-1].children[-1].child_id
        pair.call(side, verb, target)
        pair.run(wait_s)


def settle(pair: Pair) -> None:
    pair.run(130)
    pair.network = perfect
    pair.run(20)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gap_s", GAPS_S)
def test_both_rekey_the_child(seed: int, gap_s: float) -> None:
    pair = Pair(seed=seed).up().start_traffic(0.002)
    first = pair.a.view.children[0].spi_in
    cross(pair, ("a", "rekey_child"), ("b", "rekey_child"), gap_s)
    pair.run(1)
    pair.check_one_pair()
    assert pair.a.view.children[0].spi_in != first
    assert not pair.a.gaps
    assert not pair.b.gaps


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gap_s", GAPS_S)
def test_both_rekey_the_ike_sa(seed: int, gap_s: float) -> None:
    pair = Pair(seed=seed).up()
    first = pair.a.view.spi_i
    cross(pair, ("a", "rekey_ike"), ("b", "rekey_ike"), gap_s)
    pair.run(5)
    pair.check_one_pair()
    assert pair.a.view.spi_i != first


@pytest.mark.parametrize("gap_s", GAPS_S)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rekey_child", "rekey_ike"),
        ("rekey_ike", "rekey_child"),
    ],
)
def test_a_child_rekey_against_an_ike_rekey(one: str, other: str, order: tuple[str, str], gap_s: float) -> None:
    pair = Pair().up().start_traffic(0.002)
    cross(pair, (order[0], one), (order[1], other), gap_s)
    pair.run(60)
    pair.check_one_pair()
    assert not pair.a.gaps
    assert not pair.b.gaps


@pytest.mark.parametrize("gap_s", GAPS_S)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("rekey", ["rekey_child", "rekey_ike"])
def test_a_delete_of_the_child_against_a_rekey(rekey: str, order: tuple[str, str], gap_s: float) -> None:
    pair = Pair().up()
    cross(pair, (order[0], rekey), (order[1], "terminate_child"), gap_s)
    settle(pair)
    live = len(pair.a.view.children)
    pair.check_one_pair(children=live)  # 0, or 1 where the rekey had its new one before the delete came
    assert live <= 1


@pytest.mark.parametrize("gap_s", GAPS_S)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("other", ["rekey_child", "rekey_ike", "terminate_child", "terminate_ike"])
def test_a_delete_of_the_ike_sa_against_anything(other: str, order: tuple[str, str], gap_s: float) -> None:
    pair = Pair().up()
    cross(pair, (order[0], other), (order[1], "terminate_ike"), gap_s)
    settle(pair)
    if other == "rekey_ike" and pair.a.views():
        pair.check_one_pair()  # the delete hit the one that was being replaced
    else:
        pair.check_nothing_left()


@pytest.mark.parametrize("seed", range(40))
def test_any_two_at_once_on_a_bad_network_leave_both_sides_agreeing(seed: int) -> None:
    network: Network = adverse(seed, loss=0.2, duplicate=0.2, jitter_s=0.3)
    verbs = ("rekey_child", "rekey_ike", "rekey_child", "rekey_ike")
    pair = Pair(seed=seed).up()
    pair.network = network
    cross(pair, ("a", verbs[seed % 2]), ("b", verbs[seed // 2 % 2]), GAPS_S[seed % len(GAPS_S)])
    settle(pair)
    pair.check_one_pair()


@pytest.mark.parametrize("side", ["a", "b"])
def test_an_ike_sa_that_ends_amid_crossing_rekeys_leaves_no_other_behind(side: str) -> None:
    pair = Pair().up()
    pair.network = lambda sent: perfect(sent) if sent.data[19] & FLAG_RESPONSE == 0 else ()  # nobody hears an answer
    for one in ("a", "b"):
        pair.call(one, "rekey_ike", pair.shell(one).view.ike_id)
    pair.run(0.1)
    shell = pair.shell(side)
    assert len(shell.views()) == 2
    shell.endpoint.terminate_ike(shell.views()[0].ike_id, pair.now, True)
    pair.run(1)
    assert not shell.views()
    assert not shell.live


def test_an_ike_sa_that_stands_aside_is_not_rekeyed_itself() -> None:
    pair = Pair().up()
    first = pair.a.view.ike_id
    # a hears no answer of b, and no DELETE: what b's rekey made stands aside at a
    pair.network = lambda sent: perfect(sent) if sent.sender == "a" or sent.data[18:20] in (b"$\x00", b"$\x08") else ()
    for side in ("a", "b"):
        pair.call(side, "rekey_ike", pair.shell(side).view.ike_id)
    pair.run(0.1)
    (aside,) = (view for view in pair.a.views() if view.ike_id != first)
    (mate,) = (view for view in pair.b.views() if view.spi_i == aside.spi_i)
    pair.call("b", "rekey_ike", mate.ike_id)
    pair.run(0.1)
    assert len(pair.a.views()) == 2
    pair.network = perfect
    pair.run(200)
    pair.check_one_pair()


def test_a_rekey_that_overtakes_our_response_is_refused_and_tried_again() -> None:
    """B answers A's rekey and rekeys the new Child SA at once; its request arrives first, and A does not know that SA yet."""
    pair = Pair(seed=1).up()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    responses: list[int] = []

    def late(sent: Sent) -> tuple[float, ...]:
        if sent.sender == "b" and sent.data[19] & FLAG_RESPONSE and not responses:
            responses.append(sent.number)
            return (0.05,)  # so that A knows of it last
        return (0.01,)

    pair.network = late
    pair.run(1, until=lambda: len(pair.b.view.children) == 2)
    pair.call("b", "rekey_child", pair.b.view.children[-1].child_id)
    pair.run(60)
    pair.check_one_pair()
    assert "TEMPORARY_FAILURE; again in" in pair.b.log
    assert "does not know it any more" not in pair.b.log
    assert not pair.b.gaps


@pytest.mark.parametrize("seed", SEEDS)
def test_the_old_ike_sa_of_a_crossing_is_deleted_when_the_peer_has_had_time_to_see_the_crossing(seed: int) -> None:
    """A DELETE that overtakes the response to the peer's rekey looks as if we had not noticed its rekey (section 2.25.2)."""
    pair = Pair(seed=seed).up()
    old = pair.a.view.spi_i
    cross(pair, ("a", "rekey_ike"), ("b", "rekey_ike"), 0.0)
    before = len(pair.sent)

    def deletes() -> list[Sent]:
        informational = 37
        return [sent for sent in pair.sent[before:] if sent.data[:8] == old and sent.data[18] == informational]

    pair.run(0.4)
    assert not deletes()
    pair.run(5)
    assert deletes()
    pair.check_one_pair()
