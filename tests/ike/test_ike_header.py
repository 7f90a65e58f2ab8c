"""The IKE header: what is refused, by which notify, and that nothing is lost on the way through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.errors import ParseError, RemoteError
from ipsec_fast.iana import ExchangeType, NotifyType
from ipsec_fast.ike.header import HEADER_BYTES, IkeHeader

SPI_I, SPI_R = b"initiato", b"responde"


def raw(version: int = 0x20, length: int = 28, spi_i: bytes = SPI_I) -> bytes:
    return struct.pack("!8s8sBBBBII", spi_i, SPI_R, 33, version, 34, 0x08, 7, length)


@pytest.mark.parametrize("count", range(HEADER_BYTES))
def test_a_short_header_is_refused_and_not_answered(count: int) -> None:
    with pytest.raises(ParseError) as caught:
        IkeHeader.decode(raw()[:count])
    assert caught.value.notify is None


@pytest.mark.parametrize("length", [0, 1, 3, 4, 27, 29, 0xFFFF, 0xFFFFFFFF])
def test_length_must_be_the_datagrams(length: int) -> None:
    with pytest.raises(ParseError, match="length"):
        IkeHeader.decode(raw(length=length))


@pytest.mark.parametrize("version", [0x30, 0x3F, 0x40, 0xF0])
def test_a_higher_major_version_is_answered_by_invalid_major_version(version: int) -> None:
    with pytest.raises(RemoteError) as caught:
        IkeHeader.decode(raw(version))
    assert caught.value.notify == NotifyType.INVALID_MAJOR_VERSION


def test_version_0_is_refused() -> None:
    with pytest.raises(ParseError):
        IkeHeader.decode(raw(0x02))


def test_a_zero_initiator_spi_is_refused() -> None:
    with pytest.raises(ParseError):
        IkeHeader.decode(raw(spi_i=bytes(8)))


def test_version_1_is_recognised_for_the_dispatch_by_version() -> None:
    assert IkeHeader.decode(raw(0x10)).major == 1


def test_a_higher_minor_version_is_no_reason_to_refuse() -> None:
    assert IkeHeader.decode(raw(0x25)).minor == 5


@pytest.mark.parametrize("initiator", [False, True])
@pytest.mark.parametrize("response", [False, True])
def test_flags_are_what_make_was_told(initiator: bool, response: bool) -> None:
    header = IkeHeader.make(SPI_I, SPI_R, ExchangeType.IKE_AUTH, 1, initiator=initiator, response=response)
    assert (header.initiator, header.response, header.version) == (initiator, response, False)


u8, u32 = st.integers(0, 255), st.integers(0, 2**32 - 1)


@given(
    st.binary(min_size=8, max_size=8).filter(any),
    st.binary(min_size=8, max_size=8),
    u8,
    u8,
    u8,
    u32,
    st.integers(0, 15),
)
def test_header_round_trip(
    spi_i: bytes, spi_r: bytes, next_payload: int, exchange: int, flags: int, message_id: int, minor: int
) -> None:
    header = IkeHeader(spi_i, spi_r, next_payload, 2, minor, exchange, flags, message_id, HEADER_BYTES)
    assert IkeHeader.decode(header.encode()) == header
