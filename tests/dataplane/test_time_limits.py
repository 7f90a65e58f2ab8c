"""Limits of time and of idleness of an SA in the library: looked at once a call, told by `lifetime` and `soft_limit_reached`."""

from __future__ import annotations

import time

import pytest
from kernel_packets import Slots, ipv4, pair, seal

from ipsec_fast import SA, SAD, protect, protect_packet, unprotect, unprotect_packet
from ipsec_fast.errors import IpsecFastError, UsageError

TICK_S = 0.02  # CLOCK_MONOTONIC_COARSE is exact to a tick of at most 10 ms


def sent(sa: SA, count: int = 1) -> list[str]:
    slots = Slots([ipv4(60)] * count, sa, sa.headroom, sa.tailroom)
    protect(slots.batch)
    return slots.names


def received(sa: SA, packets: list[bytes]) -> list[str]:
    slots = Slots(packets, sa)
    unprotect(slots.batch)
    return slots.names


def wait_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)


@pytest.mark.parametrize("field", ["soft_seconds", "hard_seconds", "idle_seconds"])
@pytest.mark.parametrize("wrong", [-1, "1", None, True, float("nan"), float("inf"), 1e18])
def test_no_number_of_seconds(field, wrong):
    out, _ = pair()
    with pytest.raises(UsageError, match="a number of seconds, 0 for none"):
        out.set_limits(**{field: wrong})


def test_past_the_hard_limit_nothing_leaves_and_nothing_arrives():
    out, into = pair()
    packets = seal([ipv4(60)] * 2, out)
    until = time.monotonic() + 0.2
    out.set_limits(hard_seconds=0.2)
    into.set_limits(hard_seconds=0.2)
    assert (out.check_time(), into.check_time()) == (True, True)
    assert sent(out) == ["ok"]
    assert received(into, packets[:1]) == ["ok"]
    wait_until(until + TICK_S)
    assert sent(out, 3) == ["lifetime"] * 3
    assert received(into, packets[1:]) == ["lifetime"]
    assert (out.check_time(), into.check_time()) == (False, False)
    assert (out.seq, out.counters()["lifetime"], into.counters()["lifetime"]) == (3, 3, 1)
    assert into.last_drop is not None
    assert into.last_drop[:2] == ("lifetime", 2)


def test_the_time_may_be_told():
    out, _ = pair()
    out.set_limits(hard_seconds=3600)
    assert out.check_time(time.monotonic() + 3599)
    assert sent(out) == ["ok"]
    assert not out.check_time(time.monotonic() + 3601)
    assert sent(out) == ["lifetime"], "once over, it stays over"
    for wrong in (-1, "now", 1e18):
        with pytest.raises(UsageError, match="CLOCK_MONOTONIC in seconds"):
            out.check_time(wrong)


def test_the_soft_limit_asks_for_a_new_sa_and_drops_nothing():
    out, into = pair()
    out.set_limits(soft_seconds=0.05)
    into.set_limits(soft_seconds=0.05)
    assert not out.soft_limit_reached
    assert not into.soft_limit_reached
    time.sleep(0.05 + TICK_S)
    assert out.soft_limit_reached
    assert into.soft_limit_reached
    assert received(into, seal([ipv4(60)], out)) == ["ok"]


def test_idle_counts_from_the_last_good_packet():
    out, into = pair()
    for sa in (out, into):
        sa.set_limits(idle_seconds=0.5)
    packets = seal([ipv4(60)] * 5, out)
    for packet in packets[:4]:  # 0.8 s in all, never 0.5 s without a packet
        time.sleep(0.2)
        assert received(into, [packet]) == ["ok"]
    moment = time.monotonic()
    assert received(into, [packets[0], packets[4][:-4]]) == ["replay_seen", "bad_icv"], (
        "a bad packet is no use of an SA"
    )
    wait_until(moment + 0.5 + TICK_S)
    assert received(into, packets[4:]) == ["lifetime"]
    assert sent(out) == ["lifetime"], "0.8 s without sending"


@pytest.mark.parametrize("limit", ["hard_seconds", "idle_seconds"])
def test_one_packet_calls_and_a_sad_look_too(limit):
    out, into = pair()
    _, of_table = pair(spi=0x1001)
    packets = seal([ipv4(60)] * 2, out)
    for sa in (out, into, of_table):
        sa.set_limits(**{limit: 0.05})
    time.sleep(0.05 + TICK_S)
    with pytest.raises(IpsecFastError, match="lifetime"):
        protect_packet(out, ipv4(60))
    with pytest.raises(IpsecFastError, match="lifetime"):
        unprotect_packet(into, packets[0])
    table = SAD(bare=True)
    table.add(of_table)
    slots = Slots(packets, table)
    unprotect(slots.batch)
    assert slots.names == ["lifetime"] * 2


def test_new_limits_begin_anew():
    out, _ = pair()
    out.set_limits(hard_seconds=0.01)
    time.sleep(0.01 + TICK_S)
    assert sent(out) == ["lifetime"]
    out.set_limits()
    assert sent(out) == ["ok"]
    assert out.check_time()
