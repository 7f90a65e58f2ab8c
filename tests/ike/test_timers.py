"""Timers against a naive model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.ike.timers import TimerKey, TimerKind, Timers

KEYS = [TimerKey(owner, kind, child) for owner in (1, 2) for kind in list(TimerKind)[:3] for child in (0, 1)]


@given(
    st.lists(st.tuples(st.sampled_from(["set", "cancel", "owner", "pop"]), st.sampled_from(KEYS), st.integers(0, 9)))
)
def test_like_a_dictionary_that_is_searched(steps: list[tuple[str, TimerKey, int]]) -> None:
    timers, model = Timers(), dict[TimerKey, float]()
    for verb, key, at in steps:
        if verb == "set":
            timers.set(key, at)
            model[key] = at
        elif verb == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        elif verb == "owner":
            timers.cancel_owner(key.owner)
            model = {k: v for k, v in model.items() if k.owner != key.owner}
        else:
            due = timers.pop_due(at)
            assert (due is None) == (not [v for v in model.values() if v <= at])
            if due is not None:
                earliest = min(model.values())
                assert model.pop(due) == earliest
        assert timers.next_at() == min(model.values(), default=None)
        assert timers.at(key) == model.get(key)


def test_a_timer_set_again_a_thousand_times_leaves_no_thousand_entries() -> None:
    timers = Timers()
    for count in range(1000):
        timers.set(KEYS[0], float(count))
    assert len(timers._heap) < 200
    assert timers.pop_due(1e9) == KEYS[0]
    assert timers.pop_due(1e9) is None


def test_the_end_of_an_owner_leaves_nothing_and_does_not_walk_the_others() -> None:
    timers = Timers()
    for owner in range(1000):
        timers.set(TimerKey(owner, TimerKind.HALF_OPEN), 1.0)
        timers.cancel_owner(owner)
    assert not timers._keys
    timers.set(TimerKey(1, TimerKind.REKEY), 1.0)
    assert timers.pop_due(2.0) == TimerKey(1, TimerKind.REKEY)
    assert not timers._keys
