"""Stateless cookies: bound to nonce, address and SPI, good for one to two rotations, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.ike.cookie import COOKIE_BYTES, CookieIssuer, _cookie

NI, SPI_I, ADDRESS = bytes(range(32)), b"initiato", ip_address("192.0.2.1")


def counting_random() -> Callable[[int], bytes]:
    made = 0

    def random(count: int) -> bytes:
        nonlocal made
        made += 1
        return bytes([made]) * count

    return random


@pytest.fixture
def issuer() -> CookieIssuer:
    return CookieIssuer(counting_random(), rotate_s=60)


@given(st.binary(max_size=64))
def test_no_cookie_of_an_attacker_is_valid(cookie: bytes) -> None:
    issuer = CookieIssuer(counting_random())
    assert not issuer.is_valid(cookie, NI, ADDRESS, SPI_I, 0.0)


def test_before_the_first_rotation_the_empty_secret_makes_no_cookie(issuer: CookieIssuer) -> None:
    assert not issuer.is_valid(_cookie(0, b"", NI, ADDRESS, SPI_I), NI, ADDRESS, SPI_I, 0.0)


@pytest.mark.parametrize(
    ("ni", "address", "spi_i"),
    [
        (NI[:-1], ADDRESS, SPI_I),
        (NI, ip_address("192.0.2.2"), SPI_I),
        (NI, ip_address("::ffff:192.0.2.1"), SPI_I),
        (NI, ADDRESS, b"initiatO"),
    ],
)
def test_a_cookie_is_bound_to_nonce_address_and_spi(
    issuer: CookieIssuer, ni: bytes, address: object, spi_i: bytes
) -> None:
    cookie = issuer.issue(NI, ADDRESS, SPI_I, 0.0)
    assert not issuer.is_valid(cookie, ni, address, spi_i, 0.0)  # type: ignore[arg-type]


def test_every_flipped_bit_spoils_a_cookie(issuer: CookieIssuer) -> None:
    cookie = issuer.issue(NI, ADDRESS, SPI_I, 0.0)
    for bit in range(8 * len(cookie)):
        flipped = bytearray(cookie)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not issuer.is_valid(bytes(flipped), NI, ADDRESS, SPI_I, 0.0)


@pytest.mark.parametrize(
    ("age", "valid"), [(0, True), (59, True), (61, True), (119, True), (121, False), (1000, False)]
)
def test_a_cookie_outlives_one_rotation(issuer: CookieIssuer, age: float, valid: bool) -> None:
    cookie = issuer.issue(NI, ADDRESS, SPI_I, 0.0)
    issuer.issue(NI, ADDRESS, SPI_I, min(age, 60))
    assert issuer.is_valid(cookie, NI, ADDRESS, SPI_I, age) is valid


def test_a_long_rest_ends_both_secrets(issuer: CookieIssuer) -> None:
    cookie = issuer.issue(NI, ADDRESS, SPI_I, 0.0)
    assert not issuer.is_valid(cookie, NI, ADDRESS, SPI_I, 121)


def test_the_version_wraps(issuer: CookieIssuer) -> None:
    issuer._version = 0xFFFFFFFF - 1
    old = issuer.issue(NI, ADDRESS, SPI_I, 0.0)
    new = issuer.issue(NI, ADDRESS, SPI_I, 60.0)
    assert issuer.is_valid(old, NI, ADDRESS, SPI_I, 61)
    assert issuer.is_valid(new, NI, ADDRESS, SPI_I, 61)
    assert issuer.is_valid(new, NI, ADDRESS, SPI_I, 125)


def test_length_is_what_the_rfc_allows(issuer: CookieIssuer) -> None:
    assert len(issuer.issue(NI, ADDRESS, SPI_I, 0.0)) == COOKIE_BYTES <= 64
