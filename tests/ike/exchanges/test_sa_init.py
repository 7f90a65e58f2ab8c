"""IKE_SA_INIT: what a man in the middle cannot do, cookies, group retries, NAT detection."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, Sent, connection, perfect
from tampering import added, change_one

from ipsec_fast.iana import ExchangeType, NotifyType
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import AskKeyPair, IkeDown
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import decode_message, encode_message
from ipsec_fast.ike.v2.payloads import KePayload, NotifyPayload, SaPayload
from ipsec_fast.model import Path

COOKIES = EndpointSettings(cookie_always=True)
A_SEES_B = Path(ADDRESS_A, 500, ADDRESS_B, 500)


def is_init(sent: Sent, sender: str) -> bool:
    return sent.sender == sender and sent.data[18] == ExchangeType.IKE_SA_INIT


def refusal(request: bytes, notify: int, data: bytes = b"") -> bytes:
    """An unprotected answer to an IKE_SA_INIT request, as anybody can make one."""
    header = IkeHeader.make(request[:8], bytes(8), 34, 0, initiator=False, response=True)
    return encode_message(header, (NotifyPayload(notify, data),))


def requests(pair: Pair) -> list[bytes]:
    return [sent.data for sent in pair.sent if is_init(sent, "a")]


# --- a man in the middle


@pytest.mark.parametrize("sender", ["a", "b"])
def test_no_flipped_byte_of_ike_sa_init_survives_authentication(sender: str) -> None:
    whole = Pair().up()
    length = next(len(sent.data) for sent in whole.sent if is_init(sent, sender))
    settings = EndpointSettings(retransmit_sends=3, unprotected_error_s=1.0)
    for index in range(length):
        pair = Pair(settings=settings)

        def flip(sent: Sent, index: int = index) -> bytes:
            if not is_init(sent, sender):
                return sent.data
            changed = bytearray(sent.data)
            changed[index] ^= 1 << index % 8
            return bytes(changed)

        pair.tamper = flip
        pair.initiate()
        pair.run(6)
        assert not pair.a.views("ESTABLISHED"), f"byte {index}"
        assert not pair.b.views("ESTABLISHED"), f"byte {index}"
        assert not pair.a.live
        assert not pair.b.live


def test_every_message_reflected_to_its_sender_makes_no_sa() -> None:
    pair = Pair(network=lambda sent: ())
    pair.initiate()
    for _ in range(3):
        for sent in list(pair.sent):
            pair.inject("a", sent.data, replace(sent.path))
        pair.run(1)
    assert not pair.a.views("ESTABLISHED")
    pair = Pair().up()
    for sent in [sent for sent in pair.sent if sent.sender == "a"]:
        pair.inject("a", sent.data, sent.path)
    assert len(pair.a.views("ESTABLISHED")) == len(pair.a.live) == 1  # its request alone opens a half-open one


# --- unprotected errors


@pytest.mark.parametrize(
    "notify", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX, 40]
)
def test_a_forged_error_does_not_end_the_attempt(notify: int) -> None:
    pair = Pair()
    pair.initiate()
    pair.inject("a", refusal(requests(pair)[0], notify), A_SEES_B)
    pair.run(2)
    pair.check_one_pair()
    assert "waiting for a better answer" in pair.a.log


def test_an_error_without_a_better_answer_ends_it_after_five_seconds() -> None:
    pair = Pair(b=connection("b", ike=("aes256-sha512-modp2048",)))
    pair.initiate()
    pair.run(4.9)
    assert pair.a.view.state == "CONNECTING"
    pair.run(0.3)
    pair.check_nothing_left()
    (down,) = pair.a.of(IkeDown)
    assert down.failed
    assert "NO_PROPOSAL_CHOSEN" in down.reason
    assert "no common IKE proposal" in pair.b.log
    assert not pair.b.views()


# --- cookies


def test_a_cookie_is_demanded_without_state_and_reflected() -> None:
    pair = Pair(settings=COOKIES)
    pair.network = lambda sent: perfect(sent) if sent.number < 2 else ()
    pair.initiate()
    pair.run(0.1)
    assert not pair.b.views()
    assert pair.b.endpoint.get_timer() is None
    pair.network = perfect
    pair.run(3)
    pair.check_one_pair()
    first, second = requests(pair)[:2]
    assert decode_message(second).payloads[0] == decode_message(pair.sent[1].data).payloads[0]
    assert decode_message(second).payloads[1:] == decode_message(first).payloads
    assert len(pair.sent[1].data) <= len(first), "no amplification"


def test_the_cookie_is_kept_across_a_group_retry() -> None:
    offers = ("aes128gcm16-prfsha256-x25519-ecp256",)
    pair = Pair(connection("a", ike=offers), connection("b", ike=("aes128gcm16-prfsha256-ecp256",)), settings=COOKIES)
    pair.up()
    messages = [decode_message(data) for data in requests(pair)]
    assert [m.notify(NotifyType.COOKIE) is not None for m in messages] == [False, True, True]
    groups = [ke.group for m in messages if (ke := m.get(KePayload)) is not None]
    assert groups == [31, 31, 19]
    assert len({m.get(SaPayload) for m in messages}) == 1, "full proposals again"


def test_endless_cookies_end_after_two() -> None:
    pair = Pair(network=lambda sent: ())
    pair.initiate()
    for count in range(20):
        pair.inject("a", refusal(requests(pair)[-1], NotifyType.COOKIE, bytes([count + 1]) * 16), A_SEES_B)
    assert len(requests(pair)) == 1 + 2
    pair.run(6)
    assert not pair.a.views()
    assert "asked for another COOKIE" in pair.a.of(IkeDown)[0].reason


def test_each_group_may_cost_two_cookies_and_all_of_it_ends() -> None:
    pair = Pair(connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp256-ecp384",)), network=lambda sent: ())
    pair.initiate()
    for count in range(30):
        if count % 4 == 3:
            group = (19, 20)[count // 4 % 2].to_bytes(2, "big")
            pair.inject("a", refusal(requests(pair)[-1], NotifyType.INVALID_KE_PAYLOAD, group), A_SEES_B)
        else:
            pair.inject("a", refusal(requests(pair)[-1], NotifyType.COOKIE, bytes([count + 1]) * 16), A_SEES_B)
    assert len(requests(pair)) == 6, "five retries in all"
    pair.run(6)
    assert not pair.a.views()


@pytest.mark.parametrize("in_auth", [False, True])
def test_a_redirect_is_ignored(monkeypatch: pytest.MonkeyPatch, in_auth: bool) -> None:
    """RFC 5685: we never announce REDIRECT_SUPPORTED, so nobody may send us elsewhere."""
    redirect = NotifyPayload(NotifyType.REDIRECT, b"\x01\x04\xc0\x00\x02\x63")
    if in_auth:
        pair = Pair()
        change_one(monkeypatch, pair, "b", ExchangeType.IKE_AUTH, response=True, change=added(redirect))
        pair.up()
    else:
        pair = Pair(network=lambda sent: ())
        pair.initiate()
        pair.inject("a", refusal(requests(pair)[-1], redirect.notify, redirect.data), A_SEES_B)
        assert len(requests(pair)) == 1
        pair.network = perfect
        pair.run(8.0)
        pair.check_one_pair()
    assert not any(m.notify(NotifyType.REDIRECT_SUPPORTED) for m in map(decode_message, requests(pair)))
    assert {sent.path.remote for sent in pair.sent if sent.sender == "a"} == {ADDRESS_B}


# --- another group


def test_a_group_is_tried_once_and_only_if_we_offered_it() -> None:
    pair = Pair(connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp256-ecp384",)), network=lambda sent: ())
    pair.initiate()
    for group in (14, 19, 31, 19, 20, 31, 65535, 0):
        invalid = refusal(requests(pair)[-1], NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))
        pair.inject("a", invalid, A_SEES_B)
    groups = [ke.group for data in requests(pair) if (ke := decode_message(data).get(KePayload)) is not None]
    assert groups == [31, 19, 20]
    pair.run(6)
    assert not pair.a.views()


# --- NAT


@pytest.mark.parametrize("side", ["a", "b"])
def test_behind_a_nat_it_moves_to_4500_and_encapsulates(side: str) -> None:
    plain = connection("a", encap=False), connection("b", encap=False)
    pair = Pair(*plain, nat="a").up("a")
    assert (pair.a.view.nat_local, pair.a.view.nat_remote) == (True, False)
    assert (pair.b.view.nat_local, pair.b.view.nat_remote) == (False, True)
    assert pair.a.view.path.marker
    assert pair.b.view.path.remote_port == 34500
    assert all(installed.ask.encap for installed in (*pair.a.live, *pair.b.live))
    verb = pair.shell(side)
    pair.call(side, "rekey_child", verb.view.children[0].child_id)
    pair.run(2)
    pair.check_one_pair()


def test_encap_makes_both_sides_encapsulate_without_a_nat() -> None:
    pair = Pair(connection("a", encap=True), connection("b", encap=False)).up()
    assert pair.a.live[0].ask.encap
    assert pair.b.live[0].ask.encap
    assert pair.b.view.nat_remote
    assert pair.a.view.nat_fake


def without_nat_traversal(sent: Sent) -> bytes:
    if sent.data[18] != ExchangeType.IKE_SA_INIT:
        return sent.data
    message = decode_message(sent.data)
    kept = tuple(p for p in message.payloads if not isinstance(p, NotifyPayload))
    return encode_message(message.header, kept)


def test_a_peer_without_nat_traversal_is_refused_by_one_clear_error_where_we_encapsulate() -> None:
    pair = Pair()
    pair.tamper = without_nat_traversal
    pair.initiate()
    pair.run(6)
    pair.check_nothing_left()
    assert "no NAT traversal" in pair.b.log


@pytest.mark.parametrize("first", ["a", "b"])
def test_without_encap_and_without_a_nat_nobody_encapsulates(first: str) -> None:
    pair = Pair(connection("a", encap=False), connection("b", encap=False)).up(first)
    assert not any(installed.ask.encap for installed in (*pair.a.live, *pair.b.live))
    assert pair.a.view.path.marker  # IKE moves to port 4500 all the same
    pair.call(first, "rekey_child", pair.shell(first).view.children[0].child_id)
    pair.run(2)
    pair.check_one_pair()
    assert not any(installed.ask.encap for installed in (*pair.a.live, *pair.b.live))


def test_without_encap_a_peer_without_nat_traversal_is_spoken_to_on_port_500() -> None:
    pair = Pair(connection("a", encap=False), connection("b", encap=False))
    pair.tamper = without_nat_traversal  # AUTH covers what was stripped, so it ends there
    pair.initiate()
    pair.run(6)
    paths = {sent.path for sent in pair.sent if sent.sender == "a" and sent.data[18] == ExchangeType.IKE_AUTH}
    assert {(path.remote_port, path.marker) for path in paths} == {(500, False)}


# --- responder's state


def test_a_half_open_ike_sa_lives_100_s() -> None:
    pair = Pair(network=lambda sent: perfect(sent) if is_init(sent, "a") else ())
    pair.initiate()
    pair.run(0.1)
    assert pair.b.view.state == "CONNECTING"
    pair.run(99.8)
    assert pair.b.views()
    pair.run(0.2)
    assert not pair.b.views()


def test_a_repeated_request_gets_the_same_response_and_makes_no_second_sa() -> None:
    pair = Pair(network=lambda sent: perfect(sent) if sent.sender == "a" else ())
    pair.initiate()
    pair.run(10)
    answers = {sent.data for sent in pair.sent if sent.sender == "b"}
    assert len(answers) == 1
    assert len(pair.b.views()) == 1
    assert pair.b.endpoint.counters["requests_repeated"] > 1


def test_the_schedule_of_retransmissions() -> None:
    times: list[float] = []
    pair = Pair(settings=EndpointSettings(retransmit_jitter=0.0))
    pair.network = lambda sent: times.append(pair.now) or ()  # type: ignore[func-returns-value]
    pair.initiate()
    pair.run(120)
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == 16
    assert waits[:7] == pytest.approx([0.5, 0.8, 1.28, 2.048, 3.2768, 5.24288, 8.0])
    assert len({sent.data for sent in pair.sent}) == 1
    (down,) = pair.a.of(IkeDown)
    assert "does not answer" in down.reason
    assert 90 < times[-1] + 8 - times[0] < 100


# --- floods


def flood(pair: Pair, count: int) -> None:
    """Copies of a's IKE_SA_INIT with other SPIs, from as many addresses."""
    first, arrival = requests(pair)[0], Path(ADDRESS_B, 500, ADDRESS_A, 500)
    for number in range(1, count + 1):
        data = number.to_bytes(8, "big") + first[8:]
        pair.inject("b", data, replace(arrival, remote=ip_address(0xCB007100 + number)))


def test_a_flood_makes_no_more_half_open_sas_and_keys_than_the_limit_and_locks_nobody_out() -> None:
    pair = Pair(network=lambda sent: ())
    pair.initiate()
    flood(pair, 500)
    assert len(pair.b.views()) == pair.b.endpoint._core.settings.cookie_from_half_open
    assert len(pair.b.of(AskKeyPair)) == len(pair.b.views()), "no key exchange is computed before the cookie"
    pair.network = perfect
    pair.run(5)
    assert [view.state for view in pair.a.views()] == ["ESTABLISHED"]
    pair.run(110)
    assert len(pair.b.views()) == 1
    assert pair.b.endpoint._core.half_open_count == 0


def test_a_long_message_of_a_stranger_is_not_even_read() -> None:
    pair = Pair(network=lambda sent: ())
    pair.initiate()
    first = requests(pair)[0]
    long = first[:24] + (len(first) + 8192).to_bytes(4, "big") + first[28:] + bytes(8192)
    pair.inject("b", long, Path(ADDRESS_B, 500, ADDRESS_A, 500))
    assert not pair.b.views()
    assert pair.b.endpoint.counters["malformed"] == 1
    assert len(pair.sent) == 1, "and not answered"
