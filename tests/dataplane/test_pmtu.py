"""MSS clamp and too-big answers: what must stay untouched or unanswered first."""

from __future__ import annotations

import struct

import pytest
from inner_packets import ACK, SYN, checksum, icmp, pseudo, tcp, transport_is_sound, udp

from ipsec_fast.dataplane.pmtu import clamped, too_big_answer

V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


@pytest.mark.parametrize(
    "packet",
    [
        tcp(*V4, flags=ACK, options=mss(1460)),
        tcp(*V4, flags=SYN, options=mss(1300)),
        tcp(*V4, flags=SYN, options=b"\x00" + mss(1460) + b"\x00\x00\x00"),
        tcp(*V4, flags=SYN, options=b"\x03\x00" + mss(1460) + b"\x01\x01"),
        tcp(*V4, flags=SYN, options=b"\x01\x01\x02\x05"),
        tcp(*V4, flags=SYN, options=mss(1460), fragment=10),
        udp(*V4, b"\x02\x04\x05\xb4" * 5),
        tcp(*V4, flags=SYN, options=mss(1460))[:38],
    ],
    ids=["no-syn", "small", "after-end", "zero-length", "cut", "fragment", "udp", "short"],
)
def test_clamp_leaves_alone(packet: bytes) -> None:
    assert clamped(packet, 1300) == packet


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
@pytest.mark.parametrize("lead", [b"", b"\x01", b"\x01\x01", b"\x01\x01\x01", b"\x03\x03\x07"])
def test_clamp_lowers_the_mss_and_keeps_the_checksum_good(ends: tuple[str, str], flags: int, lead: bytes) -> None:
    options = lead + mss(1460)
    options += b"\x01" * (-len(options) % 4)
    result = clamped(tcp(*ends, flags=flags, options=options), 1300)
    assert lead + mss(1300) in result
    assert transport_is_sound(result)


BIG = udp(*V4, b"x" * 1400)


@pytest.mark.parametrize(
    "packet",
    [
        udp(*V4, b"x" * 1400, fragment=5),
        icmp(*V4, 3, 4, b"x" * 100),
        udp("0.0.0.0", V4[1], b"x"),
        udp(V4[0], "224.0.0.1", b"x"),
        udp("239.1.1.1", V4[1], b"x"),
        udp("::", V6[1], b"x"),
        udp(V6[0], "ff02::1", b"x"),
    ],
    ids=["fragment", "icmp-error", "no-source", "to-multicast", "from-multicast", "v6-no-source", "v6-multicast"],
)
def test_no_answer(packet: bytes) -> None:
    assert too_big_answer(packet, 1300) == b""


def test_ipv4_answer_is_fragmentation_needed_in_the_destinations_name() -> None:
    answer = too_big_answer(BIG, 1300)
    assert checksum(answer[:20]) == 0
    assert checksum(answer[20:]) == 0
    assert answer[12:20] == BIG[16:20] + BIG[12:16]
    assert struct.unpack_from("!BBHHH", answer, 20)[::4] == (3, 1300)
    assert answer[21] == 4
    assert answer[28:] == BIG[:548]
    assert len(answer) == 576


def test_ipv6_answer_is_packet_too_big_and_never_below_1280() -> None:
    packet = udp(*V6, b"x" * 1400)
    for mtu, told in ((1300, 1300), (1000, 1280)):
        answer = too_big_answer(packet, mtu)
        assert checksum(pseudo(V6[1], V6[0], 58, len(answer) - 40) + answer[40:]) == 0
        assert answer[8:40] == packet[24:40] + packet[8:24]
        assert struct.unpack_from("!BBHI", answer, 40)[::3] == (2, told)
        assert len(answer) <= 1280


def test_echo_request_is_answered() -> None:
    assert too_big_answer(icmp(*V4, 8, 0, b"x" * 1400), 1300) != b""
