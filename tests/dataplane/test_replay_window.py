"""The anti-replay window against a naive model (a set of numbers), with steps relative to the window's edges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsec_fast.dataplane.replay import ReplayWindow
from ipsec_fast.errors import UsageError

SIZES = (32, 33, 63, 64, 65, 127, 128, 1000, 1024, 4096, 65536, 1_000_000, 1 << 20)
TOP32 = 1 << 32


class Model:
    def __init__(self, size: int, top: int = 0) -> None:
        self.size, self.top, self.start, self.seen = size, top, top, set()

    def check(self, seq: int) -> str:
        if seq == 0 or seq <= self.top - self.size:
            return "old"
        return "seen" if seq in self.seen or seq <= self.start else "new"

    def advance(self, seq: int) -> str:
        result = self.check(seq)
        if result == "new":
            self.seen.add(seq)
            self.top = max(self.top, seq)
        return result


@pytest.mark.parametrize("size", [0, 1, 31, (1 << 20) + 1, 1 << 32])
def test_replay_refuses_sizes_out_of_range(size):
    with pytest.raises(UsageError, match="32 to 1048576"):
        ReplayWindow(size)


def test_replay_rejects_zero():
    assert ReplayWindow(64).advance(0) == "old"


@pytest.mark.parametrize("size", SIZES)
def test_replay_rejects_behind_window_and_accepts_its_last_number(size):
    window = ReplayWindow(size)
    assert window.advance(10 * size) == "new"
    assert window.check(9 * size) == "old"
    assert window.advance(9 * size + 1) == "new"
    assert window.advance(9 * size + 1) == "seen"


@pytest.mark.parametrize("size", SIZES)
def test_replay_restored_window_refuses_all_up_to_its_top(size):
    top = 5 * size + 17
    window = ReplayWindow(size, top)
    assert all(window.check(seq) != "new" for seq in range(max(1, top - size - 5), top + 1))
    assert all(window.advance(seq) == "new" for seq in range(top + 1, top + 200))


def edges(size: int):
    near = st.integers(-3, 3)
    return st.one_of(
        near,
        near.map(lambda d: d - size),
        near.map(lambda d: d + size),
        near.map(lambda d: d + 64),
        near.map(lambda d: d - 64),
        st.integers(-2 * size, 2 * size),
        near.map(lambda d: d + 40 * size),
    )


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SIZES).flatmap(
        lambda size: st.tuples(
            st.just(size), st.lists(edges(size), max_size=60), st.sampled_from((0, 0, 7, 64, 63, 5000))
        )
    )
)
def test_replay_agrees_with_the_model(case):
    size, deltas, start = case
    window, model = ReplayWindow(size, start), Model(size, start)
    for delta in deltas:
        seq = max(0, model.top + delta)
        assert window.check(seq) == model.check(seq)
        assert window.advance(seq) == model.advance(seq)
        assert window.top == model.top


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SIZES),
    st.one_of(st.integers(0, 3), st.just(TOP32 - 1)),
    st.one_of(st.integers(0, 3), st.integers(TOP32 - 4, TOP32 - 1), st.integers(0, TOP32 - 1)),
    st.one_of(st.integers(-3, 3), st.integers(-(1 << 20) - 3, (1 << 20) + 3)),
    st.booleans(),
)
def test_esn_high_half_is_exact_within_its_range(size, high, low, delta, at_edge):
    top = high << 32 | low
    true = top + delta + (TOP32 - size if delta > 0 and not at_edge else -size if delta < 0 and at_edge else 0)
    window = ReplayWindow(size, top)
    if true <= 0 or true >= 1 << 64:
        return
    inferred = window.infer(true & 0xFFFFFFFF)
    if top - size < true <= top + TOP32 - size:
        assert inferred == true
    else:
        assert inferred != true


def test_esn_never_goes_below_zero_or_above_its_end():
    assert ReplayWindow(64, 5).infer(TOP32 - 3) == 0  # would be number -3
    assert ReplayWindow(64, (1 << 64) - 2).infer(5) == 0  # would be 2^64 + 5
