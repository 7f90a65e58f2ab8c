"""IKE fragmentation (RFC 7383) between two endpoints: negotiation, narrow and lossy paths, and a rule for everything that can be wrong.

Hostile fragments are made with the peer's own keys: who has none gets no further than the ICV.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from crash_pair import CrashPair, used_twice
from pair import ADDRESS_A, ADDRESS_B, LATENCY_S, Pair, Sent, adverse, child, connection, narrow

from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType
from ipsec_fast.ike.config import EndpointSettings, Fragmentation
from ipsec_fast.ike.events import Outer
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.fragments import MAX_FRAGMENTS, cut
from ipsec_fast.ike.v2.ike_sa import IkeSA
from ipsec_fast.ike.v2.message import decode_message, encode_chain
from ipsec_fast.ike.v2.payloads import FragmentPayload, NotifyPayload
from ipsec_fast.ike.v2.protect import seal_chain, seal_fragment
from ipsec_fast.ike.v2.reassembly import HALF_OPEN_BYTES, HELD_S
from ipsec_fast.model import Path

SMALL = EndpointSettings(fragment_bytes=576)
INFO = ExchangeType.INFORMATIONAL
A_NETS = " ".join(f"10.1.{i}.0/24" for i in range(60))
B_NETS = " ".join(f"10.2.{i}.0/24" for i in range(60))
PROBLEMS = (
    "not_negotiated", "malformed", "too_many", "too_long", "duplicate", "smaller_total", "restarted", "superseded",
    "old", "expired", "evicted",
)  # fmt: skip


def wide(side: str, **options: Any) -> Any:
    """A connection whose IKE_AUTH and CREATE_CHILD_SA have some 2 KB of selectors."""
    local, remote = (A_NETS, B_NETS) if side == "a" else (B_NETS, A_NETS)
    return connection(side, children=(child(local=local, remote=remote),), **options)


def wide_pair(**options: Any) -> Pair:
    return Pair(wide("a"), wide("b"), **options)


def payload_types(sent: Sent) -> list[int]:
    return [payload.type for payload in decode_message(sent.data).payloads]


def is_fragment(sent: Sent) -> bool:
    return PayloadType.SKF in payload_types(sent)


def fragments(pair: Pair, side: str, exchange: int, *, response: bool) -> list[FragmentPayload]:
    found = []
    for sent in pair.sent:
        message = decode_message(sent.data)
        fragment = message.get(FragmentPayload)
        header = message.header
        if sent.sender == side and fragment and (header.exchange, header.response) == (exchange, response):
            found.append(fragment)
    return found


def sa_of(pair: Pair, side: str) -> IkeSA:
    (sa,) = pair.shell(side).endpoint._core.sas.values()
    return sa


def problems(pair: Pair, side: str) -> dict[str, int]:
    counters = pair.shell(side).endpoint.counters
    found = {name: counters.get(f"fragments_{name}", 0) for name in PROBLEMS}
    return {name: count for name, count in found.items() if count}


# --- negotiation


@pytest.mark.parametrize("a", list(Fragmentation))
@pytest.mark.parametrize("b", list(Fragmentation))
def test_fragments_are_sent_only_if_both_announced_and_we_may(a: Fragmentation, b: Fragmentation) -> None:
    pair = Pair(wide("a", fragmentation=a), wide("b", fragmentation=b), settings=SMALL).up()
    is_negotiated = Fragmentation.NO not in (a, b)
    assert sa_of(pair, "a").fragments is sa_of(pair, "b").fragments is is_negotiated
    for side, mode in (("a", a), ("b", b)):
        sent = fragments(pair, side, ExchangeType.IKE_AUTH, response=side == "b")
        assert bool(sent) is (is_negotiated and mode.sends)
    assert problems(pair, "a") == problems(pair, "b") == {}


def test_the_responder_announces_only_to_who_did() -> None:
    pair = Pair(connection("a", fragmentation=Fragmentation.NO), connection("b")).up()
    init = [decode_message(sent.data) for sent in pair.sent[:2]]
    assert [m.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) for m in init] == [None, None]


def test_the_notify_is_empty() -> None:
    pair = Pair().up()
    for sent in pair.sent[:2]:
        notify = decode_message(sent.data).notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        assert notify == NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)


def test_small_messages_stay_whole() -> None:
    pair = Pair().up()
    assert not any(map(is_fragment, pair.sent))


# --- every exchange, on narrow paths


def test_every_exchange_crosses_a_path_of_576_bytes() -> None:
    pair = wide_pair(settings=SMALL, network=narrow(576)).up()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(5)
    pair.call("b", "rekey_child", pair.b.view.children[0].child_id)
    pair.run(5)
    pair.call("a", "rekey_ike", pair.a.view.ike_id)
    pair.run(5)
    pair.call("b", "check_liveness", pair.b.view.ike_id)
    pair.run(10)
    pair.check_one_pair()
    for exchange in (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA):
        assert fragments(pair, "a", exchange, response=False)
        assert fragments(pair, "b", exchange, response=True)
    assert problems(pair, "a") == problems(pair, "b") == {}
    assert pair.a.endpoint.counters["retransmits"] == pair.b.endpoint.counters["retransmits"] == 0
    assert pair.a.endpoint.counters["fragments_sent"] == pair.b.endpoint.counters["fragments_received"] > 0


def test_a_rekeyed_ike_sa_still_fragments() -> None:
    pair = wide_pair(settings=SMALL, network=narrow(576)).up()
    pair.call("b", "rekey_ike", pair.b.view.ike_id)
    pair.run(5)
    assert sa_of(pair, "a").fragments
    before = pair.b.endpoint.counters["fragments_sent"]
    pair.call("b", "rekey_child", pair.b.view.children[0].child_id)
    pair.run(5)
    pair.check_one_pair()
    assert pair.b.endpoint.counters["fragments_sent"] > before


@pytest.mark.parametrize("seed", range(40))
def test_lost_reordered_and_doubled_fragments_end_in_one_pair(seed: int) -> None:
    network = narrow(576, adverse(seed, loss=0.3, duplicate=0.3, jitter_s=0.2))
    pair = wide_pair(seed=seed, settings=SMALL, network=network)
    pair.a.endpoint.initiate(pair.a.configs[0], (), Path(ADDRESS_A, 500, ADDRESS_B, 500), pair.now)
    pair.run(100, until=lambda: all(len(s.live) == 1 and s.views("ESTABLISHED") for s in (pair.a, pair.b)))
    pair.network = narrow(576)
    pair.run(20)
    pair.check_one_pair()
    pair.call("b", "rekey_child", pair.b.view.children[0].child_id)
    pair.run(20)
    pair.check_one_pair()


def test_pieces_are_kept_over_retransmissions() -> None:
    """Each send loses another fragment; what came stays."""
    lost = {1: 2, 2: 3}  # which fragment of which send
    seen = {"sends": 0}

    def network(sent: Sent) -> tuple[float, ...]:
        fragment = decode_message(sent.data).get(FragmentPayload)
        if sent.sender == "a" and fragment is not None:
            seen["sends"] += fragment.number == 1
            if lost.get(seen["sends"]) == fragment.number:
                return ()
        return (LATENCY_S,)

    pair = wide_pair(settings=SMALL, network=network).up()
    assert pair.b.endpoint.counters["fragments_duplicate"] > 0
    assert pair.b.endpoint.counters["fragments_reassembled"] == 1
    assert seen["sends"] == 2, "the second send brings what was missing"


def test_the_same_over_ipv6() -> None:
    a, b = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    pair = wide_pair(network=narrow(1280))
    pair.at = lambda arrival: {a: "a", b: "b"}.get(arrival.local)  # type: ignore[assignment,method-assign,arg-type]
    pair.a.endpoint.initiate(pair.a.configs[0], (), Path(a, 500, b, 500), pair.now)
    pair.flush()
    pair.run(2)
    pair.check_one_pair()
    assert max(sent.ip_bytes for sent in pair.sent if is_fragment(sent)) == 1280


# --- a path that swallows what is large


def test_a_request_that_stays_unanswered_goes_out_in_smaller_fragments() -> None:
    pair = wide_pair(network=narrow(900))
    pair.initiate()
    pair.run(5)
    pair.check_one_pair()
    counters = pair.a.endpoint.counters
    assert counters["fragments_for_silence"] == 1
    assert counters["retransmits"] == 2, "twice as it was, then smaller"
    assert max(sent.ip_bytes for sent in pair.sent if sent.sender == "b") <= 576, "the answer takes the request's size"


def test_what_was_learned_is_kept_for_the_ike_sa() -> None:
    pair = wide_pair(network=narrow(900)).up()
    before = pair.a.endpoint.counters["retransmits"]
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(5)
    assert pair.a.endpoint.counters["retransmits"] == before
    assert sa_of(pair, "a").fragment_bytes == 576


def test_a_whole_message_that_is_swallowed_becomes_fragments_that_grow_in_number() -> None:
    pair = wide_pair(network=narrow(600), settings=EndpointSettings(fragment_bytes=9000))
    pair.initiate()
    pair.run(12)
    pair.check_one_pair()
    totals = [f.total for f in fragments(pair, "a", ExchangeType.IKE_AUTH, response=False)]
    assert totals == sorted(totals)
    assert len(set(totals)) == 2, "1280, then 576"


def test_a_set_with_more_fragments_starts_anew_and_no_piece_of_the_old_one_is_used() -> None:
    """The first set arrives but for its last fragment; then the initiator cuts smaller (RFC 7383 section 2.5.2)."""

    def network(sent: Sent) -> tuple[float, ...]:
        fragment = decode_message(sent.data).get(FragmentPayload)
        is_lost = sent.sender == "a" and fragment is not None and fragment.number == fragment.total <= 3
        return () if is_lost else (LATENCY_S,)

    pair = wide_pair(network=network)
    pair.initiate()
    pair.run(6)
    pair.check_one_pair()
    assert problems(pair, "b").get("restarted") == 1


def test_a_response_that_is_swallowed_is_cut_smaller_when_it_is_asked_for_again() -> None:
    def network(sent: Sent) -> tuple[float, ...]:
        return () if sent.sender == "b" and sent.ip_bytes > 600 else (LATENCY_S,)

    pair = wide_pair(network=network)
    pair.initiate()
    pair.run(8)
    pair.check_one_pair()
    assert pair.b.endpoint.counters["requests_repeated"] >= 1


@pytest.mark.parametrize("size", [575, 65536])
def test_refragment_wants_a_size_that_makes_sense(size: int) -> None:
    pair = Pair().up()
    with pytest.raises(Exception, match="576 to 65535"):
        pair.call("a", "refragment", pair.a.view.ike_id, size)


def test_refragment_sends_the_outstanding_request_again_at_once() -> None:
    pair = wide_pair().up()
    pair.network = narrow(700)
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    ike_id = pair.a.view.ike_id
    assert pair.a.endpoint.refragment(ike_id, 700, pair.now)
    assert not pair.a.endpoint.refragment(ike_id, 700, pair.now), "it has no longer ones"
    pair.run(0.3)
    pair.check_one_pair()
    assert not pair.a.endpoint.refragment(ike_id, 576, pair.now), "nothing is outstanding"


def test_sizes_that_are_asked_for_in_a_row_end_no_ike_sa() -> None:
    """What asks for them may be ICMP that somebody makes up: a send between two of the schedule is none of the schedule."""
    pair = wide_pair(settings=EndpointSettings(fragment_bytes=9000)).up()
    pair.network = lambda sent: ()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    taken = 0
    for size in range(2000, 600, -1):
        taken += pair.a.endpoint.refragment(pair.a.view.ike_id, size, pair.now)
        pair.flush()
    assert taken > EndpointSettings().retransmit_sends
    assert pair.a.view.state == "ESTABLISHED"
    before = pair.a.endpoint.counters["retransmits"]
    pair.run(200, until=lambda: not pair.a.views())
    assert not pair.a.views()
    assert pair.a.endpoint.counters["retransmits"] - before == EndpointSettings().retransmit_sends - 1


def test_set_fragment_bytes_is_obeyed_and_taken_back() -> None:
    pair = wide_pair().up()
    ike_id = pair.a.view.ike_id
    for size in (600, 0):
        pair.sent.clear()
        pair.call("a", "set_fragment_bytes", ike_id, size)
        pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
        pair.run(5)
        largest = max(sent.ip_bytes for sent in pair.sent if sent.sender == "a" and is_fragment(sent))
        assert largest == (size or 1280)


def test_without_fragmentation_a_swallowed_message_leaves_without_df() -> None:
    pair = Pair(wide("a", fragmentation=Fragmentation.NO), wide("b"), network=narrow(1400))
    pair.initiate()
    pair.run(8)
    pair.check_one_pair()
    auth = [sent for sent in pair.sent if sent.sender == "a" and sent.ip_bytes > 1400]
    assert [sent.outer for sent in auth[:3]] == [Outer.NEEDED, Outer.NEEDED, Outer.CUT]
    assert not any(map(is_fragment, pair.sent))


# --- a peer that breaks the rules; its keys are right


class Hostile:
    """b's endpoint against fragments that are sealed as a would, under a's next message ID."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.sa = sa_of(pair, "a")
        self.path = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
        self.chain = encode_chain((NotifyPayload(50000, bytes(300)),))
        self.message_id = sa_of(pair, "b").window.expected
        pair.sent.clear()

    @property
    def counters(self) -> dict[str, int]:
        return self.pair.b.endpoint.counters

    def header(self, exchange: int = INFO, message_id: int | None = None) -> IkeHeader:
        number = self.message_id if message_id is None else message_id
        return IkeHeader.make(self.sa.spi_i, self.sa.spi_r, exchange, number, initiator=True, response=False)

    def fragment(
        self, number: int, total: int, part: bytes = b"", *, first: int = PayloadType.NOTIFY, **options: Any
    ) -> bytes:
        keys = self.sa.keys
        return seal_fragment(self.header(**options), first, number, total, part, keys.outbound, keys.next_iv())

    def parts(self, total: int, **options: Any) -> list[bytes]:
        step = -(-len(self.chain) // total)
        chunks = [self.chain[i * step : (i + 1) * step] for i in range(total)]
        return [self.fragment(i, total, chunk, **options) for i, chunk in enumerate(chunks, 1)]

    def give(self, *datagrams: bytes) -> int:
        """How many datagrams b answered with."""
        before = len(self.pair.sent)
        for data in datagrams:
            self.pair.inject("b", data, self.path)
        return len(self.pair.sent) - before

    def held(self) -> int:
        return sum(len(held.parts) for held in sa_of(self.pair, "b").reassemblies.values())


@pytest.fixture
def hostile() -> Hostile:
    return Hostile(Pair().up())


def test_fragments_in_any_order_are_answered_once(hostile: Hostile) -> None:
    parts = hostile.parts(5)
    assert hostile.give(*parts[::-1]) == 1
    assert hostile.held() == 0
    assert sa_of(hostile.pair, "b").core.fragments.bytes == 0


@pytest.mark.parametrize(("number", "total"), [(0, 3), (4, 3), (1, 0), (0, 0), (65535, 3)])
def test_numbers_that_cannot_be_are_dropped(hostile: Hostile, number: int, total: int) -> None:
    assert hostile.give(hostile.fragment(number, total, b"x")) == 0
    assert problems(hostile.pair, "b") == {"malformed": 1}
    assert hostile.held() == 0


@pytest.mark.parametrize("total", [MAX_FRAGMENTS + 1, 65535])
def test_more_fragments_than_we_take_are_refused(hostile: Hostile, total: int) -> None:
    assert hostile.give(hostile.fragment(1, total, b"x")) == 0
    assert problems(hostile.pair, "b") == {"too_many": 1}


def test_a_later_fragment_that_names_a_payload_is_dropped(hostile: Hostile) -> None:
    data = bytearray(hostile.fragment(2, 3, b"x"))
    keys, header = hostile.sa.keys, IkeHeader.decode(bytes(data))
    generic = bytes([PayloadType.NOTIFY, 0]) + data[30:32]
    aad = header.encode() + generic + data[32:36]
    forged = aad + keys.outbound.seal(aad, b"x\0", keys.next_iv())
    assert len(forged) == len(data)
    assert hostile.give(forged) == 0
    assert problems(hostile.pair, "b") == {"malformed": 1}
    assert hostile.held() == 0


def test_a_copy_costs_no_icv_and_changes_nothing(hostile: Hostile) -> None:
    parts = hostile.parts(3)
    assert hostile.give(parts[0], parts[0], parts[1], parts[0]) == 0
    assert problems(hostile.pair, "b") == {"duplicate": 2}
    assert hostile.held() == 2
    assert hostile.give(parts[2]) == 1


def test_other_content_under_a_number_that_is_held_is_not_taken(hostile: Hostile) -> None:
    parts = hostile.parts(2)
    hostile.give(parts[0])
    hostile.give(hostile.fragment(1, 2, b"something else"))
    assert problems(hostile.pair, "b") == {"duplicate": 1}
    assert hostile.give(parts[1]) == 1


def test_a_larger_total_starts_anew_a_smaller_one_is_ignored(hostile: Hostile) -> None:
    three, five = hostile.parts(3), hostile.parts(5)
    assert hostile.give(three[0], three[1], five[0]) == 0
    assert hostile.held() == 1
    assert hostile.give(three[2]) == 0
    assert problems(hostile.pair, "b") == {"restarted": 1, "smaller_total": 1}
    assert hostile.give(*five[1:]) == 1


def test_a_forged_larger_total_destroys_nothing(hostile: Hostile) -> None:
    """It would have to show its ICV first."""
    three = hostile.parts(3)
    hostile.give(three[0], three[1])
    forged = bytearray(hostile.fragment(1, 9, b"x"))
    forged[-1] ^= 1
    assert hostile.give(bytes(forged)) == 0
    assert hostile.counters["bad_icv"] == 1
    assert problems(hostile.pair, "b") == {}
    assert hostile.give(three[2]) == 1


def test_an_unauthenticated_fragment_is_never_kept(hostile: Hostile) -> None:
    for number in range(1, 40):
        forged = bytearray(hostile.fragment(number, 40, bytes(1000)))
        forged[40] ^= 1
        hostile.give(bytes(forged))
    assert hostile.held() == 0
    assert sa_of(hostile.pair, "b").core.fragments.bytes == 0
    assert hostile.counters["bad_icv"] == 39


def test_too_many_bytes_are_refused_and_what_is_held_stays(hostile: Hostile) -> None:
    part = bytes(30000)
    assert hostile.give(hostile.fragment(1, 4, part), hostile.fragment(2, 4, part), hostile.fragment(3, 4, part)) == 0
    assert problems(hostile.pair, "b") == {"too_long": 1}
    assert hostile.held() == 2


def test_fragments_of_two_exchanges_are_not_mixed(hostile: Hostile) -> None:
    hostile.give(hostile.fragment(1, 2, hostile.chain[:100]))
    assert hostile.give(hostile.fragment(2, 2, hostile.chain[100:], exchange=ExchangeType.CREATE_CHILD_SA)) == 0
    assert problems(hostile.pair, "b") == {"malformed": 1}


def test_a_whole_message_ends_the_wait_for_its_fragments(hostile: Hostile) -> None:
    hostile.give(hostile.parts(3)[0])
    (whole,) = cut(hostile.header(), PayloadType.NOTIFY, hostile.chain, hostile.sa.keys, None)
    assert hostile.give(whole) == 1
    assert problems(hostile.pair, "b") == {"superseded": 1}
    assert hostile.held() == 0


def test_skf_inside_fragments_and_inside_sk_is_invalid(hostile: Hostile) -> None:
    inner = bytes([0, 0, 0, 12, 0, 1, 0, 1]) + bytes(4)
    assert (
        hostile.give(hostile.fragment(1, 1, inner, first=PayloadType.SKF)) == 1
    )  # N(INVALID_SYNTAX), as for any such message
    assert not hostile.pair.b.views()


def test_sk_and_skf_in_one_message_are_no_chain(hostile: Hostile) -> None:
    """The first of the two ends the clear part, so the datagram is longer than it."""
    one = hostile.fragment(1, 2, b"x")
    more = bytes([0, 0, 0, 44]) + bytes(40)
    joined = one[:24] + (len(one) + len(more)).to_bytes(4, "big") + one[28:] + more
    assert hostile.give(joined) == 0
    assert hostile.counters["malformed"] == 1


def test_a_repeated_first_fragment_is_answered_any_other_is_not(hostile: Hostile) -> None:
    """RFC 7383 section 2.6.1."""
    parts = hostile.parts(3)
    hostile.give(*parts)
    answer = hostile.pair.sent[-1].data
    assert hostile.give(parts[1], parts[2]) == 0
    assert problems(hostile.pair, "b") == {"old": 2}
    assert hostile.give(parts[0]) == 1
    assert hostile.pair.sent[-1].data == answer
    assert hostile.counters["requests_repeated"] == 1


def test_the_first_fragment_of_another_set_is_answered_if_its_icv_is_good(hostile: Hostile) -> None:
    hostile.give(*hostile.parts(3))
    four = hostile.parts(4)
    forged = bytearray(four[0])
    forged[-1] ^= 1
    assert hostile.give(bytes(forged)) == 0
    assert hostile.counters["bad_icv"] == 1
    assert hostile.give(four[0]) == 1
    assert hostile.give(*four[1:]) == 0


@pytest.mark.parametrize("step", [-2, -40, 1, 1000])
def test_fragments_of_other_message_ids_are_dropped(hostile: Hostile, step: int) -> None:
    hostile.give(*hostile.parts(2))
    hostile.message_id += 1
    wrong = (hostile.message_id + step) % 2**32
    assert hostile.give(*hostile.parts(3, message_id=wrong)) == 0
    assert hostile.counters["wrong_message_id"] == 3
    assert hostile.held() == 0


def test_pieces_are_forgotten_when_nothing_comes() -> None:
    hostile = Hostile(Pair(connection("a", dpd_delay_s=0), connection("b", dpd_delay_s=0)).up())
    parts = hostile.parts(3)
    hostile.give(parts[0])
    hostile.pair.run(HELD_S - 1)
    hostile.give(parts[1])
    hostile.pair.run(HELD_S - 1)
    assert hostile.held() == 2, "the last new one counts"
    hostile.pair.run(2)
    assert hostile.held() == 0
    assert problems(hostile.pair, "b") == {"expired": 1}
    assert sa_of(hostile.pair, "b").core.fragments.bytes == 0


def test_pieces_of_a_request_do_not_stay_because_those_of_a_response_come(hostile: Hostile) -> None:
    pair, sa = hostile.pair, sa_of(hostile.pair, "b")
    hostile.give(hostile.parts(2)[0])
    pair.network = lambda sent: ()
    pair.call("b", "check_liveness", sa.ike_id)
    own = sa.window.outstanding
    assert own is not None
    header = IkeHeader.make(sa.spi_i, sa.spi_r, INFO, own.message_id, initiator=True, response=True)
    keys = hostile.sa.keys
    for number in range(1, 4):
        pair.run(HELD_S / 2)
        part = seal_fragment(header, PayloadType.NOTIFY, number, 4, bytes(9), keys.outbound, keys.next_iv())
        pair.inject("b", part, hostile.path)
    assert set(sa.reassemblies) == {True}
    assert problems(pair, "b") == {"expired": 1}


# --- what was seen on the wire, again


def last_heard(hostile: Hostile) -> float:
    return sa_of(hostile.pair, "b").last_inbound_at


def test_another_form_of_the_last_request_is_no_sign_of_life(hostile: Hostile) -> None:
    """The peer has sent it whole, then in fragments; who has recorded the former can send it for ever."""
    keys = hostile.sa.keys
    whole = seal_chain(hostile.header(), PayloadType.NOTIFY, hostile.chain, keys.outbound, keys.next_iv())
    first_of_three = hostile.parts(3)[0]
    assert hostile.give(*hostile.parts(2)) == 1
    heard = last_heard(hostile)
    hostile.pair.now += 20
    assert hostile.give(whole, first_of_three) >= 2, "both ask for the response"
    assert last_heard(hostile) == heard


def test_a_piece_that_comes_again_is_no_sign_of_life(hostile: Hostile) -> None:
    piece, heard = hostile.parts(2)[0], last_heard(hostile)
    for _ in range(3):
        hostile.pair.now += HELD_S + 1
        hostile.pair.b.endpoint.handle_timer(hostile.pair.now)
        hostile.pair.flush()
        hostile.give(piece)
        assert hostile.held() == 1
    assert last_heard(hostile) == heard


def test_a_whole_message_in_fragments_is_a_sign_of_life(hostile: Hostile) -> None:
    hostile.pair.now += 20
    hostile.give(*hostile.parts(3))
    assert last_heard(hostile) == hostile.pair.now


def test_the_end_of_an_ike_sa_frees_its_pieces(hostile: Hostile) -> None:
    hostile.give(hostile.parts(3)[0])
    core = sa_of(hostile.pair, "b").core
    assert core.fragments.bytes > 0
    hostile.pair.call("b", "terminate_ike", hostile.pair.b.view.ike_id)
    hostile.pair.run(5)
    assert core.fragments.bytes == 0


def test_a_deleted_ike_sa_still_answers_its_last_request_by_its_first_fragment() -> None:
    pair = wide_pair(settings=SMALL).up()
    hostile = Hostile(pair)
    hostile.chain = bytes.fromhex("0000000801000000")  # D of the IKE SA
    parts = hostile.parts(2, first=PayloadType.DELETE)
    assert hostile.give(*parts) == 1
    answer = pair.sent[-1].data
    assert not pair.b.views()
    hostile.give(parts[1])  # nobody knows it any more: at most a hint in clear
    assert pair.sent[-1].data != answer
    hostile.give(parts[0])
    assert pair.sent[-1].data == answer


def test_skf_without_negotiation_is_dropped() -> None:
    pair = Pair(connection("a", fragmentation=Fragmentation.NO)).up()
    hostile = Hostile(pair)
    assert hostile.give(*hostile.parts(3)) == 0
    assert problems(pair, "b") == {"not_negotiated": 3}
    assert hostile.held() == 0


def test_skf_in_an_ike_sa_init_is_not_answered() -> None:
    pair = Pair()
    header = bytes(range(1, 9)) + bytes(8) + bytes([53, 0x20, 34, 0x08]) + bytes(4)
    skf = bytes([33, 0, 0, 40, 0, 1, 0, 2]) + bytes(32)
    data = header + (28 + len(skf)).to_bytes(4, "big") + skf
    pair.inject("b", data, Path(ADDRESS_B, 500, ADDRESS_A, 500))
    assert pair.sent == []
    assert not pair.b.views()
    assert pair.b.endpoint.counters["malformed"] == 1


# --- memory of peers that are not authenticated


def half_open(pair: Pair, count: int) -> list[IkeSA]:
    """IKE SAs of a whose IKE_SA_INIT was answered and whose IKE_AUTH never arrives."""
    pair.network = lambda sent: (
        () if decode_message(sent.data).header.exchange == ExchangeType.IKE_AUTH else (LATENCY_S,)
    )
    for _ in range(count):
        pair.initiate()
        pair.run(0.1)
    return list(pair.a.endpoint._core.sas.values())


def first_piece(sa: IkeSA, number: int, total: int, size: int) -> bytes:
    header = IkeHeader.make(sa.spi_i, sa.spi_r, ExchangeType.IKE_AUTH, 1, initiator=True, response=False)
    return seal_fragment(header, PayloadType.IDI, number, total, bytes(size), sa.keys.outbound, sa.keys.next_iv())


def test_a_half_open_peer_has_less_room() -> None:
    pair = Pair()
    (sa,) = half_open(pair, 1)
    path = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
    for number in (1, 2, 3):
        pair.inject("b", first_piece(sa, number, 4, HALF_OPEN_BYTES // 3), path)
    assert problems(pair, "b") == {"too_long": 1}
    assert sa_of(pair, "b").core.half_open_fragments.bytes <= HALF_OPEN_BYTES + 3 * 256


def test_all_half_open_peers_together_have_a_bound_and_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsec_fast.ike.core.HALF_OPEN_FRAGMENTS_BYTES", 3000)
    pair = Pair()
    path = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
    for sa in half_open(pair, 8):
        pair.inject("b", first_piece(sa, 1, 4, 500), path)
    core = next(iter(pair.b.endpoint._core.sas.values())).core
    assert core.half_open_fragments.bytes <= 3000
    assert problems(pair, "b") == {"evicted": 5}
    held = [sa.ike_id for sa in pair.b.endpoint._core.sas.values() if sa.reassemblies]
    assert len(held) == 3
    assert min(held) > 5, "the oldest went"


def test_forged_fragments_make_a_half_open_ike_sa_deaf_for_a_moment() -> None:
    pair = Pair()
    (sa,) = half_open(pair, 1)
    path = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
    for number in range(1, 6):
        data = bytearray(first_piece(sa, number, 8, 100))
        data[-1] ^= 1
        pair.inject("b", bytes(data), path)
    assert pair.b.endpoint.counters["bad_icv"] == 3
    assert pair.b.endpoint.counters["deaf"] == 2
    assert sa_of(pair, "b").core.half_open_fragments.bytes == 0


# --- after a crash


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_restored_ike_sa_still_fragments_and_knows_its_size(side: str) -> None:
    pair = CrashPair(wide("a"), wide("b"), network=narrow(900)).up()
    learned = sa_of(pair, "a").fragment_bytes
    assert learned == 576
    pair.kill(side)
    pair.run(1)
    pair.sent.clear()
    pair.restart(side)
    pair.run(12)
    pair.check_one_pair()
    assert pair.refused == []
    sa = sa_of(pair, side)
    assert sa.fragments
    assert sa.fragment_bytes == learned
    if side == "a":
        assert pair.a.endpoint.counters["fragments_for_silence"] == 0, "it did not have to be learned again"
    assert fragments(pair, side, ExchangeType.CREATE_CHILD_SA, response=False), "its child was rekeyed in fragments"
    assert used_twice(pair.sent) == []


def test_no_iv_is_used_twice_by_what_is_cut_again() -> None:
    pair = wide_pair(network=narrow(600), settings=EndpointSettings(fragment_bytes=9000))
    pair.initiate()
    pair.run(12)
    pair.call("b", "rekey_child", pair.b.view.children[0].child_id)
    pair.run(12)
    pair.check_one_pair()
    assert used_twice(pair.sent) == []


def test_a_stored_response_is_cut_smaller_out_of_its_datagrams() -> None:
    """The record has datagrams alone: they are opened and sealed again, with IVs that were never used."""
    pair = wide_pair().up()
    sa = sa_of(pair, "b")
    before = sa.window.last_response
    assert len(before) > 1
    first = next(sent.data for sent in pair.sent if sent.sender == "a" and is_fragment(sent))
    pair.sent.clear()
    for _ in range(2):
        pair.inject("b", first, Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True))
    assert len(sa.window.last_response) > len(before)
    ivs = [
        p.body[:8] for data in (*before, *sa.window.last_response) if (p := decode_message(data).get(FragmentPayload))
    ]
    assert len(set(ivs)) == len(ivs)
    assert pair.b.records[sa.ike_id].last_response == sa.window.last_response  # type: ignore[attr-defined]
