"""Memory that others make us hold: a bound over all, and the oldest gives way."""

from __future__ import annotations

from ipsec_fast.ike.budget import Budget


def test_the_oldest_gives_way_and_is_told() -> None:
    dropped: list[str] = []
    budget = Budget(100)
    for name in "abc":
        assert budget.charge(name, 30, lambda name=name: dropped.append(name)) == 0
    assert budget.charge("d", 30, lambda: dropped.append("d")) == 1
    assert dropped == ["a"]
    assert budget.bytes == 90


def test_growing_does_not_make_a_holder_younger_nor_drop_itself() -> None:
    dropped: list[str] = []
    budget = Budget(100)
    budget.charge("a", 40, lambda: dropped.append("a"))
    budget.charge("b", 40, lambda: dropped.append("b"))
    assert budget.charge("a", 40, lambda: dropped.append("a")) == 1
    assert dropped == ["b"]
    assert budget.bytes == 80


def test_one_holder_may_stand_alone_above_the_bound_of_its_user() -> None:
    budget = Budget(100)
    assert budget.charge("a", 150, lambda: None) == 0
    assert budget.bytes == 150


def test_what_is_released_is_free_again_once() -> None:
    budget = Budget(100)
    budget.charge("a", 60, lambda: None)
    budget.release("a")
    budget.release("a")
    budget.release("never there")
    assert budget.bytes == 0
