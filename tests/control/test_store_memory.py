"""The store in memory: marks only grow, what is removed is gone, closing keeps or clears."""

from __future__ import annotations

from state_samples import ike_record

from ipsec_fast.control.store import GrantMark, MemoryStore, StoredIke


def test_marks_of_an_unknown_ike_sa_are_nothing() -> None:
    store = MemoryStore()
    store.put_grants(1, {1: GrantMark(5, 5)})
    store.remove(1)
    assert store.load() == []


def test_marks_only_grow() -> None:
    store, record = MemoryStore(), ike_record(1)
    store.put(record, {100: GrantMark(10, 3)})
    store.put_grants(1, {100: GrantMark(8, 7), 101: GrantMark(1, 0)})
    assert store.load() == [StoredIke(record, {100: GrantMark(10, 7), 101: GrantMark(1, 0)})]


def test_closing_keeps_or_clears() -> None:
    store = MemoryStore()
    store.put(ike_record(1), {})
    store.close(keep=True)
    assert len(store.load()) == 1
    store.close(keep=False)
    assert store.load() == []
    assert store.keeps == "memory"
