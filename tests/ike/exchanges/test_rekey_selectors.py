"""A rekey never holds less than what it replaces (RFC 7296 section 2.9.2), in either role."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pair import Pair, child, connection
from tampering import change_one, replaced

from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType
from ipsec_fast.ike.events import ChildDown
from ipsec_fast.ike.v2.payloads import TsPayload
from ipsec_fast.model import TrafficSelector

CREATE = ExchangeType.CREATE_CHILD_SA


def of(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(map(TrafficSelector.parse, texts))


def pair_of(local: str = "10.1.0.0/24", remote: str = "10.2.0.0/24 10.3.0.0/24") -> Pair:
    a = connection("a", children=(child(local=local, remote=remote),))
    b = connection("b", children=(child(local=remote, remote=local),))
    return Pair(a, b).up()


NARROWER = {
    "a part": of("10.2.0.0/25", "10.3.0.0/24"),
    "one of two": of("10.2.0.0/24"),
    "a protocol": of("10.2.0.0/24[tcp]", "10.3.0.0/24"),
    "a hole": of("10.2.0.0-10.2.0.100", "10.2.0.102-10.2.0.255", "10.3.0.0/24"),
}
AS_WIDE = {
    "the same": of("10.2.0.0/24", "10.3.0.0/24"),
    "another order": of("10.3.0.0/24", "10.2.0.0/24"),
    "halves": of("10.2.0.0/25", "10.2.0.128/25", "10.3.0.0/24"),
    "overlapping": of("10.2.0.0-10.2.0.200", "10.2.0.100-10.2.0.255", "10.3.0.0/24"),
    "port ranges": of("10.2.0.0/24[0/0-99]", "10.2.0.0/24[0/100-65535]", "10.3.0.0/24"),
}


@pytest.mark.parametrize("name", NARROWER)
def test_a_narrower_answer_to_our_rekey_is_refused_and_the_old_one_stays(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pair = pair_of()
    old = pair.a.view.children[0]
    narrower = TsPayload(PayloadType.TSR, NARROWER[name])
    change_one(monkeypatch, pair, "b", CREATE, response=True, change=replaced(narrower))
    pair.call("a", "rekey_child", old.child_id)
    pair.run(2.0)
    pair.run(20.0)
    assert [c.spi_in for c in pair.a.view.children] == [old.spi_in]
    assert [c.spi_out for c in pair.b.view.children] == [old.spi_in], "the peer's new one was deleted"
    assert "a rekey must not narrow CHILD SA net{1} (RFC 7296 section 2.9.2)" in pair.a.log
    assert pair.a.of(ChildDown) == []


@pytest.mark.parametrize("changed", [True, False])
def test_a_peer_that_narrows_in_a_rekey_is_asked_for_a_new_child_sa(
    monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Its policy may have changed. The old one carries the traffic until the new one, which may be narrower, is there."""
    pair = pair_of().start_traffic(0.1)
    old = pair.a.view.children[0]
    narrower = TsPayload(PayloadType.TSR, of("10.2.0.0/24"))
    change_one(monkeypatch, pair, "b", CREATE, response=True, change=replaced(narrower))
    pair.call("a", "rekey_child", old.child_id)
    pair.run(2.0)
    if not changed:
        monkeypatch.undo()
    pair.run(60.0)
    (new,) = pair.a.view.children
    assert new.remote_ts == (of("10.2.0.0/24") if changed else old.remote_ts)
    assert new.narrowed == ("by the peer from 10.3.0.0/24" if changed else "")
    assert pair.a.gaps == []
    assert len(pair.b.view.children) == 1


@pytest.mark.parametrize("name", NARROWER)
def test_a_narrower_rekey_by_the_peer_is_ts_unacceptable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pair = pair_of()
    old = pair.b.view.children[0]
    narrower = TsPayload(PayloadType.TSR, NARROWER[name])
    change_one(monkeypatch, pair, "a", CREATE, response=False, change=replaced(narrower))
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(2.0)
    assert [c.spi_in for c in pair.b.view.children] == [old.spi_in]
    assert "a rekey must not narrow" in pair.b.log
    assert NotifyType.TS_UNACCEPTABLE.name in pair.a.log
    pair.check_one_pair()


@pytest.mark.parametrize("name", AS_WIDE)
def test_the_same_traffic_in_other_selectors_is_no_narrowing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pair = pair_of()
    old = pair.b.view.children[0]
    same = TsPayload(PayloadType.TSR, AS_WIDE[name])
    change_one(monkeypatch, pair, "a", CREATE, response=False, change=replaced(same))
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(2.0)
    assert [c.spi_in for c in pair.b.view.children] != [old.spi_in]
    assert len(pair.b.view.children) == 1


def test_what_was_narrowed_may_grow_in_a_rekey(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(
        connection("a", children=(child(remote="10.2.0.0/24"),)),
        connection("b", children=(child(local="10.2.0.0/16", remote="10.1.0.0/24"),)),
    ).up()
    wider = TsPayload(PayloadType.TSR, of("10.2.0.0/16"))
    change_one(monkeypatch, pair, "a", CREATE, response=False, change=replaced(wider))
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(0.015)  # before our answer to an answer that we did not ask for
    assert [str(ts) for ts in pair.b.view.children[-1].local_ts] == ["10.2.0.0/16"]


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_child_that_is_configured_otherwise_by_now_is_still_rekeyed_as_it_stands(side: str) -> None:
    """A reload does not touch SAs that stand; what they were made for stays allowed until they end."""
    pair = pair_of()
    for shell in (pair.a, pair.b):
        (sa,) = shell.endpoint._core.sas.values()
        for one in sa.children.values():
            one.config = replace(one.config, local_ts=one.config.local_ts[:1], remote_ts=one.config.remote_ts[:1])
    before = [(c.local_ts, c.remote_ts) for c in pair.a.view.children]
    pair.call(side, "rekey_child", pair.shell(side).view.children[0].child_id)
    pair.run(3.0)
    pair.check_one_pair()
    assert [(c.local_ts, c.remote_ts) for c in pair.a.view.children] == before
