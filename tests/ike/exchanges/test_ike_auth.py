"""IKE_AUTH: who is refused and what is left behind; the Child SA that may fail alone; INITIAL_CONTACT."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, Sent, Shell, child, connection, perfect

from ipsec_fast.errors import HostError, SecretError
from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import AskCredential, AskInstallChild, ChildDown, ChildFailed, IkeDown, IkeUp
from ipsec_fast.model import Identity, Path, TrafficSelector


def run(pair: Pair, seconds: float = 3.0) -> Pair:
    pair.initiate()
    pair.run(seconds)
    return pair


# --- refused


def check_refused(pair: Pair, text: str) -> None:
    pair.check_nothing_left()
    assert not pair.a.of(IkeUp)
    assert not pair.a.children
    assert not pair.b.children
    (down,) = pair.a.of(IkeDown)
    assert down.failed
    (failed,) = pair.a.of(ChildFailed)
    assert failed.reason == down.reason
    assert text in pair.a.log + pair.b.log


def test_a_wrong_psk() -> None:
    pair = Pair()
    pair.b.psk = b"another secret of the same length"
    check_refused(run(pair), "the pre-shared keys differ")
    assert "AUTHENTICATION_FAILED" in pair.a.of(IkeDown)[0].reason


def test_an_initiator_that_nobody_knows() -> None:
    pair = Pair(connection("a", local_id=Identity.parse("mallory.example")))
    check_refused(run(pair), "nobody here knows mallory.example")


def test_a_responder_that_is_not_the_one_asked_for() -> None:
    pair = Pair(connection("a", remote_id=Identity.parse("c.example")))
    check_refused(run(pair), "connection to-a is b.example, the peer wants to talk to c.example")


def test_a_mismatch_names_the_type_where_the_texts_are_the_same() -> None:
    """A peer that sends its address as a name."""
    name, address = Identity.parse("fqdn:192.0.2.2"), Identity.parse("192.0.2.2")
    pair = run(Pair(connection("a", remote_id=address), connection("b", local_id=name)))
    assert not pair.a.of(IkeUp)
    assert "is fqdn:192.0.2.2, the peer wants to talk to 192.0.2.2 (ID type IPV4_ADDR, not FQDN)" in pair.b.log


def test_a_wildcard_is_whom_the_initiator_takes_and_not_whom_it_asks_for() -> None:
    pair = run(Pair(connection("a", remote_id=Identity.parse("*.example"))))
    (view,) = pair.a.endpoint.views()
    assert view.remote_id == Identity.parse("b.example")
    pair.check_one_pair()


def test_a_wildcard_that_does_not_fit_is_refused() -> None:
    pair = run(Pair(connection("a", remote_id=Identity.parse("*.other"))))
    assert not pair.a.of(IkeUp)
    reason = pair.a.of(IkeDown)[0].reason
    assert "the peer says it is b.example, the configuration wants *.other (both of ID type FQDN)" in reason


def test_a_peer_that_calls_itself_a_wildcard_is_nobody_that_a_wildcard_means() -> None:
    pair = Pair(
        connection("a", local_id=Identity.parse("*.example")), connection("b", remote_id=Identity.parse("*.example"))
    )
    pair.b.configs = [replace(pair.b.configs[0], remote_id=Identity.parse("*ple"))]
    check_refused(run(pair), "nobody here knows *.example")


def test_an_initiator_that_rejects_the_responder_tells_it() -> None:
    """The responder believes in the IKE SA already."""
    pair = Pair(b=connection("b", local_id=None))
    run(pair)
    pair.check_nothing_left()
    assert not pair.a.of(IkeUp)
    assert not pair.a.children
    assert "the peer says it is 192.0.2.2, the configuration wants b.example" in pair.a.of(IkeDown)[0].reason
    assert pair.sent[-2].data[18] == ExchangeType.INFORMATIONAL
    assert pair.sent[-2].sender == "a"
    assert "AUTHENTICATION_FAILED" in pair.b.of(IkeDown)[0].reason
    assert pair.b.of(ChildDown)


@pytest.mark.parametrize("side", ["a", "b"])
def test_no_psk_for_these_identities(side: str) -> None:
    pair = Pair()
    pair.shell(side).refuse[AskCredential] = SecretError("no PSK for a.example and b.example")
    run(pair)
    assert not pair.a.of(IkeUp)
    assert not pair.a.views()
    assert "no PSK" in pair.a.log + pair.b.log + pair.a.of(IkeDown)[0].reason
    pair.run(100)
    pair.check_nothing_left()


# --- the Child SA alone

REFUSALS = {
    "selectors": (child(local="10.7.0.0/24", remote="10.8.0.0/24"), "TS_UNACCEPTABLE", "10.7.0.0/24"),
    "proposal": (child(esp=("aes256-sha256",)), "NO_PROPOSAL_CHOSEN", "AES_CBC_256"),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_our_initiator_deletes_an_ike_sa_without_child(case: str) -> None:
    config, notify, offered = REFUSALS[case]
    pair = run(Pair(connection("a", children=(config,))))
    pair.check_nothing_left()
    (failed,) = pair.a.of(ChildFailed)
    assert notify in failed.reason
    assert offered in failed.reason
    assert offered in pair.b.of(ChildFailed)[0].reason, "the responder's line names both sides"
    assert pair.a.of(IkeDown)[0].failed


def test_our_responder_keeps_it_for_30_s() -> None:
    pair = Pair(connection("a", children=(REFUSALS["selectors"][0],)), connection("b", dpd_delay_s=0))
    pair.network = lambda sent: perfect(sent) if sent.data[18] != ExchangeType.INFORMATIONAL else ()
    run(pair, 1.0)
    assert pair.b.view.state == "ESTABLISHED"
    assert not pair.b.view.children
    pair.network = perfect
    pair.a = Shell("a", 7, EndpointSettings(), [connection("a")])  # forgotten there
    pair.run(28.8)
    assert pair.b.view.state == "ESTABLISHED"
    pair.run(0.4)
    assert pair.b.view.state == "DELETING"


def test_where_none_of_several_children_comes_up_the_ike_sa_goes_too() -> None:
    strange = [child(name, local="10.7.0.0/24", remote="10.8.0.0/24") for name in ("one", "two")]
    pair = Pair(connection("a", children=strange), connection("b", dpd_delay_s=0))
    pair.initiate("a", "one", "two")
    pair.run(2)
    assert [failed.name for failed in pair.a.of(ChildFailed)] == ["one", "two"]
    pair.run(30)
    pair.check_nothing_left()


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_failed_install_leaves_no_child_on_either_side(side: str) -> None:
    pair = Pair()
    pair.shell(side).refuse[AskInstallChild] = HostError("no more room in the SAD")
    run(pair)
    pair.check_nothing_left()
    assert any("no more room" in failed.reason for failed in pair.shell(side).of(ChildFailed))


def test_several_children_of_one_connection() -> None:
    children_a = (child("one"), child("two", local="10.3.0.0/24", remote="10.4.0.0/24", esp=("aes128-sha256-x25519",)))
    mirror = ((c, c.remote_ts, c.local_ts) for c in children_a)
    children_b = tuple(replace(c, local_ts=local, remote_ts=remote) for c, local, remote in mirror)
    pair = Pair(connection("a", children=children_a), connection("b", children=children_b))
    pair.initiate("a", "one", "two")
    pair.run(2)
    pair.check_one_pair(children=2)
    assert [c.name for c in pair.b.view.children] == ["one", "two"]
    assert [c.group for c in pair.a.view.children] == [0, 31]


def test_selectors_are_narrowed_to_what_both_allow() -> None:
    wide = child(local="10.1.0.0/16 192.168.0.0/16", remote="0.0.0.0/0")
    pair = Pair(connection("a", children=(wide,))).up()
    (made,) = pair.a.view.children
    assert made.local_ts == (TrafficSelector.parse("10.1.0.0/24"),)
    assert made.remote_ts == (TrafficSelector.parse("10.2.0.0/24"),)


def test_dynamic_selectors_are_the_addresses_of_the_ike_sa() -> None:
    dynamic = child(local="", remote="")
    pair = Pair(connection("a", children=(dynamic,)), connection("b", children=(dynamic,))).up()
    assert pair.a.view.children[0].local_ts == (TrafficSelector.host(ADDRESS_A),)


@pytest.mark.parametrize("ike", ["aes128gcm16-prfsha256-x25519", "aes256-sha384-ecp384", "aes128-sha256-modp2048"])
@pytest.mark.parametrize("esp", ["aes256gcm16-esn", "aes128-sha256-noesn", "aes256-sha256"])
def test_every_suite(ike: str, esp: str) -> None:
    sides = [connection(side, ike=(ike,)) for side in "ab"]
    sides = [
        replace(c, children=tuple(replace(x, proposals=child(esp=(esp,)).proposals) for x in c.children)) for c in sides
    ]
    pair = Pair(*sides).up()
    ask_a, ask_b = pair.a.live[0].ask, pair.b.live[0].ask
    assert ask_a.suite.name + ("-noesn" if "noesn" in esp else "-esn" if "esn" in esp else "") == esp
    assert ask_a.esn == ask_b.esn == ("noesn" not in esp)
    assert len(ask_a.key_in) == len(ask_a.key_out) == ask_a.suite.keymat_bytes


# --- ports


@pytest.mark.parametrize("marker", [True, False])
def test_ike_auth_is_accepted_on_either_port(marker: bool) -> None:
    pair = Pair()
    path = Path(ADDRESS_A, 4500, ADDRESS_B, 4500, True) if marker else Path(ADDRESS_A, 500, ADDRESS_B, 500)
    pair.a.endpoint.initiate(pair.a.configs[0], (), path, pair.now)
    pair.run(2)
    pair.check_one_pair()
    assert pair.a.view.path.marker
    assert pair.b.view.path.marker


# --- INITIAL_CONTACT


def test_a_peer_that_forgot_everything_replaces_its_old_sas_without_a_word_to_it() -> None:
    pair = Pair().up()
    old = pair.b.view
    pair.a = Shell("a", 99, EndpointSettings(), [connection("a")])  # kill -9 and a new start
    before = len(pair.sent)
    pair.up()
    assert pair.b.view.ike_id != old.ike_id
    assert [down.ike_id for down in pair.b.of(IkeDown)] == [old.ike_id]
    assert [down.child_id for down in pair.b.of(ChildDown)] == [old.children[0].child_id]
    assert all(sent.data[18] != ExchangeType.INFORMATIONAL for sent in pair.sent[before:])


def test_a_second_ike_sa_with_the_same_peer_is_no_initial_contact() -> None:
    pair = Pair().up()
    pair.initiate()
    pair.run(2)
    assert len(pair.a.views("ESTABLISHED")) == len(pair.b.views("ESTABLISHED")) == 2


def test_initial_contact_spares_other_peers() -> None:
    other = connection("a", name="other", local_id=Identity.parse("c.example"))
    pair = Pair(b=[connection("b"), connection("b", name="to-c", remote_id=Identity.parse("c.example"))]).up()
    pair.a.configs.insert(0, other)
    pair.initiate()
    pair.run(2)
    assert {view.connection for view in pair.b.views("ESTABLISHED")} == {"to-a", "to-c"}


# --- asks that rest


def test_repetitions_of_a_resting_request_are_dropped_and_its_answer_goes_on() -> None:
    pair = Pair()
    pair.b.rest.add(AskCredential)
    pair.initiate()
    pair.run(3)
    assert pair.b.view.state == "CONNECTING"
    assert len(pair.b.resting) == 1
    assert pair.b.endpoint.counters["requests_resting"] > 0
    pair.b.rest.clear()
    pair.b.reply(pair.b.resting[0], pair.now)
    pair.run(5)
    pair.check_one_pair()


def test_an_answer_for_a_vanished_ike_sa_is_ignored() -> None:
    pair = Pair()
    pair.b.rest.add(AskCredential)
    pair.initiate()
    pair.run(1)
    ask = pair.b.resting[0]
    pair.b.endpoint.terminate_ike(pair.b.view.ike_id, pair.now)
    pair.b.reply(ask, pair.now)
    pair.flush()
    assert pair.b.endpoint.counters["answers_ignored"] == 1
    assert not pair.b.views()
    pair.check()


def test_an_ask_that_nobody_answers_ends_at_its_deadline() -> None:
    pair = Pair()
    pair.b.rest.add(AskCredential)
    pair.initiate()
    pair.run(31)
    assert not pair.b.views("CONNECTING")
    assert "not answered within 30 s" in pair.b.log


def test_a_doubled_ike_auth_runs_its_handler_once() -> None:
    pair = Pair(network=lambda sent: (0.01, 0.02, 0.5)).up()
    asked = [event for event in pair.b.events if isinstance(event, AskInstallChild)]
    assert len(asked) == 1
    answers: dict[bytes, int] = {}
    for sent in pair.sent:
        if is_auth_response(sent):
            answers[sent.data] = answers.get(sent.data, 0) + 1
    assert len(answers) == 1, "repeated bytes are identical"


def is_auth_response(sent: Sent) -> bool:
    return sent.sender == "b" and sent.data[18] == ExchangeType.IKE_AUTH
