"""A packet's verdict is the one that it would get alone after the packets before it (RFC 4303 section 3.4)."""

from __future__ import annotations

import random

import pytest
from kernel_packets import KINDS, Slots, ipv4, key_of, seal

from ipsec_fast import SA, unprotect
from ipsec_fast.algorithms import ah_suite

TOP32 = 1 << 32
AFTER = 256  # REPLAY_RESYNC_AFTER
AH = ("sha256", "aescmac", "aes128gmac")
ALL = [*(("esp", name) for name in KINDS), *(("ah", name) for name in AH)]


def options(protocol: str, algorithm: str, esn: bool) -> dict[str, object]:
    key = key_of(algorithm) if protocol == "esp" else bytes(range(ah_suite(algorithm).keymat_bytes))
    outer = {"src": "192.0.2.1", "dst": "192.0.2.2"} if protocol == "ah" else {}
    return {"spi": 0x1001, "algorithm": algorithm, "key": key, "esn": esn, "protocol": protocol, **outer}


def sealed_at(numbers: list[int], common: dict[str, object]) -> list[bytes]:
    """One packet with each of these numbers."""
    return [seal([ipv4(60, fill=n & 0xFF)], SA("out", seq=n - 1, **common))[0] for n in numbers]  # type: ignore[arg-type]


def opened(packets: list[bytes], into: SA, at_once: int) -> tuple[list[str], list[bytes]]:
    names, plain = [], []
    for at in range(0, len(packets), at_once):
        slots = Slots(packets[at : at + at_once], into)
        unprotect(slots.batch)
        names += slots.names
        plain += [p if name == "ok" else b"" for p, name in zip(slots.packets, slots.names, strict=True)]
    return names, plain


def state(sa: SA) -> dict[str, object]:
    last = sa.last_drop
    return {**sa.counters(), "top": sa.seq, "last": None if last is None else (last.verdict, last.seq)}


def same_both_ways(packets: list[bytes], common: dict[str, object], **more: int) -> list[str]:
    """Together, and one by one: verdicts, plaintext, counters and window are the same."""
    together, alone = (SA("in", **common, **more) for _ in range(2))  # type: ignore[arg-type]
    found, wanted = opened(packets, together, len(packets)), opened(packets, alone, 1)
    assert found == wanted
    assert state(together) == state(alone)
    return found[0]


@pytest.mark.parametrize(("protocol", "algorithm"), ALL)
def test_a_jump_of_almost_2_to_the_32_leaves_the_others_what_they_would_be_alone(protocol, algorithm):
    """After the jump, low numbers belong to the next high half. Those packets are authentic there, and there alone."""
    common = options(protocol, algorithm, esn=True)
    numbers = [1000, TOP32 - 100, TOP32 + 500, 999, TOP32 + 501, TOP32 - 200, TOP32 + 500]
    names = same_both_ways(sealed_at(numbers, common), common, seq=900)
    assert names == ["ok", "ok", "ok", "bad_icv", "ok", "ok", "replay_seen"]


@pytest.mark.parametrize(("protocol", "algorithm"), ALL)
def test_a_number_that_an_empty_window_refuses_is_right_once_it_has_moved(protocol, algorithm):
    common = options(protocol, algorithm, esn=True)
    numbers = [1 << 31, TOP32 - 300, TOP32 - 299]
    assert same_both_ways(sealed_at(numbers, common), common) == ["ok", "ok", "ok"]


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(
    ("protocol", "algorithm"), [("esp", "aes128gcm16"), ("esp", "aes128-sha256"), ("ah", "sha256")]
)
def test_a_repetition_that_falls_behind_the_window_in_its_batch_is_an_old_one(protocol, algorithm, esn):
    common = options(protocol, algorithm, esn)
    into = SA("in", **common, window=64)
    first, jump = sealed_at([5, 5000], common)
    assert opened([first], into, 1)[0] == ["ok"]
    wanted = ["ok", "bad_icv" if esn else "replay_old"]
    assert opened([jump, first], into, 2)[0] == wanted


@pytest.mark.parametrize(("protocol", "algorithm"), ALL)
def test_the_way_back_after_a_gap_is_found_inside_a_batch(protocol, algorithm):
    """The trial under a later high half (appendix A3) is the same packet's, and those
    behind it are opened under what it found.
    """
    common = options(protocol, algorithm, esn=True)
    start = TOP32 + 7000
    packets = seal([ipv4(60)] * (AFTER + 20), SA("out", seq=start, **common))
    names = same_both_ways(packets, common, seq=5000)
    assert names == ["bad_icv"] * AFTER + ["ok"] * 20


def test_a_failure_of_another_sa_between_them_changes_nothing():
    common = options("esp", "aes128gcm16", esn=True)
    other = {**common, "spi": 0x1002}
    packets = [
        p
        for pair in zip(
            seal([ipv4(60)] * (AFTER + 20), SA("out", seq=TOP32 + 7000, **common)),
            seal([ipv4(60)] * (AFTER + 20), SA("out", seq=2 * TOP32 + 7000, **other)),
            strict=True,
        )
        for p in pair
    ]
    both = [(SA("in", seq=5000, **common), SA("in", seq=5000, **other)) for _ in range(2)]
    found = []
    for sas, at_once in zip(both, (len(packets), 1), strict=True):
        names = []
        for at in range(0, len(packets), at_once):
            some = packets[at : at + at_once]
            slots = Slots(some, [sas[(at + i) % 2] for i in range(len(some))])
            unprotect(slots.batch)
            names += slots.names
        found.append((names, [state(sa) for sa in sas]))
    assert found[0] == found[1]
    assert found[0][0][::2] == ["bad_icv"] * AFTER + ["ok"] * 20


@pytest.mark.parametrize("size", [40, 1400, 9000])
def test_large_packets_that_wait_for_a_jump_are_opened_right(size):
    """More ciphertext than is kept for second tries: the batch is then worked on in parts."""
    common = options("esp", "aes128gcm16", esn=True)
    out = SA("out", seq=TOP32 + 500, **common)
    jump = sealed_at([TOP32 - 100], common)
    late = seal([ipv4(size, fill=i) for i in range(60)], out)
    assert same_both_ways([*jump, *late], common, seq=2000) == ["ok"] * 61


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(
    ("protocol", "algorithm"), [("esp", "aes128gcm16"), ("esp", "aes256-sha512"), ("ah", "sha256")]
)
def test_hostile_batches_are_what_their_packets_are(protocol, algorithm, seed):
    """Jumps, repetitions, forged numbers, old and late packets in any order, with ESN and without."""
    rng = random.Random(seed)
    esn = rng.random() < 0.8
    common = options(protocol, algorithm, esn)
    top = rng.choice([0, 900, TOP32 - 70, 3 * TOP32 - 70] if esn else [0, 900, TOP32 - 5000])
    last = (1 << 64) - 1 if esn else TOP32 - 1
    at, numbers = top, []
    for _ in range(rng.choice([20, 64, 130])):
        step = rng.choice(
            [1, 1, 1, 2, 40, 70, 2000, *((TOP32 - 60, TOP32 - 2000, TOP32 // 2) if rng.random() < 0.2 else ())]
        )
        at = min(at + step, last) if rng.random() < 0.8 else max(1, at - rng.choice([1, 5, 40, 100, 3000]))
        numbers.append(max(1, at))
    packets = sealed_at(numbers, common)
    for _ in range(len(packets) // 4):
        packets.insert(rng.randrange(len(packets)), rng.choice(packets))
    for at in range(len(packets)):
        if rng.random() < 0.2:
            spoilt = bytearray(packets[at])
            place = rng.choice([5, 6, 7, 20, len(spoilt) - 1]) + (20 + 4 if protocol == "ah" else 0)
            spoilt[min(place, len(spoilt) - 1)] ^= 1 << rng.randrange(8)
            packets[at] = bytes(spoilt)
    same_both_ways(packets, common, seq=top, window=rng.choice([32, 64, 1024]))


@pytest.mark.parametrize(("protocol", "algorithm"), [("esp", "aes128gcm16"), ("ah", "sha256")])
def test_a_window_of_32_is_taken(protocol, algorithm):
    """RFC 4303 section 3.4.3: it MUST be supported."""
    common = options(protocol, algorithm, esn=False)
    into = SA("in", **common, window=32)
    packets = sealed_at([100, 69, 68, 100], common)
    assert opened(packets, into, 4)[0] == ["ok", "ok", "replay_old", "replay_seen"]
    assert into.window == 32


@pytest.mark.parametrize(("protocol", "algorithm"), ALL)
def test_spoilt_repetitions_in_one_batch_do_not_bring_the_trial_forward(protocol, algorithm):
    """Alone, a repetition is refused before its ICV is checked, so it is none of the failures that lead to the trial of appendix A3."""
    common = options(protocol, algorithm, esn=True)
    good = sealed_at([5001], common)
    spoilt = good[0][:-1] + bytes([good[0][-1] ^ 1])
    later = seal([ipv4(60)] * (AFTER + 20), SA("out", seq=TOP32 + 7000, **common))
    names = same_both_ways([*good, *[spoilt] * 5, *later], common, seq=5000)
    assert names == ["ok", *["replay_seen"] * 5, *["bad_icv"] * AFTER, *["ok"] * 20]
