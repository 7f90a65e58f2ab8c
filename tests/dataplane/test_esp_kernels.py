"""esp_outbound and esp_inbound, for every suite: what must be dropped first, then numbers, windows, headers."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from kernel_packets import (
    KINDS,
    OUTERS,
    SUITES,
    Slots,
    ipv4,
    ipv6,
    key_of,
    ones_sum,
    open_batch,
    pair,
    seal,
    verdicts_of,
)

from ipsec_fast import SA, open_for_test, protect, seal_with_iv_for_test, unprotect
from ipsec_fast.algorithms import Mode, esp_suite
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import IntegrityError

pytestmark = pytest.mark.usefixtures("each_engine")
TOP32 = 1 << 32
on_every_suite = pytest.mark.parametrize("algorithm", KINDS)  # test_esp_suites.py runs all of them
with_every_outer = pytest.mark.parametrize("outer", list(OUTERS))


def craft(algorithm: str, plain: bytes, seq: int = 1, spi: int = 0x1001) -> bytes:
    """A packet with a valid ICV round any plaintext, padding and trailer included, made by the bare engine."""
    header = struct.pack("!II", spi, seq)
    cipher, key = esp_suite(algorithm).encryption, key_of(algorithm)
    salt = key[cipher.key_bytes : cipher.keymat_bytes]
    iv = {Mode.CBC: bytes(range(16)), Mode.NULL: b""}.get(cipher.mode, struct.pack("!Q", seq))
    ciphertext, icv = engine.seal_for_test(algorithm, key, salt + iv, header, plain)
    return header + (iv if cipher.iv_bytes else b"") + ciphertext + icv


def trailer(length: int, align: int, next_header: int = 4) -> bytes:
    pad = -(length + 2) % align
    return bytes(range(1, pad + 1)) + bytes([pad, next_header])


def align_of(algorithm: str) -> int:
    return esp_suite(algorithm).encryption.block_bytes


# --- inbound: refused -------------------------------------------------------------------------------------------------


@on_every_suite
@pytest.mark.parametrize("esn", [False, True])
def test_every_length_from_0_to_200_is_dropped(algorithm, esn):
    _, sa = pair(algorithm, esn=esn)
    good = struct.pack("!II", 0x1001, 1) + bytes(192)
    suite = esp_suite(algorithm)
    shortest = 8 + suite.encryption.iv_bytes + suite.icv_bytes + 2
    for length in range(201):
        name = verdicts_of([good[:length]], sa)[0]
        if length < shortest:
            assert name == "runt"
        elif (length - shortest + 2) % align_of(algorithm):
            assert name == "bad_length"
        else:
            assert name == "bad_icv"
    assert sa.seq == 0


@on_every_suite
def test_pad_length_0_to_255_with_a_valid_icv(algorithm):
    inner, align = ipv4(40), align_of(algorithm)
    for pad in range(256):
        sa = pair(algorithm)[1]
        filler = -(len(inner) + pad + 2) % align  # TFC padding keeps the length right
        body = inner + bytes(filler) + bytes(range(1, pad + 1)) + bytes([pad, 4])
        assert open_for_test(sa, craft(algorithm, body)) == inner
        # the same pad length in a packet that is shorter than it
        short = bytes(align - 2 if pad > align - 2 else 0) + bytes([pad, 4])
        if len(short) % align == 0 and pad:
            assert verdicts_of([craft(algorithm, short, 2)], sa) == ["bad_padding"]


@on_every_suite
def test_padding_that_is_not_1_2_3_is_dropped(algorithm):
    align = align_of(algorithm)
    for wrong in range(6):
        body = bytearray(ipv4(40) + bytes(-(40 + 6 + 2) % align) + bytes(range(1, 7)) + bytes([6, 4]))
        body[-3 - wrong] ^= 0x80
        assert verdicts_of([craft(algorithm, bytes(body))], pair(algorithm)[1]) == ["bad_padding"]


@on_every_suite
def test_every_next_header_but_4_41_59_is_dropped(algorithm):
    sa = pair(algorithm)[1]
    inner = ipv4(44)
    packets = [craft(algorithm, inner + trailer(44, align_of(algorithm), n), n + 1) for n in range(256)]
    for n, name in enumerate(verdicts_of(packets, sa)):
        wanted = {4: "ok", 41: "bad_inner", 59: "dummy"}.get(n, "bad_next_header")
        assert name == wanted, n


@on_every_suite
@pytest.mark.parametrize(
    "inner",
    [
        b"",
        ipv4(40)[:19],
        b"\x44" + ipv4(40)[1:],  # header length 16
        b"\x65" + ipv4(40)[1:],  # version 6 under next header 4
        ipv4(40)[:2] + struct.pack("!H", 19) + ipv4(40)[4:],
        ipv4(40)[:2] + struct.pack("!H", 41) + ipv4(40)[4:],
        ipv4(40)[:2] + struct.pack("!H", 65535) + ipv4(40)[4:],
    ],
)
def test_inner_lengths_that_lie_are_dropped(algorithm, inner):
    body = inner + trailer(len(inner), align_of(algorithm))
    assert verdicts_of([craft(algorithm, body)], pair(algorithm)[1]) == ["bad_inner"]


@on_every_suite
def test_inner_ipv6_length_that_lies_is_dropped(algorithm):
    for inner in (ipv6(60)[:39], ipv6(60)[:4] + struct.pack("!H", 21) + ipv6(60)[6:]):
        body = inner + trailer(len(inner), align_of(algorithm), 41)
        assert verdicts_of([craft(algorithm, body)], pair(algorithm)[1]) == ["bad_inner"]


@on_every_suite
def test_bad_icv_zeroes_its_own_region_and_nothing_else(algorithm):
    out, into = pair(algorithm)
    good = seal([ipv4(100)] * 3, out)
    forged = good[1][:-1] + bytes([good[1][-1] ^ 1])
    slots = Slots([good[0], forged, good[2]], into, 8, 8)
    start, end = int(slots.offsets[1]), int(slots.offsets[1]) + len(forged)
    assert unprotect(slots.batch) == 2
    assert slots.names == ["ok", "bad_icv", "ok"]
    assert not slots.buffer[start:end].any()
    assert (slots.buffer[start - 8 : start] == 0xEE).all()
    assert (slots.buffer[end : end + 8] == 0xEE).all()
    assert slots.packets == [ipv4(100), b"", ipv4(100)]


@on_every_suite
def test_forged_high_number_leaves_the_window_unchanged(algorithm):
    out, into = pair(algorithm, window=64)
    sealed = seal([ipv4(60)] * 10, out)
    forged = sealed[0][:4] + struct.pack("!I", 0xFFFFFFF0) + sealed[0][8:]
    assert verdicts_of([sealed[5], forged, sealed[6]], into) == ["ok", "bad_icv", "ok"]
    assert into.seq == 7
    assert verdicts_of(sealed[:5], into) == ["ok"] * 5


def test_wrong_spi_is_dropped():
    out, into = pair()
    sealed = seal([ipv4(60)], out)[0]
    assert verdicts_of([b"\0\0\x10\x02" + sealed[4:]], into) == ["wrong_spi"]


def test_sequence_number_zero_is_dropped():
    assert verdicts_of([craft("aes128gcm16", ipv4(42) + trailer(42, 4), 0)], pair()[1]) == ["replay_old"]


# --- replay -------------------------------------------------------------------------------------------------------------


@on_every_suite
def test_duplicates_within_one_batch_are_dropped(algorithm):
    out, into = pair(algorithm)
    a, b, c = seal([ipv4(60)] * 3, out)
    assert verdicts_of([a, b, a, c, c, b], into) == ["ok", "ok", "replay_seen", "ok", "replay_seen", "replay_seen"]
    assert verdicts_of([a, b, c], into) == ["replay_seen"] * 3


def test_a_batch_that_moves_the_window_drops_what_falls_behind_it_inside_the_batch():
    out, into = pair(window=64)
    sealed = seal([ipv4(60)] * 200, out)
    assert verdicts_of([sealed[199], sealed[0], sealed[135], sealed[136]], into) == [
        "ok",
        "replay_old",
        "replay_old",
        "ok",
    ]


@on_every_suite
@pytest.mark.parametrize("window", [64, 1024, 65536, 1 << 20])
def test_reorder_within_the_window_is_accepted(algorithm, window):
    out, into = pair(algorithm, window=window)
    sealed = seal([ipv4(60)] * 128, out)
    shuffled = [sealed[i ^ 31] for i in range(128)]
    assert verdicts_of(shuffled, into) == ["ok"] * 128


@on_every_suite
def test_esn_crosses_2_to_the_32(algorithm):
    out, into = pair(algorithm, esn=True, window=64, seqs=(TOP32 - 20, TOP32 - 20))
    inner = [ipv4(60, fill=i) for i in range(40)]
    sealed = seal(inner, out)
    assert [struct.unpack("!I", p[4:8])[0] for p in sealed] == [(TOP32 - 19 + i) % TOP32 for i in range(40)]
    late = sealed[18]  # the last before the wrap, behind packets that came after it
    rest = sealed[:18] + sealed[19:]
    slots = open_batch([*rest, late], into)
    assert set(slots.names) == {"ok"}
    assert slots.packets == [*inner[:18], *inner[19:], inner[18]]
    assert into.seq == TOP32 + 20
    assert verdicts_of([late], into) == ["replay_seen"]


@on_every_suite
def test_esn_and_no_esn_do_not_open_each_other(algorithm):
    out, _ = pair(algorithm, esn=True)
    assert verdicts_of(seal([ipv4(60)], out), pair(algorithm)[1]) == ["bad_icv"]
    out, _ = pair(algorithm)
    assert verdicts_of(seal([ipv4(60)], out), pair(algorithm, esn=True)[1]) == ["bad_icv"]


@on_every_suite
def test_esn_high_half_is_authenticated(algorithm):
    out, _ = pair(algorithm, esn=True, seqs=(TOP32 + 5, 0))
    assert verdicts_of(seal([ipv4(60)], out), pair(algorithm, esn=True)[1]) == ["bad_icv"]


# --- numbers ---------------------------------------------------------------------------------------------------------------


def outbound_verdicts(sa: SA, n: int) -> list[str]:
    slots = Slots([ipv4(60)] * n, sa, sa.headroom, sa.tailroom)
    protect(slots.batch)
    return slots.names


def test_no_number_above_the_watermark_is_used():
    sa, _ = pair(granted=3)
    assert outbound_verdicts(sa, 5) == ["ok"] * 3 + ["no_grant"] * 2
    assert sa.seq == 3
    sa.set_grant(4)
    assert outbound_verdicts(sa, 2) == ["ok", "no_grant"]
    assert sa.counters()["no_grant"] == 3


@on_every_suite
def test_without_esn_the_last_number_is_2_to_the_32_minus_1(algorithm):
    sa, _ = pair(algorithm, seqs=(TOP32 - 3, TOP32 - 3))
    assert outbound_verdicts(sa, 4) == ["ok", "ok", "seq_exhausted", "seq_exhausted"]
    assert sa.seq == TOP32 - 1
    sa.set_grant(1 << 63)
    assert outbound_verdicts(sa, 1) == ["seq_exhausted"]


def test_a_new_sa_is_wanted_at_three_quarters():
    last = TOP32 - 1
    assert SA("out", 0x1001, key=key_of("aes128gcm16"), seq=last // 4 * 3).soft_limit_reached
    assert not SA("out", 0x1001, key=key_of("aes128gcm16"), seq=last // 4 * 3 - 1).soft_limit_reached


def test_dropped_packets_use_no_number_and_stay_as_they_were():
    sa, _ = pair()
    bad = b"\x50" + ipv4(60)[1:]
    slots = Slots([ipv4(60), bad, ipv4(60)], sa, sa.headroom, sa.tailroom)
    at = int(slots.offsets[1])
    assert protect(slots.batch) == 2
    assert slots.names == ["ok", "bad_inner", "ok"]
    assert bytes(slots.buffer[at : at + 60]) == bad
    assert slots.lengths[1] == 0  # nobody sends it on by mistake
    assert sa.seq == 2


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("algorithm", [a for a in SUITES if esp_suite(a).encryption.iv_bytes == 8])
def test_explicit_iv_is_the_64_bit_number(algorithm, esn):
    start = TOP32 - 70 if esn else 0
    out, _ = pair(algorithm, esn=esn, seqs=(start, 0))
    ivs = [p[8:16] for p in seal([ipv4(60)] * 150, out)]
    assert ivs == [struct.pack("!Q", start + 1 + i) for i in range(150)]


@pytest.mark.parametrize("algorithm", [a for a in SUITES if esp_suite(a).encryption.mode is Mode.CBC])
def test_cbc_ivs_never_repeat_and_do_not_follow_from_the_last_packet(algorithm):
    out, _ = pair(algorithm)
    sealed = [p for _ in range(20) for p in seal([ipv4(60)] * 64, out)]
    ivs = [p[8:24] for p in sealed]
    assert len(set(ivs)) == len(ivs)
    blocks = {p[i : i + 16] for p in sealed for i in range(24, len(p) - 16, 16)}
    assert not blocks & set(ivs)
    ones = sum(int.from_bytes(iv, "big").bit_count() for iv in ivs)
    mean, spread = len(ivs) * 64, (len(ivs) * 32) ** 0.5  # binomial(128 n, 1/2)
    assert abs(ones - mean) < 6 * spread


def test_a_child_of_fork_has_ivs_of_its_own():
    """It inherits the keystream that IVs are made of, and may use none of it, not even with an SA of its own under the same key."""
    script = """
import os, sys
import numpy as np
from ipsec_fast import SA, PacketBatch, protect
def ivs(count):
    found = []
    for _ in range(count):
        offsets[0], lengths[0] = 64, 20
        buffer[64:84] = list(bytes.fromhex("45000014") + bytes(16))
        assert protect(batch) == 1
        found.append(bytes(buffer[offsets[0] + 8 : offsets[0] + 24]).hex())
    return found
buffer, offsets, lengths = np.zeros(256, np.uint8), np.array([64], np.uint32), np.array([20], np.uint32)
def bound():
    return PacketBatch(buffer, offsets, lengths, SA("out", 300, "aes128-sha256", bytes(48)), np.zeros(1, np.uint8))
batch = bound()
before = ivs(5)
child = os.fork()
if child == 0:
    batch = bound()
after = ivs(100)
if child:
    os.waitpid(child, 0)
print("child" if child == 0 else "parent", *after, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    words = [line.split() for line in done.stdout.splitlines()]
    assert sorted(line[0] for line in words) == ["child", "parent"]
    assert [len(line) for line in words] == [101, 101]
    assert len({iv for line in words for iv in line[1:]}) == 200


def test_two_generators_give_other_ivs():
    sealed = [seal([ipv4(60)], pair("aes128-sha256")[0])[0] for _ in range(8)]
    assert len({p[8:24] for p in sealed}) == 8


# --- headers ---------------------------------------------------------------------------------------------------------------


@on_every_suite
@with_every_outer
@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_every_length_comes_back(algorithm, outer, make):
    out, into = pair(algorithm, outer=outer)
    first = 20 if make is ipv4 else 40
    packets = [make(length) for length in [*range(first, 201), 1400, 9000]]
    sealed = seal(packets, out)
    assert [len(p) for p in sealed] == [out.sealed_length(len(p)) for p in packets]
    assert open_batch(sealed, into).packets == packets
    assert out.counters() == into.counters() == {"packets": len(packets), "bytes": sum(map(len, packets))}


@on_every_suite
@with_every_outer
def test_max_inner_is_the_largest_that_fits(algorithm, outer):
    sa, _ = pair(algorithm, outer=outer)
    for sealed in range(100, 1600):
        inner = sa.max_inner_length(sealed)
        if inner:
            assert sa.sealed_length(inner) <= sealed < sa.sealed_length(inner + 1)


@with_every_outer
def test_packets_above_65535_sealed_bytes_are_dropped(outer):
    sa, into = pair(outer=outer)
    largest = sa.max_inner_length(65535)
    slots = Slots([ipv4(largest), ipv4(largest + 1)], sa, sa.headroom, sa.tailroom)
    protect(slots.batch)
    assert slots.names == ["ok", "too_big"]
    assert open_batch(slots.packets[:1], into).packets == [ipv4(largest)]


def test_outer_ipv4_header():
    sa, _ = pair(outer="v4")
    first, second = seal([ipv4(60, tos=0xB9), ipv6(60, tos=0x2E)], sa)
    assert ones_sum(first[:20]) == 0xFFFF
    assert (first[0], first[1], first[6], first[8], first[9]) == (0x45, 0xB9, 0x40, 64, 50)
    assert struct.unpack("!H", first[2:4])[0] == len(first)
    assert first[12:20] == bytes([192, 0, 2, 1, 192, 0, 2, 2])
    assert second[1] == 0x2E
    assert second[4:6] != first[4:6]


def test_outer_ipv6_header():
    sa, _ = pair(outer="v6")
    packet = seal([ipv4(60, tos=0xB9)], sa)[0]
    assert struct.unpack("!I", packet[:4])[0] == 6 << 28 | 0xB9 << 20
    assert (struct.unpack("!H", packet[4:6])[0], packet[6], packet[7]) == (len(packet) - 40, 50, 64)


def test_udp_checksum_is_zero_over_ipv4_and_right_over_ipv6():
    for length in range(60, 70):
        packet = seal([ipv4(length)], pair(outer="v4udp")[0])[0]
        assert struct.unpack("!HHHH", packet[20:28]) == (4500, 4500, len(packet) - 20, 0)
        packet = seal([ipv4(length)], pair(outer="v6udp")[0])[0]
        pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, 17)
        assert struct.unpack("!HHH", packet[40:46]) == (4500, 4500, len(packet) - 40)
        assert ones_sum(pseudo + packet[40:]) == 0xFFFF


def test_congestion_seen_outside_reaches_the_inner_header():
    out, into = pair(outer="v4")
    capable, not_capable = seal([ipv4(60, tos=0xB8 | 2), ipv4(60, tos=0xB8)], out)
    marked = [p[:1] + bytes([p[1] | 3]) + p[2:] for p in (capable, not_capable)]
    slots = open_batch(marked, into)
    assert slots.names == ["ok", "bad_ecn"]
    assert slots.packets[0] == ipv4(60, tos=0xB8 | 3)


@pytest.mark.parametrize("outer", ["v4", "v6", "v4udp", "v6udp"])
def test_outer_headers_that_lie_are_dropped(outer):
    out, into = pair(outer=outer)
    sealed = seal([ipv4(60)], out)[0]
    for length in range(len(sealed)):
        assert verdicts_of([sealed[:length]], into) == ["bad_outer"], length
    other = seal([ipv4(60)], pair(outer={"v4": "v6", "v6": "v4", "v4udp": "v4", "v6udp": "v6"}[outer])[0])[0]
    assert verdicts_of([other], into) == ["bad_outer"]
    assert verdicts_of([sealed + bytes(9)], into) == ["ok"]  # link padding behind


@pytest.mark.parametrize(("outer", "at"), [("v4udp", 20), ("v6udp", 40)])
def test_udp_length_and_port_that_lie_are_dropped(outer, at):
    out, into = pair(outer=outer)
    sealed = seal([ipv4(60)], out)[0]
    length = len(sealed) - at
    for wrong in (0, 7, length + 1, 65535):
        assert verdicts_of([sealed[: at + 4] + struct.pack("!H", wrong) + sealed[at + 6 :]], into) == ["bad_outer"]
    assert verdicts_of([sealed[: at + 2] + struct.pack("!H", 4501) + sealed[at + 4 :]], into) == ["bad_outer"]
    assert verdicts_of([sealed[: at + 4] + struct.pack("!H", 9) + sealed[at + 6 :]], into) == ["runt"]
    assert verdicts_of([sealed[:at] + struct.pack("!H", 31337) + sealed[at + 2 :]], into) == [
        "ok"
    ]  # a NAT may move the peer's port


def test_outer_fragments_are_dropped():
    out, into = pair(outer="v4")
    sealed = seal([ipv4(60)], out)[0]
    assert (
        verdicts_of([sealed[:6] + b"\x20\x00" + sealed[8:], sealed[:6] + b"\0\1" + sealed[8:]], into)
        == ["outer_fragment"] * 2
    )


def test_batches_longer_than_a_chunk_and_mixed_suites_keep_their_order():
    pairs = [pair(a, spi=0x2000 + i) for i, a in enumerate(SUITES)]
    packets = [ipv4(60 + i % 50, fill=i % 256) for i in range(333)]
    outs, intos = [pairs[i % 7 % 4][0] for i in range(333)], [pairs[i % 7 % 4][1] for i in range(333)]
    slots = Slots(packets, outs, max(sa.headroom for sa in outs), max(sa.tailroom for sa in outs))
    assert protect(slots.batch) == 333
    assert open_batch(slots.packets, intos).packets == packets


def test_the_test_faces_leave_the_counter_alone_and_name_the_verdict():
    out, into = pair()
    sealed = seal_with_iv_for_test(out, ipv4(60), 9, bytes(8))
    assert out.seq == 0
    assert open_for_test(into, sealed) == ipv4(60)
    with pytest.raises(IntegrityError, match="replay_seen"):
        open_for_test(into, sealed)
