"""NAT detection: each side's hash against each kind of NAT."""

from __future__ import annotations

import hashlib
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.ike.nat import NatResult, destination_hash, detect_nat, fake_source_hash, nat_hash, source_hash
from ipsec_fast.model import Path

SPI_I, SPI_R = b"initiato", bytes(8)
OURS, THEIRS = ip_address("192.0.2.1"), ip_address("192.0.2.2")
SENT = Path(THEIRS, 500, OURS, 500)  # as the peer sees it
SEEN = Path(OURS, 500, THEIRS, 500)


def detect(sent: Path, seen: Path, encap: bool = False) -> NatResult:
    sources = [source_hash(SPI_I, SPI_R, sent, encap=encap)]
    return detect_nat(SPI_I, SPI_R, seen, sources, [destination_hash(SPI_I, SPI_R, sent)])


def test_hash_is_the_rfcs() -> None:
    for text, family in (("192.0.2.9", socket.AF_INET), ("2001:db8::9", socket.AF_INET6)):
        wanted = hashlib.sha1(SPI_I + SPI_R + socket.inet_pton(family, text) + b"\x01\xf4").digest()
        assert nat_hash(SPI_I, SPI_R, ip_address(text), 500) == wanted


def test_no_nat_is_found_where_none_is() -> None:
    assert detect(SENT, SEEN) == NatResult(True, local=False, remote=False)


@pytest.mark.parametrize(
    ("seen", "local", "remote"),
    [
        (Path(OURS, 500, ip_address("198.51.100.7"), 500), False, True),
        (Path(OURS, 500, THEIRS, 61000), False, True),
        (Path(ip_address("10.0.0.1"), 500, THEIRS, 500), True, False),
        (Path(OURS, 1500, THEIRS, 61000), True, True),
    ],
)
def test_a_changed_address_or_port_is_a_nat_on_that_side(seen: Path, local: bool, remote: bool) -> None:
    assert detect(SENT, seen) == NatResult(True, local=local, remote=remote)


def test_encap_makes_the_peer_see_a_nat_on_our_side() -> None:
    assert detect(SENT, SEEN, encap=True) == NatResult(True, local=False, remote=True)


@given(st.binary(min_size=8, max_size=8), st.ip_addresses(), st.integers(0, 65535).filter(bool))
def test_the_fake_hash_matches_no_path(spi_i: bytes, address: object, port: int) -> None:
    assert fake_source_hash(spi_i, SPI_R) != nat_hash(spi_i, SPI_R, address, port)  # type: ignore[arg-type]


def test_one_of_many_sources_suffices() -> None:
    sources = [bytes(20), source_hash(SPI_I, SPI_R, SENT, encap=False), b""]
    assert not detect_nat(SPI_I, SPI_R, SEEN, sources, [destination_hash(SPI_I, SPI_R, SENT)]).remote


@pytest.mark.parametrize(("sources", "destinations"), [([], []), ([bytes(20)], []), ([], [bytes(20)])])
def test_a_peer_without_both_notifies_has_no_nat_traversal(sources: list[bytes], destinations: list[bytes]) -> None:
    assert detect_nat(SPI_I, SPI_R, SEEN, sources, destinations) == NatResult(False, False, False)


@pytest.mark.parametrize("length", range(65))
def test_any_length_of_hash_is_taken_and_does_not_match(length: int) -> None:
    assert detect_nat(SPI_I, SPI_R, SEEN, [bytes(length)], [bytes(length)]) == NatResult(True, True, True)
