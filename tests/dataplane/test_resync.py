"""ESN after a loss of 2^32 packets and more (RFC 4303 appendix A3): found again by trial, and never by what is forged."""

from __future__ import annotations

import pytest
from kernel_packets import KINDS, Slots, ipv4, key_of, open_batch, seal, verdicts_of

from ipsec_fast import SA, unprotect
from ipsec_fast.algorithms import ah_suite
from ipsec_fast.dataplane.replay import ReplayWindow

TOP32 = 1 << 32
AFTER = 256  # REPLAY_RESYNC_AFTER
STEPS = 4


def with_gap(gap: int, algorithm: str = "aes128gcm16", start: int = 5000, **more) -> tuple[SA, SA]:
    common = {"spi": 0x1001, "algorithm": algorithm, "key": key_of(algorithm), "esn": True, **more}
    return SA("out", seq=start + gap, **common), SA("in", seq=start, **common)


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("gap", [TOP32, TOP32 + 5000, 2 * TOP32 - 5000])
def test_an_sa_finds_back_after_a_gap_and_loses_nothing_from_then_on(algorithm, gap):
    out, into = with_gap(gap, algorithm)
    lost = verdicts_of(seal([ipv4(60)] * AFTER, out), into)
    assert set(lost) == {"bad_icv"}
    assert into.seq == 5000
    inner = [ipv4(60, fill=i) for i in range(8)]
    slots = open_batch(seal(inner, out)[:1], into)
    assert slots.names == ["ok"]
    assert slots.packets == inner[:1]
    assert into.seq == 5000 + gap + AFTER + 1
    assert verdicts_of(seal(inner, out), into) == ["ok"] * 8
    assert into.counters()["resynchronised"] == 1


@pytest.mark.parametrize("algorithm", ["sha256", "aescmac", "aes128gmac"])
def test_an_ah_sa_finds_back_too(algorithm):
    keys = bytes(ah_suite(algorithm).keymat_bytes)
    common = {"spi": 7, "algorithm": algorithm, "key": keys, "esn": True, "protocol": "ah"}
    common |= {"src": "192.0.2.1", "dst": "192.0.2.2"}
    out, into = SA("out", seq=5000 + TOP32, **common), SA("in", seq=5000, **common)
    assert set(verdicts_of(seal([ipv4(60)] * AFTER, out), into)) == {"bad_icv"}
    assert verdicts_of(seal([ipv4(60)], out), into) == ["ok"]
    assert verdicts_of(seal([ipv4(60)] * 100, out), into) == ["ok"] * 100
    assert into.seq == 5000 + TOP32 + AFTER + 101
    assert into.counters()["resynchronised"] == 1


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_a_gap_of_several_2_to_the_32_takes_as_many_trials(steps):
    out, into = with_gap(steps * TOP32)
    tried = 0
    while tried <= STEPS and set(verdicts_of(seal([ipv4(60)] * AFTER, out), into)) == {"bad_icv"}:
        tried += 1
        if verdicts_of(seal([ipv4(60)], out), into) == ["ok"]:
            break
    assert tried == steps
    assert into.seq > steps * TOP32


def test_a_gap_longer_than_all_trials_stays_lost_and_the_window_stands():
    out, into = with_gap((STEPS + 1) * TOP32)
    verdicts = verdicts_of(seal([ipv4(60)] * (AFTER + 1) * 2 * STEPS, out), into)
    assert set(verdicts) == {"bad_icv"}
    assert into.seq == 5000


def test_forged_packets_do_not_harm_real_ones_and_move_nothing():
    out, into = with_gap(0)
    for start in (0x6000, 0x7000_0000, 1):
        forged = [b"\0\0\x10\1" + (start + i).to_bytes(4, "big") + bytes(96) for i in range(3 * AFTER)]
        assert set(verdicts_of(forged, into)) <= {"bad_icv", "replay_seen", "replay_old"}
        assert into.seq == out.seq
        # the very packet that would be tried under another high half is opened under its own
        assert verdicts_of(seal([ipv4(60)] * 3, out), into) == ["ok"] * 3
    assert "resynchronised" not in into.counters()


def test_an_old_packet_replayed_on_the_trial_is_refused():
    out, into = with_gap(0)
    old = seal([ipv4(60)] * 5, out)
    assert verdicts_of(old, into) == ["ok"] * 5
    ahead = SA("out", 0x1001, "aes128gcm16", key_of("aes128gcm16"), esn=True, seq=9000)
    assert verdicts_of(seal([ipv4(60)], ahead), into) == ["ok"]  # the old ones are now behind the window
    forged = [b"\0\0\x10\1" + (10_000 + i).to_bytes(4, "big") + bytes(96) for i in range(AFTER)]
    assert set(verdicts_of(forged, into)) == {"bad_icv"}
    assert "ok" not in verdicts_of(old * AFTER, into)
    assert into.seq == 9001


def test_without_esn_there_is_nothing_to_find():
    key = key_of("aes128gcm16")
    out = SA("out", 0x1001, "aes128gcm16", key, esn=True, seq=TOP32 + 100)
    into = SA("in", 0x1001, "aes128gcm16", key, seq=50)
    assert set(verdicts_of(seal([ipv4(60)] * 3 * AFTER, out), into)) == {"bad_icv"}


def test_a_packet_that_fails_its_trial_leaves_no_byte():
    _, into = with_gap(0)
    for number in range(2 * AFTER):
        packet = b"\0\0\x10\1" + (6000 + number).to_bytes(4, "big") + bytes([0xA5]) * 96
        slots = Slots([packet], into)
        unprotect(slots.batch)
        assert not slots.buffer.any()


def test_trials_come_one_in_so_many_failures():
    window = ReplayWindow(64, 1000)
    numbers = [window.failed(2000) for _ in range(3 * (AFTER + 1))]
    tried = [(at, number) for at, number in enumerate(numbers) if number]
    assert tried == [((AFTER + 1) * k + AFTER, (k + 1) * TOP32 + 2000) for k in range(3)]
    assert window.top == 1000


def test_no_trial_goes_past_the_last_number():
    window = ReplayWindow(64, (1 << 64) - 1000)
    assert [n for n in (window.failed((1 << 32) - 500) for _ in range(3 * AFTER)) if n] == []


def test_a_good_packet_starts_the_count_anew():
    window = ReplayWindow(64, 1000)
    for number in range(AFTER):
        assert window.failed(number + 2000) == 0
    window.advance(1001)
    assert window.failed(2000) == 0
