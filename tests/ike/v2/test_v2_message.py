"""The chain of payloads: where it must end, what may stand in it, and that a message survives the way through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ike_samples import SPI_I, SPI_R, any_payload, header, ike_auth, messages, sa_init

from ipsec_fast.errors import ParseError, RemoteError, UsageError
from ipsec_fast.iana import ExchangeType, NotifyType, PayloadType
from ipsec_fast.ike.v2.message import (
    MAX_PAYLOADS,
    Message,
    decode_message,
    encode_chain,
    encode_message,
    first_type,
    parse_chain,
)
from ipsec_fast.ike.v2.payloads import (
    EncryptedPayload,
    FragmentPayload,
    IdPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    UnknownPayload,
    VendorPayload,
)


def generic(next_payload: int, body: bytes, length: int | None = None, flags: int = 0) -> bytes:
    return struct.pack("!BBH", next_payload, flags, 4 + len(body) if length is None else length) + body


def datagram(first: int, chain: bytes, version: int = 0x20) -> bytes:
    return struct.pack("!8s8sBBBBII", SPI_I, SPI_R, first, version, 34, 8, 0, 28 + len(chain)) + chain


@pytest.mark.parametrize("length", [0, 1, 3, 19, 21, 0xFFFF])
def test_payload_length_lies(length: int) -> None:
    assert decode_message(datagram(40, generic(0, bytes(16)))).payloads == (NoncePayload(bytes(16)),)
    with pytest.raises(ParseError):
        decode_message(datagram(40, generic(0, bytes(16), length)))


def test_payload_length_of_4_is_an_empty_payload() -> None:
    assert decode_message(datagram(43, generic(0, b""))).payloads == (VendorPayload(b""),)


@pytest.mark.parametrize("first", [1, 33, 40, 41, 46, 53, 200])
def test_a_chain_that_promises_a_payload_must_hold_it(first: int) -> None:
    with pytest.raises(ParseError):
        decode_message(datagram(first, b""))


def test_a_chain_that_promises_another_payload_must_hold_it() -> None:
    with pytest.raises(ParseError):
        decode_message(datagram(43, generic(43, b"a")))


def test_bytes_behind_the_chain_are_refused() -> None:
    with pytest.raises(ParseError):
        decode_message(datagram(43, generic(0, b"a") + b"b"))
    with pytest.raises(ParseError):
        parse_chain(0, b"b")


def test_version_1_is_no_message_of_this_decoder_and_is_not_answered() -> None:
    with pytest.raises(ParseError) as caught:
        decode_message(datagram(0, b"", 0x10))
    assert caught.value.notify is None


def test_version_3_is_answered_by_invalid_major_version() -> None:
    with pytest.raises(RemoteError) as caught:
        decode_message(datagram(0, b"", 0x30))
    assert caught.value.notify == NotifyType.INVALID_MAJOR_VERSION


@pytest.mark.parametrize("count", [1, 30, 31, 64, 65, 300, 2000])
@pytest.mark.parametrize("payload_type", [1, 41, 43, 200])
def test_many_payloads_are_read_up_to_the_limit(count: int, payload_type: int) -> None:
    one = generic(payload_type, bytes(4))
    chain = one * (count - 1) + generic(0, bytes(4))
    for read in (
        lambda: decode_message(datagram(payload_type, chain)).payloads,
        lambda: parse_chain(payload_type, chain),
    ):
        if count <= MAX_PAYLOADS:
            assert len(read()) == count
        else:
            with pytest.raises(ParseError, match=r"64|at most 8192"):
                read()


def test_sk_ends_the_chain_and_says_what_is_inside() -> None:
    message = decode_message(datagram(43, generic(46, b"id") + generic(35, b"sealed")))
    assert message.payloads == (VendorPayload(b"id"), EncryptedPayload(35, b"sealed", 28 + 6 + 4))


def test_sk_must_be_the_last_payload() -> None:
    with pytest.raises(ParseError):
        decode_message(datagram(46, generic(43, b"sealed") + generic(0, b"id")))


def test_skf_stays_closed_with_its_numbers_and_what_is_authenticated() -> None:
    data = datagram(53, generic(35, b"\0\1\0\2sealed"))
    message = decode_message(data)
    assert message.payloads == (FragmentPayload(35, 1, 2, b"sealed", 36),)
    assert encode_message(message.header, message.payloads) == data


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\1\0"])
def test_an_skf_without_its_numbers_is_malformed(body: bytes) -> None:
    with pytest.raises(ParseError, match="SKF"):
        decode_message(datagram(53, generic(35, body)))


@pytest.mark.parametrize("payload_type", [PayloadType.SK, PayloadType.SKF])
def test_no_sk_inside_sk(payload_type: int) -> None:
    with pytest.raises(ParseError):
        parse_chain(payload_type, generic(0, bytes(40)))


@pytest.mark.parametrize("flags", [0, 0x80, 0x7F, 0xFF])
def test_critical_bit_is_kept_on_unknown_payloads_and_dropped_on_known_ones(flags: int) -> None:
    payloads = decode_message(datagram(200, generic(43, b"x", flags=flags) + generic(0, b"y", flags=flags))).payloads
    assert payloads == (UnknownPayload(200, bool(flags & 0x80), b"x"), VendorPayload(b"y"))


@pytest.mark.parametrize("name", messages())
def test_our_own_messages_come_back_bit_for_bit(name: str) -> None:
    data = messages()[name]
    message = decode_message(data)
    assert encode_message(message.header, message.payloads) == data


@given(st.lists(any_payload, max_size=12))
def test_chain_round_trip(payloads: list[Payload]) -> None:
    assert parse_chain(first_type(payloads), encode_chain(payloads)) == tuple(payloads)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_buffer_is_read_and_none_is_kept(kind: type) -> None:
    data = bytearray(encode_message(header(), sa_init()))
    message = decode_message(kind(data))
    data[:] = bytes(len(data))
    assert message.payloads == sa_init()


def test_encoder_refuses_what_no_datagram_carries() -> None:
    with pytest.raises(UsageError):
        encode_message(header(), [VendorPayload(bytes(65535))])
    with pytest.raises(UsageError):
        encode_message(header(), [VendorPayload(bytes(40000))] * 2)


def test_look_ups() -> None:
    notifies = (NotifyPayload(16388, b"a"), NotifyPayload(16388, b"b"), NotifyPayload(14))
    message = Message(header(ExchangeType.IKE_AUTH), (*ike_auth(), *notifies))
    idr = message.get(IdPayload, PayloadType.IDR)
    assert idr is not None
    assert str(idr.identity) == "192.0.2.2"
    assert len(message.all(IdPayload)) == 2
    assert message.get(NoncePayload) is None
    assert message.notify(16388) == notifies[0]
    assert message.notifies(16388) == notifies[:2]
    assert message.notify(16390) is None
    assert message.error == notifies[2]
