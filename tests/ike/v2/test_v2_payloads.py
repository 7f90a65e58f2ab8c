"""Payload bodies: lying lengths first, then limits, then what goes in comes out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ike_samples import PAYLOADS, create_child, ike_auth, informational, sa_init
from timing import cpu_time

from ipsec_fast.errors import ParseError
from ipsec_fast.iana import IdType, NotifyType, PayloadType
from ipsec_fast.ike.v2.payloads import (
    DeletePayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownPayload,
    decode_payload,
)
from ipsec_fast.ike.v2.payloads_sa import MAX_PROPOSALS, MAX_TRANSFORMS, MAX_TRANSFORMS_IN_ALL
from ipsec_fast.model import TrafficSelector, Transform

LIES = (0, 1, 3, 4, 0xFFFF)
SAMPLES = (*sa_init(), *ike_auth(), *create_child(), *informational())
SAMPLE_IDS = [f"{i}-{type(p).__name__}" for i, p in enumerate(SAMPLES)]


def decoded(payload_type: int, body: bytes) -> Payload | None:
    """None for ParseError; any other exception fails the test."""
    try:
        return decode_payload(payload_type, False, body)
    except ParseError:
        return None


def transform(
    more: int = 0, length: int | None = None, id_: int = 20, attributes: bytes = b"", type_: int = 1
) -> bytes:
    size = 8 + len(attributes) if length is None else length
    return struct.pack("!BBHBBH", more, 0, size, type_, 0, id_) + attributes


def proposal(
    transforms: bytes,
    count: int,
    more: int = 0,
    length: int | None = None,
    spi: bytes = b"",
    spi_bytes: int | None = None,
) -> bytes:
    size = 8 + len(spi) + len(transforms) if length is None else length
    head = struct.pack("!BBHBBBB", more, 0, size, 1, 3, len(spi) if spi_bytes is None else spi_bytes, count)
    return head + spi + transforms


def selector(
    type_: int = 7,
    length: int | None = None,
    ports: tuple[int, int] = (0, 65535),
    start: bytes = bytes(4),
    end: bytes = b"\xff" * 4,
) -> bytes:
    size = 8 + len(start) + len(end) if length is None else length
    return struct.pack("!BBHHH", type_, 0, size, *ports) + start + end


# --- every payload


@pytest.mark.parametrize("payload", SAMPLES, ids=SAMPLE_IDS)
def test_truncation_gives_parse_error_or_a_shorter_value(payload: Payload) -> None:
    body = payload.encode()
    for end in range(len(body)):
        value = decoded(payload.type, body[:end])
        assert value is None or value != payload


@pytest.mark.parametrize("payload", SAMPLES, ids=SAMPLE_IDS)
def test_every_flipped_bit_gives_parse_error_or_a_value(payload: Payload) -> None:
    body = payload.encode()
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        value = decoded(payload.type, bytes(flipped))
        assert value is None or value.type == payload.type


@pytest.mark.parametrize("payload", SAMPLES, ids=SAMPLE_IDS)
def test_every_16_bit_field_may_lie(payload: Payload) -> None:
    body = payload.encode()
    for place in range(len(body) - 1):
        true = int.from_bytes(body[place : place + 2], "big")
        for lie in (*LIES, len(body) - 1, len(body) + 1, (true - 1) & 0xFFFF, (true + 1) & 0xFFFF):
            decoded(payload.type, body[:place] + lie.to_bytes(2, "big") + body[place + 2 :])


@pytest.mark.parametrize("kind", PAYLOADS)
def test_round_trip(kind: str) -> None:
    @given(PAYLOADS[kind])
    def check(payload: Payload) -> None:
        critical = isinstance(payload, UnknownPayload) and payload.critical
        assert decode_payload(payload.type, critical, payload.encode()) == payload

    check()


@pytest.mark.parametrize("payload_type", [0, 1, 13, *range(33, 50), 53, 54, 128, 255])
@given(body=st.binary(max_size=80), critical=st.booleans())
def test_any_body_of_any_type_gives_a_value_or_parse_error(payload_type: int, body: bytes, critical: bool) -> None:
    try:
        value = decode_payload(payload_type, critical, body)
    except ParseError:
        return
    assert value.type == payload_type


# --- SA


@pytest.mark.parametrize("lie", [*LIES, 15, 17])
def test_sa_proposal_length_lies(lie: int) -> None:
    good = proposal(transform(), 1)
    assert len(good) == 16
    assert decoded(33, good) is not None
    assert decoded(33, proposal(transform(), 1, length=lie)) is None


@pytest.mark.parametrize("lie", [*LIES, 7, 9, 11, 13])
def test_sa_transform_length_lies(lie: int) -> None:
    attributes = b"\x80\x0e\x01\x00"
    assert decoded(33, proposal(transform(attributes=attributes), 1)) is not None
    assert decoded(33, proposal(transform(attributes=attributes, length=lie), 1)) is None


def test_sa_transform_that_cuts_its_attribute_off_leaves_bytes_that_are_no_transform() -> None:
    assert decoded(33, proposal(transform(attributes=b"\x80\x0e\x01\x00", length=8), 1)) is None


@pytest.mark.parametrize("lie", [1, 3, 4, 0xFFFF])
def test_sa_attribute_length_lies(lie: int) -> None:
    attribute = struct.pack("!HH", 14, lie)
    assert decoded(33, proposal(transform(attributes=attribute), 1)) is None


@pytest.mark.parametrize("count", [0, 1, 3, 255])
def test_sa_count_and_chain_of_transforms_must_agree(count: int) -> None:
    assert decoded(33, proposal(transform(3) + transform(), count)) is None


@pytest.mark.parametrize("chain", [(3, 3), (0, 0), (0, 3), (2, 0), (255, 0)])
def test_sa_last_transform_octet_must_agree(chain: tuple[int, int]) -> None:
    assert decoded(33, proposal(b"".join(transform(more) for more in chain), 2)) is None


@pytest.mark.parametrize("chain", [(2, 2), (0, 0), (0, 2), (3, 0), (1, 0)])
def test_sa_last_proposal_octet_must_agree(chain: tuple[int, int]) -> None:
    assert decoded(33, b"".join(proposal(transform(), 1, more) for more in chain)) is None


@pytest.mark.parametrize("spi_bytes", [3, 5, 12, 255])
def test_sa_spi_size_lies(spi_bytes: int) -> None:
    assert decoded(33, proposal(transform(), 1, spi=b"abcd", spi_bytes=spi_bytes)) is None


def test_sa_without_proposal_is_refused() -> None:
    assert decoded(33, b"") is None


def test_sa_limits() -> None:
    many = lambda n: b"".join(proposal(transform(), 1, 2 if i < n - 1 else 0) for i in range(n))  # noqa: E731
    assert decoded(33, many(MAX_PROPOSALS)) is not None
    assert decoded(33, many(MAX_PROPOSALS + 1)) is None
    wide = lambda n: proposal(b"".join(transform(3 if i < n - 1 else 0) for i in range(n)), n)  # noqa: E731
    assert decoded(33, wide(MAX_TRANSFORMS)) is not None
    assert decoded(33, wide(MAX_TRANSFORMS + 1)) is None


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        (b"", Transform(1, 20)),
        (b"\x80\x0e\x01\x00", Transform(1, 20, 256)),
        (b"\x80\x0f\x01\x00", Transform(1, 20, None, True)),
        (b"\x80\x0e\x01\x00\x80\x0f\0\0", Transform(1, 20, 256, True)),
        (b"\x80\x0e\x01\x00\x80\x0e\0\x80", Transform(1, 20, 256, True)),
        (b"\x00\x0e\x00\x02\x01\x00", Transform(1, 20, None, True)),
        (b"\x00\x0e\x00\x00", Transform(1, 20, None, True)),
    ],
)
def test_sa_an_attribute_other_than_one_key_length_marks_the_transform(attributes: bytes, wanted: Transform) -> None:
    payload = decoded(33, proposal(transform(attributes=attributes), 1))
    assert isinstance(payload, SaPayload)
    assert payload.proposals[0].transforms == (wanted,)


def test_sa_unknown_transform_types_and_ids_are_kept() -> None:
    payload = decoded(33, proposal(transform(3, id_=65535, type_=241) + transform(id_=1025, type_=4), 2))
    assert isinstance(payload, SaPayload)
    assert payload.proposals[0].transforms == (Transform(241, 65535), Transform(4, 1025))


# --- TS


@pytest.mark.parametrize("lie", [*LIES, 15, 17])
def test_ts_selector_length_lies(lie: int) -> None:
    assert decoded(44, b"\1\0\0\0" + selector(length=lie)) is None


@pytest.mark.parametrize("count", [0, 1, 3, 255])
def test_ts_count_must_agree(count: int) -> None:
    assert decoded(44, bytes([count, 0, 0, 0]) + selector() * 2) is None


@pytest.mark.parametrize("type_", [t for t in range(256) if t not in (7, 8)])
def test_ts_of_another_type_is_left_out_and_its_length_must_be_true(type_: int) -> None:
    payload = decoded(45, b"\2\0\0\0" + selector(type_) + selector())
    assert isinstance(payload, TsPayload)
    assert ([str(ts) for ts in payload.selectors], payload.unread) == (["0.0.0.0/0"], (type_,))
    for length in (0, 3, 65535):
        assert decoded(45, b"\2\0\0\0" + selector(type_, length=length) + selector()) is None
    alone = decoded(44, b"\1\0\0\0" + bytes([type_, 0, 0, 4]))
    assert isinstance(alone, TsPayload)
    assert (alone.selectors, alone.unread) == ((), (type_,))


def test_ts_of_the_other_ip_version_has_its_own_length() -> None:
    assert decoded(45, b"\2\0\0\0" + selector() + selector(8)) is None


def test_ts_address_range_must_run_upwards() -> None:
    assert decoded(44, b"\1\0\0\0" + selector(start=b"\0\0\0\2", end=b"\0\0\0\1")) is None


@pytest.mark.parametrize("ports", [(1, 0), (65535, 65534), (65535, 1), (2, 1)])
def test_ts_port_range_must_run_upwards(ports: tuple[int, int]) -> None:
    assert decoded(44, b"\1\0\0\0" + selector(ports=ports)) is None


def test_ts_opaque_is_the_one_port_range_that_runs_downwards() -> None:
    payload = decoded(44, b"\1\0\0\0" + selector(ports=(65535, 0)))
    assert isinstance(payload, TsPayload)
    assert payload.selectors[0].is_opaque


def test_ts_255_selectors_are_read() -> None:
    payload = decoded(44, b"\xff\0\0\0" + selector() * 255)
    assert isinstance(payload, TsPayload)
    assert len(payload.selectors) == 255


def test_ts_ipv6() -> None:
    payload = decoded(44, b"\1\0\0\0" + selector(8, start=bytes(16), end=b"\xff" * 16))
    assert isinstance(payload, TsPayload)
    assert payload.selectors == (TrafficSelector.parse("::/0"),)


# --- the small ones


@pytest.mark.parametrize("length", [0, 1, 15, 257, 1000])
def test_nonce_length_is_16_to_256(length: int) -> None:
    assert decoded(40, bytes(length)) is None


@pytest.mark.parametrize("length", [16, 32, 256])
def test_nonce_of_legal_length(length: int) -> None:
    assert decoded(40, bytes(length)) == NoncePayload(bytes(length))


@pytest.mark.parametrize("length", range(41))
@pytest.mark.parametrize("id_type", [0, *IdType, 13, 255])
def test_id_of_every_type_and_length_is_printable_or_refused(id_type: int, length: int) -> None:
    payload = decoded(35, bytes([id_type, 0, 0, 0]) + b"\xff" * length)
    wanted = {1: 4, 5: 16}.get(id_type, length)
    assert (payload is None) == (length != wanted)
    assert payload is None or (isinstance(payload, IdPayload) and str(payload.identity).isprintable())


def test_id_body_is_what_was_received_reserved_bytes_included() -> None:
    body = b"\2abclondon.example"
    payload = decoded(36, body)
    assert isinstance(payload, IdPayload)
    assert payload.body == body
    assert payload.type == PayloadType.IDR


@pytest.mark.parametrize("notify", [*NotifyType, 0, 8191, 16383, 40960, 65535])
@pytest.mark.parametrize("length", [0, 1, 2, 19, 20, 21, 64])
def test_notify_of_every_type_keeps_data_of_every_length(notify: int, length: int) -> None:
    body = struct.pack("!BBH", 0, 0, notify) + bytes(length)
    payload = decoded(41, body)
    assert payload == NotifyPayload(notify, bytes(length))
    assert payload.is_error == (notify < 16384)
    assert str(payload)


@pytest.mark.parametrize("protocol", range(0, 256, 5))
@pytest.mark.parametrize("spi_bytes", [0, 1, 3, 4, 8, 100, 101, 255])
def test_notify_and_delete_with_any_protocol_and_spi_size(protocol: int, spi_bytes: int) -> None:
    rekey = decoded(41, struct.pack("!BBH", protocol, spi_bytes, NotifyType.REKEY_SA) + bytes(100))
    assert (rekey is None) == (spi_bytes > 100)
    delete = decoded(42, struct.pack("!BBH", protocol, spi_bytes, 1) + bytes(spi_bytes))
    assert (delete is None) == (spi_bytes not in (4, 8))


@pytest.mark.parametrize("count", [0, 1, 3, 65535])
def test_delete_count_must_agree(count: int) -> None:
    assert decoded(42, struct.pack("!BBH", 3, 4, count) + bytes(8)) is None


def test_delete_of_the_ike_sa_has_no_spis() -> None:
    assert decoded(42, b"\1\0\0\0") == DeletePayload(1)
    assert decoded(42, b"\1\0\0\1") is None
    assert decoded(42, b"\1\0\xff\xff") is None


@pytest.mark.parametrize("group", [0, 1, 31, 1025, 65535])
def test_ke_keeps_any_group(group: int) -> None:
    assert decoded(34, group.to_bytes(2, "big") + bytes(2) + b"x") == KePayload(group, b"x")


# --- time


@pytest.mark.parametrize("payload_type", [33, 34, 35, 39, 40, 41, 42, 43, 44, 45])
@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\1", b"\0\0\0\4", b"\0\0\0\10", b"\3\0\0\10\1\0\0\24"])
def test_64_kib_of_tiny_items_is_quick(payload_type: int, filler: bytes) -> None:
    body = (filler * 65536)[:65500]
    best = float("inf")
    for _ in range(5):
        with cpu_time() as watch:
            decoded(payload_type, body)
        best = min(best, watch.seconds)
    assert best < 0.005


def test_the_largest_offer_is_read_in_bounded_time() -> None:
    wide = b"".join(transform(3 if i < MAX_TRANSFORMS - 1 else 0) for i in range(MAX_TRANSFORMS))
    offer = lambda n: b"".join(proposal(wide, MAX_TRANSFORMS, 2 if i < n - 1 else 0) for i in range(n))  # noqa: E731
    largest = MAX_TRANSFORMS_IN_ALL // MAX_TRANSFORMS
    assert isinstance(decode_payload(33, False, offer(largest)), SaPayload)
    assert decoded(33, offer(largest + 1)) is None
    best = float("inf")
    for _ in range(3):
        with cpu_time() as watch:
            assert decoded(33, offer(MAX_PROPOSALS)) is None
        best = min(best, watch.seconds)
    assert best < 0.005
