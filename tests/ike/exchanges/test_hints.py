"""INVALID_IKE_SPI and INVALID_SPI: who is told, how often, and that what anybody may have forged moves nothing (section 2.21.4)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from live_pair import LivePair, silent
from pair import ADDRESS_A, ADDRESS_B, connection

from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.limiter import Limiter
from ipsec_fast.ike.v2.message import decode_message, encode_message
from ipsec_fast.ike.v2.payloads import NotifyPayload
from ipsec_fast.model import Path

AT_B = Path(ADDRESS_B, 4500, ADDRESS_A, 4500, marker=True)
AT_A = Path(ADDRESS_A, 4500, ADDRESS_B, 4500, marker=True)


def request(
    spi_i: bytes = b"initiatr", spi_r: bytes = b"respondr", *, response: bool = False, length: int = 80
) -> bytes:
    """Something that looks like a protected request for SPIs that nobody has."""
    header = IkeHeader.make(spi_i, spi_r, ExchangeType.INFORMATIONAL, 7, initiator=True, response=response)
    return replace(header, next_payload=PayloadType.SK, length=length).encode() + bytes(length - 28)


def answers(pair: LivePair, side: str = "b") -> list[bytes]:
    return [sent.data for sent in pair.sent if sent.sender == side]


# --- what we tell


def test_a_request_for_unknown_spis_is_answered_in_clear_with_its_own_header() -> None:
    pair = LivePair()
    pair.inject("b", request(), AT_B)
    (answer,) = answers(pair)
    message = decode_message(answer)
    assert message.notify(NotifyType.INVALID_IKE_SPI) is not None
    assert len(message.payloads) == 1
    header = message.header
    assert (header.spi_i, header.spi_r, header.message_id) == (b"initiatr", b"respondr", 7)
    assert (header.exchange, header.response, header.initiator) == (ExchangeType.INFORMATIONAL, True, False)
    assert len(answer) <= len(request())
    assert pair.sent[-1].path == replace(AT_B, remote=ADDRESS_A), "to where it came from"


def test_once_a_second_and_address() -> None:
    pair = LivePair()
    for tenth in range(30):
        for last in (1, 2):
            path = replace(AT_B, remote=ip_address(f"192.0.2.{last}"), remote_port=1000 + tenth)
            pair.b.endpoint.receive_datagram(request(), path, pair.now + tenth / 10)
    pair.flush()
    assert len(answers(pair)) == 6


def test_many_addresses_are_bounded_too() -> None:
    limiter = Limiter(1.0, most=100)
    assert sum(limiter.allows(n, 5.0) for n in range(5000)) == 100
    assert not limiter.allows(5000, 5.9)
    assert limiter.allows(0, 6.0)


@pytest.mark.parametrize(
    "data",
    [
        request(response=True),
        request(spi_r=bytes(8)),
        request(length=35),
        replace(IkeHeader.decode(request()), next_payload=PayloadType.NOTIFY).encode() + bytes(52),
        replace(IkeHeader.decode(request()), exchange=ExchangeType.IKE_SA_INIT, next_payload=PayloadType.SA).encode() + bytes(52),
    ],
    ids=["response", "no responder SPI", "short", "not protected", "IKE_SA_INIT"],
)  # fmt: skip
def test_nothing_else_is_answered(data: bytes) -> None:
    pair = LivePair()
    pair.inject("b", data, AT_B)
    assert answers(pair) == []


def test_an_answer_is_not_answered() -> None:
    pair = LivePair()
    pair.inject("b", request(), AT_B)
    pair.run(5.0)
    assert len(pair.sent) == 1


def test_esp_for_an_unknown_spi_is_told_inside_the_ike_sa_and_only_there() -> None:
    pair = LivePair().up()
    before = len(pair.sent)
    pair.call("b", "note_unknown_spi", 0xABCDEF01, ip_address("192.0.2.99"))
    assert len(pair.sent) == before, "nobody has an IKE SA with that address"
    for _ in range(20):
        pair.call("b", "note_unknown_spi", 0xABCDEF01, ADDRESS_A)
        pair.run(0.1)
    assert pair.b.endpoint.counters["invalid_spi_sent"] == 2
    pair.run(2.0)
    pair.check_one_pair()


# --- what we are told in clear


def forged(pair: LivePair, notify: NotifyType, *, message_id: int, data: bytes = b"") -> bytes:
    """As if from b, the responder, in answer to a's request."""
    view = pair.a.view
    header = IkeHeader.make(
        view.spi_i, view.spi_r, ExchangeType.INFORMATIONAL, message_id, initiator=not view.initiator, response=True
    )
    return encode_message(header, (NotifyPayload(notify, data),))


def test_forged_invalid_ike_spi_moves_nothing() -> None:
    pair = LivePair(connection("a"), connection("b")).up()
    before = pair.a.view
    for message_id in range(20):
        pair.inject("a", forged(pair, NotifyType.INVALID_IKE_SPI, message_id=message_id), AT_A)
    pair.run(20.0)
    assert pair.a.view == before
    assert len(pair.sent) == 4, "not even a question: no request was outstanding"


def test_forged_invalid_ike_spi_for_an_outstanding_request_only_asks_again() -> None:
    pair = LivePair().up()
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    message_id = int.from_bytes(pair.sent[-1].data[20:24], "big")
    before = len(pair.sent)
    for _ in range(50):
        pair.inject("a", forged(pair, NotifyType.INVALID_IKE_SPI, message_id=message_id), AT_A)
    pair.run(20.0)
    assert pair.a.endpoint.counters["hints_taken"] == 1
    assert len(pair.sent) - before <= 3
    assert not silent(pair.a)
    pair.check_one_pair()


def clear_invalid_spi(spi: int) -> bytes:
    header = IkeHeader.make(b"anything", bytes(8), ExchangeType.INFORMATIONAL, 0, initiator=True, response=False)
    return encode_message(header, (NotifyPayload(NotifyType.INVALID_SPI, spi.to_bytes(4, "big")),))


def test_forged_invalid_spi_asks_the_peer_once_a_second_at_most_and_moves_nothing() -> None:
    pair = LivePair().up()
    before, sent = pair.a.view, len(pair.sent)
    spi = pair.a.view.children[0].spi_out
    for tenth in range(100):
        pair.inject("a", clear_invalid_spi(spi), replace(AT_A, remote_port=500 + tenth))
        pair.run(0.1)
    pair.run(2.0)
    assert len(pair.sent) - sent <= 2 * 11, "a question and its answer, once a second"
    assert pair.a.view == before
    pair.check_one_pair()


@pytest.mark.parametrize("spi", [0, 1, 0xFFFFFFFF])
def test_invalid_spi_of_an_spi_that_we_do_not_use_is_nothing(spi: int) -> None:
    pair = LivePair().up()
    before = len(pair.sent)
    pair.inject("a", clear_invalid_spi(spi), AT_A)
    pair.inject("a", clear_invalid_spi(pair.a.view.children[0].spi_out), replace(AT_A, remote=ip_address("192.0.2.66")))
    pair.run(2.0)
    assert len(pair.sent) == before


# --- what the authenticated peer tells


def test_a_child_sa_that_the_peer_does_not_know_is_rekeyed_and_comes_to_an_end() -> None:
    pair = LivePair().up()
    pair.run(15.0)
    lost = pair.a.view.children[0]
    core = pair.b.endpoint._core
    (sa,) = core.sas.values()
    core.owners.clear()
    sa.children.clear()  # b has forgotten the child, and no one else has
    pair.call("b", "note_unknown_spi", lost.spi_out, ADDRESS_A)
    pair.run(10.0)
    assert lost.child_id not in {one.child_id for one in pair.a.view.children}


def test_a_child_sa_that_is_young_is_left_alone() -> None:
    pair = LivePair().up()
    pair.call("b", "note_unknown_spi", pair.a.view.children[0].spi_out, ADDRESS_A)
    pair.run(5.0)
    assert "does not know" not in pair.a.log
    pair.check_one_pair()
