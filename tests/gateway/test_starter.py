"""Children that the configuration starts: again after a failure, never against the operator or the peer. Time is an argument."""

from __future__ import annotations

from ipsec_fast.errors import HostError
from ipsec_fast.gateway.starter import RETRY_S, Starter
from ipsec_fast.ike.events import ChildFailed, ChildUp, IkeDown

KEY = ("paris", "net")


class Site:
    def __init__(self, *started: tuple[str, str]) -> None:
        self.calls: list[tuple[str, str]] = []
        self.up: set[tuple[str, str]] = set()
        self.lines: list[str] = []
        self.error: Exception | None = None
        self.starter = Starter(started, self._initiate, lambda *key: key in self.up, self.lines.append)

    def _initiate(self, *key: str) -> None:
        if self.error:
            raise self.error
        self.calls.append(key)  # type: ignore[arg-type]


def test_an_attempt_that_cannot_begin_is_one_line_and_is_tried_again():
    site = Site(KEY)
    site.error = HostError("no way to 192.0.2.2")
    site.starter.start(0.0)
    site.starter.handle_timer(0.0)
    assert site.lines == ["paris net failed: no way to 192.0.2.2"]
    assert site.starter.get_timer() == RETRY_S
    site.error = None
    site.starter.handle_timer(RETRY_S)
    assert site.calls == [KEY]


def test_a_failed_child_and_a_failed_ike_sa_are_tried_again_once_each():
    site = Site(KEY)
    site.starter.start(0.0)
    site.starter.handle_timer(0.0)
    site.starter.tell(ChildFailed(1, *KEY, "no common selectors"), None, 5.0)
    site.starter.tell(IkeDown(1, "paris", "gone", failed=True), None, 6.0)
    assert site.starter.get_timer() == 5.0 + RETRY_S
    site.starter.handle_timer(34.9)
    assert site.calls == [KEY]
    site.starter.handle_timer(35.0)
    assert site.calls == [KEY, KEY]


def test_what_was_deleted_in_order_or_taken_down_stays_down():
    site = Site(KEY)
    site.starter.tell(IkeDown(1, "paris", "the peer deleted it", failed=False), None, 5.0)
    assert site.starter.get_timer() is None
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 5.0)
    site.starter.forget("paris")
    assert site.starter.get_timer() is None


def test_children_that_nobody_wants_started_are_not_retried():
    site = Site(KEY)
    site.starter.tell(ChildFailed(1, "paris", "other", "x"), None, 5.0)
    site.starter.tell(IkeDown(1, "rome", "x", failed=True), None, 5.0)
    assert site.starter.get_timer() is None


def test_a_child_that_came_up_by_the_peer_ends_the_retry():
    site = Site(KEY)
    site.starter.tell(ChildFailed(1, *KEY, "x"), None, 0.0)
    site.starter.tell(ChildUp(2, 3, *KEY), None, 1.0)
    assert site.starter.get_timer() is None
