"""IKE SAs that nobody has authenticated, and SAs that have lost a collision (docs/attacks.md, rows 81 and 82)."""

from __future__ import annotations

import pytest
from agreement import CREATE_CHILD_SA, Holding
from pair import Pair, connection
from test_authenticated_peer import CREATE, INFO, ask, child_request, errors, ike_rekey
from test_crossings_in_detail import begun, ends_well, rekey

from ipsec_fast.iana import ExchangeType, NotifyType, ProtocolId
from ipsec_fast.ike.v2.outbound import send_request
from ipsec_fast.ike.v2.payloads import NotifyPayload
from ipsec_fast.ike.v2.states import State

SEEDS = range(4)


def only(pair: Pair, side: str):
    (sa,) = pair.shell(side).endpoint._core.sas.values()
    return sa


def forged(pair: Pair, what: str) -> tuple:
    """The payloads of each kind of CREATE_CHILD_SA."""
    if what == "new ike":
        return ike_rekey(pair, b"\x00\x00\x00\x00\x00\x00\x00\x09")
    rekey_sa = (NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"\x00\x00\x10\x00"),)
    return (*(rekey_sa if what == "rekey" else ()), *child_request(pair).values())


# --- 81: not authenticated


@pytest.mark.parametrize("what", ["new child", "rekey", "new ike"])
@pytest.mark.parametrize("victim", ["responder", "initiator"])
def test_create_child_sa_before_authentication_makes_nothing(victim: str, what: str) -> None:
    """Both have the keys of IKE_SA_INIT, as anybody has who answered it."""
    pair = Pair(network=lambda sent: (0.01,) if sent.data[18] == ExchangeType.IKE_SA_INIT else ())
    pair.initiate()
    pair.run(0.2)
    sender, target = (pair.a, pair.b) if victim == "responder" else (pair.b, pair.a)
    sa = only(pair, sender.side)
    sa.window.outstanding = None
    sa.path = pair.a.view.path if victim == "responder" else sa.path
    pair.network = lambda sent: (0.01,) if sent.data[18] == CREATE else ()
    send_request(sa, CREATE, forged(pair, what))
    pair.run(2.0)
    assert target.view.state == "CONNECTING"
    assert len(target.views()) == 1
    assert not target.children
    assert target.endpoint.counters["wrong_state"] >= 1


@pytest.mark.parametrize("what", ["new child", "rekey", "new ike"])
def test_create_child_sa_on_an_ike_sa_whose_authentication_failed_makes_nothing(what: str) -> None:
    """Our initiator has refused the responder, which believes in the IKE SA and uses it before the DELETE arrives."""
    pair = Pair(b=connection("b", local_id=None))  # so it shows its address
    pair.network = lambda sent: (0.01,) if sent.data[18] != INFO else ()
    pair.initiate()
    pair.run(0.2)
    assert only(pair, "a").state is State.DELETING
    sa = only(pair, "b")
    sa.window.outstanding = None
    send_request(sa, CREATE, forged(pair, what))
    pair.run(1.0)
    assert len(pair.a.views()) == 1
    assert not pair.a.live


# --- 82: lost a collision


@pytest.mark.parametrize("seed", SEEDS)
def test_a_child_that_lost_is_neither_sent_on_nor_rekeyed(seed: int) -> None:
    pair = begun(seed)
    pair.network = lambda sent: (0.01,) if sent.data[18] != INFO else ()  # nobody deletes anything yet
    rekey(pair, "a", "b")
    pair.run(0.3)
    losers = {side: [c for c in only(pair, side).children.values() if c.is_redundant] for side in ("a", "b")}
    assert losers["a"] or losers["b"]
    for side, lost in losers.items():
        for one in lost:
            pair.call(side, "inbound_seen", one.child_id)  # the peer has sent on it all the same
            assert not pair.shell(side).children[one.child_id].sends
    for one in losers["b"]:
        before = len(pair.b.children)
        notify = NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, one.spi_out.to_bytes(4, "big"))
        only(pair, "a").window.outstanding = None
        only(pair, "a").active = None
        answer = ask(pair, CREATE, notify, *child_request(pair).values())
        assert errors(answer)
        assert len(pair.b.children) == before


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["new child", "new ike", "delete"])
def test_an_ike_sa_that_lost_does_nothing_any_more(seed: int, what: str) -> None:
    pair = begun(seed)
    made: dict[str, dict] = {"a": {}, "b": {}}

    def note(sent):
        for side in made:
            made[side] |= pair.shell(side).endpoint._core.sas
        return (0.01,)

    pair.network = note
    rekey(pair, "a", "b", what="ike")
    pair.run(3.0)
    ends_well(pair)
    (stands,) = pair.b.views("ESTABLISHED")
    lost = [sa for sa in made["a"].values() if sa.is_closed]
    assert len(lost) == 2, "the replaced one and the one that lost"
    children, sas = len(pair.b.live), len(pair.b.views())
    for sa in lost:
        sent = [one.data for one in pair.sent if one.sender == "a" and one.data[:16] == sa.spi_i + sa.spi_r]
        for data in sent:
            changed = bytearray(data)
            changed[18] = {"new child": CREATE, "new ike": CREATE, "delete": INFO}[what]
            for one in (data, bytes(changed)):
                pair.inject("b", one, pair.b.view.path)
    pair.run(1.0)
    assert pair.b.views("ESTABLISHED")[0].ike_id == stands.ike_id
    assert (len(pair.b.live), len(pair.b.views())) == (children, sas)


@pytest.mark.parametrize("what", ["new child", "new ike"])
def test_while_it_is_not_settled_the_peers_new_ike_sa_makes_nothing(what: str) -> None:
    """It may be the one that loses, so what is asked on it is put off."""
    tried = 0
    for seed in SEEDS:
        pair = begun(seed)
        wire = Holding(pair)
        wire.hold("b", CREATE_CHILD_SA, True)
        rekey(pair, "a", "b", what="ike")
        pair.run(0.1)
        wire.held, wire._wants = [], []
        for side, other in (("a", "b"), ("b", "a")):
            core, peers = pair.shell(side).endpoint._core, pair.shell(other).endpoint._core
            for sa in [one for one in core.sas.values() if one.stands_aside and one.peer_spi in peers.by_spi]:
                before = len(core.sas)
                send_request(peers.by_spi[sa.peer_spi], CREATE, forged(pair, what))
                pair.run(0.05)
                assert len(core.sas) <= before
                assert not sa.children
                tried += 1
    assert tried
