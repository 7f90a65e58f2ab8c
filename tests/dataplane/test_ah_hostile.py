"""AH and packets made to harm: every length, flipped bits, lying lengths, every next header, low SPIs, forged numbers."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from ah_twin import AhTwin
from kernel_packets import Slots, ipv4, ipv6, open_batch, seal
from odd_packets import V4
from test_ah import ah
from test_ah_twin import ah_key
from twin_ip import ipv4_header, with_length

from ipsec_fast import SA, unprotect
from ipsec_fast.algorithms import ah_suite_names

NAMES = ah_suite_names()
GAP = 16
GONE = {"bad_icv", "replay_old", "replay_seen"}  # at the ICV or behind it: the packet's own region is zeros


def check_contained(packets: list[bytes], into: SA) -> list[str]:
    """Nothing is accepted, the window stays, no byte outside a packet changes, and inside it is as it was or zeros."""
    before = into.counters()
    slots = Slots(packets, into, GAP, GAP)
    was = slots.buffer.copy()
    offsets = slots.offsets.copy()
    assert unprotect(slots.batch) == 0
    names = slots.names
    outside = np.ones(len(was), bool)
    for packet, at, name in zip(packets, offsets.tolist(), names, strict=True):
        outside[at : at + len(packet)] = False
        now = slots.buffer[at : at + len(packet)]
        assert (not now.any()) if name == "bad_icv" else bytes(now) == packet or (name in GONE and not now.any()), name
    assert (slots.buffer[outside] == was[outside]).all()
    assert not slots.lengths.any()
    assert into.seq == 0
    after = into.counters()
    # every drop is counted once; a slot of length 0 is empty, and not counted
    assert sum(after.values()) - sum(before.values()) == sum(map(bool, packets))
    return names


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_noise_of_every_length_and_flipped_bits_are_contained(algorithm, mode, outer):
    """In four kinds 10,000 packets of each algorithm: each length from 0 to 200 ten times and more, and real ones with bits turned."""
    rng = random.Random(f"{algorithm} {mode} {outer}")
    out, into = ah("out", algorithm, mode, outer), ah("in", algorithm, mode, outer)
    made = {4: ipv4, 6: ipv6}[outer]
    good = seal([made(40 + n) for n in range(64)], out)
    header = 20 if outer == 4 else 40
    noise = [rng.randbytes(n % 201) for n in range(3 * 201)]
    noise += [with_length(good[0][:header], n) + rng.randbytes(n) for n in range(201)]
    noise += [good[40][: n % len(good[40])] for n in range(201)]
    flipped = []
    for _ in range(1500):
        wrong = bytearray(rng.choice(good))
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.choice([*range(4, 6), *range(header, len(wrong))])
            wrong[at] ^= 1 << rng.randrange(8)
        if bytes(wrong) not in good:
            flipped.append(bytes(wrong))
    assert "bad_icv" in check_contained(noise + flipped, into)
    assert open_batch(good, into).names == ["ok"] * 64


@pytest.mark.parametrize("field", ["total", "header"])
def test_lengths_that_lie_are_contained(field):
    sealed = seal([ipv4(60)], ah("out"))[0]
    if field == "total":
        lies = [sealed[:2] + struct.pack("!H", n) + sealed[4:] for n in [*range(300), 65535] if n != len(sealed)]
    else:
        lies = [bytes([0x40 | n]) + sealed[1:] for n in range(16) if n != 5]
    assert "ok" not in check_contained(lies, ah("in"))


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_every_next_header_that_is_authentic(mode):
    """Tunnel mode carries IPv4 and IPv6 alone; transport mode gives every protocol on, 59 too: AH has no dummies."""
    for next_header in range(256):
        outer = {"src": "192.0.2.1", "dst": "192.0.2.2"} if mode == "tunnel" else {}
        twin = AhTwin("sha256", ah_key("sha256"), mode="transport")
        src, dst = (outer["src"], outer["dst"]) if outer else V4
        verdict, sealed = twin.seal(ipv4_header(src, dst, next_header, payload=40) + ipv6(40))
        assert verdict == "ok"
        opened = open_batch([sealed], ah("in", mode=mode))
        if mode == "transport":
            assert opened.names == ["ok"]
            assert opened.packets[0][9] == next_header
        else:
            assert opened.names == [
                "ok" if next_header == 41 else "bad_inner" if next_header == 4 else "bad_next_header"
            ]
            assert next_header == 41 or not opened.buffer.any()


def test_low_spis_and_forged_numbers_do_not_move_the_window():
    sealed = seal([ipv4(60)], ah("out"))[0]
    into = ah("in")
    low = [sealed[:24] + struct.pack("!I", spi) + sealed[28:] for spi in range(256)]
    assert set(check_contained(low, into)) == {"wrong_spi"}
    forged = [sealed[:28] + struct.pack("!I", n) + sealed[32:] for n in (2, 65, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)]
    assert set(check_contained(forged, into)) == {"bad_icv"}
    assert check_contained([sealed[:28] + bytes(4) + sealed[32:]], into) == ["replay_old"]
    assert open_batch([sealed], into).names == ["ok"]


@pytest.mark.parametrize("esn", [False, True])
def test_one_bad_packet_in_a_batch_costs_no_other(esn):
    out, into = ah("out", esn=esn), ah("in", esn=esn)
    sealed = seal([ipv4(60)] * 64, out)
    sealed[17] = sealed[17][:-1] + b"\0"
    assert open_batch(sealed, into).names == ["ok"] * 17 + ["bad_icv"] + ["ok"] * 46
