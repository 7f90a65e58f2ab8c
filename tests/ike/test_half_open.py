"""The heaviest network loses its oldest entry: compared with a naive model that counts everything each time."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import ip_address

import pytest

from ipsec_fast.ike.fair import Bucket, FairBucket, Meter, Rate
from ipsec_fast.ike.half_open import ByHolder
from ipsec_fast.ike.prefixes import LEVELS, prefixes_of


def heaviest_count(things: dict[int, object], level: int) -> Counter:
    return Counter(prefixes_of(address)[level] for address in things.values())


@pytest.mark.parametrize("seed", range(20))
def test_the_victim_is_of_the_heaviest_network_and_its_oldest(seed: int) -> None:
    rng = random.Random(seed)
    held: ByHolder[int] = ByHolder()
    model: dict[int, object] = {}
    for number in range(600):
        if model and rng.random() < 0.4:
            gone = rng.choice(list(model))
            assert held.discard(gone)
            del model[gone]
        else:
            version4 = rng.random() < 0.7
            bits = rng.choice((0, 1, 1 << 8, 1 << 16, 3 << 24)) * rng.randrange(4)
            address = ip_address(0x0A000000 + bits) if version4 else ip_address((0x2001 << 112) + (bits << 64))
            held.add(number, address)
            model[number] = address
        assert len(held) == len(model)
        if not model:
            continue
        victim = held.oldest_of_the_heaviest()
        for level in range(LEVELS):
            around = None if level == 0 else prefixes_of(model[victim])[level - 1]
            inside = {n: a for n, a in model.items() if around is None or prefixes_of(a)[level - 1] == around}
            counts = heaviest_count(inside, level)
            assert counts[prefixes_of(model[victim])[level]] == max(counts.values())
        row = prefixes_of(model[victim])[-1]
        assert victim == min(n for n, a in model.items() if prefixes_of(a)[-1] == row)
    for number in list(model):
        held.discard(number)
    assert not held._rows
    assert not held._inside
    assert not held.discard(1)


def test_networks_take_turns_however_much_one_of_them_has() -> None:
    held: ByHolder[str] = ByHolder()
    for number in range(100):
        held.add(f"flood {number}", ip_address(0x0A000000 + number))
    held.add("good", ip_address("192.0.2.1"))
    served = []
    for _ in range(2):
        served.append(held.next_in_turn())
        held.discard(served[-1])
    assert "good" in served


@pytest.mark.parametrize(("network", "step"), [("203.0.0.0", 1 << 16), ("203.0.0.0", 257), ("2001:db8::", 1 << 80)])
def test_who_has_all_of_a_providers_network_is_one_holder(network: str, step: int) -> None:
    """One from each /16 of a /8, or each /48 of a /32: the good one neither goes nor waits."""
    held: ByHolder[str] = ByHolder()
    first = ip_address(network)
    held.add("good", ip_address("198.51.100.1" if first.version == 4 else "2001:db9::1"))
    for number in range(200):
        held.add(f"flood {number}", type(first)(int(first) + number * step))
    for _ in range(199):
        held.discard(held.oldest_of_the_heaviest())
    assert "good" in held
    for number in range(200):
        held.add(f"more {number}", type(first)(int(first) + number * step))
    served = [held.next_in_turn(), held.next_in_turn()]
    assert "good" in served


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", 3), ("192.0.2.1", "192.0.3.1", 2), ("192.0.2.1", "192.1.2.1", 1),
        ("192.0.2.1", "193.0.2.1", 0), ("2001:db8:0:1::1", "2001:db9:0:1::1", 0),
        ("2001:db8:0:1::1", "2001:db8:0:1::2", 4), ("2001:db8:0:1::1", "2001:db8:0:2::1", 3),
        ("2001:db8:0:1::1", "2001:db8:0:101::1", 2), ("2001:db8:0:1::1", "2001:db8:1:1::1", 1),
        ("0.0.0.1", "::1", 0),
    ],
)  # fmt: skip
def test_networks_of_addresses(one: str, other: str, together: int) -> None:
    same = [a == b for a, b in zip(prefixes_of(ip_address(one)), prefixes_of(ip_address(other)), strict=True)]
    assert same == [True] * together + [False] * (4 - together)


def test_a_bucket_fills_with_time_and_no_further_than_its_burst() -> None:
    bucket = Bucket(Rate(2, 1), 0.0)
    assert [bucket.take(at) for at in (0, 0, 0, 0.5, 1.0, 1.0, 100, 100, 100)] == [
        True, True, False, False, True, False, True, True, False,
    ]  # fmt: skip


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = Bucket(Rate(1, 1), 10.0)
    assert bucket.take(10.0)
    assert not bucket.take(0.0)
    assert not bucket.take(0.5)


def test_one_that_was_refused_takes_nothing_of_the_others() -> None:
    fair = FairBucket(Rate(1, 0), (Rate(100, 0), Rate(100, 0)), Rate(3, 0))
    for _ in range(50):
        fair.take(ip_address("192.0.2.1"), 0.0)
    assert fair.take(ip_address("192.0.2.2"), 0.0)
    assert fair.take(ip_address("192.0.2.3"), 0.0)
    assert not fair.take(ip_address("192.0.2.4"), 0.0), "three in all"


def test_a_meter_says_that_there_is_much_until_it_has_leaked() -> None:
    meter = Meter(Rate(10, 5))
    for _ in range(9):
        meter.count(0.0)
    assert not meter.is_much(0.0)
    for _ in range(1000):
        meter.count(0.0)
    assert meter.is_much(1.9)
    assert not meter.is_much(2.1), "it holds twice its burst at most"
