"""Bytes that no honest kernel or peer would deliver: the I/O side refuses them or passes them on, and stays within its memory."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_packets import SYN, icmp, tcp, udp

from ipsec_fast.dataplane.coalesce import merged
from ipsec_fast.dataplane.pmtu import clamped, too_big_answer
from ipsec_fast.dataplane.segment import segments
from ipsec_fast.dataplane.spd import Policy, Tables
from ipsec_fast.model import TrafficSelector

V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")
HONEST = [
    tcp(*V4, b"x" * 300),
    tcp(*V6, b"x" * 300, flags=SYN, options=struct.pack("!BBH", 2, 4, 1460)),
    udp(*V4, b"x" * 300, df=False, options=b"\x07\x04\x04\x00"),
    udp(*V6, b"x" * 300),
    icmp(*V4, 8, 0, b"x" * 100),
]
HEADERS = st.binary(min_size=10, max_size=10) | st.builds(
    lambda flags, kind, *words: struct.pack("=BBHHHH", flags, kind, *words),
    st.integers(0, 1),
    st.sampled_from([0, 1, 4, 5, 0x81]),
    *[st.integers(0, 400)] * 4,
)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(st.sampled_from(HONEST)))
    for at in draw(st.lists(st.integers(0, 60), max_size=4)):
        packet[at] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, len(packet)))] if draw(st.booleans()) else packet)


@settings(max_examples=1500, deadline=None)
@given(HEADERS, packets(), st.sampled_from([0, 0, 30, 68, 100, 1280]))
def test_segments_stay_within_what_was_read(vnet: bytes, packet: bytes, mtu: int) -> None:
    verdict, made = segments(vnet + packet, mtu=mtu)
    assert verdict == 0 or made == [] or mtu
    assert all(len(p) <= 65535 for p in made)


@settings(max_examples=800, deadline=None)
@given(st.lists(packets(), max_size=6))
def test_merging_takes_any_packet(batch: list[bytes]) -> None:
    tun, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tun, other:
        merged(batch, tun.fileno())


@settings(max_examples=800, deadline=None)
@given(packets(), st.integers(0, 65535))
def test_clamp_answer_and_lookup_take_any_packet(packet: bytes, number: int) -> None:
    everything = TrafficSelector.parse("0.0.0.0/0")
    said, left = clamped(packet, number)
    assert len(left) == len(packet)
    assert (said == "clamped") == (left != packet)
    assert len(too_big_answer(packet, number)) <= 1280
    Tables([], [Policy("discard", everything, everything)] * 5).find(packet)


def test_frame_shorter_than_its_virtio_header_is_refused() -> None:
    with pytest.raises(ValueError, match="10 bytes"):
        segments(b"short")
