"""Super-packets split: what lies first, then that each segment is a sound packet with the fields TSO and USO give it."""

from __future__ import annotations

import struct

import pytest
from inner_packets import ACK, CWR, FIN, PSH, checksum, header_length, tcp, transport_is_sound, udp

from ipsec_fast.dataplane.segment import segments
from ipsec_fast.dataplane.status import VERDICTS

NEEDS_CSUM, TCPV4, TCPV6, UDP_L4, ECN = 1, 1, 4, 5, 0x80
V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")


def vnet(gso_type: int = 0, size: int = 0, flags: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return struct.pack("=BBHHHH", flags, gso_type, 0, size, start, offset)


def payload_of(packet: bytes, transport: int) -> bytes:
    return packet[header_length(packet) + transport :]


@pytest.mark.parametrize(
    "frame",
    [
        vnet(TCPV4, 0) + tcp(*V4, b"x" * 3000),
        vnet(TCPV6, 1000) + tcp(*V4, b"x" * 3000),
        vnet(TCPV4, 1000) + udp(*V4, b"x" * 3000),
        vnet(UDP_L4, 1000) + tcp(*V4, b"x" * 3000),
        vnet(3, 1000) + udp(*V4, b"x" * 3000),
        vnet(TCPV4, 1000) + tcp(*V4, b""),
        vnet(0, 0, NEEDS_CSUM, 20, 2000) + tcp(*V4, b"x"),
        vnet(0, 0, NEEDS_CSUM, 4, 6) + tcp(*V4, b"x"),
        vnet() + b"\x45" * 10,
    ],
)
def test_lying_virtio_header_gives_bad_inner_and_no_packet(frame: bytes) -> None:
    assert segments(frame) == (VERDICTS["bad_inner"], [])


def test_packet_that_no_datagram_can_hold_is_refused() -> None:
    assert segments(vnet() + udp(*V4, b"x" * 65507)) == (VERDICTS["no_room"], [])


@pytest.mark.parametrize(("ends", "gso"), [(V4, TCPV4), (V6, TCPV6)])
@pytest.mark.parametrize("size", [1, 100, 1347, 1348, 4999, 5000])
def test_tcp_segments_are_sound_and_carry_the_stream(ends: tuple[str, str], gso: int, size: int) -> None:
    data = bytes(i * 7 % 256 for i in range(5000 if size > 1 else 300))
    verdict, packets = segments(
        vnet(gso, size) + tcp(*ends, data, seq=0xFFFFF000, ident=0xFFFE, options=b"\x01\x01\x08\x0a12345678")
    )
    assert verdict == 0
    assert b"".join(payload_of(p, 32) for p in packets) == data
    sent = 0
    for packet in packets:
        assert transport_is_sound(packet)
        assert struct.unpack_from("!I", packet, header_length(packet) + 4)[0] == (0xFFFFF000 + sent) % 2**32
        sent += len(payload_of(packet, 32))


def test_ip_identification_counts_and_wraps() -> None:
    _, packets = segments(vnet(TCPV4, 1000) + tcp(*V4, b"x" * 3000, ident=0xFFFE))
    assert [struct.unpack_from("!H", p, 4)[0] for p in packets] == [0xFFFE, 0xFFFF, 0]


def test_fin_and_push_stay_on_the_last_and_cwr_on_the_first() -> None:
    _, packets = segments(vnet(TCPV4 | ECN, 1000) + tcp(*V4, b"x" * 2500, flags=ACK | PSH | FIN | CWR))
    assert [p[33] for p in packets] == [ACK | CWR, ACK, ACK | PSH | FIN]


@pytest.mark.parametrize("ends", [V4, V6])
def test_udp_segments_are_datagrams_of_their_own(ends: tuple[str, str]) -> None:
    data = bytes(range(256)) * 10
    _, packets = segments(vnet(UDP_L4, 1000) + udp(*ends, data))
    assert all(transport_is_sound(p) for p in packets)
    assert [len(payload_of(p, 8)) for p in packets] == [1000, 1000, 560]
    assert b"".join(payload_of(p, 8) for p in packets) == data


@pytest.mark.parametrize(("packet", "offset"), [(tcp(*V4, b"odd"), 16), (udp(*V6, b"even"), 6)])
def test_single_packet_gets_its_checksum_completed(packet: bytes, offset: int) -> None:
    start = header_length(packet)
    body = len(packet) - start
    addresses = packet[12:20] if start == 20 else packet[8:40]
    words = struct.unpack(f"!{len(addresses) // 2}H", addresses)
    partial = sum(words) + body + (6 if offset == 16 else 17)
    partial = (partial & 0xFFFF) + (partial >> 16)
    raw = bytearray(packet)
    struct.pack_into("!H", raw, start + offset, (partial & 0xFFFF) + (partial >> 16))
    verdict, packets = segments(vnet(0, 0, NEEDS_CSUM, start, offset) + bytes(raw))
    assert (verdict, packets) == (0, [packet])


def test_single_packet_without_request_stays_as_it_is() -> None:
    broken = tcp(*V4, b"x")[:-1] + b"y"
    assert segments(vnet() + broken) == (0, [broken])


# fragments


def reassemble(fragments: list[bytes]) -> bytes:
    whole = bytearray()
    for f in fragments:
        at = (struct.unpack_from("!H", f, 6)[0] & 0x1FFF) * 8
        assert at == len(whole)
        whole += f[header_length(f) :]
    return bytes(whole)


@pytest.mark.parametrize("length", [1000, 1373, 1400, 3000, 9000])
def test_fragments_fit_and_reassemble(length: int) -> None:
    packet = udp(*V4, bytes(i % 251 for i in range(length)), df=False, ident=77)
    verdict, fragments = segments(vnet() + packet, mtu=1000)
    assert verdict == 0
    assert all(len(f) <= 1000 and transport_header_sound(f) for f in fragments)
    assert {f[4:6] for f in fragments} == {packet[4:6]}
    assert [f[6] >> 5 & 1 for f in fragments] == [1] * (len(fragments) - 1) + [0]
    assert reassemble(fragments) == packet[20:]


def transport_header_sound(packet: bytes) -> bool:
    return checksum(packet[: header_length(packet)]) == 0 and struct.unpack_from("!H", packet, 2)[0] == len(packet)


def test_fragment_of_a_fragment_keeps_more_fragments_and_offset() -> None:
    packet = udp(*V4, b"x" * 1992, df=False, fragment=0x2000 | 100)
    _, fragments = segments(vnet() + packet, mtu=1000)
    flags = [struct.unpack_from("!H", f, 6)[0] for f in fragments]
    assert flags == [0x2000 | 100, 0x2000 | 100 + 122, 0x2000 | 100 + 244]


def test_options_that_are_not_copied_become_nops_behind_the_first_fragment() -> None:
    record_route, copied = bytes([7, 4, 4, 0]), bytes([0x94, 4, 0, 0])
    _, fragments = segments(vnet() + udp(*V4, b"x" * 2000, df=False, options=record_route + copied), mtu=1000)
    assert fragments[0][20:28] == record_route + copied
    assert fragments[1][20:28] == bytes([1, 1, 1, 1]) + copied


def test_udp_super_packet_is_fragmented_datagram_by_datagram() -> None:
    _, fragments = segments(vnet(UDP_L4, 1200) + udp(*V4, b"a" * 1200 + b"b" * 1200, df=False, ident=5), mtu=1000)
    first, second = [f for f in fragments if f[5] == 5], [f for f in fragments if f[5] == 6]
    assert reassemble(first)[8:] == b"a" * 1200
    assert reassemble(second)[8:] == b"b" * 1200


def test_tcp_without_df_is_split_finer() -> None:
    _, packets = segments(vnet(TCPV4, 1400) + tcp(*V4, b"x" * 2800, df=False), mtu=1000)
    assert [len(p) for p in packets] == [1000, 1000, 920]
    assert all(transport_is_sound(p) for p in packets)


def test_mtu_without_room_for_a_fragment_is_refused() -> None:
    assert segments(vnet() + udp(*V4, b"x" * 100, df=False), mtu=24)[0] == VERDICTS["no_room"]
