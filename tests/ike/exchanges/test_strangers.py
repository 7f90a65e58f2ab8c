"""Bounds on what strangers cost (docs/attacks.md, rows 3, 42 to 44, 83): work, memory, IKE SAs, answers, lines.

Good peers still get in.
"""

from __future__ import annotations

import itertools
import time
import tracemalloc
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, connection, perfect
from stranger import GOOD, REFUSED, Stranger, largest_offers, notify_of

from ipsec_fast.algorithms import parse_ike_proposal
from ipsec_fast.errors import NegotiationError
from ipsec_fast.iana import ExchangeType, NotifyType, TransformType
from ipsec_fast.ike.config import EndpointSettings, Fragmentation, Unique
from ipsec_fast.ike.core import HALF_OPEN_MAX
from ipsec_fast.ike.events import AskKeyPair, ChildUp, IkeUp, Progress
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2 import negotiate, offer
from ipsec_fast.ike.v2.child_setup import choose_with_group
from ipsec_fast.ike.v2.message import _MAX_CLEAR_BYTES, encode_message
from ipsec_fast.ike.v2.payloads import DeletePayload, KePayload, NoncePayload, NotifyPayload, SaPayload
from ipsec_fast.model import Identity, Path, Transform

NOW = 1000.0


def lines(pair: Pair) -> list[str]:
    return [event.text for event in pair.b.of(Progress) if event.level == 0]


# --- choosing


@pytest.mark.parametrize("name", largest_offers())
def test_refusing_the_largest_offer_compares_no_pair_of_proposals_and_builds_no_text(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections are candidates, each different list of proposals
    costs look-ups by our own transforms only.
    """
    looked_up: list[object] = []
    holders = offer.Offer._with_any
    monkeypatch.setattr(offer.Offer, "_with_any", lambda self, keys: looked_up.append(1) or holders(self, keys))
    monkeypatch.setattr(negotiate, "_match", lambda *arguments: pytest.fail("a pair of proposals was compared"))
    monkeypatch.setattr(Transform, "__str__", lambda transform: pytest.fail("a text was built"))
    texts = ("aes256gcm16-prfsha256-x25519", "aes128-sha256-modp2048", "aes256-sha512-ecp384")
    lists = [tuple(map(parse_ike_proposal, some)) for some in itertools.permutations(texts)]
    candidates = [connection("b", proposals=tuple(lists[at % len(lists)])) for at in range(300)]
    offered = largest_offers()[name].proposals
    for candidate in candidates:
        with pytest.raises(NegotiationError):
            choose_with_group(offered, candidate.proposals, 31)
    assert len(looked_up) <= 4 * len(texts) * len(lists), "equal lists are looked at once"


@pytest.mark.parametrize("name", largest_offers())
def test_the_text_of_a_refusal_is_there_when_it_is_read_and_names_both_sides(name: str) -> None:
    ours = connection("b", ike=("aes256-sha256-ecp384",)).proposals
    with pytest.raises(NegotiationError) as refused:
        choose_with_group(largest_offers()[name].proposals, ours, 31)
    text = str(refused.value)
    assert refused.value.notify == NotifyType.NO_PROPOSAL_CHOSEN
    assert "they offered [1] IKE:" in text
    assert "we allow" in text
    assert "ECP_384" in text
    assert "no common" in text
    assert len(text) < 8000


def test_a_fitting_proposal_at_the_end_of_the_largest_offer_is_found() -> None:
    ours = connection("b").proposals
    rest = largest_offers()["64 proposals"].proposals[:63]
    theirs = (*rest, replace(GOOD.proposals[0], number=64))
    assert choose_with_group(theirs, ours, 31).number == 64


def test_refused_offers_build_texts_only_for_the_lines_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    refusal = negotiate._refusal
    monkeypatch.setattr(negotiate, "_refusal", lambda *arguments: built.append(1) or refusal(*arguments))
    pair = Pair()
    stranger = Stranger(pair.b)
    for number in range(300):
        stranger.send(stranger.init(largest_offers()["near misses"]), ip_address(0x0A000000 + (number << 16)))
    assert len(built) == len([line for line in lines(pair) if "NO_PROPOSAL_CHOSEN" in line]) <= 4


# --- cookies by load


def test_refused_offers_alone_make_us_ask_for_cookies_and_then_nothing_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    stranger = Stranger(pair.b)
    for number in range(200):
        stranger.send(stranger.init(REFUSED), ip_address(0x0A000000 + (number << 16)))
    counters = pair.b.endpoint.counters
    assert pair.b.endpoint._core.half_open_count == 0
    assert counters["cookies_sent"] >= 150
    monkeypatch.setattr(SaPayload, "decode", lambda body: pytest.fail("an offer was decoded without a cookie"))
    before = counters["cookies_sent"]
    stranger.send(stranger.init(REFUSED))
    assert counters["cookies_sent"] == before + 1


def test_many_good_requests_a_second_make_us_ask_for_cookies() -> None:
    pair = Pair(settings=EndpointSettings(cookie_from_half_open=10**6, cookie_from_requests_per_s=50))
    stranger = Stranger(pair.b)
    for number in range(120):
        stranger.send(stranger.init(), ip_address(0x0A000000 + (number << 16)))
    assert 40 <= len(pair.b.of(AskKeyPair)) <= 60
    assert pair.b.endpoint.counters["cookies_sent"] >= 60


def test_cookies_end_when_the_load_has_ended() -> None:
    pair = Pair()
    stranger = Stranger(pair.b)
    for number in range(60):
        stranger.send(stranger.init(REFUSED), ip_address(0x0A000000 + (number << 16)))
    cookies = pair.b.endpoint.counters["cookies_sent"]
    assert cookies
    pair.now += 10.0
    pair.initiate()
    pair.run(2)
    assert pair.b.endpoint.counters["cookies_sent"] == cookies
    assert [view.state for view in pair.a.views()] == ["ESTABLISHED"]


def test_a_peer_whose_nonce_is_short_shows_its_address_first() -> None:
    """Its request would be shorter than our response."""
    pair = Pair()
    stranger = Stranger(pair.b)
    (answer,) = stranger.send(stranger.init(nonce_bytes=16, nat=False))
    assert len(answer) == 72
    assert not pair.b.views()


# --- places


def test_one_address_takes_no_place_of_another() -> None:
    """41 requests a second with good cookies from one address used to lock everybody out."""
    pair = Pair()
    core = pair.b.endpoint._core
    stranger = Stranger(pair.b)
    for number in range(300):
        stranger.begin("203.0.113.7", 1024 + number)
    filled = half_open_of_one_address(core, stranger)
    assert filled == HALF_OPEN_MAX
    assert stranger.begin("198.51.100.1") == "answered"
    assert core.half_open_count <= HALF_OPEN_MAX
    assert any(sa.path.remote == ip_address("198.51.100.1") for sa in core.half_open_sas)
    assert core.counters["half_open_displaced"] >= 1
    pair.initiate()
    pair.run(1.0)
    assert [view.state for view in pair.a.views()] == ["ESTABLISHED"]


def half_open_of_one_address(core, stranger: Stranger) -> int:
    """The rest of the places without the key exchanges, which take long."""
    for number in itertools.count():
        if core.half_open_count >= HALF_OPEN_MAX:
            return core.half_open_count
        like = next(iter(core.half_open_sas))
        sa = type(like)(core, core.new_id("ike"), False, core.new_spi(), replace(like.path, remote_port=number % 60000))
        core.add(sa)
        sa.is_half_open = True
        core.half_open_sas.add(sa, sa.path.remote)
    raise AssertionError


@pytest.mark.parametrize("flood", ["203.0.0.0", "2001:db8:1::"])
def test_a_good_peer_gets_in_within_a_second_while_a_whole_network_floods(
    flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With good cookies, each time from another address of a /16 (IPv6: another /64 of a
    /48); the peer stays as long as it needs.
    """
    monkeypatch.setattr("ipsec_fast.ike.v2.sa_init_answer.HALF_OPEN_MAX", 100)
    first, step = int(ip_address(flood)), 1 if "." in flood else 1 << 64
    make = type(ip_address(flood))
    pair = Pair()
    stranger = Stranger(pair.b)
    sent = itertools.count()

    def one() -> None:
        assert stranger.begin(make(first + next(sent) % 60000 * step), now=pair.now) == "answered"

    for _ in range(150):
        one()
    pair.initiate()
    for _ in range(40):
        pair.run(0.02)
        for _ in range(4):
            one()
    assert [view.state for view in pair.a.views()] == ["ESTABLISHED"]
    assert pair.a.of(IkeUp)
    assert pair.b.endpoint._core.half_open_count <= 100
    up_after_s = pair.a.view.established_at - NOW
    assert up_after_s < 1.0


def test_two_thousand_peers_behind_one_address_find_a_place_in_one_moment() -> None:
    """No address has a limit of its own (row 43)."""
    pair = Pair()
    stranger = Stranger(pair.b)
    assert {stranger.begin("203.0.113.7", 1024 + number) for number in range(2000)} == {"answered"}
    assert pair.b.endpoint._core.half_open_count == 2000
    assert pair.b.endpoint.counters["half_open_displaced"] == 0


def test_peers_behind_one_address_all_come_up_after_a_power_cut() -> None:
    """They begin in one moment, and go on as the responder's cookies let them."""
    count = 200
    responder = connection("b", remote_id=None, unique=Unique.NEVER)
    pair = Pair(b=responder)
    pair.check = lambda: None  # type: ignore[method-assign]  # its rules are those of one pair
    for number in range(count):
        config = connection("a", local_id=Identity.parse(f"peer{number}.example"), unique=Unique.NEVER, encap=False)
        path = Path(ADDRESS_A, 1024 + number, ADDRESS_B, 500)
        pair.a.endpoint.initiate(config, (), path, pair.now)
    pair.run(10.0, until=lambda: len(pair.b.of(ChildUp)) == count)
    assert len(pair.b.of(ChildUp)) == count
    assert pair.b.endpoint.counters["half_open_displaced"] == 0
    assert pair.b.endpoint._core.half_open_count == 0


def test_half_open_ike_sas_that_go_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsec_fast.ike.v2.sa_init_answer.HALF_OPEN_MAX", 50)
    pair = Pair()
    core = pair.b.endpoint._core
    stranger = Stranger(pair.b)
    for number in range(200):
        stranger.begin(ip_address(0x0A000000 + number), 500)
    assert len(core.sas) == len(core.half_open) == len(core.by_spi) == core.half_open_count == 50
    assert len(core.tombstones) == 0, "nobody asks for a response to IKE_SA_INIT by its SPI"
    pair.now += 101.0
    pair.run(0.1)
    assert not core.sas
    assert not core.half_open
    assert not core.by_spi
    assert len(core.half_open_sas) == 0
    assert not core.half_open_sas._rows
    assert not core.half_open_sas._inside


def test_many_half_open_ike_sas_make_no_list_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair().up()
    core = pair.b.endpoint._core
    stranger = Stranger(pair.b)
    for number in range(100):
        stranger.begin(ip_address(0x0A000000 + number), 500)
    views = pair.b.endpoint.views()
    assert len(views) == 1 + 64
    assert "ESTABLISHED" in [view.state for view in views]
    assert pair.b.endpoint.half_open_count == core.half_open_count == 100
    assert len(pair.b.endpoint.views(most_half_open=None)) == 101


# --- answers


def header_only() -> bytes:
    return IkeHeader(b"12345678", bytes(8), 0, 2, 0, ExchangeType.IKE_SA_INIT, 8, 0, 28).encode()


def version_3(length: int) -> bytes:
    return b"12345678" + bytes(8) + bytes([0, 0x30, 34, 8]) + bytes(4) + length.to_bytes(4, "big") + bytes(length - 28)


def every_request(stranger: Stranger) -> dict[str, bytes]:
    """The shortest of each kind that draws an answer, or used to."""
    head = IkeHeader.make(b"12345678", bytes(8), 34, 0, initiator=True, response=False)
    tiny = SaPayload((replace(REFUSED.proposals[0], transforms=(Transform(TransformType.ENCR, 200),)),))
    nonce = NoncePayload(bytes(16))
    bare = replace(GOOD.proposals[0], transforms=GOOD.proposals[0].transforms)
    return {
        "a header alone": header_only(),
        "a payload too many": encode_message(head, (nonce, nonce)),
        "no proposal": encode_message(head, (tiny, KePayload(31, b""), NoncePayload(bytes(32)))),
        "another group": encode_message(head, (GOOD, KePayload(14, b""), NoncePayload(bytes(32)))),
        "a bad key": encode_message(head, (GOOD, KePayload(31, b""), NoncePayload(bytes(32)))),
        "a good one": stranger.init(nat=False, spi=b"12345678"),
        "a good one with a short nonce": stranger.init(nat=False, nonce_bytes=16, spi=b"12345678"),
        "half of the NAT detection": encode_message(
            head,
            (
                SaPayload((bare,)),
                KePayload(31, stranger.public),
                NoncePayload(bytes(32)),
                NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
            ),
        ),
        "version 3, a header": version_3(28),
        "version 3": version_3(36),
        "an unknown critical payload": IkeHeader(b"12345678", bytes(8), 200, 2, 0, 34, 8, 0, 32).encode()
        + bytes([0, 0x80, 0, 4]),
    }


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("kind", every_request(Stranger(Pair().b)))
def test_no_answer_is_longer_than_its_request(kind: str, cookies: bool) -> None:
    pair = Pair(b=connection("b", encap=False), settings=EndpointSettings(cookie_always=cookies))
    stranger = Stranger(pair.b)
    request = every_request(stranger)[kind]
    for _ in range(2):  # and again, for what is repeated
        answers = stranger.send(request)
        assert len(answers) <= 1
        assert sum(map(len, answers)) <= len(request)
    assert pair.b.endpoint.counters["internal_errors"] == 0


@pytest.mark.parametrize("kind", ["no proposal", "a payload too many", "version 3"])
def test_errors_that_strangers_draw_have_a_rate_by_address_and_network_and_in_all(kind: str) -> None:
    pair = Pair(settings=EndpointSettings(cookie_from_refusals_per_s=10**6, cookie_from_requests_per_s=10**6))
    stranger = Stranger(pair.b)
    request = every_request(stranger)[kind] + b""
    for _ in range(5000):
        stranger.send(request)
    assert 1 <= len(stranger.answers) <= 10, "one address"
    assert stranger.send(request, "198.51.100.9"), "another one is answered all the same"
    stranger.answers.clear()
    for number in range(3000):
        stranger.send(request, ip_address(0x0B000000 + number))
    assert len(stranger.answers) <= 40, "one /16"
    stranger.answers.clear()
    for number in range(3000):
        stranger.send(request, ip_address(0x0C000000 + (number << 16)))
    assert len(stranger.answers) <= 100, "everybody"


def test_a_repeated_request_does_not_draw_responses_without_end() -> None:
    pair = Pair()
    stranger = Stranger(pair.b)
    request = stranger.init()
    for _ in range(6000):
        stranger.send(request)
    assert len(stranger.answers) <= 1 + 4096
    assert all(len(answer) <= len(request) for answer in stranger.answers)


def test_buckets_of_addresses_are_bounded() -> None:
    pair = Pair()
    strangers = pair.b.endpoint._core.strangers
    for number in range(5000):
        strangers.may_refuse(ip_address(number << 16), NOW)
        strangers.may_answer(ip_address(number << 16), NOW)
    assert len(strangers._errors) <= 3 * 1024
    assert len(strangers._answers) <= 3 * 1024


# --- what is not read


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL])
def test_no_long_message_in_clear_is_decoded_but_an_ike_sa_init(
    exchange: ExchangeType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 KB of proposals in an INFORMATIONAL that anybody may send cost as much as a handshake."""
    pair = Pair().up()
    view = pair.b.view
    body = largest_offers()["128 transforms"]
    decoded: list[object] = []
    decode = SaPayload.decode
    monkeypatch.setattr(SaPayload, "decode", lambda data: decoded.append(1) or decode(data))
    for spis in ((view.spi_i, view.spi_r), (b"12345678", b"87654321")):
        head = IkeHeader.make(*spis, exchange, view and 2, initiator=view.initiator is False, response=False)
        data = encode_message(head, [body] * 8)
        assert len(data) > _MAX_CLEAR_BYTES
        pair.inject("b", data, Path(ADDRESS_B, 500, ADDRESS_A, 500))
    assert not decoded
    pair.run(1)
    pair.check_one_pair()


# --- memory


def test_refused_requests_leave_no_memory() -> None:
    """Each used to leave a kilobyte, and its reason for ever in the log's
    memory (tests/gateway/test_stranger_lines.py).
    """
    pair = Pair(settings=EndpointSettings(cookie_from_refusals_per_s=10**6, cookie_from_requests_per_s=10**6))
    stranger = Stranger(pair.b)

    def flood(first: int, count: int) -> None:
        for number in range(first, first + count):
            stranger.send(stranger.init(REFUSED), ip_address(0x0A000000 + number))
        pair.b.events.clear()
        pair.b.records.clear()
        stranger.answers.clear()

    tracemalloc.start()
    flood(0, 1500)
    before = tracemalloc.get_traced_memory()[0]
    flood(3000, 1500)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1500 * 60, f"{grown / 1500:.0f} bytes for each"
    assert not pair.b.endpoint._core.sas


def failing_peers(count: int, **options) -> Pair:
    """Strangers with a wrong secret get as far as IKE_AUTH, one after the other."""
    pair = Pair(a=connection("a", encap=False, **options), b=connection("b", remote_id=None))
    pair.a.psk = b"x" * 32
    for number in range(count):
        pair.a.endpoint.initiate(pair.a.configs[0], (), Path(ADDRESS_A, 1024 + number, ADDRESS_B, 500), pair.now)
        pair.run(0.03)
    return pair


def test_tombstones_of_strangers_leave_those_of_peers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose DELETE was answered, and the answer lost, asks again: whatever strangers have done since."""
    monkeypatch.setattr("ipsec_fast.ike.tombstones.MOST_OF_STRANGERS", 5)
    pair = Pair(b=connection("b", remote_id=None)).up()
    core = pair.b.endpoint._core
    pair.network = lambda sent: () if sent.sender == "b" else perfect(sent)
    pair.call("a", "terminate_ike", pair.a.view.ike_id)
    pair.run(0.2)
    assert len(core.tombstones) == 1
    own_spi = next(iter(core.tombstones._peers))
    pair.network = perfect
    pair.a.psk = b"x" * 32
    for number in range(20):
        pair.a.endpoint.initiate(pair.a.configs[0], (), Path(ADDRESS_A, 1024 + number, ADDRESS_B, 500), pair.now)
        pair.run(0.05)
    assert own_spi in core.tombstones
    assert len(core.tombstones) <= 1 + 5
    pair.run(40)
    assert len(core.tombstones) == 0
    assert pair.b.endpoint.counters["internal_errors"] == 0


def test_tombstones_of_peers_make_room_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsec_fast.ike.tombstones.MOST", 2)
    pair = Pair()
    for _ in range(4):
        pair.initiate()
        pair.run(1)
        own_spi = pair.b.view.spi_r
        pair.call("a", "terminate_ike", pair.a.view.ike_id)
        pair.run(1)
        assert own_spi in pair.b.endpoint._core.tombstones
    assert len(pair.b.endpoint._core.tombstones) == 2


# --- lines


def test_ten_thousand_refusals_are_few_lines_and_the_last_says_how_many_were_left_out() -> None:
    pair = Pair(settings=EndpointSettings(cookie_from_refusals_per_s=10**6, cookie_from_requests_per_s=10**6))
    stranger = Stranger(pair.b)
    for number in range(1000):
        stranger.send(stranger.init(REFUSED), ip_address(0x0A000000 + (number << 16)))
    assert len(lines(pair)) == 2
    stranger.send(stranger.init(REFUSED), "198.51.100.1", now=NOW + 5)
    assert lines(pair)[-1].endswith("(998 more like this left out)")


def test_a_stranger_who_fails_to_authenticate_again_and_again_hides_no_other_failure() -> None:
    pair = failing_peers(40)
    told = [line for line in lines(pair) if "authentication of" in line]
    assert 1 <= len(told) <= 4
    other = replace(pair.a.configs[0], local_id=Identity.parse("honest.example"))
    pair.nat = "a"  # which comes from another address now
    pair.a.endpoint.initiate(other, (), Path(ADDRESS_A, 500, ADDRESS_B, 500), pair.now)
    pair.run(1)
    assert any("authentication of honest.example failed" in line for line in lines(pair))


def test_a_stranger_who_breaks_the_protocol_behind_his_keys_writes_few_lines() -> None:
    pair = failing_peers(40, local_id=Identity(2, b""))
    assert not pair.b.of(IkeUp)
    told = [line for line in lines(pair) if "refused with INVALID_SYNTAX" in line]
    assert 1 <= len(told) <= 4


# --- identities (rows 16, 84)


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 9, 10, 11, 200])
@pytest.mark.parametrize("size", [0, 1025, 60000])
def test_an_identity_that_is_empty_or_too_long_is_refused(kind: int, size: int) -> None:
    if size and kind in (1, 5):
        pytest.skip("an address has a length of its own")
    data = bytes(size)
    pair = Pair(
        a=connection("a", local_id=Identity(kind, data), fragmentation=Fragmentation.NO),
        b=connection("b", remote_id=None),
    )
    pair.initiate()
    pair.run(5)
    assert not pair.b.of(IkeUp)
    assert not pair.b.views()
    assert pair.b.endpoint.counters["internal_errors"] == 0
    assert all(len(line) < 500 for line in lines(pair))


def test_an_empty_identity_of_the_responder_is_refused_as_well() -> None:
    pair = Pair(a=connection("a", remote_id=None), b=connection("b", local_id=Identity(2, b"")))
    pair.initiate()
    pair.run(5)
    assert not pair.a.of(IkeUp)


@pytest.mark.parametrize("size", [1, 1024])
def test_an_identity_within_the_bounds_is_taken(size: int) -> None:
    pair = Pair(a=connection("a", local_id=Identity(11, b"k" * size)), b=connection("b", remote_id=None))
    pair.initiate()
    pair.run(5)
    assert [view.state for view in pair.b.views()] == ["ESTABLISHED"]
    assert len(str(pair.b.view.remote_id)) < 600


# --- rows 5, 9: what a notify carries never makes a text that raises


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 2000, 8000])
@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_invalid_ke_payload_of_any_length_ends_nothing_at_once(size: int, fill: bytes) -> None:
    pair = Pair(network=lambda sent: ())
    pair.initiate()
    head = IkeHeader.make(pair.sent[0].data[:8], bytes(8), 34, 0, initiator=False, response=True)
    answer = encode_message(head, (NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, fill * size),))
    pair.inject("a", answer, Path(ADDRESS_A, 500, ADDRESS_B, 500))
    assert pair.a.endpoint.counters["internal_errors"] == 0
    assert pair.a.view.state == "CONNECTING"
    pair.network = perfect
    pair.run(2)
    assert [view.state for view in pair.a.views()] == ["ESTABLISHED"]


@pytest.mark.parametrize("notify", [*NotifyType, 40, 8191, 16383, 40000, 65535])
def test_no_notify_in_clear_makes_an_attempt_raise_whatever_its_data_is(notify: int) -> None:
    for data in (b"", b"\xff", bytes(2), b"\xff" * 4, b"\xff" * 2000, bytes(8000)):
        pair = Pair(network=lambda sent: ())
        pair.initiate()
        head = IkeHeader.make(pair.sent[0].data[:8], bytes(8), 34, 0, initiator=False, response=True)
        pair.inject("a", encode_message(head, (NotifyPayload(notify, data),)), Path(ADDRESS_A, 500, ADDRESS_B, 500))
        assert pair.a.endpoint.counters["internal_errors"] == 0


# --- row 49: what is not authenticated begins nothing


def test_child_exchanges_of_a_half_open_ike_sa_cost_nothing() -> None:
    pair = Pair(network=lambda sent: perfect(sent) if sent.data[18] == ExchangeType.IKE_SA_INIT else ())
    pair.initiate()
    pair.run(0.2)
    view = pair.b.view
    counters = pair.b.endpoint.counters
    for number in range(500):
        head = IkeHeader.make(view.spi_i, view.spi_r, ExchangeType.CREATE_CHILD_SA, 1, initiator=True, response=False)
        junk = encode_message(head, (DeletePayload(1), NoncePayload(number.to_bytes(16, "big"))))
        pair.inject("b", junk, Path(ADDRESS_B, 500, ADDRESS_A, 500))
    assert counters["wrong_state"] == 500
    assert pair.b.view.state == "CONNECTING"
    assert len(pair.b.of(AskKeyPair)) == 1


def test_the_time_of_a_refusal_has_a_generous_bound() -> None:
    """Catches a quadratic step, nothing finer: this machine may be busy."""
    ours = [connection("b", ike=(f"aes{bits}-sha{sha}-{group}",)).proposals
            for bits in (128, 256) for sha in (256, 384, 512) for group in ("x25519", "ecp256", "ecp384", "modp2048")]  # fmt: skip
    best = 1.0
    for _ in range(10):
        offered = tuple(largest_offers()["64 proposals"].proposals)
        started = time.thread_time()
        for proposals in ours:
            with pytest.raises(NegotiationError):
                choose_with_group(offered, proposals, 31)
        best = min(best, time.thread_time() - started)
    assert best < 0.02
    assert notify_of(b"12345678" + bytes(8) + bytes([0, 32, 34, 32]) + bytes(4) + (28).to_bytes(4, "big")) is None
