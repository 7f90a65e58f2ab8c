"""An endpoint is killed at every moment of every exchange, and started again
from its records (ARCHITECTURE.md, rule 1).
"""

from __future__ import annotations

import dataclasses

import pytest
from crash_pair import CrashPair, Moment, used_twice

from ipsec_fast.errors import HostError, StateError
from ipsec_fast.ike.events import AskInstallChild, IkeUp
from ipsec_fast.ike.records import IkeRecord
from ipsec_fast.ike.v2.states import State

SIDES = ("a", "b")


def settle(pair: CrashPair) -> None:
    pair.run(12.0)
    assert used_twice(pair.sent) == []
    pair.check_one_pair()


def record_of(pair: CrashPair, side: str) -> IkeRecord:
    (record,) = pair.stored[side].values()
    return record


@pytest.mark.parametrize("side", SIDES)
def test_a_killed_side_goes_on_without_a_new_authentication_and_rekeys_its_child(side):
    pair = CrashPair().up()
    pair.run(1.0)
    before = pair.shell(side).view
    pair.kill(side)
    pair.run(1.0)
    shell = pair.restart(side)
    (up,) = shell.of(IkeUp)
    assert up.restored
    settle(pair)
    after = shell.view
    assert (after.spi_i, after.spi_r, after.ike_id) == (before.spi_i, before.spi_r, before.ike_id)
    assert after.children[0].spi_in != before.children[0].spi_in
    assert not [sent for sent in pair.sent if sent.data[18] == 35 and sent.number > 10]


@pytest.mark.parametrize("side", SIDES)
def test_sk_ivs_begin_at_the_stored_end_and_message_ids_go_on(side):
    pair = CrashPair().up()
    end, next_own = record_of(pair, side).iv_end, record_of(pair, side).next_own_message_id
    pair.kill(side)
    pair.restart(side)
    first = next(sent for sent in pair.sent[::-1] if sent.sender == side)
    assert int.from_bytes(first.data[32:40], "big") == end
    assert int.from_bytes(first.data[20:24], "big") == next_own
    settle(pair)


def test_both_sides_killed_at_once_come_back():
    pair = CrashPair().up()
    pair.kill("a")
    pair.kill("b")
    pair.restart("a")
    pair.restart("b")
    settle(pair)


def test_an_own_request_outstanding_means_a_new_negotiation_with_initial_contact_and_one_pair():
    pair = CrashPair().up()
    pair.network = lambda sent: ()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(0.3)
    pair.kill("a")
    pair.network = lambda sent: (0.01,)
    pair.restart("a")
    assert pair.refused == ["a request of ours was outstanding"]
    settle(pair)
    assert "INITIAL_CONTACT" in pair.b.log


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("turn", range(1, 7))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", ["rekey_child", "rekey_ike", "both", "reauthenticate", "delete_child"])
def test_a_kill_at_any_moment_of_an_exchange_uses_nothing_twice_and_leaves_one_pair(what, side, turn, moment):
    pair = CrashPair(seed=turn).up()
    pair.kill_at(side, turn, moment)
    begin(pair, what)
    pair.run(3.0)
    if pair.spare():
        pair.restart(side)
    pair.run(12.0)
    assert used_twice(pair.sent) == []
    if what == "delete_child":
        return
    pair.run(250.0)  # an IKE SA that was replaced and that its closer has forgotten is given up after that
    pair.check_one_pair()


def begin(pair: CrashPair, what: str) -> None:
    child_id, ike_id = pair.a.view.children[0].child_id, pair.a.view.ike_id
    match what:
        case "rekey_child":
            pair.call("a", "rekey_child", child_id)
        case "rekey_ike":
            pair.call("a", "rekey_ike", ike_id)
        case "both":
            pair.call("a", "rekey_child", child_id)
            pair.call("b", "rekey_child", pair.b.view.children[0].child_id)
        case "reauthenticate":
            pair.call("a", "reauthenticate", ike_id)
        case "delete_child":
            pair.call("a", "terminate_child", child_id)


def test_a_response_that_was_stored_but_not_sent_answers_the_repeated_request():
    pair = CrashPair().up()
    pair.kill_at("b", 1, Moment.STORED)
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    pair.run(0.2)
    assert "b" in pair.down
    pair.restart("b")
    pair.run(0.5)
    assert pair.b.endpoint.counters["requests_repeated"] == 1
    settle(pair)


def test_children_are_installed_with_the_keys_and_spis_of_the_record():
    pair = CrashPair().up()
    (old,) = record_of(pair, "a").children
    pair.kill("a")
    ask = pair.restart("a").of(AskInstallChild)[0]
    assert (ask.spi_in, ask.spi_out, ask.child_id, ask.suite) == (old.spi_in, old.spi_out, old.child_id, old.suite)
    assert ask.key_in is old.key_in


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"own_outstanding": True}, "a request of ours was outstanding"),
        ({"state": State.DELETING}, "it was DELETING"),
        ({"settings": bytes(32)}, "connection to-b was changed meanwhile"),
    ],
)
def test_a_record_that_cannot_go_on_is_refused_with_the_reason_and_nothing_is_left(change, reason):
    pair = CrashPair().up()
    record = dataclasses.replace(record_of(pair, "a"), **change)
    pair.kill("a")
    pair.stored["a"] = {}
    endpoint = pair.restart("a").endpoint
    before = len(endpoint.views())
    with pytest.raises(StateError, match=reason):
        endpoint.restore(record, pair.a.configs[0], pair.now)
    assert len(endpoint.views()) == before


def test_a_record_is_restored_once_and_not_without_its_connection():
    pair = CrashPair().up()
    record = record_of(pair, "a")
    with pytest.raises(StateError, match="it is there already"):
        pair.a.endpoint.restore(record, pair.a.configs[0], pair.now)
    with pytest.raises(StateError, match="connection to-b is not configured"):
        pair.a.endpoint.restore(record, None, pair.now)


def test_an_installation_that_the_host_refuses_is_told_to_the_peer_and_made_anew():
    pair = CrashPair().up()
    old = pair.b.view.children[0].spi_out
    pair.kill("a")
    pair.fail_first[AskInstallChild] = HostError("no such address")
    pair.restart("a")
    settle(pair)
    assert "cannot be restored: no such address" in pair.a.log
    assert pair.b.view.children[0].spi_out != old


def test_withheld_messages_are_counted_dropped_and_come_again_by_retransmission():
    pair = CrashPair().up()
    endpoint = pair.a.endpoint
    endpoint.check_liveness(pair.a.view.ike_id, pair.now)
    endpoint.withhold({pair.a.view.ike_id})
    assert endpoint.datagrams_to_send(pair.now) == []
    assert endpoint.counters["withheld"] == 1
    pair.run(1.0)
    assert pair.a.endpoint.counters["retransmits"] == 1
    pair.check_one_pair()
