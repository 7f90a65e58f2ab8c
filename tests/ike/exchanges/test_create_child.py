"""CREATE_CHILD_SA: the handover of a rekey, PFS and group retries, refusals and their back-off, rekey by time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pair import Pair, child, connection, perfect

from ipsec_fast.crypto.secret import Secret
from ipsec_fast.errors import HostError
from ipsec_fast.iana import ExchangeType, NotifyType
from ipsec_fast.ike.config import ConnectionConfig
from ipsec_fast.ike.events import (
    AskInstallChild,
    ChildDown,
    ChildFailed,
    ChildMoved,
    ChildUp,
    IkeDown,
    IkeUp,
    SwitchOutbound,
)
from ipsec_fast.ike.lifetimes import ChildLifetimes, ike_lifetimes, time_limits
from ipsec_fast.ike.records import IkeGone, IkeRecord


def esp(config: ConnectionConfig, *proposals: str, **options: object) -> ConnectionConfig:
    children = (replace(c, proposals=child(esp=proposals).proposals, **options) for c in config.children)
    return replace(config, children=tuple(children))


def order(pair: Pair, side: str, *kinds: type) -> list[str]:
    return [type(event).__name__ for event in pair.shell(side).events if isinstance(event, kinds)]


# --- the handover


def test_the_initiator_of_a_rekey_switches_at_once_and_the_responder_waits() -> None:
    pair = Pair().up()
    old = pair.a.view.children[0].child_id
    pair.call("a", "rekey_child", old)
    pair.network = lambda sent: perfect(sent) if sent.data[18] == ExchangeType.CREATE_CHILD_SA else ()
    pair.run(0.4)  # no DELETE arrives
    new_a, new_b = pair.a.children[2], pair.b.children[2]
    assert (new_a.ask.outbound_deferred, new_a.sends) == (False, True)
    assert (new_b.ask.outbound_deferred, new_b.sends) == (True, False)
    assert new_a.ask.replaces == old
    assert pair.b.view.children[0].state == "REKEYED"
    pair.b.endpoint.inbound_seen(2, pair.now)  # the first packet on the new SA
    pair.flush()
    assert new_b.sends
    pair.network = perfect
    pair.run(2)
    pair.check_one_pair()
    assert order(pair, "b", SwitchOutbound, ChildDown) == ["SwitchOutbound", "ChildDown"]


def test_the_delete_of_the_old_one_switches_the_responder_too_and_old_inbound_stays_5_s() -> None:
    pair = Pair().up()
    pair.call("a", "rekey_child", 1)
    pair.run(2)
    assert order(pair, "b", AskInstallChild, SwitchOutbound, ChildDown)[1:] == [
        "AskInstallChild",
        "SwitchOutbound",
        "ChildDown",
    ]
    for shell in (pair.a, pair.b):
        (down,) = shell.of(ChildDown)
        assert (down.inbound_grace_s, down.replaced_by) == (5.0, 2)


def test_the_responder_installs_before_its_response_leaves() -> None:
    pair = Pair().up()
    pair.b.rest.add(AskInstallChild)
    pair.call("a", "rekey_child", 1)
    pair.run(0.3)
    assert pair.b.resting
    assert not [s for s in pair.sent if s.sender == "b" and s.data[18] == ExchangeType.CREATE_CHILD_SA]


def test_a_failed_install_of_a_rekey_keeps_the_old_child() -> None:
    pair = Pair().up()
    pair.b.refuse[AskInstallChild] = HostError("no more room")
    pair.call("a", "rekey_child", 1)
    pair.run(1)
    pair.check_one_pair()
    assert pair.a.view.children[0].child_id == 1
    pair.b.refuse.clear()
    pair.run(10)  # back-off
    pair.check_one_pair()
    assert pair.a.view.children[0].child_id > 1


def test_a_replaced_child_that_its_closer_forgot_is_closed_by_the_other_side() -> None:
    pair = Pair(connection("a", dpd_delay_s=0), connection("b", dpd_delay_s=0)).up()
    pair.call("a", "rekey_child", 1)
    pair.network = lambda sent: perfect(sent) if sent.data[18] == ExchangeType.CREATE_CHILD_SA else ()
    pair.run(30)
    assert {c.state for c in pair.b.view.children} == {"REKEYED", "INSTALLED"}
    pair.a.endpoint._core.sas[1].queue.clear()
    pair.network = perfect
    pair.run(110)
    pair.check_one_pair()


# --- PFS and groups


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_rekey_with_pfs(side: str) -> None:
    pair = Pair(esp(connection("a"), "aes128gcm16-ecp384"), esp(connection("b"), "aes128gcm16-ecp384")).up()
    assert pair.a.view.children[0].group == 0, "IKE_AUTH has no key exchange of its own"
    pair.call(side, "rekey_child", 1)
    pair.run(2)
    pair.check_one_pair()
    assert [c.group for c in (*pair.a.view.children, *pair.b.view.children)] == [20, 20]


@pytest.mark.parametrize("side", ["a", "b"])
def test_another_group_is_asked_for_and_given(side: str) -> None:
    configs = esp(connection("a"), "aes128gcm16-x25519-ecp256"), esp(connection("b"), "aes128gcm16-ecp256-ecp384")
    pair = Pair(*configs).up()
    pair.call(side, "rekey_child", 1)
    pair.run(2)
    pair.check_one_pair()
    assert pair.a.view.children[0].group == 19


def test_no_common_group_keeps_the_child_and_tries_again_later() -> None:
    pair = Pair(esp(connection("a"), "aes128gcm16-x25519"), esp(connection("b"), "aes128gcm16-ecp256")).up()
    pair.call("a", "rekey_child", 1)
    pair.run(2)
    pair.check_one_pair()
    assert "NO_PROPOSAL_CHOSEN" in pair.a.log
    assert "no common KE" in pair.b.log
    tries = pair.a.log.count("rekeying CHILD SA")
    pair.run(200)
    assert 3 <= pair.a.log.count("rekeying CHILD SA") - tries <= 12
    pair.check_one_pair()


def test_an_ike_rekey_takes_another_group_too() -> None:
    ike = ("aes128gcm16-prfsha256-x25519-ecp256",), ("aes128gcm16-prfsha256-x25519-ecp256",)
    pair = Pair(connection("a", ike=ike[0]), connection("b", ike=ike[1])).up()
    narrow = connection("b", ike=("aes128gcm16-prfsha256-ecp256",))
    pair.b.endpoint._core.sas[1].connection = narrow  # as if reloaded
    pair.call("a", "rekey_ike", 1)
    pair.run(2)
    pair.check_one_pair()
    assert "ECP_256" in str(pair.a.view.proposal)


# --- the peer's other answers


def test_a_child_that_the_peer_does_not_know_goes_at_once_and_is_made_anew() -> None:
    pair = Pair().up()
    sa = pair.b.endpoint._core.sas[1]
    sa.children.clear()
    pair.b.children.clear()
    pair.call("a", "rekey_child", 1)
    pair.run(2)
    pair.check_one_pair()
    (down,) = pair.a.of(ChildDown)
    assert "does not know" in down.reason
    assert pair.a.of(ChildUp)[-1].replaces is None


def test_a_refused_new_child_is_reported() -> None:
    pair = Pair().up()
    pair.call("a", "initiate_child", 1, child("other", local="10.9.0.0/24"))
    pair.run(2)
    pair.check_one_pair()
    (failed,) = pair.a.of(ChildFailed)
    assert failed.name == "other"
    assert "TS_UNACCEPTABLE" in failed.reason


def test_no_more_than_64_children() -> None:
    pair = Pair().up()
    for _ in range(70):
        pair.call("a", "initiate_child", 1, pair.a.configs[0].children[0])
    pair.run(20)
    pair.check_one_pair(children=64)
    assert "NO_ADDITIONAL_SAS" in pair.a.of(ChildFailed)[0].reason


# --- the IKE SA


def test_the_children_move_and_the_waiting_requests_with_them() -> None:
    pair = Pair().up()
    pair.call("a", "rekey_ike", 1)
    pair.call("a", "initiate_child", 1, pair.a.configs[0].children[0])
    pair.call("a", "rekey_child", 1)
    pair.run(3)
    pair.check_one_pair(children=2)
    for shell in (pair.a, pair.b):
        (moved,) = shell.of(ChildMoved)
        assert (moved.child_id, moved.old_ike_id, moved.new_ike_id) == (1, 1, 2)
        assert [(up.ike_id, up.replaces) for up in shell.of(IkeUp)] == [(1, None), (2, 1)]
        (down,) = shell.of(IkeDown)
        assert (down.ike_id, down.failed) == (1, False)


def test_whoever_rekeys_is_the_new_initiator_and_message_ids_start_again() -> None:
    pair = Pair().up()
    pair.call("b", "rekey_ike", 1)
    pair.run(2)
    assert (pair.a.view.initiator, pair.b.view.initiator) == (False, True)
    before = len(pair.sent)
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    pair.run(1)
    request, response = pair.sent[before:]
    assert request.data[19] == 0x00, "neither initiator of the IKE SA nor a response"
    assert response.data[19] == 0x28
    assert request.data[20:24] == bytes(4)


def test_rekeys_by_time_go_on_for_a_day() -> None:
    pair = Pair()
    ike, child_lives = ike_lifetimes(3000), ChildLifetimes(time=time_limits(600))
    configs = [replace(c, lifetimes=ike, children=tuple(replace(x, lifetimes=child_lives) for x in c.children)) for c in
               (pair.a.configs[0], pair.b.configs[0])]  # fmt: skip
    pair.a.configs, pair.b.configs = configs[:1], configs[1:]
    pair.up().start_traffic(20.0)
    pair.run(86400)
    pair.run(30)
    pair.check_one_pair()
    assert 100 < len(pair.a.of(ChildUp)) < 400
    assert 20 < len(pair.a.of(IkeUp)) < 80
    assert not pair.a.gaps
    assert not pair.b.gaps


# --- the window


def test_one_request_at_a_time_and_deletes_first() -> None:
    pair = Pair().up()
    pair.call("a", "initiate_child", 1, pair.a.configs[0].children[0])
    pair.call("a", "rekey_child", 1)
    pair.call("a", "check_liveness", 1)
    pair.call("a", "terminate_child", 1)
    assert pair.a.view.tasks_active == ("CHILD_CREATE",)
    assert pair.a.view.tasks_queued == ("CHILD_DELETE", "CHILD_REKEY")
    pair.call("a", "terminate_ike", 1)
    assert pair.a.view.tasks_queued == ("IKE_DELETE", "CHILD_DELETE", "CHILD_REKEY")
    pair.run(2)
    pair.check_nothing_left()


def test_a_forced_end_does_not_wait() -> None:
    pair = Pair().up()
    pair.network = lambda sent: ()
    pair.call("a", "check_liveness", 1)
    pair.a.endpoint.terminate_ike(1, pair.now, force=True)
    pair.flush()
    assert not pair.a.views()
    assert not pair.a.live


def test_a_forced_end_tells_the_peer_if_it_can() -> None:
    pair = Pair().up()
    pair.a.endpoint.terminate_ike(1, pair.now, force=True)
    pair.run(1)
    pair.check_nothing_left()


# --- records, IVs, secrets


def test_records_come_before_the_datagrams_that_depend_on_them_and_hold_no_key() -> None:
    pair = Pair().up()
    for shell in (pair.a, pair.b):
        record = shell.records[1]
        assert isinstance(record, IkeRecord)
        assert isinstance(record.keys.sk_d, Secret)
        assert len(record.children) == 1
        assert record.iv_end > 0
        assert not record.own_outstanding
    a, b = pair.a.records[1], pair.b.records[1]
    assert (a.next_own_message_id, a.expected_message_id) == (2, 0)
    assert (b.next_own_message_id, b.expected_message_id) == (0, 2)
    assert b.last_response == (next(s.data for s in reversed(pair.sent) if s.sender == "b"),)
    pair.call("a", "rekey_child", 1)
    assert pair.a.records[1].own_outstanding
    pair.run(2)
    pair.call("a", "terminate_ike", 1)
    pair.run(1)
    assert pair.a.records[1] == IkeGone(1)
    assert pair.b.records[1] == IkeGone(1)


def test_every_sk_iv_of_a_direction_is_the_next_number() -> None:
    pair = Pair().up()
    for _ in range(5):
        pair.call("a", "check_liveness", 1)
        pair.run(1)
    for sender in "ab":
        sent = {s.data for s in pair.sent if s.sender == sender and s.data[18] != ExchangeType.IKE_SA_INIT}
        assert sorted(int.from_bytes(data[32:40], "big") for data in sent) == list(range(6))


def secrets_of(pair: Pair) -> Iterator[Secret]:
    for shell in (pair.a, pair.b):
        for sa in shell.endpoint._core.sas.values():
            keys = sa.keys.keys
            yield from (keys.sk_d, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)
            yield from (key for c in sa.children.values() for key in (c.key_in, c.key_out))


def test_the_keys_of_what_is_gone_are_wiped() -> None:
    pair = Pair().up()
    secrets = list(secrets_of(pair))
    assert len(secrets) == 14
    pair.call("b", "rekey_ike", 1)
    pair.run(2)
    secrets += list(secrets_of(pair))
    pair.call("b", "rekey_child", 1)
    pair.run(2)
    secrets += list(secrets_of(pair))
    pair.call("b", "terminate_ike", pair.b.view.ike_id)
    pair.run(2)
    pair.check_nothing_left()
    assert all(secret.closed for secret in secrets)


def test_a_refused_rekey_says_what_was_refused() -> None:
    pair = Pair(esp(connection("a"), "aes128gcm16-x25519"), esp(connection("b"), "aes128gcm16-ecp256")).up()
    pair.call("b", "rekey_child", 1)
    pair.run(1)
    assert NotifyType.NO_PROPOSAL_CHOSEN.name in pair.b.log
