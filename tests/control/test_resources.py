"""One Child SA for each worker (RFC 9611): which one a worker sends on, and when more are asked for, or no more."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.agreement import come_to_rest
from support.pair import LATENCY_S
from support.resource_pair import ResourcePair, fallback, served, sides, workers

from ipsec_fast.control.resources import cores_of, sending_child
from ipsec_fast.errors import HostError
from ipsec_fast.ike.events import AskInstallChild, ResourceFailed
from ipsec_fast.ike.lifetimes import ChildLifetimes, time_limits


@dataclass(frozen=True)
class Child:
    name: str
    spi: int
    resource: int | None = None
    order: int = 1

    def worker(self, count: int) -> int:
        return self.spi % count


# --- which one a worker sends on


def chosen(children: list[Child], worker: int, count: int) -> str | None:
    found = sending_child(children, worker, count)
    return found.name if found else None


def test_a_worker_sends_on_its_own_and_without_one_on_the_fallback() -> None:
    children = [Child("fallback", 2, order=9), Child("zero", 4, 0, 2), Child("one", 5, 1, 3)]
    assert [chosen(children, worker, 4) for worker in range(4)] == ["zero", "one", "fallback", "fallback"]


def test_one_that_does_not_send_yet_or_any_more_is_nobodys() -> None:
    children = [Child("fallback", 2), Child("zero", 4, 0, order=0)]
    assert chosen(children, 0, 4) == "fallback"
    assert chosen([Child("zero", 4, 0, order=0)], 0, 4) is None
    assert chosen([], 0, 1) is None


def test_the_newest_of_a_rekey_is_sent_on() -> None:
    children = [
        Child("old", 4, 0, 1),
        Child("new", 8, 0, 5),
        Child("fallback", 3, None, 2),
        Child("new fallback", 7, None, 4),
    ]
    assert [chosen(children, worker, 4) for worker in (0, 1)] == ["new", "new fallback"]


def test_whose_it_is_says_the_spi_whatever_number_it_was_made_with() -> None:
    children = [Child("fallback", 3), Child("made as 3 of 4", 7, 3)]
    assert [chosen(children, worker, 3) for worker in range(3)] == ["fallback", "made as 3 of 4", "fallback"]


def test_without_a_fallback_another_workers_is_better_than_none() -> None:
    children = [Child("zero", 4, 0, 2), Child("one", 5, 1, 3)]
    assert [chosen(children, worker, 4) for worker in range(3)] == ["zero", "one", "one"]


def test_how_the_cores_are_used_is_said_of_one_worker_of_a_group_and_of_none() -> None:
    pair = ResourcePair(*sides(), settings=workers(2)).up_group()
    views = pair.a.view.children
    assert cores_of(views, 1) == "one worker"
    assert cores_of(views, 2) == "per-resource"
    assert cores_of([c for c in views if c.resource is None], 2) == "one owner"


# --- what is asked for


def rising(count_a: int, count_b: int, seconds: float = 3.0, asks: str = "ab", **options) -> ResourcePair:
    pair = ResourcePair(*sides(**options), settings=workers(count_a), settings_b=workers(count_b), asks=asks)
    pair.initiate("a")
    pair.run(seconds)
    return pair


@pytest.mark.parametrize("count", [2, 3, 8])
def test_every_worker_gets_one_and_both_sides_use_the_same(count: int) -> None:
    pair = rising(count, count)
    pair.run(60)
    assert served(pair.a) == served(pair.b) == [None, *range(count)]
    assert len([c for c in pair.b.view.children if c.initiator]) == 0, "the other side has nothing to add"
    assert come_to_rest(pair) == ""


@pytest.mark.parametrize(("count_a", "count_b"), [(2, 4), (4, 2), (2, 3)])
def test_the_side_with_more_workers_asks_for_what_is_missing_after_5_s(count_a: int, count_b: int) -> None:
    pair = rising(count_a, count_b, 4.0)
    assert served(pair.a) == [None, *range(count_a)]
    pair.run(6)
    assert set(served(pair.a)) == {None, *range(count_a)}
    assert set(served(pair.b)) == {None, *range(count_b)}
    assert len(served(pair.a)) == len(served(pair.b)) == 1 + max(count_a, count_b)


def test_with_one_worker_nothing_is_asked() -> None:
    pair = rising(1, 4, 60.0, per_resource=True)
    assert len([c for c in pair.a.view.children if c.initiator]) == 1
    assert set(served(pair.b)) == {None, 0, 1, 2, 3}, "a peer with more may have them"


def test_a_peer_that_does_not_speak_of_it_is_not_asked() -> None:
    pair = rising(4, 4, 60.0, options_b={"per_resource": False})
    pair.check_one_pair()
    assert pair.lines == {"a": [], "b": []}
    assert cores_of(pair.a.view.children, 4) == "one owner"


def test_64_workers_are_the_most_that_ask() -> None:
    pair = rising(100, 2, 30.0, options_b={"per_resource_max": 500})
    assert len(served(pair.a)) == 65


def test_a_peer_that_has_enough_is_asked_no_more_and_it_is_told_once() -> None:
    pair = rising(8, 2, 30.0, options_b={"per_resource_max": 3})
    assert served(pair.a) == [None, 0, 1, 2]
    refused = len(pair.a.of(ResourceFailed))
    pair.run(3600)
    assert len(pair.a.of(ResourceFailed)) == refused
    assert len([line for line in pair.lines["a"] if "TS_MAX_QUEUE" in line]) == 1
    assert "3 of 8" in pair.lines["a"][0]


def test_when_one_of_them_is_gone_there_may_be_room_again() -> None:
    pair = rising(8, 2, 30.0, options_b={"per_resource_max": 3})
    gone = next(c for c in pair.a.view.children if c.resource == 1)
    pair.call("a", "terminate_child", gone.child_id)
    pair.run(30)
    assert len(served(pair.a)) == 4


def test_a_refusal_is_asked_again_later_each_time() -> None:
    pair = rising(2, 2, 30.0, "a")
    pair.call("a", "terminate_child", next(c.child_id for c in pair.a.view.children if c.resource == 1))
    pair.run(1)
    pair.b.refuse = {AskInstallChild: HostError("no more room")}
    pair.run(2000)
    at = [line for line in pair.lines["a"] if "again in" in line]
    waits = [int(line.rsplit(" in ", 1)[1].split()[0]) for line in at]
    assert waits == sorted(waits)
    assert waits[-1] > 100
    assert len(waits) < 12
    pair.b.refuse = {}
    pair.run(700)
    assert served(pair.a) == served(pair.b) == [None, 0, 1]


def test_one_that_expired_comes_back_soon_and_one_that_the_peer_deletes_ever_later() -> None:
    pair = rising(2, 2, 30.0, "a")
    pair.call(
        "a", "child_expired", next(c.child_id for c in pair.a.view.children if c.resource == 0), "its lifetime is over"
    )
    pair.run(8)
    assert served(pair.a) == [None, 0, 1]
    back_after = []
    for _ in range(5):
        pair.call("b", "terminate_child", next(c.child_id for c in pair.b.view.children if c.resource == 1))
        began = pair.now
        pair.run(1)
        assert len(served(pair.a)) == 2
        pair.run(5000, until=lambda: len(served(pair.a)) == 3)
        back_after.append(pair.now - began)
        pair.run(1)
    assert back_after == sorted(back_after)
    assert 59 < back_after[0] < 62
    assert 900 < back_after[4] < 1000


def test_idle_children_go_and_stay_away() -> None:
    lives = ChildLifetimes(time_limits(0.0), inactivity_s=50.0)
    pair = rising(2, 2, 20.0, lifetimes=lives)
    assert len(served(pair.a)) == 3
    pair.run(3000)
    assert served(pair.a) == served(pair.b) == []


def test_a_rekey_of_the_fallback_or_of_the_ike_sa_changes_nothing_of_what_is_wanted() -> None:
    pair = rising(2, 2)
    pair.call("a", "rekey_child", fallback(pair.a).child_id)
    pair.run(2)
    pair.call("b", "rekey_ike", pair.b.view.ike_id)
    pair.run(2)
    assert served(pair.a) == served(pair.b) == [None, 0, 1]
    pair.call("a", "terminate_child", next(c.child_id for c in pair.a.view.children if c.resource == 1))
    pair.run(8)
    assert served(pair.a) == served(pair.b) == [None, 0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_crossing_rekeys_of_the_fallback_leave_one_wish(seed: int) -> None:
    pair = ResourcePair(*sides(), settings=workers(2), seed=seed).up_group()
    pair.a.endpoint.rekey_child(fallback(pair.a).child_id, pair.now)
    pair.b.endpoint.rekey_child(fallback(pair.b).child_id, pair.now)
    pair.run(20)
    for side in "ab":
        pair.call(side, "terminate_child", next(c.child_id for c in pair.shell(side).view.children if c.resource == 1))
        pair.run(130)
        assert served(pair.a) == served(pair.b) == [None, 0, 1]
    assert len(pair.askers["a"]._unique_wishes()) == 1


def test_a_reauthentication_ends_with_as_many_and_no_packet_without_an_sa() -> None:
    pair = ResourcePair(*sides(), settings=workers(3)).up_group().start_traffic(0.003)
    pair.call("a", "reauthenticate", pair.a.view.ike_id)
    pair.run(20)
    pair.start_traffic(0.0)
    assert served(pair.a) == served(pair.b) == [None, 0, 1, 2]
    assert (pair.a.gaps, pair.b.gaps) == ([], [])


def test_a_fallback_that_goes_takes_its_wish_with_it() -> None:
    pair = rising(2, 2, 20.0)
    pair.call("a", "terminate_child", fallback(pair.a).child_id)
    pair.call("a", "terminate_child", next(c.child_id for c in pair.a.view.children if c.resource == 1))
    pair.run(200)
    assert served(pair.a) == served(pair.b) == [0]
    assert pair.askers["a"].get_timer() is None


def test_loss_and_delay_end_with_one_for_each() -> None:
    for seed in range(6):
        pair = ResourcePair(*sides(), settings=workers(3), seed=seed)
        pair.network = lambda sent: () if sent.number % 3 == 1 else (LATENCY_S,)
        pair.initiate("a")
        pair.run(60)
        pair.network = lambda sent: (LATENCY_S,)
        pair.run(120)
        assert set(served(pair.a)) == set(served(pair.b)) == {None, 0, 1, 2}
        assert len(served(pair.a)) == 4
