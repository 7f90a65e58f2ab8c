"""A suspended host: due SAs are rekeyed at once, expired ones have time for that, and a normal clock changes nothing."""

from __future__ import annotations

from pair import Pair, connection

from ipsec_fast.gateway.suspend import SuspendWatch
from ipsec_fast.ike.events import ChildDown, ChildUp, IkeDown, IkeUp
from ipsec_fast.ike.timers import TimerKey, TimerKind, Timers


def test_an_hour_of_sleep_is_noticed_once() -> None:
    asleep = [100.0]
    watch = SuspendWatch(lambda: asleep[0])
    assert watch.take() == 0.0
    asleep[0] += 0.2  # clocks are read one after the other
    assert watch.take() == 0.0
    asleep[0] += 3600.0
    assert watch.take() == 3600.2
    assert watch.take() == 0.0


def test_two_short_ones_add_up() -> None:
    asleep = [0.0]
    watch = SuspendWatch(lambda: asleep[0])
    found = 0.0
    for _ in range(10):
        asleep[0] += 0.6
        found += watch.take()
    assert found > 5.0


def test_after_an_hour_of_sleep_both_are_rekeyed_at_once_and_nothing_is_torn_down() -> None:
    pair = Pair(connection("a", rekey_time_s=1800.0), connection("b", rekey_time_s=100_000.0)).up()
    pair.run(10.0)
    began = len(pair.a.events)
    pair.call("a", "note_suspended", 3600.0)
    pair.run(3.0)
    news = pair.a.events[began:]
    assert any(isinstance(event, IkeUp) and event.replaces is not None for event in news)
    assert any(isinstance(event, ChildUp) and event.replaces is not None for event in news)
    assert not any(isinstance(event, IkeDown) and event.failed for event in news)
    assert all(event.replaced_by is not None for event in news if isinstance(event, ChildDown))
    pair.check_one_pair()


def test_a_nap_of_a_minute_rekeys_nothing_and_asks_the_peer() -> None:
    pair = Pair().up()
    pair.run(10.0)
    began, sent = len(pair.a.events), len(pair.sent)
    pair.call("a", "note_suspended", 60.0)
    pair.run(1.0)
    assert not any(isinstance(event, IkeUp | ChildUp) for event in pair.a.events[began:])
    assert len(pair.sent) > sent


def test_timers_come_nearer_and_never_before_now() -> None:
    timers = Timers()
    keys = [TimerKey(1, kind) for kind in (TimerKind.REKEY, TimerKind.LIFE, TimerKind.RETRANSMIT)]
    for key, at in zip(keys, (50.0, 500.0, 40.0), strict=True):
        timers.set(key, at)
    timers.advance({TimerKind.REKEY, TimerKind.LIFE}, 100.0, 20.0)
    assert [timers.at(key) for key in keys] == [20.0, 400.0, 40.0]
    assert timers.next_at() == 20.0
