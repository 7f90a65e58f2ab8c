"""What is not authentic, for every algorithm, engine and length: a counted drop, window unmoved, no plaintext left, nothing else touched.

IPSEC_FAST_FUZZ_PACKETS is how often each length from 0 to 200 comes (50 gives 10,050 packets for each algorithm; `./run fuzz` sets 10,000),
IPSEC_FAST_FUZZ_SEED what the random ones begin with. Packets stand in rows with guard bytes around them.
"""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from kernel_packets import OUTERS, SUITES, ipv4, ipv6, key_of, open_batch, pair, seal, verdicts_of
from twin_crypto import TwinCipher

from ipsec_fast import SA, PacketBatch, unprotect
from ipsec_fast.algorithms import Mode, ah_suite, ah_suite_names, esp_suite
from ipsec_fast.dataplane import engine
from ipsec_fast.dataplane.status import NAMES, VERDICTS
from ipsec_fast.errors import AlgorithmError

EACH = int(os.environ.get("IPSEC_FAST_FUZZ_PACKETS", "50"))
SEED = int(os.environ.get("IPSEC_FAST_FUZZ_SEED", "0"))
LENGTHS = np.arange(201)
GUARD, LONGEST, ROUNDS = 24, 200, 25  # bytes around a packet, of a packet; packets of one length in a batch
START = 5000
BAD_ICV = VERDICTS["bad_icv"]
SPI = 0x1001


def carried() -> list[tuple[str, str, str]]:
    """(protocol, algorithm, engine) for all that can be made here."""
    found = []
    for name in engine.engines():
        for protocol, algorithms in (("esp", SUITES), ("ah", ah_suite_names())):
            for algorithm in algorithms:
                try:
                    inbound(protocol, algorithm, name, False)
                except AlgorithmError:
                    continue
                found.append((protocol, algorithm, name))
    return found


def arguments(protocol: str, algorithm: str) -> dict:
    if protocol == "esp":
        return {"spi": SPI, "algorithm": algorithm, "key": key_of(algorithm)}
    key = bytes(range(ah_suite(algorithm).keymat_bytes))
    return {"spi": SPI, "algorithm": algorithm, "key": key, "protocol": "ah", **OUTERS["v4"]}


def inbound(protocol: str, algorithm: str, name: str, esn: bool) -> SA:
    return SA("in", esn=esn, seq=START, engine=name, **arguments(protocol, algorithm))


def templates(protocol: str, algorithm: str, esn: bool, rng: np.random.Generator) -> np.ndarray:
    """A row for each length: a real packet of just that length where there is one, else a longer one cut off."""
    out = SA("out", esn=esn, seq=START, **arguments(protocol, algorithm))
    sealed = sorted(seal([ipv4(n) for n in range(20, 260)], out), key=len)
    rows = rng.integers(0, 256, (LONGEST + 1, LONGEST), dtype=np.uint8)
    for length in LENGTHS[1:]:
        fits = next(packet for packet in sealed if len(packet) >= length)
        rows[length, :length] = np.frombuffer(fits[:length], np.uint8)
    return rows


def bad_rows(rng: np.random.Generator, real: np.ndarray, front: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a packet of each length, in each of ROUNDS: random, random behind a header that is asked for, real with a bit flipped."""
    lengths = np.tile(LENGTHS, ROUNDS)
    kind = np.repeat(np.arange(ROUNDS) % 4, len(LENGTHS))
    packets = rng.integers(0, 256, (len(lengths), LONGEST), dtype=np.uint8)
    forged = kind == 1
    packets[forged, : front + 8] = real[LONGEST, : front + 8]
    numbers = rng.choice(np.array([START + 1, START + 2, 1 << 31, 0xFFFFFFFF, 1, 0], np.uint32), len(lengths))
    packets[forged, front + 4 : front + 8] = numbers[forged].astype(">u4").view(np.uint8).reshape(-1, 4)
    flipped = kind > 1
    packets[flipped] = real[lengths[flipped]]
    # of the outer header AH lets some bits change: those are flipped in test_ah.py
    fixed = np.where(lengths > front, front, 0)
    at = (fixed + rng.random(len(lengths)) * (lengths - fixed)).astype(np.int64)
    bit = (1 << rng.integers(0, 8, len(lengths))).astype(np.uint8)
    some = np.flatnonzero(flipped & (lengths > 0))
    packets[some, at[some]] ^= bit[some]
    return packets, lengths


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(("protocol", "algorithm", "name"), carried())
def test_unauthentic_packets_of_every_length(protocol, algorithm, name, esn):
    rng = np.random.default_rng([SEED, esn, *f"{protocol} {algorithm} {name}".encode()])
    real = templates(protocol, algorithm, esn, rng)
    into = inbound(protocol, algorithm, name, esn)
    dropped = 0
    for _ in range(max(1, EACH // ROUNDS // 2)):
        packets, lengths = bad_rows(rng, real, 20 if protocol == "ah" else 0)
        n = len(lengths)
        rows = np.full((n, GUARD + LONGEST + GUARD), 0xEE, np.uint8)
        inside = np.arange(LONGEST)[None, :] < lengths[:, None]
        rows[:, GUARD : GUARD + LONGEST][inside] = packets[inside]
        expected = rows.copy()
        offsets = (np.arange(n) * rows.shape[1] + GUARD).astype(np.uint32)
        verdicts = np.zeros(n, np.uint8)
        count = lengths.astype(np.uint32)
        assert unprotect(PacketBatch(rows.reshape(-1), offsets, count, into, verdicts)) == 0
        assert (verdicts != VERDICTS["ok"]).all()
        zeroed = inside & (verdicts == BAD_ICV)[:, None]
        expected[:, GUARD : GUARD + LONGEST][zeroed] = 0
        wrong = np.flatnonzero((rows != expected).any(axis=1))
        assert not len(wrong), (
            f"{NAMES[verdicts[wrong[0]]]}, {lengths[wrong[0]]} bytes: {bytes(packets[wrong[0]]).hex()}"
        )
        dropped += int((lengths > 0).sum())  # a slot of length 0 is empty, and not counted
    counters = into.counters()
    assert into.seq == START
    assert counters.pop("packets") == counters.pop("bytes") == 0
    assert sum(counters.values()) == dropped
    assert counters["bad_icv"] > dropped // 100  # most lengths fit no packet; these got as far as the crypto


# --- sealed by a peer who has the key ---------------------------------------------------------------------------------------------


def sealed_by_hand(algorithm: str, plain: bytes, seq: int) -> bytes:
    """ESP around any plaintext, whose trailer the caller made."""
    row = esp_suite(algorithm).encryption
    header = struct.pack("!II", SPI, seq)
    iv = bytes(16) if row.mode is Mode.CBC else b"" if row.mode is Mode.NULL else struct.pack("!Q", seq)
    return header + b"".join(TwinCipher(algorithm, key_of(algorithm)).seal(header, seq, False, iv, plain))


def with_trailer(algorithm: str, inner: bytes, next_header: int) -> bytes:
    pad = -(len(inner) + 2) % esp_suite(algorithm).encryption.block_bytes
    return inner + bytes(range(1, pad + 1)) + bytes([pad, next_header])


def opened(algorithm: str, plains: list[bytes]) -> list[str]:
    """Verdicts, and what was dropped is gone, byte for byte."""
    into = pair(algorithm)[1]
    slots = open_batch([sealed_by_hand(algorithm, plain, i + 1) for i, plain in enumerate(plains)], into)
    at = 0
    for i, plain in enumerate(plains):
        length = len(sealed_by_hand(algorithm, plain, i + 1))
        assert slots.names[i] == "ok" or not slots.buffer[at : at + length].any()
        at += length
    assert into.seq == len(plains)
    return slots.names


@pytest.mark.parametrize("algorithm", SUITES)
def test_every_next_header_but_an_ip_packets_is_dropped(algorithm):
    names = opened(algorithm, [with_trailer(algorithm, ipv4(60), number) for number in range(256)])
    expected = ["bad_next_header"] * 256
    expected[4], expected[41], expected[59] = "ok", "bad_inner", "dummy"
    assert names == expected


@pytest.mark.parametrize("algorithm", SUITES)
def test_every_lying_length_of_an_inner_packet(algorithm):
    v4, v6 = ipv4(60), ipv6(80)
    lies = [*range(130), 255, 256, 0x7FFF, 0x8000, 0xFFFF]
    plains = [with_trailer(algorithm, v4[:2] + struct.pack("!H", lie) + v4[4:], 4) for lie in lies]
    assert opened(algorithm, plains) == ["ok" if 20 <= lie <= 60 else "bad_inner" for lie in lies]
    plains = [with_trailer(algorithm, v6[:4] + struct.pack("!H", lie) + v6[6:], 41) for lie in lies]
    assert opened(algorithm, plains) == ["ok" if lie <= 40 else "bad_inner" for lie in lies]
    firsts = range(256)
    plains = [with_trailer(algorithm, bytes([first]) + v4[1:], 4) for first in firsts]
    assert opened(algorithm, plains) == ["ok" if 0x45 <= first <= 0x4F else "bad_inner" for first in firsts]


@pytest.mark.parametrize("algorithm", SUITES)
def test_every_lying_length_of_padding(algorithm):
    block = esp_suite(algorithm).encryption.block_bytes
    size = -(-66 // block) * block
    inner = ipv4(20)
    plains = [inner.ljust(size - 2, b"\x07") + bytes([lie, 4]) for lie in range(1, 256)]
    assert set(opened(algorithm, plains)) == {"bad_padding"}


@pytest.mark.parametrize("algorithm", SUITES)
def test_reserved_spis_and_forged_highest_numbers_leave_the_window(algorithm):
    for esn in (False, True):
        out, into = pair(algorithm, esn=esn, seqs=(START, START))
        real = seal([ipv4(60)] * 2, out)
        low_spis = [struct.pack("!I", spi) + real[0][4:] for spi in range(256)]
        assert set(verdicts_of(low_spis, into)) == {"wrong_spi"}
        highest = (0xFFFFFFFF, 0xFFFFFFFE, 0x80000000, START + 3, START + (1 << 20))
        forged = [real[0][:4] + struct.pack("!I", number) + real[0][8:] for number in highest]
        assert set(verdicts_of(forged, into)) <= {"bad_icv", "replay_old"}
        assert into.seq == START
        assert verdicts_of(real, into) == ["ok", "ok"]
        assert into.seq == START + 2


@pytest.mark.parametrize("algorithm", SUITES)
@pytest.mark.parametrize("outer", ["v4", "v6", "v4udp", "v6udp"])
def test_every_lying_length_of_an_outer_header(algorithm, outer):
    out, into = pair(algorithm, outer=outer, seqs=(START, START))
    packet = seal([ipv4(60)], out)[0]
    ip = 20 if outer.startswith("v4") else 40
    fields = [(2, 0) if ip == 20 else (4, 40)] + ([(ip + 4, ip)] if outer.endswith("udp") else [])
    for at, before in fields:
        truth = len(packet) - before
        lies = [lie for lie in [*range(truth + 40), 0x7FFF, 0x8000, 0xFFFF] if lie != truth]
        lying = [packet[:at] + struct.pack("!H", lie) + packet[at + 2 :] for lie in lies]
        names = verdicts_of(lying, into)
        assert set(names) <= {"bad_outer", "runt", "bad_length", "bad_icv"}
        assert set(names[truth:]) == {"bad_outer"}
    assert into.seq == START
    assert verdicts_of([packet], into) == ["ok"]
