"""The cost of removing N Child SAs: N looks at their own IKE SA, one set of tables, and nothing is kept."""

from __future__ import annotations

from types import SimpleNamespace

from control.test_manager import Site, ask
from fake_control import FakeControl, child_view, ike_view
from pair import Pair

from ipsec_fast.control.resources import Resources
from ipsec_fast.gateway.starter import Starter
from ipsec_fast.gateway.vici.announce import Announcer
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import ChildDown, ChildUp, IkeDown, IkeUp
from ipsec_fast.model import TrafficSelector

COUNT = 300


def down(child_id: int) -> ChildDown:
    return ChildDown(child_id, child_id, "paris", "net", "gone", inbound_grace_s=5.0)


def filled() -> tuple[Site, list[int]]:
    site, looked = Site(), list[int]()
    site.manager._view_of = looked.append  # type: ignore[assignment, return-value]
    site.endpoint.views = lambda: 1 / 0  # type: ignore[assignment, return-value]
    site.manager.subscribe(lambda notice, view: None)
    for number in range(1, COUNT + 1):
        host = TrafficSelector.parse(f"10.{number // 250}.0.{number % 250}/32")
        site.hear(ask(number, remote_ts=(host,)), ChildUp(number, number, "paris", "net"))
    looked.clear()
    site.tables.clear()
    return site, looked


def test_each_child_that_goes_costs_one_look_at_its_own_ike_sa_and_all_of_a_turn_one_set_of_tables() -> None:
    site, looked = filled()
    site.hear(*(down(number) for number in range(1, COUNT + 1)))
    assert len(looked) <= 2 * COUNT
    assert len(site.tables) == 1
    assert site.policies() == []
    assert len(site.inbound()) == COUNT  # their grace
    assert site.children.get_timer() is not None


def test_the_end_of_their_grace_is_found_without_walking_those_that_stay() -> None:
    site, _ = filled()
    walked = 0

    class Book(dict):  # type: ignore[type-arg]
        def values(self):  # type: ignore[no-untyped-def]
            nonlocal walked
            walked += 1
            return super().values()

    site.children._children = Book(site.children._children)
    for number in range(1, COUNT // 2):
        site.children.remove(number, float(number), 5.0)
    for now in range(COUNT):
        site.children.expire(float(now))
    assert walked == 0
    assert len(site.children._children) == COUNT - COUNT // 2 + 1


def test_per_resource_children_that_go_are_found_by_their_number() -> None:
    endpoint = SimpleNamespace(view_of_owner=lambda child_id: None)
    resources = Resources(endpoint, 4, lambda line: None)  # type: ignore[arg-type]
    for number in range(1, COUNT):
        fallback = child_view(2 * number)
        fallback = type(fallback)(**{k: getattr(fallback, k) for k in fallback.__slots__} | {"in_group": True})
        own = type(fallback)(
            **{k: getattr(fallback, k) for k in fallback.__slots__} | {"child_id": 2 * number + 1, "resource": 0}
        )
        view = ike_view(number, children=(fallback, own))
        resources.tell(ChildUp(number, 2 * number, "paris", "net"), view, 0.0)
        resources.tell(ChildUp(number, 2 * number + 1, "paris", "net", resource=0), view, 0.0)
    assert len(resources._wish_with) == COUNT - 1
    for number in range(1, COUNT):
        resources.tell(ChildDown(number, 2 * number + 1, "paris", "net", "gone", resource=0), None, 1.0)
        resources.tell(ChildDown(number, 2 * number, "paris", "net", "gone"), None, 1.0)
    assert not resources._wish_with
    assert not resources._wishes


def test_nothing_is_kept_of_a_child_that_goes_after_its_ike_sa() -> None:
    announcer = Announcer(FakeControl(), lambda event, build: None)
    view = ike_view(5, children=(child_view(),))
    announcer.hear(IkeUp(5, "paris"), view)
    announcer.hear(ChildUp(5, 7, "paris", "net"), view)
    announcer.hear(IkeDown(5, "paris", "gone", failed=True), view)
    announcer.hear(ChildDown(5, 7, "paris", "net", "deleted while it was being installed"), view)
    assert announcer._last_seen == {}


def test_a_peer_that_goes_is_no_reason_to_look_at_all_others_where_nothing_is_to_be_done() -> None:
    asked: list[tuple[str, str]] = []

    def is_up(*key: str) -> bool:
        asked.append(key)  # type: ignore[arg-type]
        return False

    connection = ConnectionConfig("paris", children=(ChildConfig("net"),))
    starter = Starter([connection], lambda *key: None, is_up, lambda line: None)
    view = ike_view(children=(child_view(),))
    for number in range(COUNT):
        starter.tell(ChildDown(number, number, "paris", "net", "gone", by_peer=True), view, 1.0)
        starter.tell(IkeDown(number, "paris", "does not answer", failed=True), view, 1.0)
    assert asked == []


def test_whether_a_child_stands_is_asked_without_a_view_of_anything() -> None:
    pair = Pair().up()
    assert pair.a.endpoint.has_child("to-b", "net") == bool(pair.a.view.children)
    assert not pair.a.endpoint.has_child("to-b", "other")
    assert not pair.a.endpoint.has_child("other", "net")
    pair.call("a", "terminate_child", pair.a.view.children[0].child_id)
    pair.run(3.0)
    assert not pair.a.endpoint.has_child("to-b", "net")
