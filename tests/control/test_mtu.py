"""MTU arithmetic against packets laid out by hand."""

from __future__ import annotations

import pytest

from ipsec_fast.algorithms import esp_suite, esp_suite_names
from ipsec_fast.control.mtu import tun_mtu, tunnel_mtu


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
    assert found.overhead_bytes == path_mtu - found.max_inner_bytes


def test_the_figures_everyone_knows():
    assert tunnel_mtu(esp_suite("aes128gcm16"), 1500, 4, True).max_inner_bytes == 1438
    assert tunnel_mtu(esp_suite("aes128-sha256"), 1500, 4, True).max_inner_bytes == 1422


def test_a_path_too_small_for_anything_yields_zero_not_less():
    found = tunnel_mtu(esp_suite("aes128gcm16"), 40, 4, True)
    assert (found.max_inner_bytes, found.mss_ipv4, found.mss_ipv6) == (0, 0, 0)


def test_a_configured_mss_only_lowers_and_off_means_leave_alone():
    suite = esp_suite("aes128gcm16")
    assert tunnel_mtu(suite, 1500, 4, True, 1200).mss_ipv4 == 1200
    assert tunnel_mtu(suite, 1500, 4, True, 9000).mss_ipv4 == 1398
    assert tunnel_mtu(suite, 1500, 4, True, "off").mss_ipv4 == 0


def test_the_tun_takes_the_smallest_but_never_loses_ipv6():
    assert tun_mtu([1438, 1400], 1500) == 1400
    assert tun_mtu([1000], 1500) == 1280
    assert tun_mtu([], 1500) <= min(
        tunnel_mtu(esp_suite(name), 1500, 6, True).max_inner_bytes for name in esp_suite_names()
    )
