"""MTU arithmetic against packets laid out by hand; tests/dataplane/test_mtu_arithmetic.py holds it to sealed ones."""

from __future__ import annotations

import pytest

from ipsec_fast.algorithms import ah_suite, esp_suite, esp_suite_names
from ipsec_fast.control.mtu import Encapsulation, tun_mtu, tunnel_mtu
from ipsec_fast.errors import UsageError


def sealed_length(name: str, inner: int, version: int, encap: bool) -> int:
    """What RFC 4303 section 2 makes of an inner packet, written down independently of the code under test."""
    suite = esp_suite(name)
    cipher = name.split("-")[0]
    is_cbc = cipher in ("aes128", "aes192", "aes256")
    padding = -(inner + 2) % (16 if is_cbc else 4)
    iv = 16 if is_cbc else 0 if cipher == "null" or cipher.endswith("iiv") else 8
    return (20 if version == 4 else 40) + (8 if encap else 0) + 8 + iv + inner + padding + 2 + suite.icv_bytes


@pytest.mark.parametrize("path_mtu", [1280, 1400, 1492, 1500, 9000])
@pytest.mark.parametrize("encap", [True, False])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", esp_suite_names())
def test_the_largest_inner_packet_fits_and_one_byte_more_does_not(name, version, encap, path_mtu):
    found = tunnel_mtu(esp_suite(name), path_mtu, version, encap)
    assert sealed_length(name, found.max_inner_bytes, version, encap) <= path_mtu
    assert sealed_length(name, found.max_inner_bytes + 1, version, encap) > path_mtu
    assert (found.mss_ipv4, found.mss_ipv6) == (found.max_inner_bytes - 40, found.max_inner_bytes - 60)
    assert found.overhead_bytes == sealed_length(name, found.max_inner_bytes, version, encap) - found.max_inner_bytes


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((ah_suite("sha256"), 4, True), "no UDP"),
        ((ah_suite("sha256"), 4, False, "beet"), "tunnel and transport mode"),
        ((ah_suite("sha256"), 4, False, "tunnel", 4, 100), "TFC"),
        ((esp_suite("aes128gcm16"), 4, True, "transport", 6), "of one version"),
        ((esp_suite("aes128gcm16"), 4, True, "beet", 4, 100), "TFC"),
    ],
)
def test_what_no_sa_can_be_is_refused(arguments, why):
    with pytest.raises(UsageError, match=why):
        Encapsulation(*arguments)


def test_the_figures_everyone_knows():
    assert tunnel_mtu(esp_suite("aes128gcm16"), 1500, 4, True).max_inner_bytes == 1438
    found = tunnel_mtu(esp_suite("aes128-sha256"), 1500, 4, True)
    assert (found.max_inner_bytes, found.overhead_bytes) == (1422, 70)  # 8 bytes are less than another block
    found = tunnel_mtu(esp_suite("aes128gcm16"), 1280, 6, True)
    assert (found.max_inner_bytes, found.mss_ipv6, found.mss_ipv6_timestamps) == (1198, 1138, 1126)


def test_parts_are_named_and_sum_up():
    wraps = Encapsulation(esp_suite("aes128-sha256"), 4, True)
    parts = [(part.name, part.size) for part in wraps.parts(100)]
    assert parts == [
        ("outer IPv4 header", 20),
        ("UDP header", 8),
        ("ESP header: SPI, sequence number", 8),
        ("IV", 16),
        ("inner packet", 100),
        ("padding to a multiple of 16", 10),
        ("pad length, next header", 2),
        ("ICV", 16),
    ]
    assert wraps.sealed_bytes(100) == 180
    ah = Encapsulation(ah_suite("sha256"), 6, mode="transport", inner_version=6)
    assert [part.size for part in ah.parts(100)] == [40, 12, 16, 4, 60]


def test_a_path_too_small_for_anything_yields_zero_not_less():
    found = tunnel_mtu(esp_suite("aes128gcm16"), 40, 4, True)
    assert (found.max_inner_bytes, found.mss_ipv4, found.mss_ipv6) == (0, 0, 0)


def test_a_configured_mss_only_lowers_and_off_means_leave_alone():
    suite = esp_suite("aes128gcm16")
    assert tunnel_mtu(suite, 1500, 4, True, 1200).mss_ipv4 == 1200
    assert tunnel_mtu(suite, 1500, 4, True, 9000).mss_ipv4 == 1398
    assert tunnel_mtu(suite, 1500, 4, True, 9000).mss_ipv4_timestamps == 1386
    found = tunnel_mtu(suite, 1500, 4, True, "off")
    assert (found.mss_ipv4, found.mss_ipv6, found.mss_ipv4_timestamps) == (0, 0, 0)


def test_the_tun_takes_the_largest_and_never_loses_ipv6():
    assert tun_mtu([1438, 1400], 1500) == 1438
    assert tun_mtu([1000], 1500) == 1280
    assert tun_mtu([1000], 1500, has_ipv6=False) == 1000
    assert tun_mtu([500], 1500, has_ipv6=False) == 576
    assert tun_mtu([70000], 1500) == 65535
    assert tun_mtu([], 1500) <= min(
        tunnel_mtu(esp_suite(name), 1500, 6, True).max_inner_bytes for name in esp_suite_names()
    )
