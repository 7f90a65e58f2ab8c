"""A message cut into SKF fragments: sizes to the byte, every fragment for itself, and the same one cut smaller."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ike_samples import header, messages
from reference_sealer import ReferenceSealer

from ipsec_fast.crypto.seal import Sealer
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import IntegrityError, RemoteError, UsageError
from ipsec_fast.iana import Encr, ExchangeType, Integ, PayloadType
from ipsec_fast.ike.v2.fragments import (
    LEAST_BYTES,
    MAX_FRAGMENTS,
    check_size,
    cut,
    cut_smaller,
    longest,
    next_step,
    overhead,
    padding_for,
    room_in,
    sealed_bytes,
)
from ipsec_fast.ike.v2.message import decode_message
from ipsec_fast.ike.v2.payloads import FragmentPayload
from ipsec_fast.ike.v2.protect import open_content
from ipsec_fast.model import Path

KEY, INTEGRITY_KEY = bytes(range(36)), bytes(range(100, 132))
PATHS = {
    "v4-500": Path(ip_address("192.0.2.1"), 500, ip_address("192.0.2.2"), 500),
    "v4-4500": Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4500, marker=True),
    "v6-500": Path(ip_address("2001:db8::1"), 500, ip_address("2001:db8::2"), 500),
    "v6-4500": Path(ip_address("2001:db8::1"), 4500, ip_address("2001:db8::2"), 4500, marker=True),
}
V4 = PATHS["v4-4500"]
HEADER = header(ExchangeType.IKE_AUTH, message_id=1)
FIRST = PayloadType.IDI


class Keymat:
    """What cutting needs of IkeKeymat, with IVs that can be looked at."""

    def __init__(self, kind: str) -> None:
        if kind == "gcm":
            self.outbound = Sealer(Encr.AES_GCM_16, 256, secret_from_buffer(KEY))
            self.reference = ReferenceSealer("aes-gcm-16", KEY)
        else:
            keys = secret_from_buffer(KEY[:32]), secret_from_buffer(INTEGRITY_KEY)
            self.outbound = Sealer(Encr.AES_CBC, 256, keys[0], Integ.HMAC_SHA2_256_128, keys[1])
            self.reference = ReferenceSealer("aes-cbc", KEY[:32], "hmac-sha2-256-128", INTEGRITY_KEY)
        self.ivs = 0

    def next_iv(self) -> bytes:
        self.ivs += 1
        return self.ivs.to_bytes(self.outbound.iv_bytes, "big")


@pytest.fixture(params=["gcm", "cbc"])
def keymat(request: pytest.FixtureRequest) -> Any:
    return Keymat(request.param)


def fragment_of(data: bytes) -> FragmentPayload:
    fragment = decode_message(data).get(FragmentPayload)
    assert fragment is not None
    return fragment


def joined(datagrams: tuple[bytes, ...], sealer: Any) -> bytes:
    return b"".join(open_content(data, fragment_of(data), sealer) for data in datagrams)


def test_every_flipped_bit_of_a_fragment_is_refused(keymat: Any) -> None:
    data = cut(HEADER, FIRST, bytes(700), keymat, room_in(576, V4))[0]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            message = decode_message(bytes(flipped))
        except RemoteError:
            continue
        fragment = message.get(FragmentPayload)
        if fragment is None:
            continue
        with pytest.raises(IntegrityError):  # the fragment numbers are authenticated too
            open_content(bytes(flipped), fragment, keymat.outbound)


@pytest.mark.parametrize("size", [0, 575, 65536, -1])
def test_a_size_out_of_bounds_is_a_usage_error(size: int) -> None:
    with pytest.raises(UsageError, match="576 to 65535"):
        check_size(size, V4)
    with pytest.raises(UsageError, match="1280 to 65535"):
        check_size(1279, PATHS["v6-500"])


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_no_fragment_is_larger_than_the_size_and_all_but_the_last_fill_it(path: Path, keymat: Any) -> None:
    size = 1280
    datagrams = cut(HEADER, FIRST, bytes(5000), keymat, room_in(size, path))
    sizes = [len(data) + overhead(path) for data in datagrams]
    assert max(sizes) <= size
    assert size - min(sizes[:-1]) < keymat.outbound.block_bytes  # for GCM: to the byte
    assert longest(datagrams, path) == max(sizes)


def test_the_overhead_is_ip_udp_and_marker() -> None:
    assert [overhead(path) for path in PATHS.values()] == [28, 32, 48, 52]


def test_the_first_fragment_alone_names_the_first_payload(keymat: Any) -> None:
    datagrams = cut(HEADER, FIRST, bytes(2000), keymat, room_in(576, V4))
    fragments = [fragment_of(data) for data in datagrams]
    assert [f.next_payload for f in fragments] == [FIRST] + [PayloadType.NONE] * (len(fragments) - 1)
    assert [f.number for f in fragments] == list(range(1, len(fragments) + 1))
    assert {f.total for f in fragments} == {len(fragments)}
    assert {decode_message(data).header.message_id for data in datagrams} == {1}


def test_every_fragment_has_an_iv_of_its_own(keymat: Any) -> None:
    datagrams = cut(HEADER, FIRST, bytes(2000), keymat, room_in(576, V4))
    again = cut_smaller(cut(HEADER, FIRST, bytes(2000), keymat, None), keymat, room_in(576, V4))
    assert again is not None
    ivs = [fragment_of(data).body[: keymat.outbound.iv_bytes] for data in (*datagrams, *again)]
    assert len(set(ivs)) == len(ivs) == 2 * len(datagrams)


def test_another_implementation_opens_every_fragment(keymat: Any) -> None:
    chain = bytes(i % 251 for i in range(3000))
    datagrams = cut(HEADER, FIRST, chain, keymat, room_in(1280, V4))
    assert len(datagrams) == 3
    assert joined(datagrams, keymat.reference) == chain


def test_what_fits_leaves_whole_and_one_byte_more_does_not(keymat: Any) -> None:
    room = room_in(576, V4)
    fits = padding_for(room, keymat)
    assert sealed_bytes(fits, keymat) <= room < sealed_bytes(fits + 1, keymat)
    (whole,) = cut(HEADER, FIRST, bytes(fits), keymat, room)
    assert decode_message(whole).get(FragmentPayload) is None
    assert len(cut(HEADER, FIRST, bytes(fits + 1), keymat, room)) == 2


def test_without_a_limit_everything_leaves_whole(keymat: Any) -> None:
    assert len(cut(HEADER, FIRST, bytes(60000), keymat, None)) == 1


def test_there_are_never_more_fragments_than_a_receiver_takes(keymat: Any) -> None:
    chain = bytes(60000)
    datagrams = cut(HEADER, FIRST, chain, keymat, room_in(LEAST_BYTES, V4))
    assert len(datagrams) == MAX_FRAGMENTS
    assert joined(datagrams, keymat.outbound) == chain


def test_cut_smaller_is_the_same_message_in_more_fragments(keymat: Any) -> None:
    chain = bytes(i % 251 for i in range(1900))
    whole = cut(HEADER, FIRST, chain, keymat, None)
    two = cut_smaller(whole, keymat, room_in(1280, V4))
    assert two is not None
    four = cut_smaller(two, keymat, room_in(576, V4))
    assert four is not None
    assert len(two) == 2
    assert len(four) in (4, 5)  # by the cipher
    assert joined(two, keymat.outbound) == joined(four, keymat.outbound) == chain
    assert fragment_of(four[0]).next_payload == FIRST


def test_cut_smaller_refuses_what_is_not_smaller(keymat: Any) -> None:
    two = cut(HEADER, FIRST, bytes(1900), keymat, room_in(1280, V4))
    assert cut_smaller(two, keymat, room_in(1280, V4)) is None
    assert cut_smaller(two, keymat, room_in(9000, V4)) is None


@pytest.mark.parametrize("start", [1500, 9000])
def test_however_small_the_step_the_number_grows_and_the_first_has_the_size(keymat: Any, start: int) -> None:
    """RFC 7383 section 2.5.2: the receiver tells the sets apart by their number of fragments."""
    room = room_in(start, V4)
    chain = bytes(i % 251 for i in range(padding_for(room, keymat)))
    datagrams = cut(HEADER, FIRST, chain, keymat, room)
    assert len(datagrams) == 1
    for size in range(start - 20, start - 420, -20):
        smaller = cut_smaller(datagrams, keymat, room_in(size, V4))
        assert smaller is not None
        assert len(smaller) == len(datagrams) + 1
        assert size - 16 < len(smaller[0]) + overhead(V4) == longest(smaller, V4) <= size
        assert joined(smaller, keymat.outbound) == chain
        datagrams = smaller


def test_cut_smaller_ends_at_the_number_that_a_receiver_takes(keymat: Any) -> None:
    many = cut(HEADER, FIRST, bytes(60000), keymat, room_in(LEAST_BYTES, V4))
    assert cut_smaller(many, keymat, room_in(LEAST_BYTES, V4)) is None


def test_an_ike_sa_init_is_never_cut(keymat: Any) -> None:
    datagram = messages()["sa_init"]

    assert cut_smaller((datagram,), keymat, 100) is None


def test_the_steps_end_at_what_every_link_carries() -> None:
    v6 = PATHS["v6-500"]
    assert [next_step(size, V4) for size in (9000, 1281, 1280, 577, 576)] == [1280, 1280, 576, 576, None]
    assert [next_step(size, v6) for size in (9000, 1281, 1280, 576)] == [1280, 1280, None, None]


@given(st.integers(0, 9000), st.integers(576, 9100), st.sampled_from(["gcm", "cbc"]), st.sampled_from(list(PATHS)))
@settings(max_examples=150, deadline=None)
def test_any_chain_comes_back_from_any_size(count: int, size: int, kind: str, name: str) -> None:
    keymat: Any = Keymat(kind)
    chain = bytes(i % 253 for i in range(count))
    datagrams = cut(HEADER, FIRST, chain, keymat, room_in(size, PATHS[name]))
    assert longest(datagrams, PATHS[name]) <= size
    if len(datagrams) > 1:
        assert joined(datagrams, keymat.outbound) == chain
