"""Where an engine's library has limits of its own: no packet may cost its neighbours theirs, and every engine says the same.

ipsec-mb's jobs count up to 65,534 bytes and refuse a whole burst for one that has more; its queue is shared by what goes through jobs.
"""

from __future__ import annotations

import pytest
from kernel_packets import Slots, ipv4, key_of, open_batch, pair, seal

from ipsec_fast import SA, protect, unprotect
from ipsec_fast.algorithms import ah_suite, ah_suite_names, esp_suite
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import IntegrityError

ENGINES = engine.engines()
ON_ENGINES = [(name, suite) for name, suites in ENGINES.items() for suite in suites]
ON_ENGINES += [("auto", suite) for suite in ENGINES["openssl"] if "-sha" in suite]  # goes by the number of packets
MACS = ("null-sha1", "null-sha256", "null-sha384", "null-sha512", "null-aesxcbc", "null-aescmac")
LONG = (65_519, 65_530, 65_531, 65_534, 65_535, 65_536, 65_575, 65_579, 98_297, 98_298)
on_every_ah = pytest.mark.parametrize("algorithm", ah_suite_names())


def ah_sa(direction: str, algorithm: str, name: str, **more) -> SA:
    key = bytes(i * 5 + 1 & 255 for i in range(ah_suite(algorithm).keymat_bytes))
    return SA(direction, 0x1001, algorithm, key, protocol="ah", mode="transport", engine=name, **more)


@on_every_ah
@pytest.mark.parametrize("name", ENGINES)
def test_ah_with_and_without_esn_in_one_batch(name, algorithm):
    kinds = [i % 3 == 1 or i > 60 for i in range(70)]
    packets = [ipv4(30 + 11 * i, fill=i) for i in range(70)]
    outs, intos = ([ah_sa(way, algorithm, name, esn=esn) for esn in kinds] for way in ("out", "in"))
    slots = Slots(packets, outs, 64, 64)
    assert protect(slots.batch) == 70, slots.names
    alone = [
        seal([packet], ah_sa("out", algorithm, "openssl", esn=esn)) for packet, esn in zip(packets, kinds, strict=True)
    ]
    assert [[sealed] for sealed in slots.packets] == alone
    opened = Slots(slots.packets, intos)
    assert unprotect(opened.batch) == 70, opened.names
    assert opened.packets == packets


@on_every_ah
@pytest.mark.parametrize("esn", [False, True])
def test_the_longest_ah_packets_are_the_same_on_every_engine_and_harm_no_neighbour(algorithm, esn):
    around = ah_sa("out", algorithm, "openssl").sealed_length(100) - 100
    for total in (65_524, 65_530, 65_531, 65_534, 65_535):
        packets = [ipv4(100), ipv4(total - around, fill=7), ipv4(101)]
        wires = {name: seal(packets, ah_sa("out", algorithm, name, esn=esn)) for name in ENGINES}
        assert {len(wire[1]) for wire in wires.values()} == {total}
        assert len({tuple(wire) for wire in wires.values()}) == 1
        for name in ENGINES:
            spoilt = bytearray(wires[name][1])
            spoilt[-1] ^= 1
            into = ah_sa("in", algorithm, name, esn=esn)
            opened = open_batch([wires[name][0], bytes(spoilt), wires[name][2], wires[name][1]], into)
            assert opened.names == ["ok", "bad_icv", "ok", "ok"]
            assert opened.packets == [packets[0], b"", packets[2], packets[1]]


@pytest.mark.parametrize("algorithm", MACS)
@pytest.mark.parametrize("tail", [b"", b"\0\1\2\3"])
def test_macs_of_more_than_a_job_takes(algorithm, tail):
    key = key_of(algorithm)
    for length in LONG:
        message = bytes(i * i >> 5 & 255 for i in range(length))
        wanted = engine.seal_for_test(algorithm, key, b"", message, b"", tail, "openssl")
        for name in ENGINES:
            if length + len(tail) > 98_302 and name == "ipsecmb":
                continue
            assert engine.seal_for_test(algorithm, key, b"", message, b"", tail, name) == wanted, length
            assert engine.open_for_test(algorithm, key, b"", message, b"", wanted[1], tail, name) == b""
            wrong = message[:40_000] + bytes([message[40_000] ^ 1]) + message[40_001:]
            with pytest.raises(IntegrityError):
                engine.open_for_test(algorithm, key, b"", wrong, b"", wanted[1], tail, name)


@pytest.mark.parametrize(("name", "algorithm"), ON_ENGINES)
def test_esp_beyond_any_datagram_is_a_bad_length_and_harms_no_neighbour(name, algorithm):
    suite = esp_suite(algorithm)
    around = 8 + suite.encryption.iv_bytes + suite.icv_bytes
    block = suite.encryption.block_bytes
    longest = around + (65_535 - around) // block * block
    for length, verdict in (
        (longest, "bad_icv"),
        (longest + block, "bad_length"),
        (10 * block + 200_000 + around, "bad_length"),
    ):
        out, into = pair(algorithm, engine=name)
        good = seal([ipv4(60), ipv4(61), ipv4(1400)], out)
        forged = good[0][:4] + (9).to_bytes(4, "big") + bytes(length - 8)
        opened = open_batch([good[0], forged, good[1], forged, good[2]], into)
        assert opened.names == ["ok", verdict, "ok", verdict, "ok"], length


@pytest.mark.parametrize(("name", "algorithm"), ON_ENGINES)
def test_the_longest_esp_packet_goes_there_and_back(name, algorithm):
    out, into = pair(algorithm, engine=name, esn=True, seqs=(1 << 32, 1 << 32))
    length = next(n for n in range(65_535, 0, -1) if out.sealed_length(n) <= 65_535)
    packets = [ipv4(60), ipv4(length, fill=3), ipv4(61)]
    sealed = seal(packets, out)
    opened = open_batch([sealed[0], sealed[1][:-1] + bytes([sealed[1][-1] ^ 1]), sealed[2], sealed[1]], into)
    assert opened.names == ["ok", "bad_icv", "ok", "ok"]
    assert opened.packets == [packets[0], b"", packets[2], packets[1]]
