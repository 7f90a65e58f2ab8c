"""Echo requests as scapy reads them: lengths, checksums, the number and the cookie."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ipsec_fast.dataplane.echo import COOKIE, LEAST_BYTES, echo_request
from ipsec_fast.errors import UsageError

ENDS = {4: ("10.1.0.1", "10.2.0.1"), 6: ("fd00:1::1", "fd00:2::1")}


def request(version: int, length: int, number: int = 0x12345678) -> bytes:
    source, address = map(ip_address, ENDS[version])
    return echo_request(source, address, number, length)


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_too_short_or_too_long_or_of_two_versions_is_refused(version: int) -> None:
    for length in (0, LEAST_BYTES[version] - 1, 65536):
        with pytest.raises(UsageError, match="at least"):
            request(version, length)
    with pytest.raises(UsageError):
        echo_request(ip_address(ENDS[4][0]), ip_address(ENDS[6][0]), 1, 100)


@pytest.mark.parametrize("length", [60, 61, 576, 1280, 1437, 9000, 65535])
@pytest.mark.parametrize("version", [4, 6])
def test_it_is_a_good_echo_request_of_that_length(version: int, length: int) -> None:
    scapy = pytest.importorskip("scapy.all")
    packet = request(version, length)
    assert len(packet) == length
    parsed = scapy.IP(packet) if version == 4 else scapy.IPv6(packet)
    again = parsed.copy()
    if version == 4:
        assert (parsed.len, parsed.proto, parsed.payload.type, parsed.payload.code) == (length, 1, 8, 0)
        del again.chksum, again.payload.chksum
    else:
        assert (parsed.plen, parsed.nh, parsed.payload.type) == (length - 40, 58, 128)
        del again.payload.cksum
    assert bytes(again) == packet
    assert (parsed.src, parsed.dst) == ENDS[version]
    start = (20 if version == 4 else 40) + 8
    assert packet[start : start + 12] == COOKIE + bytes.fromhex("12345678")
