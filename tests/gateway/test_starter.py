"""What the configuration wants up comes up again: the schedule, the actions, never against the operator. Time is an argument."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_control import child_view, ike_view

from ipsec_fast.errors import HostError
from ipsec_fast.gateway.starter import FIRST_S, LOOK_AGAIN_S, MOST_S, STOOD_S, Starter
from ipsec_fast.ike.config import Action, ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import ChildDown, ChildFailed, ChildUp, IkeDown, IkeView, PeerBack, PeerSilent
from ipsec_fast.model import TrafficSelector

KEY = ("paris", "net")
NONE, TRAP, START = Action.NONE, Action.TRAP, Action.START
SA = ike_view(children=(child_view(),))


class Site:
    """`chance` 0: no jitter."""

    def __init__(self, start: Action = START, dpd: Action = NONE, close: Action = NONE, chance: float = 0.0) -> None:
        self.calls: list[tuple[str, str]] = []
        self.trapped: list[str] = []
        self.up: set[tuple[str, str]] = set()
        self.lines: list[str] = []
        self.error: Exception | None = None
        child = ChildConfig("net", start_action=start, dpd_action=dpd, close_action=close)
        self.starter = Starter(
            [ConnectionConfig("paris", children=(child, ChildConfig("other")))],
            self._initiate,
            lambda *key: key in self.up,
            self.lines.append,
            trap=lambda connection, child: self.trapped.append(child.name),
            chance=lambda: chance,
        )

    def _initiate(self, *key: str) -> None:
        if self.error:
            raise self.error
        self.calls.append(key)  # type: ignore[arg-type]

    def begin(self) -> Site:
        self.starter.start(0.0)
        self.starter.handle_timer(0.0)
        return self

    def rise(self, now: float) -> Site:
        self.up.add(KEY)
        self.starter.tell(ChildUp(1, 7, *KEY), SA, now)
        return self

    def fall(self, now: float, *, failed: bool = False, by_peer: bool = False, view: IkeView = SA) -> None:
        self.up.discard(KEY)
        self.starter.tell(ChildDown(1, 7, *KEY, "gone", by_peer=by_peer), view, now)
        self.starter.tell(IkeDown(1, "paris", "gone", failed, by_peer), view, now)


# --- the schedule


def test_an_attempt_that_cannot_begin_is_one_line_and_is_tried_again():
    site = Site()
    site.error = HostError("no way to 192.0.2.2")
    site.begin()
    assert site.lines == ["paris net failed: no way to 192.0.2.2"]
    site.error = None
    site.starter.handle_timer(FIRST_S)
    assert site.calls == [KEY]


def test_the_intervals_grow_to_a_minute():
    site, now, gaps = Site().begin(), 0.0, []
    for _ in range(9):
        site.starter.tell(ChildFailed(1, *KEY, "no common selectors"), None, now)
        at = site.starter.get_timer()
        gaps.append(at - now)
        now = at
        site.starter.handle_timer(now)
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(site.calls) == 10


def test_jitter_only_shortens_by_a_quarter_at_most():
    site = Site(chance=1.0).begin()
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.0)
    assert site.starter.get_timer() == 0.75


def test_an_attempt_that_lasted_long_is_followed_by_the_next_at_once():
    site, now = Site().begin(), 0.0
    for _ in range(9):
        now += 93.0
        site.starter.tell(IkeDown(1, "paris", "does not answer", failed=True), ike_view(state="CONNECTING"), now)
        assert site.starter.get_timer() == now + FIRST_S
        now += FIRST_S
        site.starter.handle_timer(now)


def test_one_failure_told_twice_is_one_retry():
    site = Site().begin()
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.0)
    site.starter.tell(IkeDown(1, "paris", "x", failed=True), None, 0.0)
    site.starter.handle_timer(FIRST_S)
    assert site.calls == [KEY, KEY]
    assert site.starter.get_timer() is None


@pytest.mark.parametrize(("stood_s", "wait_s"), [(STOOD_S, FIRST_S), (STOOD_S - 1, MOST_S - STOOD_S + 1)])
def test_a_tunnel_that_stood_for_a_minute_begins_anew(stood_s: float, wait_s: float):
    site = Site().begin()
    for _ in range(12):  # up to the longest interval
        site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.0)
    site.starter.handle_timer(1000.0)
    site.rise(1000.0)
    site.fall(1000.0 + stood_s, failed=True)
    assert site.starter.get_timer() == 1000.0 + stood_s + wait_s


# --- what ends it


def test_what_the_operator_took_down_stays_down_until_it_is_brought_up():
    site = Site(close=START, dpd=START).begin().rise(1.0)
    site.starter.forget("paris")
    site.fall(100.0)
    site.fall(100.0, failed=True)
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 101.0)
    assert site.starter.get_timer() is None
    site.rise(200.0)
    site.fall(300.0, failed=True)
    assert site.starter.get_timer() is not None


def test_a_child_that_came_up_by_the_peer_ends_the_retry():
    site = Site().begin()
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.0)
    site.rise(1.0)
    assert site.starter.get_timer() is None


def test_children_that_nobody_wants_started_are_not_retried():
    site = Site(start=NONE).begin()
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 5.0)
    site.starter.tell(IkeDown(1, "rome", "x", failed=True), None, 5.0)
    site.rise(6.0).fall(100.0, failed=True)
    assert site.starter.get_timer() is None
    assert site.calls == []


def test_a_connection_that_is_unloaded_is_forgotten():
    site = Site()
    site.starter.start(0.0)
    site.starter.unload("paris")
    assert site.starter.get_timer() is None


# --- close_action, dpd_action


@pytest.mark.parametrize(
    ("close", "calls", "trapped"), [(NONE, [KEY], []), (START, [KEY, KEY], []), (TRAP, [KEY], ["net"])]
)
def test_close_action_says_what_follows_a_delete_of_the_peers(close: Action, calls: list, trapped: list):
    site = Site(close=close).begin().rise(1.0)
    site.fall(100.0, by_peer=True)
    site.starter.handle_timer(100.0 + FIRST_S)
    assert (site.calls, site.trapped) == (calls, trapped)


@pytest.mark.parametrize(
    ("dpd", "calls", "trapped"), [(NONE, [], []), (START, [KEY], []), (TRAP, [], ["net"])]
)  # fmt: skip
def test_dpd_action_says_what_follows_a_peer_that_is_gone(dpd: Action, calls: list, trapped: list):
    site = Site(start=NONE, dpd=dpd).rise(1.0)
    site.fall(100.0, failed=True)
    site.starter.handle_timer(100.0 + FIRST_S)
    assert (site.calls, site.trapped) == (calls, trapped)


def test_dpd_action_start_is_tried_until_it_stands():
    site, now = Site(start=NONE, dpd=START).rise(1.0), 100.0
    site.fall(now, failed=True)
    for _ in range(5):
        now = site.starter.get_timer()
        site.starter.handle_timer(now)
        site.starter.tell(ChildFailed(1, *KEY, "x"), None, now)
    assert len(site.calls) == 5
    site.rise(now)
    assert site.starter.get_timer() is None
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, now)
    assert site.starter.get_timer() is None, "then it is as before"


@pytest.mark.parametrize("actions", [{"start": START}, {"start": NONE, "dpd": START}])
def test_a_silent_peer_is_replaced_at_once(actions: dict):
    site = Site(**actions).rise(1.0)
    site.up.discard(KEY)  # it stands on a silent IKE SA, which does not count
    site.starter.tell(PeerSilent(1, "paris", "silent"), SA, 50.0)
    site.starter.handle_timer(50.0)
    assert site.calls == [KEY]


def test_a_silent_peer_of_which_nothing_was_wanted_is_not_replaced():
    site = Site(start=NONE).rise(1.0)
    site.starter.tell(PeerSilent(1, "paris", "silent"), SA, 50.0)
    assert site.starter.get_timer() is None


def test_a_peer_that_is_there_again_ends_the_retry():
    site = Site().rise(1.0)
    site.up.discard(KEY)
    site.starter.tell(PeerSilent(1, "paris", "silent"), SA, 50.0)
    site.up.add(KEY)
    site.starter.tell(PeerBack(1, "paris"), SA, 51.0)
    assert site.starter.get_timer() is None


def test_a_child_that_went_without_anybodys_fault_is_looked_at_again():
    """INITIAL_CONTACT ends it, for example; most often the peer has set it up anew by then."""
    site = Site().rise(1.0)
    site.fall(100.0)
    site.up.add(KEY)
    site.starter.handle_timer(100.0 + LOOK_AGAIN_S)
    assert site.calls == []
    site.fall(200.0)
    site.starter.handle_timer(200.0 + LOOK_AGAIN_S)
    assert site.calls == [KEY]


def test_what_was_closed_because_it_was_idle_stays_down():
    site = Site().begin().rise(1.0)
    site.up.discard(KEY)
    site.starter.tell(ChildDown(1, 7, *KEY, "nothing passed for 30 s", idle=True), SA, 100.0)
    assert site.starter.get_timer() is None
    site.rise(200.0).fall(300.0, failed=True)
    assert site.starter.get_timer() is not None, "brought up again it is kept up again"


def test_a_rekey_is_no_loss():
    site = Site().rise(1.0)
    site.starter.tell(replace(ChildDown(1, 7, *KEY, "rekeyed"), replaced_by=8), SA, 100.0)
    assert site.starter.get_timer() is None


# --- trap


def test_the_first_packet_begins_it_and_the_next_ones_wait_for_the_interval():
    site = Site(start=TRAP)
    assert site.starter.get_timer() is None
    for tenth in range(100):
        site.starter.acquire(*KEY, tenth / 10)
    assert len(site.calls) == 3, "at 0, 2 and 6 s"


def test_the_packet_that_begins_a_trap_is_named_to_whoever_initiates_it():
    site, packet = Site(start=TRAP), (TrafficSelector.parse("10.1.0.7"), TrafficSelector.parse("10.2.0.5"))
    site.starter.acquire(*KEY, 0.0, packet)
    assert site.calls == [(*KEY, packet)]
    for tenth in range(1, 19):
        site.starter.acquire(*KEY, tenth / 10, packet)
    assert len(site.calls) == 1, "the interval holds for every packet"


def test_a_trap_whose_negotiation_is_under_way_is_not_begun_again():
    site = Site(start=TRAP)
    site.up.add(KEY)
    site.starter.acquire(*KEY, 0.0)
    assert site.calls == []


def test_a_failed_negotiation_of_a_trap_waits_for_the_next_packet():
    site = Site(start=TRAP)
    site.starter.acquire(*KEY, 0.0)
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.1)
    assert site.starter.get_timer() is None
    site.starter.acquire(*KEY, 10.0)
    assert len(site.calls) == 2


def test_what_happens_to_the_sa_of_a_single_worker_is_not_about_the_child():
    """RFC 9611: the fallback is; the others are control.resources' business."""
    site = Site().begin().rise(1.0)
    one = ChildDown(1, 8, *KEY, "deleted by the peer", by_peer=True, resource=3)
    site.starter.tell(one, SA, 10.0)
    site.starter.tell(replace(one, by_peer=False), SA, 10.0)
    assert site.starter.get_timer() is None
    site.fall(20.0)
    assert site.starter.get_timer() is not None
    site.starter.tell(ChildUp(1, 9, *KEY, resource=1), SA, 20.5)
    assert site.starter.get_timer() is not None, "the fallback is still missing"


def test_a_trap_that_the_host_refuses_is_tried_again_until_it_stands() -> None:
    tries: list[float] = []
    lines: list[str] = []
    now = 0.0

    def trap(connection: ConnectionConfig, child: ChildConfig) -> None:
        tries.append(now)
        if len(tries) < 3:
            raise HostError("cannot replace the route of 10.2.0.0/24: No buffer space available")

    child = ChildConfig("net", dpd_action=Action.TRAP)
    starter = Starter(
        [ConnectionConfig("paris", children=(child,))],
        lambda connection, name: None,
        lambda connection, name: False,
        lines.append,
        trap=trap,
    )
    starter.tell(IkeDown(1, "paris", "does not answer", failed=True), ike_view(children=(child_view(),)), now)
    while (at := starter.get_timer()) is not None:
        now = at
        starter.handle_timer(now)
    assert len(tries) == 3
    assert tries == sorted(set(tries))
    assert len(lines) == 2
