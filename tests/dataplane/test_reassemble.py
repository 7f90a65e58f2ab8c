"""Reassembly: what is refused first, then the bounds, then every order of sound pieces, and all of it against a slow twin."""

from __future__ import annotations

import itertools
import random

import pytest
from fragment_packets import piece, piece_v4, piece_v6, udp_v4, udp_v6
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_reassembler import SlowReassembler

from ipsec_fast import Reassembler, fragment_packet
from ipsec_fast.dataplane.status import NAMES
from ipsec_fast.errors import UsageError

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def push(table: Reassembler, packet: bytes, now: float = 0.0) -> tuple[str, bytes | None]:
    verdict, whole = table.push_for_verdict(packet, now)
    return ("held" if verdict == 0 and whole is None else NAMES[verdict]), whole


def names(packets: list[bytes], table: Reassembler | None = None) -> list[str]:
    table = table or Reassembler()
    return [push(table, p)[0] for p in packets]


# --- what is refused


@VERSIONS
def test_overlap_drops_the_datagram_and_its_later_pieces(version: int) -> None:
    table = Reassembler()
    pieces = [
        piece(version, 0, b"a" * 24, True),
        piece(version, 16, b"b" * 24, True),
        piece(version, 40, b"c" * 8, False),
        piece(version, 0, b"a" * 24, True),
    ]
    assert names(pieces, table) == ["held"] + ["fragment_overlap"] * 3
    assert table.counters()["drop_fragment_overlap"] == 4
    assert table.counters()["held_fragments"] == 0


@VERSIONS
@pytest.mark.parametrize(
    "second",
    [(8, b"b" * 8, True), (0, b"b" * 24, True), (0, b"b" * 16, True), (0, b"b" * 32, True), (16, b"a" * 8, False)],
    ids=["inside", "other bytes", "shorter", "longer", "ends inside"],
)
def test_every_kind_of_overlap_is_refused(version: int, second: tuple[int, bytes, bool]) -> None:
    assert names([piece(version, 0, b"a" * 24, True), piece(version, *second)])[-1] == "fragment_overlap"


@VERSIONS
def test_piece_of_two_neighbours_is_an_overlap_and_no_copy(version: int) -> None:
    pieces = [
        piece(version, 0, b"a" * 16, True),
        piece(version, 16, b"a" * 16, True),
        piece(version, 0, b"a" * 32, True),
    ]
    assert names(pieces) == ["held", "held", "fragment_overlap"]


@VERSIONS
def test_two_ends_of_one_datagram_are_refused(version: int) -> None:
    assert names([piece(version, 64, b"z" * 8, False), piece(version, 32, b"z" * 8, False)])[-1] == "fragment_overlap"
    assert names([piece(version, 64, b"z" * 8, False), piece(version, 72, b"z" * 8, True)])[-1] == "fragment_overlap"
    assert names([piece(version, 64, b"z" * 8, True), piece(version, 32, b"z" * 8, False)])[-1] == "fragment_overlap"


@VERSIONS
def test_exact_copy_is_dropped_alone(version: int) -> None:
    table, data = Reassembler(), bytes(range(40))
    first, last = piece(version, 0, data[:24], True), piece(version, 24, data[24:], False)
    assert names([first, first, first], table) == ["held", "fragment_duplicate", "fragment_duplicate"]
    assert push(table, last)[1][-40:] == data


@pytest.mark.parametrize(
    ("protocol", "least"), [(6, 20), (17, 8), (50, 8), (1, 8), (33, 12), (132, 12), (136, 8), (51, 12)]
)
def test_ipv4_first_piece_without_the_transport_header_is_tiny(protocol: int, least: int) -> None:
    if least > 8:
        assert names([piece_v4(0, b"\0" * 8, True, protocol=protocol)]) == ["fragment_tiny"]
        assert names([piece_v4(8, b"\0" * 8, True, protocol=protocol)]) == ["fragment_tiny"]  # its first piece is one
    assert names([piece_v4(0, b"\0" * (least + 7 & ~7), True, protocol=protocol)]) == ["held"]


def test_tcp_options_belong_to_the_header() -> None:
    tcp = bytes(12) + b"\xa0" + bytes(27)  # 40 bytes
    assert names([piece_v4(0, tcp[:32], True, protocol=6)]) == ["fragment_tiny"]
    assert names([piece_v4(0, tcp[:40], True, protocol=6)]) == ["held"]
    assert names([piece_v6(0, tcp[:32], True, protocol=6)]) == ["fragment_tiny"]


def test_ipv6_first_piece_must_hold_the_whole_chain() -> None:
    options = b"\x11\x02" + bytes(22)
    assert names([piece_v6(0, options[:8], True, protocol=60)]) == ["fragment_tiny"]
    assert names([piece_v6(0, options, True, protocol=60)]) == ["fragment_tiny"]  # and the UDP header behind it
    assert names([piece_v6(0, options + bytes(8), True, protocol=60)]) == ["held"]


def test_second_fragment_header_is_refused() -> None:
    again = b"\x11\0\0\1" + bytes(4) + bytes(8)
    for more in (True, False):
        assert names([piece_v6(0, again, more, protocol=44)]) == ["bad_outer"]


def test_ninth_extension_header_is_refused() -> None:
    def chain(n: int) -> bytes:
        return b"".join((b"\x3c" if i < n - 1 else b"\x2c") + bytes(7) for i in range(n))

    assert names([piece_v6(0, bytes(8), True, before=chain(7))]) == ["held"]
    assert names([piece_v6(0, bytes(8), True, before=chain(8))]) == ["bad_outer"]


@VERSIONS
def test_piece_before_the_last_has_a_multiple_of_eight(version: int) -> None:
    assert names([piece(version, 0, b"x" * n, True) for n in (9, 15, 23)]) == ["fragment_length"] * 3
    assert names([piece(version, 8, b"", more) for more in (True, False)]) == ["fragment_length"] * 2


@VERSIONS
def test_ping_of_death_is_too_long(version: int) -> None:
    assert (
        names([piece(version, 65528, b"x" * 8, False), piece(version, 65528, b"x" * 400, True)])
        == ["fragment_too_long"] * 2
    )


def test_headers_that_make_it_too_long_are_seen_when_it_is_whole() -> None:
    pieces = [piece_v4(at, b"x" * 8184, True) for at in range(8184, 8184 * 8, 8184)]
    pieces += [piece_v4(8184 * 8, b"x" * 43, False), piece_v4(0, b"x" * 8184, True, options=b"\1" * 40)]
    assert names(pieces)[-2:] == ["held", "fragment_too_long"]


def test_truncated_and_lying_fragments_are_refused() -> None:
    for packet in (piece_v4(0, b"x" * 64, True), piece_v6(0, b"x" * 64, True)):
        for length in range(20 if packet[0] >> 4 == 4 else 41, len(packet)):
            assert names([packet[:length]])[0] == "bad_outer", length


# --- congestion marks (RFC 3168 section 5.3)


@VERSIONS
@pytest.mark.parametrize("marks", list(itertools.product(range(4), repeat=3)))
def test_a_mark_on_one_piece_is_on_the_whole_or_drops_it(version: int, marks: tuple[int, int, int]) -> None:
    pieces = [piece(version, 8 * i, b"x" * 8, i < 2, tos=0xB8 | ecn) for i, ecn in enumerate(marks)]
    table = Reassembler()
    name, whole = [push(table, p) for p in pieces][-1]
    if 0 in marks and 3 in marks:
        assert (name, whole) == ("bad_ecn", None)
        return
    assert whole is not None
    tos = whole[1] if version == 4 else (whole[0] << 4 | whole[1] >> 4) & 0xFF
    assert tos == 0xB8 | (3 if 3 in marks else marks[0])


# --- bounds


def test_memory_is_taken_once_and_the_oldest_goes_first() -> None:
    table = Reassembler(memory_bytes=1 << 16, datagrams=64)
    before = table.allocated_bytes
    assert before < (1 << 16) + 64 * 3000 + 80_000
    for i in range(10_000):
        push(table, piece_v6(0, bytes(1232), True, ident=i))
    assert table.allocated_bytes == before
    assert table.held == 32  # blocks of 2 KiB in 64 KiB
    assert table.counters()["drop_fragment_evicted"] == 10_000 - 32
    assert push(table, piece_v6(1232, bytes(8), False, ident=9_990))[0] == "ok"
    assert push(table, piece_v6(1232, bytes(8), False, ident=9_900))[0] == "held"


def test_number_of_datagrams_is_bounded() -> None:
    table = Reassembler(datagrams=4)
    assert names([piece_v4(0, bytes(8), True, ident=i) for i in range(9)], table) == ["held"] * 9
    assert table.held == 4
    assert table.counters()["drop_fragment_evicted"] == 5


def test_dead_datagrams_are_bounded_too() -> None:
    table = Reassembler(datagrams=4)
    for i in range(50):
        names([piece_v4(0, bytes(16), True, ident=i), piece_v4(8, bytes(16), True, ident=i)], table)
    assert table.held == 4
    assert table.counters()["drop_fragment_overlap"] == 100


def test_one_datagram_of_the_largest_size_fits_the_smallest_memory() -> None:
    table, packet = Reassembler(memory_bytes=1 << 16, datagrams=2), udp_v4(65535)
    push(table, piece_v4(0, bytes(8), True, ident=77))
    assert [push(table, p) for p in reversed(fragment_packet(packet, 68))][-1] == ("ok", packet)


@VERSIONS
def test_what_waits_too_long_is_dropped_and_its_late_piece_begins_anew(version: int) -> None:
    table = Reassembler(timeout_s=30)
    push(table, piece(version, 0, bytes(8), True), 100.0)
    assert push(table, piece(version, 16, bytes(8), False), 129.9)[0] == "held"
    assert push(table, piece(version, 8, bytes(8), True), 130.0)[0] == "held"
    assert table.counters()["drop_fragment_timeout"] == 2
    table.expire(160.0)
    assert (table.held, table.counters()["drop_fragment_timeout"]) == (0, 3)


@pytest.mark.parametrize(
    "bounds",
    [{"memory_bytes": 65535}, {"datagrams": 0}, {"timeout_s": 0}, {"timeout_s": 1e9}, {"memory_bytes": 1 << 40}],
)
def test_bounds_out_of_range_are_refused(bounds: dict) -> None:
    with pytest.raises(UsageError, match="reassembly takes"):
        Reassembler(**bounds)


# --- what is let through


@pytest.mark.parametrize("packet", [udp_v4(100), udp_v4(100, df=True), udp_v6(100), b"", b"\x45", b"\0" * 60])
def test_what_is_no_fragment_passes_unchanged(packet: bytes) -> None:
    table = Reassembler()
    assert table.push(packet, 0.0) == packet
    assert table.held == 0


def test_atomic_fragment_is_whole_and_touches_nothing_held() -> None:
    table = Reassembler()
    push(table, piece_v6(8, b"b" * 8, False))
    name, whole = push(table, piece_v6(0, b"12345678abcd", False))
    assert (name, whole) == ("ok", udp_v6(52)[:40] + b"12345678abcd")
    assert push(table, piece_v6(0, b"a" * 8, True))[1][40:] == b"a" * 8 + b"b" * 8


@VERSIONS
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_gives_the_packet(version: int, order: tuple[int, ...]) -> None:
    packet = udp_v4(1000, options=b"\x07\x04\x04\0") if version == 4 else udp_v6(1000)
    pieces = fragment_packet(packet, 320, 5)
    assert len(pieces) == 4
    table = Reassembler()
    assert [push(table, pieces[i]) for i in order] == [("held", None)] * 3 + [("ok", packet)]


def test_id_protocol_and_addresses_tell_datagrams_apart() -> None:
    table = Reassembler()
    first = piece_v4(0, b"a" * 8, True, ident=3)
    strangers = [
        piece_v4(8, b"b" * 8, False, ident=4),
        piece_v4(8, b"b" * 8, False, ident=3, protocol=50),
        piece_v4(8, b"b" * 8, False, ident=3)[:12] + b"\x0a\1\0\2" + piece_v4(8, b"b" * 8, False)[16:],
    ]
    assert names([first, *strangers], table) == ["held"] * 4


# --- against the twin


@st.composite
def disorder(draw: st.DrawFn) -> list[tuple[bytes, float]]:
    """Pieces of few datagrams over few places, so that copies, overlaps and ends meet; and some broken ones."""
    sizes = st.sampled_from([0, 8, 8, 16, 16, 24, 7, 12])
    made, now = [], 0.0
    for _ in range(draw(st.integers(1, 24))):
        version = draw(st.sampled_from([4, 6]))
        size, offset = draw(sizes), draw(st.sampled_from([0, 0, 8, 16, 24, 32, 40, 65488, 65512, 65528]))
        data = bytes([draw(st.sampled_from([1, 1, 1, 0xA0]))]) * size
        fields: dict = {"ident": draw(st.integers(1, 2)), "tos": draw(st.sampled_from([0, 1, 2, 2, 2, 3]))}
        fields["protocol"] = draw(st.sampled_from([17, 17, 17, 6, 50, 60 if version == 6 else 47]))
        now += draw(st.sampled_from([0, 0, 0, 1, 14, 29.9]))
        made.append((piece(version, offset, data, draw(st.booleans()), **fields), now))
    return made


@settings(max_examples=2000, deadline=None)
@given(disorder())
def test_disorder_is_judged_as_by_the_twin(packets: list[tuple[bytes, float]]) -> None:
    table, slow = Reassembler(), SlowReassembler()
    for packet, now in packets:
        assert push(table, packet, now) == slow.push(packet, now)
    counted = table.counters()
    drops = sum(n for name, n in counted.items() if name.startswith("drop_"))
    assert counted["joined_fragments"] + counted["held_fragments"] + drops == len(
        [p for p, _ in packets if p[0] >> 4 == 6 or p[6:8] != b"\0\0"]
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4, 6]), st.integers(60, 5000), st.integers(120, 1500), st.integers(0, 3))
def test_shuffled_and_copied_pieces_of_two_packets_give_both(
    seed: int, version: int, length: int, mtu: int, copies: int
) -> None:
    chance = random.Random(seed)
    packets = [udp_v4(length, ident=i) if version == 4 else udp_v6(length, tos=4 * i) for i in (1, 2)]
    pieces = [p for i, packet in enumerate(packets) for p in fragment_packet(packet, mtu, i)]
    if len(pieces) > 2:
        pieces += chance.choices(pieces, k=copies)
    chance.shuffle(pieces)
    table, slow = Reassembler(memory_bytes=1 << 16), SlowReassembler()
    results = [push(table, p) for p in pieces]
    assert results == [slow.push(p, 0.0) for p in pieces]
    assert {whole for _, whole in results if whole} == set(packets)


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=90), st.integers(0, 3)), max_size=12))
def test_any_bytes_are_survived(packets: list[tuple[bytes, int]]) -> None:
    table = Reassembler(memory_bytes=1 << 16, datagrams=2)
    for tail, kind in packets:
        start = (b"", b"\x45\0", b"\x60\0\0\0\0\x20\x2c", b"\x60\0\0\0\0\x28\0")[kind]
        table.push(start + tail, 0.0)
    assert table.held <= 2
