"""Numbers that must never be used twice: SPIs and blocks of sequence numbers."""

from __future__ import annotations

import random

import pytest

from ipsec_fast.control.grants import BLOCK, Grants, MemoryGrantStore
from ipsec_fast.control.spi import PROMISES, SpiPool


def test_reserved_and_used_spis_are_never_handed_out():
    draws = iter([0, 1, 255, 256, 256, 257])
    pool = SpiPool(lambda n: next(draws).to_bytes(n, "big"))
    assert [pool.take(), pool.take()] == [256, 257]


def test_a_spi_that_was_given_back_may_come_again():
    pool = SpiPool(lambda n: (300).to_bytes(n, "big"))
    pool.give_back(pool.take())
    assert pool.take() == 300


def test_a_grant_is_stored_before_it_is_told_and_a_store_that_fails_grants_nothing():
    class Full:
        def store_end(self, child_id: int, end: int) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        Grants(Full()).next_end(1, 2**32 - 1)


def test_blocks_follow_each_other_and_stop_at_the_highest_number():
    store = MemoryGrantStore()
    grants = Grants(store)
    assert [grants.next_end(1, 2**32 - 1) for _ in range(3)] == [BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert store.ends == {1: 3 * BLOCK}
    assert grants.next_end(2, 1000) == 1000
    grants.forget(1)
    assert store.ends == {2: 1000}


def test_promises_that_come_to_nothing_are_bounded_and_used_spis_stay():
    numbers = iter(range(1000, 1000 + 2 * PROMISES))
    pool = SpiPool(lambda n: next(numbers).to_bytes(n, "big"))
    pool.use(pool.take())
    for _ in range(PROMISES + 10):
        pool.take()
    assert len(pool) == PROMISES + 1
    assert 1000 in pool._used


def test_the_remainder_of_a_spi_names_its_worker_and_reserved_ones_stay_reserved():
    draws = iter([0, 255, 258, 259, 2**32 - 1, 2**32 - 2])
    pool = SpiPool(lambda n: next(draws).to_bytes(n, "big"), workers=4)
    assert pool.take(3) == 259  # 0 and 255 give 3 and 255, which are reserved
    assert pool.take(1) == 257
    assert pool.take(3) == 2**32 - 1
    assert pool.take(2) == 2**32 - 2


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 63, 64])
def test_no_spi_is_below_256_above_32_bits_or_twice_with_any_number_of_workers(workers):
    source = random.Random(workers)
    pool = SpiPool(
        lambda n: source.choice([0, 255, 256, 2**32 - 1, source.randrange(1 << 32)]).to_bytes(n, "big"), workers
    )
    taken = [pool.take(n % workers) for n in range(500)]
    assert len(set(taken)) == 500
    assert all(256 <= spi < 2**32 and spi % workers == n % workers for n, spi in enumerate(taken))


def test_a_spi_without_a_wish_goes_to_the_worker_that_has_the_fewest():
    source = random.Random(1)
    pool = SpiPool(source.randbytes, workers=3)
    first = [pool.take() for _ in range(6)]
    assert sorted(spi % 3 for spi in first) == [0, 0, 1, 1, 2, 2]
    for spi in first:
        pool.use(spi)
        pool.use(spi)  # once more changes nothing
    for spi in first:
        if spi % 3 == 1:
            pool.give_back(spi)
            pool.give_back(spi)
    assert [pool.take() % 3 for _ in range(2)] == [1, 1]


def test_a_rekey_stays_with_the_worker_of_what_it_replaces():
    source = random.Random(2)
    pool = SpiPool(source.randbytes, workers=8)
    old = pool.take(5)
    assert pool.take(old) % 8 == 5


def test_promises_that_came_to_nothing_weigh_nothing():
    source = random.Random(3)
    pool = SpiPool(source.randbytes, workers=2)
    for _ in range(PROMISES + 100):
        pool.take(0)
    pool.give_back(pool.take(1))
    assert sum(pool._load.values()) == len(pool)
