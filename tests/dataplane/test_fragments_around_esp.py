"""The whole way of an outer fragment for an embedder: sealed, cut, out of order, joined, opened. And what hides in between."""

from __future__ import annotations

import random
import time

import pytest
from fragment_packets import udp_v4, udp_v6
from kernel_packets import OUTERS, key_of, open_batch, seal

from ipsec_fast import SA, Reassembler, fragment_packet
from ipsec_fast.model import OuterHeader


def two(outer: str, **more: object) -> tuple[SA, SA]:
    common = {**OUTERS[outer], "header": OuterHeader(df="clear"), **more}
    algorithm, key = "aes128gcm16", key_of("aes128gcm16")
    return SA("out", 0x1001, algorithm, key, **common), SA("in", 0x1001, algorithm, key, **common)  # type: ignore[arg-type]


@pytest.mark.parametrize("outer", ["v4", "v6", "v4udp", "v6udp"])
def test_sealed_packets_cut_shuffled_and_joined_open(outer: str) -> None:
    chance, (out, into) = random.Random(5), two(outer)
    inner = [udp_v4(3000 + i) for i in range(20)] + [udp_v6(2000 + i) for i in range(20)]
    sealed = seal(inner, out)
    pieces = [(i, piece) for i, packet in enumerate(sealed) for piece in fragment_packet(packet, 1280)]
    assert len(pieces) > 2 * len(sealed)
    chance.shuffle(pieces)
    table = Reassembler()
    whole = [packet for _, piece in pieces if (packet := table.push(piece, 0.0)) is not None]
    assert set(whole) == set(sealed)
    opened = open_batch(whole, into)
    assert set(opened.names) == {"ok"}
    assert set(opened.packets) == set(inner)


def test_a_fragment_that_nobody_joined_is_refused_before_the_window_is_looked_at() -> None:
    out, into = two("v4")
    (sealed,) = seal([udp_v4(2000)], out)
    first, second = fragment_packet(sealed, 1280)
    assert open_batch([first, second], into).names == ["outer_fragment"] * 2
    assert open_batch([sealed], into).names == ["ok"]


def test_a_forged_overlap_costs_the_datagram_and_not_the_sa() -> None:
    out, into = two("v4")
    one, other = seal([udp_v4(2000), udp_v4(2001)], out)
    first, second = fragment_packet(one, 1280)
    forged = first[:-8] + b"\xee" * 8
    table = Reassembler()
    assert [table.push(p, 0.0) for p in (first, forged, second)] == [None] * 3
    assert open_batch([p for piece in fragment_packet(other, 1280) if (p := table.push(piece, 0.0))], into).names == [
        "ok"
    ]


@pytest.mark.parametrize("options", [b"\x07\0" * 20, b"\x07\1" * 20, b"\x94\xff" + bytes(38), b"\x01" * 40, bytes(40)])
def test_options_without_length_end_the_walk_over_them(options: bytes) -> None:
    began = time.perf_counter()
    for _ in range(100):
        assert len(fragment_packet(udp_v4(60000, options=options), 576)) > 100
    assert time.perf_counter() - began < 5
