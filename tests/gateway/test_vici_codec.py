"""vici's bytes: every lying length is refused, everything else survives a round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vici.protocol import Message

from ipsec_fast.gateway.vici.codec import (
    MAX_DEPTH,
    MAX_SEGMENT_BYTES,
    Packet,
    PacketType,
    ViciError,
    decode_message,
    decode_packet,
    encode_message,
    encode_segment,
    flag,
    number,
    segment_length,
    text,
)

NAMES = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=20)
VALUES = st.binary(max_size=40)
MESSAGES = st.recursive(
    st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=4), max_size=4),
    lambda inner: st.dictionaries(NAMES, VALUES | inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x03", "before a name"),
        (b"\x03\x05ab", "announces 5"),
        (b"\x03\x01a", "before a value"),
        (b"\x03\x01a\x00", "before a value"),
        (b"\x03\x01a\x00\x05ab", "announces 5"),
        (b"\x03\x01\xff\x00\x00", "UTF-8"),
        (b"\x02", "never began"),
        (b"\x01\x01a", "ends inside"),
        (b"\x04\x01a", "ends inside"),
        (b"\x04\x01a\x01\x01b", "inside a list"),
        (b"\x04\x01a\x04\x01b", "inside a list"),
        (b"\x05\x00\x01a", "may begin"),
        (b"\x06", "may begin"),
        (b"\x00", "may begin"),
        (b"\x07", "may begin"),
        (b"\x03\x01a\x00\x00\x03\x01a\x00\x00", "twice"),
        (b"\x01\x01a" * (MAX_DEPTH + 1), "deeper"),
    ],
)
def test_malformed_message_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(ViciError, match=word):
        decode_message(data)


@pytest.mark.parametrize("data", [b"", b"\x08", b"\xff", b"\x00", b"\x00\x05ab", b"\x07\x01\xff"])
def test_malformed_packet_is_refused(data: bytes) -> None:
    with pytest.raises(ViciError):
        decode_packet(data)


@pytest.mark.parametrize("length", [0, MAX_SEGMENT_BYTES + 1, 0xFFFFFFFF])
def test_segment_length_is_capped(length: int) -> None:
    with pytest.raises(ViciError, match="announces"):
        segment_length(length.to_bytes(4))


def test_nothing_too_long_is_encoded() -> None:
    for message in ({"a" * 256: "x"}, {"a": "x" * 65536}):
        with pytest.raises(ViciError, match="longer"):
            encode_message(message)
    with pytest.raises(ViciError, match="longer"):
        encode_segment(Packet(PacketType.CMD_RESPONSE, "", bytes(MAX_SEGMENT_BYTES)))


@pytest.mark.parametrize(("message", "reader"), [({"a": [b"1"]}, text), ({"a": b"12x"}, number), ({"a": {}}, flag)])
def test_readers_refuse_the_wrong_kind(message: dict[str, object], reader: object) -> None:
    with pytest.raises(ViciError):
        reader(message, "a")  # type: ignore[operator]


@given(MESSAGES)
def test_message_round_trip(message: dict[str, object]) -> None:
    assert decode_message(encode_message(message)) == message


@given(MESSAGES)
def test_bytes_are_those_of_strongswan_s_own_client(message: dict[str, object]) -> None:
    assert encode_message(message) == Message.serialize(message)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_vici_error(data: bytes) -> None:
    for decode in (decode_message, decode_packet):
        try:
            decode(data)
        except ViciError:
            continue


@given(st.sampled_from(PacketType), NAMES, st.binary(max_size=50))
def test_packet_round_trip(kind: PacketType, name: str, body: bytes) -> None:
    segment = encode_segment(Packet(kind, name, body))
    assert segment_length(segment[:4]) == len(segment) - 4
    packet = decode_packet(segment[4:])
    assert (packet.type, packet.body) == (kind, body)
    assert packet.name in (name, "")


def test_values_are_spelled_as_charon_spells_them() -> None:
    message = encode_message({"a": True, "b": False, "c": 7, "d": 3.9, "e": None, "f": ["x", 1]})
    assert decode_message(message) == {"a": b"yes", "b": b"no", "c": b"7", "d": b"3", "f": [b"x", b"1"]}
