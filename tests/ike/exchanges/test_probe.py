"""Probes of a path's MTU: a padded INFORMATIONAL that leaves whole, then under its message ID in ever smaller fragments."""

from __future__ import annotations

from typing import Any

import pytest
from pair import LATENCY_S, Pair, Sent, adverse, child, connection, narrow

from ipsec_fast.errors import StateError, UsageError
from ipsec_fast.ike.config import Fragmentation
from ipsec_fast.ike.events import Outer, ProbeAnswered, ProbeFailed
from ipsec_fast.ike.v2.message import decode_message
from ipsec_fast.ike.v2.payloads import EncryptedPayload, FragmentPayload

WAIT_S = 0.1


def probing(*sizes: int, mtu: int = 9000, wait_s: float = WAIT_S, **options: Any) -> Pair:
    """A pair that is up and has just sent a probe over a path of `mtu`."""
    pair = Pair(**options).up()
    pair.network = narrow(mtu)
    pair.sent.clear()
    pair.call("a", "probe", pair.a.view.ike_id, sizes, wait_s)
    return pair


def from_a(pair: Pair) -> list[Sent]:
    return [sent for sent in pair.sent if sent.sender == "a"]


def is_whole(sent: Sent) -> bool:
    return decode_message(sent.data).get(EncryptedPayload) is not None


def total_of(sent: Sent) -> int:
    fragment = decode_message(sent.data).get(FragmentPayload)
    return fragment.total if fragment else 1


@pytest.mark.parametrize("sizes", [(), (575,), (65536,), (1400, 1400), (1280, 1400), (1400, 500)])
def test_sizes_that_no_probe_can_have(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="probe sizes"):
        probing(*sizes)


@pytest.mark.parametrize("wait_s", [0, -1, float("nan")])
def test_a_probe_waits_for_some_time(wait_s: float) -> None:
    with pytest.raises(UsageError, match="waits"):
        probing(1400, 1280, wait_s=wait_s)


def test_without_fragmentation_a_probe_has_one_size() -> None:
    with pytest.raises(StateError, match="no IKE fragmentation"):
        probing(1400, 1280, b=connection("b", fragmentation=Fragmentation.NO))
    with pytest.raises(StateError, match="no IKE fragmentation"):
        probing(1400, 1280, a=connection("a", fragmentation=Fragmentation.ACCEPT))


def test_no_probe_beside_another_request() -> None:
    pair = Pair().up()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    with pytest.raises(StateError, match="outstanding"):
        pair.call("a", "probe", pair.a.view.ike_id, (1400, 1280), WAIT_S)
    pair.run(5)
    pair.check_one_pair()


@pytest.mark.parametrize("size", [576, 577, 1280, 1281, 1400, 1499, 1500, 9000, 65000, 65535])
def test_a_probe_has_exactly_its_size_leaves_with_df_and_is_answered_small(size: int) -> None:
    pair = probing(size, mtu=65535)
    pair.run(2)
    (sent,) = from_a(pair)
    assert sent.ip_bytes == size
    assert sent.outer is Outer.NEVER
    (event,) = pair.a.of(ProbeAnswered)
    assert (event.probed_bytes, event.answered_bytes, event.is_whole) == (size, size, True)
    assert event.waited_s == pytest.approx(2 * LATENCY_S)
    assert [s.ip_bytes < 200 for s in pair.sent if s.sender == "b"] == [True]
    pair.check_one_pair()


@pytest.mark.parametrize("size", range(1400, 1416))
def test_with_cbc_the_size_is_told_as_it_is(size: int) -> None:
    ike = ("aes128-sha256-x25519",)
    pair = Pair(connection("a", ike=ike), connection("b", ike=ike)).up()
    pair.sent.clear()
    told = pair.a.endpoint.probe(pair.a.view.ike_id, (size, 1280), WAIT_S, pair.now)
    pair.flush()
    assert size - 16 < told <= size
    assert from_a(pair)[0].ip_bytes == told
    pair.run(2)
    assert pair.a.of(ProbeAnswered)[0].probed_bytes == told


def test_what_is_lost_goes_out_again_under_its_id_in_the_next_size() -> None:
    pair = probing(1500, 1400, 1300, 1280, mtu=1350)
    pair.run(2)
    (event,) = pair.a.of(ProbeAnswered)
    assert (event.probed_bytes, event.answered_bytes, event.is_whole) == (1500, 1300, False)
    assert event.waited_s == pytest.approx(2 * WAIT_S + 2 * LATENCY_S)
    sets = {total_of(s): max(t.ip_bytes for t in from_a(pair) if total_of(t) == total_of(s)) for s in from_a(pair)}
    assert sets == {1: 1500, 2: 1400, 3: 1300}
    assert len({decode_message(s.data).header.message_id for s in from_a(pair)}) == 1
    assert all(s.outer is Outer.NEVER for s in from_a(pair))
    pair.check_one_pair()


def test_the_whole_is_not_sent_again_with_df() -> None:
    pair = probing(1500, 1280, mtu=600)
    pair.run(10)
    assert [sent.outer for sent in from_a(pair) if is_whole(sent)] == [Outer.NEVER, Outer.CUT]
    whole = [sent.data for sent in from_a(pair) if is_whole(sent)]
    assert whole[0] == whole[1], "a retransmission of RFC 7296: the very bytes"
    (event,) = pair.a.of(ProbeAnswered)
    assert (event.is_whole, event.answered_bytes) == (False, 0), "nothing is known of a size"
    pair.check_one_pair()


@pytest.mark.parametrize("b", [Fragmentation.YES, Fragmentation.NO])
def test_a_probe_of_one_size_is_answered_by_ip_fragments(b: Fragmentation) -> None:
    pair = probing(1500, mtu=1300, b=connection("b", fragmentation=b))
    pair.run(1)
    (event,) = pair.a.of(ProbeAnswered)
    assert (event.is_whole, event.answered_bytes) == (False, 0)
    assert event.waited_s == pytest.approx(WAIT_S + 2 * LATENCY_S)
    pair.check_one_pair()


def test_a_peer_that_takes_no_informational_in_fragments_still_answers() -> None:
    """charon with its mediation extension takes them for something else, and drops them."""
    pair = probing(1500, 1280, mtu=1300)
    under = pair.network
    pair.network = lambda sent: () if total_of(sent) > 1 else under(sent)
    pair.run(2)
    (event,) = pair.a.of(ProbeAnswered)
    assert event.answered_bytes == 0
    pair.check_one_pair()


def test_a_peer_whose_answer_to_fragments_was_lost_answers_the_whole_again() -> None:
    pair = Pair().up()
    answers = {"lost": 0}

    def network(sent: Sent) -> tuple[float, ...]:
        if sent.sender == "b" and answers["lost"] == 0:
            answers["lost"] = 1
            return ()
        if total_of(sent) > 1 and answers["lost"]:
            return ()
        return tuple(narrow(1300)(sent))

    pair.network = network
    pair.call("a", "probe", pair.a.view.ike_id, (1500, 1280), WAIT_S)
    pair.run(5)
    assert answers["lost"] == 1
    assert pair.b.endpoint.counters["requests_repeated"] == 1
    assert len(pair.a.of(ProbeAnswered)) == 1
    pair.check_one_pair()


def test_a_probe_teaches_the_ike_sa_nothing_by_itself() -> None:
    """What follows from it is the caller's to judge (set_fragment_bytes)."""
    pair = probing(1500, 1280, mtu=1300)
    pair.run(2)
    (sa,) = pair.a.endpoint._core.sas.values()
    assert sa.fragment_bytes == 0


def test_a_late_answer_to_the_whole_is_an_answer() -> None:
    """The peer repeats it for the fragments; nothing else goes wrong."""
    pair = probing(1500, 1280)
    pair.network = lambda sent: (0.15,)
    pair.run(5)
    (event,) = pair.a.of(ProbeAnswered)
    assert not event.is_whole
    pair.check_one_pair()


def test_the_caller_may_choose_the_next_size_itself() -> None:
    pair = probing(1500, 1280, 576, mtu=1000)
    assert pair.a.endpoint.refragment(pair.a.view.ike_id, 900, pair.now)
    pair.run(2)
    (event,) = pair.a.of(ProbeAnswered)
    assert (event.is_whole, event.answered_bytes) == (False, 900)
    assert event.waited_s == pytest.approx(2 * LATENCY_S)
    pair.check_one_pair()


def test_what_waits_behind_a_probe_goes_on_after_it() -> None:
    pair = probing(1500, 1280, mtu=1300)
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(5)
    assert pair.a.of(ProbeAnswered)
    pair.check_one_pair()


def test_a_probe_that_nobody_answers_fails_with_its_ike_sa() -> None:
    pair = probing(1500, 1280)
    pair.network = lambda sent: ()
    pair.run(200)
    assert pair.a.of(ProbeAnswered) == []
    (event,) = pair.a.of(ProbeFailed)
    assert event.probed_bytes == 1500
    assert not pair.a.views()


def test_both_sides_may_probe_at_once() -> None:
    pair = probing(1500, 1280, mtu=1300)
    pair.call("b", "probe", pair.b.view.ike_id, (1500, 1280), WAIT_S)
    pair.run(3)
    assert len(pair.a.of(ProbeAnswered)) == len(pair.b.of(ProbeAnswered)) == 1
    pair.check_one_pair()


@pytest.mark.parametrize("seed", range(10))
def test_probes_under_loss_end_in_an_answer(seed: int) -> None:
    pair = probing(1500, 1280, mtu=1300, seed=seed)
    pair.network = narrow(1300, adverse(seed, loss=0.3))
    pair.run(30)
    pair.network = narrow(1300)
    pair.run(30)
    assert pair.a.of(ProbeAnswered)
    pair.check_one_pair()


def test_a_peer_with_many_selectors_answers_a_probe_like_any_other() -> None:
    nets = " ".join(f"10.1.{i}.0/24" for i in range(60))
    b = connection("b", children=(child(local="10.2.0.0/24", remote=nets),))
    pair = probing(9000, 1280, a=connection("a", children=(child(local=nets),)), b=b)
    pair.run(2)
    assert pair.a.of(ProbeAnswered)[0].is_whole
