"""Header parse, checksums and ECN of the kernels, lying lengths first."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import ipv4, ipv6, ones_sum

from ipsec_fast.dataplane import ip


def chain(*headers: bytes, last: int = 17, upper: bytes = b"\x12\x34\x56\x78" + bytes(8)) -> bytes:
    """An IPv6 packet with extension headers; each is written with its own type in front: (type, body)."""
    body = b""
    types = [h[0] for h in headers] + [last]
    for i, header in enumerate(headers):
        body += bytes([types[i + 1]]) + header[1:]
    body += upper
    packet = bytearray(ipv6(40, protocol=types[0]) + body)
    packet[4:6] = struct.pack("!H", len(body))
    return bytes(packet)


def options(kind: int, units: int = 0) -> bytes:
    return bytes([kind, units]) + bytes(6 + 8 * units)


@pytest.mark.parametrize("packet", [ipv4(40), ipv6(60), chain(options(0), options(60))])
def test_every_truncation_is_refused(packet):
    for length in range(len(packet)):
        assert ip.parse(packet[:length])[0] != "ok", length


@pytest.mark.parametrize("first", [b for b in range(256) if b >> 4 not in (4, 6)])
def test_other_versions_are_refused(first):
    assert ip.parse(bytes([first]) + bytes(60))[0] == "bad_version"


@pytest.mark.parametrize("words", range(5))
def test_ipv4_header_length_below_20_is_refused(words):
    assert ip.parse(bytes([0x40 | words]) + ipv4(40)[1:])[0] == "bad_header"


@pytest.mark.parametrize("total", [0, 19, 41, 65535])
def test_ipv4_lying_total_length_is_refused(total):
    assert ip.parse(ipv4(40)[:2] + struct.pack("!H", total) + ipv4(40)[4:])[0] == "bad_length"


def test_tfc_padding_behind_is_allowed():
    for packet in (ipv4(40), ipv6(60)):
        assert ip.parse(packet + bytes(100))[1]["total_length"] == len(packet)


def test_ipv6_chain_of_eight_headers_passes_and_nine_do_not():
    assert ip.parse(chain(*[options(60)] * 8))[1]["header_length"] == 40 + 64
    assert ip.parse(chain(*[options(60)] * 9))[0] == "bad_chain"


def test_ipv6_chain_of_256_bytes_passes_and_264_do_not():
    assert ip.parse(chain(options(60, 15), options(60, 15)))[1]["header_length"] == 296
    assert ip.parse(chain(options(60, 15), options(60, 15), options(60)))[0] == "bad_chain"


def test_ipv6_extension_header_beyond_the_packet_is_refused():
    assert ip.parse(chain(bytes([60, 200]) + bytes(6)))[0] == "bad_chain"
    assert ip.parse(chain(upper=b"", last=60))[0] == "bad_chain"


def test_ports_come_from_behind_the_chain():
    name, found = ip.parse(chain(options(0), options(43), bytes([51, 4]) + bytes(22), options(60)))
    assert (name, found["protocol"], found["ports"]) == ("ok", 17, (0x1234, 0x5678))


def test_later_fragments_are_opaque():
    first = bytes([44, 0, 0, 1]) + bytes(4)
    later = bytes([44, 0, 0, 9]) + bytes(4)
    atomic = bytes([44, 0, 0, 0]) + bytes(4)
    assert ip.parse(chain(first))[1]["ports"] == (0x1234, 0x5678)
    assert ip.parse(chain(first))[1]["is_fragment"]
    assert not ip.parse(chain(atomic))[1]["is_fragment"]
    found = ip.parse(chain(later))[1]
    assert (found["ports"], found["fragment_offset"], found["more_fragments"], found["protocol"]) == (None, 8, True, 17)
    packet = bytearray(ipv4(40))
    packet[6:8] = struct.pack("!H", 0x2001)
    found = ip.parse(bytes(packet))[1]
    assert (found["ports"], found["fragment_offset"], found["more_fragments"]) == (None, 8, True)


def test_an_extension_header_behind_a_later_fragment_is_payload():
    packet = chain(bytes([44, 0, 0, 9]) + bytes(4), last=60, upper=b"\xff" * 16)
    assert ip.parse(packet)[1]["protocol"] == 60


@pytest.mark.parametrize(
    ("protocol", "ports"),
    [(6, (0xA5A5, 0xA5A5)), (17, (0xA5A5, 0xA5A5)), (1, (0xA5A5, 0xA5A5)), (50, None), (47, None)],
)
def test_ports_by_protocol(protocol, ports):
    assert ip.parse(ipv4(40, protocol=protocol))[1]["ports"] == ports


def test_ports_that_do_not_fit_are_opaque():
    assert ip.parse(ipv4(23, protocol=6))[1]["ports"] is None
    assert ip.parse(ipv4(21, protocol=1))[1]["ports"] is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.sampled_from((0x45, 0x4F, 0x60)))
def test_noise_never_gives_lengths_beyond_the_packet(data, first):
    packet = bytes([first]) + data
    name, found = ip.parse(packet)
    if name == "ok":
        assert found["header_length"] <= found["total_length"] <= len(packet)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_checksums_agree_with_the_book(data):
    wanted = ones_sum(data)
    copy, copied_sum = ip.checksum_copy(data)
    assert copy == data
    for found in (ip.checksum(data), copied_sum):
        assert int.from_bytes(found, "big") % 0xFFFF == wanted % 0xFFFF


def test_checksum_of_the_largest_packet_does_not_overflow():
    assert ip.checksum(b"\xff" * 65535) == b"\xff\x00" or int.from_bytes(
        ip.checksum(b"\xff" * 65535), "big"
    ) == ones_sum(b"\xff" * 65535)


NOT_ECT, ECT1, ECT0, CE, DROP = 0, 1, 2, 3, None
RFC6040 = {  # figure 4: row inner, column outer
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: DROP},
    ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(range(4), range(4))))
def test_ecn_decapsulation_is_the_table_of_rfc_6040(make, inner, outer):
    wanted = RFC6040[inner][outer]
    found = ip.decapsulate(make(60, tos=0xB8 | inner), 0x20 | outer)
    assert found == (None if wanted is None else make(60, tos=0xB8 | wanted))  # the IPv4 checksum included
