"""What an SA keeps of the last packet that it dropped: verdict, number, the headers as they came, and nothing behind them."""

from __future__ import annotations

import time

import pytest
from kernel_packets import OUTERS, SUITES, Slots, ipv4, ipv6, pair, seal
from test_ah_twin import ah_key

from ipsec_fast import SA, protect, protect_dummies, unprotect
from ipsec_fast.dataplane.dropped import LastDrop


def last(sa: SA) -> LastDrop:
    assert sa.last_drop is not None
    return sa.last_drop


def opened(packets: list[bytes], sa: SA) -> list[str]:
    slots = Slots(packets, sa)
    unprotect(slots.batch)
    return slots.names


def broken(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


def test_nothing_was_dropped():
    out, into = pair()
    assert opened(seal([ipv4(100)] * 3, out), into) == ["ok"] * 3
    assert out.last_drop is None
    assert into.last_drop is None


@pytest.mark.parametrize("algorithm", SUITES)
@pytest.mark.parametrize(("outer", "front"), [("none", 0), ("v4", 20), ("v4udp", 28), ("v6", 40), ("v6udp", 48)])
def test_a_bad_icv_keeps_the_headers_as_they_came_and_no_payload(algorithm, outer, front):
    out, into = pair(algorithm, outer=outer)
    sealed = [broken(packet) for packet in seal([ipv4(500)] * 3, out)]
    before = time.monotonic()
    assert opened(sealed, into) == ["bad_icv"] * 3
    drop = last(into)
    kept = drop.header
    assert (drop.verdict, drop.seq) == ("bad_icv", 3)
    assert sealed[2].startswith(kept)
    assert front + 8 <= len(kept) <= front + 8 + 16 <= 74
    assert sealed[2][front : front + 8] == kept[front : front + 8] == b"\0\0\x10\1\0\0\0\3"
    assert drop.at_s is not None
    assert before - 0.1 <= drop.at_s <= time.monotonic()


@pytest.mark.parametrize("outer", ["none", "v4", "v6udp"])
def test_a_replay_a_wrong_spi_and_a_runt(outer):
    out, into = pair(outer=outer)
    first, second = seal([ipv4(100), ipv6(100)], out)
    assert opened([first, second, first], into) == ["ok", "ok", "replay_seen"]
    assert last(into)[:2] == ("replay_seen", 1)
    assert first.startswith(last(into).header)
    stranger, _other_in = pair(outer=outer, spi=0x2002)
    packet = seal([ipv4(100)], stranger)[0]
    assert opened([packet], into) == ["wrong_spi"]
    assert last(into)[:2] == ("wrong_spi", 0), "a number under another SPI is none of ours"
    assert packet.startswith(last(into).header)
    for length in range(1, 12):  # 0 is an empty slot
        opened([second[:length]], into)
        assert second[:length].startswith(last(into).header)
        assert last(into).verdict != "ok"


def test_authentic_but_wrong_inside_shows_the_outer_headers_never_the_plaintext():
    out, into = pair(outer="v4udp")
    dummy = Slots([b""], out, out.headroom, out.tailroom + 64)
    dummy.lengths[:] = 64
    protect_dummies(dummy.batch)
    sealed = dummy.packets[0]
    assert opened([sealed], into) == ["dummy"]
    assert last(into)[:2] == ("dummy", 1)
    assert sealed[:28] == last(into).header[:28]
    assert len(last(into).header) <= 28 + 16


def test_what_does_not_leave_keeps_its_header_and_ports_alone():
    out, _ = pair(granted=2)
    secret = b"SECRET" * 20
    packet = bytearray(ipv4(28 + len(secret)))
    packet[28:] = secret
    slots = Slots([bytes(packet)] * 3, out, out.headroom, out.tailroom)
    protect(slots.batch)
    assert slots.names == ["ok", "ok", "no_grant"]
    assert last(out)[:2] == ("no_grant", 2), "the last number that was used"
    assert bytes(packet).startswith(last(out).header)
    assert 20 <= len(last(out).header) <= 24


def test_the_last_of_a_batch_and_each_sa_its_own():
    one_out, one = pair(spi=0x1001)
    two_out, two = pair(spi=0x2002)
    a, b = seal([ipv4(100)] * 2, one_out), seal([ipv4(100)] * 2, two_out)
    slots = Slots([broken(a[0]), broken(b[0]), broken(b[1]), a[1]], [one, two, two, one])
    unprotect(slots.batch)
    assert slots.names == ["bad_icv", "bad_icv", "bad_icv", "ok"]
    assert (last(one).seq, last(two).seq) == (1, 2)


@pytest.mark.parametrize(("outer", "front"), [("v4", 20), ("v6", 40)])
def test_ah_keeps_its_header_and_number(outer, front):
    common = {"protocol": "ah", **OUTERS[outer]}
    out, into = (SA(direction, 0x1001, "sha256", ah_key("sha256"), **common) for direction in ("out", "in"))
    good, bad = seal([ipv4(100)] * 2, out)
    assert opened([good, broken(bad), good], into) == ["ok", "bad_icv", "replay_seen"]
    drop = last(into)
    assert (drop.verdict, drop.seq) == ("replay_seen", 1)
    assert good.startswith(drop.header)
    assert len(drop.header) == front + 12
    assert opened([broken(bad)], into) == ["bad_icv"]
    assert last(into)[:2] == ("bad_icv", 2)
    assert bad[: front + 12] == last(into).header, "mutable fields as they came"
