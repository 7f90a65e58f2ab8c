"""Merging for the TUN: what must not be merged first, then that a merged frame splits into the very packets that went in."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_packets import ACK, CWR, ECE, FIN, PSH, icmp, tcp, udp

from ipsec_fast.dataplane.coalesce import merged
from ipsec_fast.dataplane.segment import segments

V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")
SINGLE = bytes(10)


def frames_of(packets: list[bytes]) -> list[bytes]:
    tun, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tun, other:
        for end in (tun, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
            end.setblocking(False)
        merged(packets, tun.fileno())
        return list(drain(other))


def drain(end: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield end.recv(70000)
        except BlockingIOError:
            return


def assert_apart(*packets: bytes) -> None:
    assert frames_of(list(packets)) == [SINGLE + p for p in packets]


def stream(ends: tuple[str, str], sizes: list[int], **fields: int) -> list[bytes]:
    packets, seq = [], 1000
    for number, size in enumerate(sizes):
        packets.append(tcp(*ends, bytes([number % 256]) * size, seq=seq, ident=number + 1, **fields))
        seq += size
    return packets


FIRST = tcp(*V4, b"a" * 100, seq=1000, ident=1)


@pytest.mark.parametrize(
    "second",
    [
        tcp(*V4, b"b" * 100, seq=1101, ident=2),
        tcp(*V4, b"b" * 101, seq=1100, ident=2),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, ack=6),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, window=501),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, tos=3),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, ttl=63),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, df=False),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, options=b"\x01\x01\x01\x01"),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, flags=ACK | FIN),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, flags=ACK | ECE),
        tcp(*V4, b"b" * 100, seq=1100, ident=2, flags=ACK | CWR),
        tcp(*V4, b"", seq=1100, ident=2),
        tcp(*V4, b"b" * 100, seq=1100, ident=2)[:-1] + b"x",
        tcp(*V4, b"b" * 100, seq=1100, ident=2, ports=(40001, 443)),
        tcp("10.1.0.2", V4[1], b"b" * 100, seq=1100, ident=2),
        udp(*V4, b"b" * 100, ports=(40000, 443)),
        icmp(*V4, 8, 0, b"1234"),
    ],
    ids=[
        "seq",
        "longer",
        "ack",
        "window",
        "tos",
        "ttl",
        "df",
        "options",
        "fin",
        "ece",
        "cwr",
        "empty",
        "checksum",
        "port",
        "address",
        "protocol",
        "icmp",
    ],
)
def test_packet_that_differs_is_not_merged(second: bytes) -> None:
    if second[9] == 1:  # of no flow: it may overtake
        assert sorted(frames_of([FIRST, second])) == sorted([SINGLE + FIRST, SINGLE + second])
    else:
        assert_apart(FIRST, second)


def test_nothing_joins_behind_push_or_a_short_one() -> None:
    assert_apart(tcp(*V4, b"a" * 100, seq=1000, flags=ACK | PSH), tcp(*V4, b"b" * 100, seq=1100))
    packets = stream(V4, [100, 50, 100])
    frames = frames_of(packets)
    assert [len(f) for f in frames] == [10 + 40 + 150, 10 + 140]


def test_fragments_and_ip_options_go_alone_untouched() -> None:
    assert_apart(udp(*V4, b"a" * 64, fragment=0x2000), udp(*V4, b"a" * 64, fragment=0x2000))
    assert_apart(udp(*V4, b"a" * 64, options=b"\x01" * 4), udp(*V4, b"a" * 64, options=b"\x01" * 4))


def test_udp_without_checksum_goes_alone() -> None:
    bare = bytearray(udp(*V4, b"a" * 64))
    bare[26:28] = b"\0\0"
    assert_apart(bytes(bare), bytes(bare))


def test_flow_is_written_before_its_packet_that_cannot_join() -> None:
    data = stream(V4, [100, 100])
    close = tcp(*V4, b"", seq=1200, flags=ACK | FIN)
    frames = frames_of([*data, close])
    assert len(frames[0]) == 10 + 40 + 200
    assert frames[1] == SINGLE + close


@pytest.mark.parametrize("ends", [V4, V6])
@pytest.mark.parametrize("sizes", [[1348] * 40, [100, 100, 7], [1, 1, 1], [60000, 5000]])
def test_merged_stream_splits_into_the_same_packets(ends: tuple[str, str], sizes: list[int]) -> None:
    packets = stream(ends, sizes)
    packets[-1] = tcp(*ends, packets[-1][-sizes[-1] :], seq=1000 + sum(sizes[:-1]), ident=len(sizes), flags=ACK | PSH)
    frames = frames_of(packets)
    assert len(frames) < len(packets)
    assert [p for f in frames for p in segments(f)[1]] == packets


@pytest.mark.parametrize("ends", [V4, V6])
def test_merged_datagrams_split_into_the_same_packets(ends: tuple[str, str]) -> None:
    packets = [udp(*ends, bytes([n]) * (1200 if n < 9 else 500), ident=n + 1) for n in range(10)]
    frames = frames_of(packets)
    assert len(frames) == 1
    assert segments(frames[0])[1] == packets


def test_frame_holds_at_most_64_segments_and_65535_bytes() -> None:
    assert len(frames_of(stream(V4, [10] * 65))) == 2
    assert all(len(f) <= 65545 for f in frames_of(stream(V4, [1400] * 50)))


def test_more_flows_than_the_table_has_are_all_delivered() -> None:
    packets = [tcp(*V4, b"x" * 10, ports=(port, 443)) for port in range(1000, 1040)]
    assert sorted(frames_of(packets)) == sorted(SINGLE + p for p in packets)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([10, 100, 100, 100]), st.booleans()), max_size=40))
def test_any_mix_arrives_whole_and_in_order_within_each_flow(plan: list[tuple[int, int, bool]]) -> None:
    make: list[Callable[..., bytes]] = [tcp, tcp, udp, udp]
    next_seq, ident, sent = [1000] * 4, [1] * 4, []
    for flow, size, push in plan:
        ends = V4 if flow % 2 == 0 else V6
        fields = {"seq": next_seq[flow], "flags": ACK | PSH if push else ACK} if flow < 2 else {}
        sent.append(make[flow](*ends, bytes([ident[flow]]) * size, ident=ident[flow], **fields))
        next_seq[flow] += size
        ident[flow] += 1
    arrived = [p for f in frames_of(sent) for p in (segments(f)[1] if f[1] else [f[10:]])]
    for version in (4, 6):
        for protocol in (6, 17):
            assert [p for p in arrived if of(p, version, protocol)] == [p for p in sent if of(p, version, protocol)]


def of(packet: bytes, version: int, protocol: int) -> bool:
    return packet[0] >> 4 == version and packet[9 if version == 4 else 6] == protocol


@pytest.mark.parametrize(("ends", "header"), [(V4, 20), (V6, 40)])
def test_merged_datagrams_say_of_themselves_what_the_kernel_demands(ends: tuple[str, str], header: int) -> None:
    packets = [udp(*ends, bytes([n]) * (900 if n < 63 else 1), ident=n + 1) for n in range(64)]
    (frame,) = frames_of(packets)
    needs_csum, udp_l4, udp_check_at = 1, 5, 6
    said = struct.unpack_from("=BBHHHH", frame)
    assert said == (needs_csum, udp_l4, header + 8, 900, header, udp_check_at)
    assert len(frame) - 10 - header - 8 <= 900 * 64
    assert struct.unpack_from("!H", frame, 10 + header + 4)[0] == len(frame) - 10 - header
