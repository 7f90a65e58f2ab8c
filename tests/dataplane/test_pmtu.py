"""MSS clamp and too-big answers: what must stay untouched or unanswered first."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_packets import ACK, SYN, checksum, header_length, icmp, ip, pseudo, tcp, transport_is_sound, udp

from ipsec_fast.dataplane.pmtu import clamped, too_big_answer

V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


def behind(packet: bytes, *headers: int) -> bytes:
    """An IPv6 packet with these extension headers (8 bytes each) between its header and TCP."""
    numbers = [*headers, packet[6]]
    chain = b"".join(bytes([after, 0, 1, 4, 0, 0, 0, 0]) for after in numbers[1:])
    length = struct.unpack_from("!H", packet, 4)[0] + len(chain)
    return packet[:4] + struct.pack("!HB", length, numbers[0]) + packet[7:40] + chain + packet[40:]


def without(packet: bytes, *headers: int) -> bytes:
    """What `behind` made, without its extension headers, if they are as they were."""
    length, at = struct.unpack_from("!H", packet, 4)[0] - 8 * len(headers), 40 + 8 * len(headers)
    bare = packet[:4] + struct.pack("!HB", length, packet[at - 8]) + packet[7:40] + packet[at:]
    assert behind(bare, *headers) == packet
    return bare


def as_first_fragment(packet: bytes, length: int) -> bytes:
    """The first `length` bytes of an IPv4 packet, more to follow."""
    head = packet[:2] + struct.pack("!H", length) + packet[4:6] + b"\x20\0" + packet[8:10] + b"\0\0" + packet[12:20]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + packet[20:length]


@pytest.mark.parametrize(
    "packet",
    [
        tcp(*V4, flags=ACK, options=mss(1460)),
        tcp(*V4, b"data", flags=ACK, options=mss(1460)),
        tcp(*V4, flags=SYN, options=mss(1300)),
        tcp(*V4, flags=SYN, options=mss(536)),
        tcp(*V4, flags=SYN),
        tcp(*V4, flags=SYN, options=b"\x00" + mss(1460) + b"\x00\x00\x00"),
        tcp(*V4, flags=SYN, options=mss(1460), fragment=10),
        udp(*V4, b"\x02\x04\x05\xb4" * 5),
    ],
    ids=["no-syn", "no-syn-data", "equal", "small", "no-option", "after-end", "later-fragment", "udp"],
)
def test_clamp_leaves_alone_what_needs_nothing(packet: bytes) -> None:
    assert clamped(packet, 1300) == ("kept", packet)


@pytest.mark.parametrize(
    "packet",
    [
        tcp(*V4, b"data", flags=SYN, options=mss(1460)),
        tcp(*V6, b"x", flags=SYN | ACK, options=mss(1460)),
        tcp(*V4, flags=SYN, options=b"\x03\x00" + mss(1460) + b"\x01\x01"),
        tcp(*V4, flags=SYN, options=b"\x01\x01\x02\x05"),
        tcp(*V4, flags=SYN, options=b"\x02\x03\x05\x01" + mss(1460)),
        tcp(*V4, flags=SYN, options=b"\x02\x08\x05\xb4" + bytes(4)),
        tcp(*V4, flags=SYN, options=mss(1460) + mss(1440)),
        as_first_fragment(tcp(*V4, flags=SYN, options=mss(1460)), 40),
        as_first_fragment(tcp(*V4, flags=SYN, options=mss(1460)), 28),
        ip(*V4, 6, tcp(*V4, flags=SYN)[20:32] + b"\x40\x02" + bytes(6)),
        ip(*V6, 6, b""),
    ],
    ids=["data", "v6-data", "zero-length", "beyond", "mss-of-3", "mss-of-8", "two", "cut", "cut-before-flags", "header-of-16", "nothing"],
)  # fmt: skip
def test_odd_syns_pass_untouched_and_are_told_apart(packet: bytes) -> None:
    assert clamped(packet, 1300) == ("odd", packet)


@pytest.mark.parametrize("before", [(), (60,), (0, 43)])
def test_tcp_that_ah_covers_is_not_changed(before: tuple[int, ...]) -> None:
    ah = bytes([6, 4]) + bytes(22)
    syn = tcp(*V6, flags=SYN, options=mss(1460))
    packet = behind(ip(*V6, 51, ah + syn[40:]), *before)
    assert clamped(packet, 1300) == ("odd", packet)
    assert clamped(packet, 1460) == ("kept", packet)


def test_packet_that_is_cut_short_is_not_looked_at() -> None:
    packet = tcp(*V4, flags=SYN, options=mss(1460))[:38]
    assert clamped(packet, 1300) == ("bad", packet)


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
@pytest.mark.parametrize("lead", [b"", b"\x01", b"\x01\x01", b"\x01\x01\x01", b"\x03\x03\x07"])
def test_clamp_lowers_the_mss_and_keeps_the_checksum_good(ends: tuple[str, str], flags: int, lead: bytes) -> None:
    options = lead + mss(1460)
    options += b"\x01" * (-len(options) % 4)
    said, result = clamped(tcp(*ends, flags=flags, options=options), 1300)
    assert said == "clamped"
    assert lead + mss(1300) in result
    assert transport_is_sound(result)


@pytest.mark.parametrize("headers", [(0,), (43,), (60,), (0, 60), (60, 43, 60), (44,)])
def test_clamp_finds_tcp_behind_ipv6_extension_headers(headers: tuple[int, ...]) -> None:
    packet = behind(tcp(*V6, flags=SYN, options=mss(1460)), *headers)
    if headers == (44,):  # an atomic fragment
        packet = packet[:42] + bytes(2) + packet[44:]
        said, result = clamped(packet, 1300)
        result = result[:42] + b"\x01\x04" + result[44:]
    else:
        said, result = clamped(packet, 1300)
    assert said == "clamped"
    assert mss(1300) in result
    assert transport_is_sound(without(result, *headers))


def test_clamp_finds_tcp_behind_ipv4_options() -> None:
    said, result = clamped(tcp(*V4, flags=SYN, options=mss(1460)), 1300)
    options = b"\x94\x04\0\0"
    head = b"\x46" + result[1:2] + struct.pack("!H", len(result) + 4) + result[4:10] + b"\0\0" + result[12:20] + options
    packet = head[:10] + struct.pack("!H", checksum(head)) + head[12:] + tcp(*V4, flags=SYN, options=mss(1460))[20:]
    assert clamped(packet, 1300) == ("clamped", packet[:24] + result[20:])
    assert said == "clamped"


def test_first_fragment_that_holds_the_whole_tcp_header_is_clamped() -> None:
    whole = tcp(*V4, b"rest", flags=SYN, options=mss(1460))
    said, result = clamped(as_first_fragment(whole, 44), 1300)
    assert said == "clamped"
    joined = whole[:20] + result[20:] + b"rest"
    assert transport_is_sound(joined)
    assert mss(1300) in joined


@pytest.mark.parametrize("ends", [V4, V6])
def test_clamp_leaves_a_partial_checksum_as_it_is(ends: tuple[str, str]) -> None:
    packet = tcp(*ends, flags=SYN, options=mss(1460))
    at = header_length(packet) + 16
    said, result = clamped(packet, 1300, partial=True)
    assert said == "clamped"
    assert result[at : at + 2] == packet[at : at + 2]
    assert result == packet.replace(mss(1460), mss(1300))


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([V4, V6]), st.integers(0, 65535), st.integers(1, 65535), st.integers(0, 3), st.integers(0, 65535)
)
def test_clamp_never_raises_and_keeps_every_sum_good(
    ends: tuple[str, str], old: int, limit: int, nops: int, seq: int
) -> None:
    options = b"\x01" * nops + mss(old)
    packet = tcp(*ends, flags=SYN, options=options + b"\x01" * (-len(options) % 4), seq=seq)
    said, result = clamped(packet, limit)
    assert said == ("clamped" if old > limit else "kept")
    assert b"\x01" * nops + mss(min(old, limit)) in result
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
        udp("0.1.2.3", V4[1], b"x"),
        udp("127.0.0.1", V4[1], b"x"),
        udp("255.255.255.255", V4[1], b"x"),
        udp(V4[0], "255.255.255.255", b"x"),
        udp(V4[0], "0.0.0.0", b"x"),
        udp(V4[0], "127.0.0.1", b"x"),
        udp("::", V6[1], b"x"),
        udp("::1", V6[1], b"x"),
        udp("ff02::1", V6[1], b"x"),
        udp(V6[0], "ff02::1", b"x"),
        udp(V6[0], "::", b"x"),
        ip(*V6, 58, bytes([2, 0, 0, 0]) + bytes(1400)),
        ip(*V6, 58, bytes([137, 0, 0, 0]) + bytes(1400)),
        behind(ip(*V6, 58, bytes([1, 0, 0, 0]) + bytes(1400)), 60),
        icmp(*V4, 11, 0, b"x" * 1400),
    ],
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


@pytest.mark.parametrize(("mtu", "told"), [(0, 68), (67, 68), (68, 68), (1438, 1438), (70000, 65535)])
def test_ipv4_answer_tells_the_largest_inner_packet_and_never_below_68(mtu: int, told: int) -> None:
    assert struct.unpack_from("!H", too_big_answer(BIG, mtu), 26)[0] == told


def test_short_packet_is_quoted_whole() -> None:
    packet = udp(*V4, b"x" * 100)
    assert too_big_answer(packet, 68)[28:] == packet


def test_echo_requests_and_first_fragments_are_answered() -> None:
    assert too_big_answer(icmp(*V4, 8, 0, b"x" * 1400), 1300) != b""
    assert too_big_answer(ip(*V6, 58, bytes([128, 0, 0, 0]) + bytes(1400)), 1300) != b""
    assert too_big_answer(as_first_fragment(udp(*V4, b"x" * 2000), 1500), 1300) != b""


def test_of_a_super_packet_one_segment_is_quoted() -> None:
    big = tcp(*V4, b"x" * 20000)
    answer = too_big_answer(big, 1300, wire_length=1440)
    quoted = answer[28:]
    assert struct.unpack_from("!H", quoted, 2)[0] == 1440
    assert checksum(quoted[:20]) == 0
    assert quoted[20:] == big[20:548]
    assert checksum(answer[20:]) == 0
    big = tcp(*V6, b"x" * 20000)
    answer = too_big_answer(big, 1300, wire_length=1440)
    assert struct.unpack_from("!H", answer, 52)[0] == 1400
    assert answer[54:] == big[6:1232]
    assert checksum(pseudo(V6[1], V6[0], 58, len(answer) - 40) + answer[40:]) == 0
