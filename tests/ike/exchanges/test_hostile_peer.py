"""An authenticated peer that asks too much: what it gets is bounded, counted and told in one line, and the tunnel stays."""

from __future__ import annotations

from time import perf_counter

import pytest
from agreement import come_to_rest, kind_of
from pair import Pair, perfect

from ipsec_fast.iana import ExchangeType, ProtocolId
from ipsec_fast.ike.asks import Steps
from ipsec_fast.ike.v2.exchange import Exchange, Payloads
from ipsec_fast.ike.v2.ike_sa import PEERS_REKEYS, PEERS_REKEYS_PER_S
from ipsec_fast.ike.v2.outbound import submit
from ipsec_fast.ike.v2.payloads import DeletePayload


class Ask(Exchange):
    """An INFORMATIONAL of any payloads."""

    name = "TEST"
    type = ExchangeType.INFORMATIONAL

    def __init__(self, *payloads: DeletePayload) -> None:
        self._payloads = payloads
        self.answer: tuple = ()

    def request(self, sa) -> Steps[Payloads]:
        return self._payloads
        yield

    def response(self, sa, message) -> Steps[None]:
        self.answer = message.payloads
        return
        yield


def ask(pair: Pair, *payloads: DeletePayload) -> Ask:
    exchange = Ask(*payloads)
    core = pair.b.endpoint._core
    core.now = pair.now
    submit(next(iter(core.sas.values())), exchange)
    pair.flush()
    pair.run(0.1)
    return exchange


def rekey_hard(pair: Pair, what: str, seconds: float) -> int:
    """B begins a hundred rekeys a second; how many it begins."""
    begun = 0
    for _ in range(int(seconds * 100)):
        view = pair.b.views("ESTABLISHED", "REKEYING")[-1]
        target = view.ike_id if what == "ike" else view.children[-1].child_id
        if not view.tasks_active:
            pair.call("b", f"rekey_{what}", target)
            begun += 1
        pair.run(0.01)
    return begun


@pytest.mark.parametrize("what", ["child", "ike"])
def test_a_peer_that_rekeys_a_hundred_times_a_second_gets_ten(what: str) -> None:
    pair = Pair().up().start_traffic(0.01)
    pair.network = lambda sent: (0.0005,)
    begun = rekey_hard(pair, what, 30)
    allowed = PEERS_REKEYS + PEERS_REKEYS_PER_S * 32
    refused = pair.a.endpoint.counters["rekeys_refused_too_many"]
    assert begun > 2 * allowed
    assert begun - allowed <= refused < begun
    assert pair.a.log.count("rekeys more than 10 times a second") == 1  # and not once a refusal
    assert len(pair.a.views()) <= 9
    assert sum(len(view.children) for view in pair.a.views()) <= 3
    assert pair.a.gaps == []
    assert pair.b.gaps == []
    pair.network = perfect
    assert come_to_rest(pair) == ""


def test_a_row_of_ike_rekeys_does_not_renew_the_allowance() -> None:
    pair = Pair().up()
    for _ in range(PEERS_REKEYS + 5):
        pair.call("b", "rekey_ike", pair.b.views("ESTABLISHED")[-1].ike_id)
        pair.run(0.05)
    assert pair.a.endpoint.counters["rekeys_refused_too_many"] == 0  # at 20 a second, half of which come back
    sa = next(iter(pair.a.endpoint._core.sas.values()))
    assert sa.peers_rekeys._left < PEERS_REKEYS - PEERS_REKEYS // 3


def test_our_own_rekeys_cost_the_peer_nothing() -> None:
    pair = Pair().up()
    for _ in range(2 * PEERS_REKEYS):
        pair.call("b", "rekey_child", pair.b.view.children[-1].child_id)
        pair.run(0.1)
    assert pair.b.endpoint._core.sas[1].peers_rekeys._left == PEERS_REKEYS


def test_a_delete_of_thousands_of_spis_costs_one_pass_over_what_we_have() -> None:
    pair = Pair().up()
    strangers = [0x10000 + i for i in range(16_000)]
    of_theirs = pair.b.view.children[0].spi_in
    before = perf_counter()
    exchange = ask(pair, DeletePayload(ProtocolId.ESP, tuple(spi.to_bytes(4, "big") for spi in strangers)))
    assert perf_counter() - before < 1.0  # a hang, not a speed; it takes some 20 ms
    assert exchange.answer == ()
    assert pair.a.endpoint.counters["deletes_of_unknown_children"] == 16_000
    assert [c.spi_out for c in pair.a.view.children] == [of_theirs]


def test_the_same_spi_many_times_over_is_one() -> None:
    pair = Pair().up()
    own, theirs = pair.a.view.children[0].spi_in, pair.b.view.children[0].spi_in
    exchange = ask(pair, *(DeletePayload(ProtocolId.ESP, (theirs.to_bytes(4, "big"),) * 50) for _ in range(20)))
    (answer,) = exchange.answer
    assert answer.spis == (own.to_bytes(4, "big"),)
    assert not pair.a.view.children


def test_a_delete_for_an_sa_that_nobody_has_is_answered_and_counted() -> None:
    pair = Pair().up()
    exchange = ask(
        pair,
        DeletePayload(ProtocolId.ESP, (b"\x12\x34\x56\x78",)),
        DeletePayload(ProtocolId.AH, (b"\x12\x34\x56\x79",)),
    )
    assert exchange.answer == ()
    assert pair.a.endpoint.counters["deletes_of_unknown_children"] == 1
    pair.check_one_pair()


def test_deletes_of_what_nobody_has_do_not_fill_the_memory_of_a_request_under_way() -> None:
    """They are remembered for the response that they may have overtaken."""
    pair = Pair().up()
    pair.network = lambda sent: () if kind_of(sent) == ("b", 36, True) else (0.01,)
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(0.05)
    for start in range(3):
        spis = tuple((start * 5000 + i).to_bytes(4, "big") for i in range(5000))
        ask(pair, DeletePayload(ProtocolId.ESP, spis))
    active = pair.a.endpoint._core.sas[1].active
    assert active is not None
    assert len(active._deleted_early) <= 64
    pair.network = perfect
    assert come_to_rest(pair) == ""
    pair.check_one_pair()
