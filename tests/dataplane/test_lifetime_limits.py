"""Hard and soft limits of an SA in packets and bytes: exact to the packet, in both directions, on every suite, inside one batch too."""

from __future__ import annotations

import pytest
from kernel_packets import SUITES, Slots, ipv4, pair, seal

from ipsec_fast import SA, protect, unprotect
from ipsec_fast.errors import UsageError

on_every_suite = pytest.mark.parametrize("algorithm", SUITES)
in_chunks = pytest.mark.parametrize("chunk", [1, 7, 200])  # one by one, in parts of the kernel's 64, over them


def sent(sa: SA, lengths: list[int], chunk: int = 200) -> list[str]:
    names: list[str] = []
    for at in range(0, len(lengths), chunk):
        slots = Slots([ipv4(n) for n in lengths[at : at + chunk]], sa, sa.headroom, sa.tailroom)
        protect(slots.batch)
        names += slots.names
    return names


def received(sa: SA, packets: list[bytes], chunk: int = 200) -> list[str]:
    names: list[str] = []
    for at in range(0, len(packets), chunk):
        slots = Slots(packets[at : at + chunk], sa)
        unprotect(slots.batch)
        names += slots.names
    return names


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", 1 << 63, None])
def test_no_limit(wrong):
    out, _ = pair()
    with pytest.raises(UsageError, match="lifetime"):
        out.set_limits(hard_bytes=wrong)


@in_chunks
@on_every_suite
def test_nothing_is_sent_past_the_last_packet(algorithm, chunk):
    out, _ = pair(algorithm)
    out.set_limits(hard_packets=100)
    assert sent(out, [60] * 150, chunk) == ["ok"] * 100 + ["lifetime"] * 50
    assert (out.seq, out.counters()["packets"], out.counters()["lifetime"]) == (100, 100, 50)


@in_chunks
@on_every_suite
def test_nothing_is_received_past_the_last_packet(algorithm, chunk):
    out, into = pair(algorithm)
    packets = seal([ipv4(60)] * 150, out)
    into.set_limits(hard_packets=100)
    assert received(into, packets, chunk) == ["ok"] * 100 + ["lifetime"] * 50
    assert into.counters()["packets"] == 100


@in_chunks
def test_nothing_is_sent_past_the_last_byte(chunk):
    out, _ = pair()
    out.set_limits(hard_bytes=1000)
    assert sent(out, [100] * 9 + [101] + [60] * 3, chunk) == ["ok"] * 9 + ["lifetime"] * 4, (
        "and nothing smaller after it"
    )
    assert (out.counters()["bytes"], out.seq, out.hard_limit) == (900, 9, 9)


def test_the_last_byte_itself_may_be_used():
    out, _ = pair()
    out.set_limits(hard_bytes=1000)
    assert sent(out, [100] * 11) == ["ok"] * 10 + ["lifetime"]


@in_chunks
def test_nothing_is_received_past_the_last_byte(chunk):
    out, into = pair()
    packets = seal([ipv4(100)] * 9 + [ipv4(101)] + [ipv4(60)] * 3, out)
    into.set_limits(hard_bytes=1000)
    assert received(into, packets, chunk) == ["ok"] * 9 + ["lifetime"] * 4
    assert into.counters()["bytes"] == 900


def test_what_is_dropped_counts_for_nothing():
    out, into = pair()
    packets = seal([ipv4(100)] * 3, out)
    into.set_limits(hard_packets=2)
    assert received(into, [packets[0], packets[0], packets[1][:-1] + b"\0", packets[1], packets[2]]) == [
        "ok", "replay_seen", "bad_icv", "ok", "lifetime",
    ]  # fmt: skip


def test_limits_count_from_where_the_sa_stands():
    out, _ = pair(seqs=(1 << 20, 0))
    out.set_limits(soft_packets=2, hard_packets=3)
    assert (out.soft_limit, out.hard_limit) == ((1 << 20) + 2, (1 << 20) + 3)
    assert sent(out, [60] * 4) == ["ok"] * 3 + ["lifetime"]


def test_the_numbers_end_before_a_lifetime_that_is_longer():
    out, _ = pair(seqs=((1 << 32) - 3, 0))
    out.set_limits(soft_packets=1 << 40, hard_packets=1 << 40)
    assert (out.soft_limit, out.hard_limit) == (((1 << 32) - 1) // 4 * 3, (1 << 32) - 1)
    assert sent(out, [60] * 3) == ["ok", "ok", "seq_exhausted"]


def test_a_watermark_below_the_lifetime_is_told_apart():
    out, _ = pair(granted=2)
    out.set_limits(hard_packets=3)
    assert sent(out, [60] * 3) == ["ok", "ok", "no_grant"]
    out.set_grant(100)
    assert sent(out, [60] * 2) == ["ok", "lifetime"]


@pytest.mark.parametrize("soft", [{"soft_packets": 5}, {"soft_bytes": 500}])
def test_a_soft_limit_is_reached_in_either_direction(soft):
    out, into = pair()
    out.set_limits(**soft)
    into.set_limits(**soft)
    for sa, step in ((out, lambda: sent(out, [100])), (into, None)):
        if step is None:
            packets = seal([ipv4(100)] * 5, pair()[0])
            assert received(into, packets[:4]) == ["ok"] * 4
            assert not sa.soft_limit_reached
            assert received(into, packets[4:]) == ["ok"]
        else:
            for _ in range(4):
                assert step() == ["ok"]
                assert not sa.soft_limit_reached
            assert step() == ["ok"]
        assert sa.soft_limit_reached


def test_without_limits_only_the_numbers_count():
    out, into = pair()
    for sa in (out, into):
        sa.set_limits()
        assert (sa.hard_limit, sa.soft_limit_reached) == ((1 << 32) - 1, False)
    assert received(into, seal([ipv4(1400)] * 200, out)) == ["ok"] * 200
