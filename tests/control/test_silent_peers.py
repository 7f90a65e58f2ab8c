"""A silent peer: packets leave on another Child SA at once, and nothing is probed until it is heard again."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from control.test_manager import REMOTE, Site, ask

from ipsec_fast.control.path_echo import SMALL, WAIT_S, EchoProber, Target
from ipsec_fast.control.path_ike import RUNGS, IkeProber
from ipsec_fast.control.paths import PathHost, Paths
from ipsec_fast.ike.events import ChildDown, ChildUp, PeerBack, PeerSilent
from ipsec_fast.model import TrafficSelector

WIDE = TrafficSelector.parse("10.0.0.0/8")


class Twins(Site):
    """Child SAs 1, 2, ... each of an IKE SA of its own number."""

    def __init__(self, **host_of: object) -> None:
        super().__init__(**host_of)
        self.manager._view_of = lambda ike_id: SimpleNamespace(children=[SimpleNamespace(child_id=ike_id)])

    def install(self, child_id: int, connection: str = "paris", **more: object) -> None:
        one = replace(ask(child_id, **more), ike_id=child_id, connection=connection)
        self.hear(one, ChildUp(child_id, child_id, connection, "net"))

    @property
    def first(self) -> int | None:
        """The Child SA that a packet leaves on."""
        return self.tables[-1].policies[0].outbound.tag


def silent(ike_id: int) -> PeerSilent:
    return PeerSilent(ike_id, "paris", "silent")


def test_packets_leave_on_the_other_child_of_these_selectors_as_soon_as_a_peer_is_silent() -> None:
    for connection in ("paris", "rome"):  # of the same configured child, and of another one
        site = Twins()
        site.install(1, connection)
        site.install(2)
        assert site.first == 2
        site.hear(silent(2))
        assert site.first == 1
        site.hear(PeerBack(2, "paris"))
        assert site.first == 2


def test_each_worker_leaves_the_silent_one() -> None:
    site = Twins(workers=2)
    site.install(1)
    site.install(2)
    site.hear(silent(2))
    for worker in (0, 1):
        assert site.children.tables(worker).policies[0].outbound.tag == 1


def test_where_all_are_silent_or_there_is_no_other_nothing_changes_and_nothing_is_open() -> None:
    site = Twins()
    site.install(1)
    site.hear(silent(1))
    assert site.policies() == [(str(REMOTE), 2001)]
    site.install(2)
    site.hear(silent(2))
    assert site.first == 2
    assert REMOTE.networks()[0] in site.routes.routed


def test_wider_selectors_are_no_replacement() -> None:
    site = Twins()
    site.install(1, remote_ts=(WIDE,))
    site.install(2)
    site.hear(silent(2))
    assert site.first == 2


def test_the_silent_one_goes_and_the_other_stays() -> None:
    site = Twins()
    site.install(1)
    site.install(2)
    site.hear(silent(2))
    site.hear(ChildDown(2, 2, "paris", "net", "does not answer"))
    assert site.policies() == [(str(REMOTE), 2001)]
    assert REMOTE.networks()[0] in site.routes.routed


# --- probes


class Probed(Twins):
    """With the paths of its children; `asked` counts what leaves as a probe."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        host = PathHost(
            lambda remote: 1500,
            lambda: [ip_address("10.1.0.1")],
            lambda name: "auto",
            self._inject,
            self._by_ike,
            lambda c: c,
        )
        self.paths = Paths(self.children, host, lambda news: None)
        self.manager._settle = self.paths.sync

    def _inject(self, child_id: int, packet: bytes) -> bool:
        self.asked += 1
        return True

    def _by_ike(self, child_id: int, sizes: object, wait_s: float, now: float) -> None:
        self.asked += 1

    def run(self, since: float, until: float) -> int:
        """How much was asked meanwhile."""
        before, now = self.asked, since
        while (at := self.paths.get_timer()) is not None and max(at, now) < until:
            now = max(at, now)
            self.paths.handle_timer(now)
            now += 0.001
        return self.asked - before


def test_a_silent_peer_is_not_probed_and_one_that_is_back_is() -> None:
    site = Probed()
    site.install(1)
    assert site.run(0.0, 0.1)
    site.hear(silent(1))
    assert site.run(0.2, 100.0) == 0
    for child in site.children.all():
        site.paths.search(child.child_id, 100.0)
    assert site.run(100.0, 200.0) == 0
    before = site.asked
    site.hear(PeerBack(1, "paris"), now=200.0)
    site.run(200.0, 210.0)
    assert site.asked > before


def test_echoes_to_nobody_are_few() -> None:
    """The small one is sent again, the sizes are not, until something is heard."""
    sent: list[int] = []
    numbers = iter(range(1, 10**6))
    prober = EchoProber(lambda target, size, number: sent.append(size), lambda: next(numbers))
    prober.look_for([Target(1, ip_address("10.1.0.1"), ip_address("10.2.0.1"))], 0.0)
    prober.handle_timer(0.0)
    prober.answer(1, 0.001)
    sent.clear()
    sizes = frozenset(range(600, 1500, 100))
    prober.probe(sizes, 3, 1.0)
    now, found = 1.0, []
    while found == []:
        at = prober.get_timer()
        assert at is not None
        now = at
        found = prober.handle_timer(now)  # type: ignore[assignment]
    assert found is None
    assert now == pytest.approx(1.0 + 3 * WAIT_S)
    assert len(sent) == len(sizes) + 3
    assert sent.count(SMALL) == 3


def test_a_size_keeps_all_its_tries_where_the_first_answer_was_lost() -> None:
    sent: list[tuple[int, int]] = []
    numbers = iter(range(1, 10**6))
    prober = EchoProber(lambda target, size, number: sent.append((size, number)), lambda: next(numbers))
    prober.look_for([Target(1, ip_address("10.1.0.1"), ip_address("10.2.0.1"))], 0.0)
    prober.handle_timer(0.0)
    prober.answer(1, 0.001)
    sent.clear()
    prober.probe(frozenset({1500}), 2, 1.0)
    lost: list[int] | None = []
    while lost == []:
        at = prober.get_timer()
        assert at is not None
        lost = prober.handle_timer(at)
        small = [number for size, number in sent if size == SMALL]
        if len(small) == 2:
            prober.answer(small[-1], at + 0.001)
    assert lost == [1500]
    assert [size for size, _ in sent].count(1500) == 2


def test_ladders_are_short_and_come_to_the_same_end() -> None:
    """Each is answered by what passes, or nothing more is asked."""
    passes = 1290
    walks: list[tuple[int, ...]] = []
    prober = IkeProber(lambda sizes, wait_s, now: walks.append(tuple(sizes)))
    wanted = frozenset({576, 1006, 1280, 1300, 1400, 1420, 1452, 1480, 1492, 1500})
    best = 0
    while wanted:
        assert prober.probe(wanted, 576, 0.0)
        size = max(one for one in walks[-1] if one <= passes)
        found = prober.answered(size, 0.01)
        assert found is not None
        best = max(best, found[0])
        wanted = frozenset(one for one in wanted if one > best and one not in found[1])
    assert best == 1280
    assert max(map(len, walks)) <= RUNGS + 1
    silent_walks = len(walks)
    prober.probe(frozenset({1300, 1400, 1500, 1492, 1480}), 576, 0.0)
    prober.probe(frozenset({1300, 1400, 1500, 1492, 1480}), 576, 9.0)  # unanswered: nothing else is asked
    assert len(walks) == silent_walks + 1
