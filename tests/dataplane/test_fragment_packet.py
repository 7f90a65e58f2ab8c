"""Packets cut into fragments: what is refused, then that the pieces are sound and, joined by the twin, are the packet."""

from __future__ import annotations

import struct

import pytest
from fragment_packets import piece_v4, piece_v6, udp_v4, udp_v6
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import ones_sum
from slow_reassembler import SlowReassembler

from ipsec_fast import fragment_packet
from ipsec_fast.errors import UsageError


@pytest.mark.parametrize(
    ("packet", "mtu", "why"),
    [
        (b"", 1000, "no IPv4 or IPv6 packet"),
        (b"\0" * 60, 1000, "no IPv4 or IPv6 packet"),
        (udp_v4(1000)[:999], 500, "no IPv4 or IPv6 packet"),
        (udp_v4(1000, df=True), 500, "DF"),
        (udp_v4(1000), 27, "no fragment of 27 bytes"),
        (udp_v4(1000), -1, "no fragment"),
        (udp_v6(1000), 71, "no fragment of 71 bytes"),
        (piece_v6(0, bytes(1000), True), 500, "a fragment of IPv6"),
        (piece_v6(0, bytes(1000), False), 500, "a fragment of IPv6"),
        (piece_v4(65000, bytes(1000), False), 500, "beyond 65535"),
    ],
)
def test_what_may_not_be_cut_is_refused(packet: bytes, mtu: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fragment_packet(packet, mtu)


def test_identification_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="identification"):
        fragment_packet(udp_v6(2000), 1280, 1 << 32)


@pytest.mark.parametrize("packet", [udp_v4(500), udp_v4(500, df=True), udp_v6(500)])
def test_what_fits_stays_one_packet_without_padding_behind(packet: bytes) -> None:
    assert fragment_packet(packet + bytes(30), 500) == [packet]


def test_ipv4_options_are_copied_as_their_flag_says() -> None:
    copied, once = b"\x94\x04\0\0", b"\x07\x04\x04\0"
    pieces = fragment_packet(udp_v4(600, options=copied + once), 200)
    assert pieces[0][20:28] == copied + once
    assert {p[20:28] for p in pieces[1:]} == {copied + b"\1" * 4}


def test_fragment_of_a_fragment_keeps_its_place() -> None:
    data = bytes(range(200))
    pieces = fragment_packet(piece_v4(800, data, True, ident=9), 100)
    assert [struct.unpack_from("!H", p, 6)[0] for p in pieces] == [0x2000 | (800 + at) // 8 for at in (0, 80, 160)]
    assert b"".join(p[20:] for p in pieces) == data


def test_ipv6_headers_for_every_hop_stand_before_the_fragment_header() -> None:
    hop, routing, options = b"\x2b\0" + b"\1\4" + bytes(4), b"\x3c\0" + bytes(6), b"\x11\0" + b"\1\4" + bytes(4)
    body = hop + routing + options + bytes(range(200)) * 3
    packet = struct.pack("!IHBB", 6 << 28, len(body), 0, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + body
    pieces = fragment_packet(packet, 200, 0xABCDEF01)
    for p in pieces:
        assert p[40:48] == hop
        assert p[48:56] == b"\x2c" + routing[1:]
        assert (p[56], p[60:64]) == (60, b"\xab\xcd\xef\x01")
    slow = SlowReassembler()
    assert [slow.push(p, 0.0) for p in pieces][-1] == ("ok", packet)


def test_identifications_of_ipv6_are_random_unless_given() -> None:
    assert len({fragment_packet(udp_v6(2000), 1280)[0][44:48] for _ in range(20)}) == 20


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([4, 6]), st.integers(60, 9000), st.integers(76, 1600))
def test_pieces_fit_and_are_the_packet(version: int, length: int, mtu: int) -> None:
    packet = udp_v4(length) if version == 4 else udp_v6(length)
    pieces = fragment_packet(packet, mtu, 7)
    assert all(len(p) <= mtu for p in pieces)
    assert all(ones_sum(p[:20]) == 0xFFFF for p in pieces if version == 4)
    room = mtu - (20 if version == 4 else 48) & ~7
    assert len(pieces) <= (length + room - 1) // room
    slow = SlowReassembler()
    assert [slow.push(p, 0.0) for p in pieces][-1] == ("ok", packet)
