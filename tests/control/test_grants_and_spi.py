"""Numbers that must never be used twice: SPIs and blocks of sequence numbers."""

from __future__ import annotations

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
