"""The gateway's notices as vici's events: log, ike-updown, child-updown, ike-rekey, child-rekey, and path-mtu, which is ours.

A rekey is one event, never a down and an up: the end of an SA that was replaced is not announced. Called by server.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...control.paths import PathNews
from ...ike.events import ChildDown, ChildUp, ChildView, IkeDown, IkeUp, IkeView, Notice, Progress
from .codec import Encodable
from .commands import progress_section
from .control import GatewayControl
from .views import child_section, ike_section, sa_section

MAX_ENDED = 256
Broadcast = Callable[[str, Callable[[], Encodable]], None]  # the message is only built where somebody listens


class Announcer:
    def __init__(self, control: GatewayControl, broadcast: Broadcast) -> None:
        self._control = control
        self._broadcast = broadcast
        self._last_seen: dict[int, IkeView] = {}
        self._up: set[int] = set()
        self._replaced: set[int] = set()
        self._ended: dict[int, dict[str, Any]] = {}  # children as they went, with their last counters

    def hear(self, notice: Notice, view: IkeView | None) -> None:
        match notice:
            case Progress():
                self._broadcast("log", lambda: progress_section(notice))
            case IkeUp():
                self._ike_up(notice, view)
            case IkeDown():
                self._ike_down(notice, view)
            case ChildUp():
                self._child_up(notice, view)
            case ChildDown() if notice.replaced_by is None:
                self._keep(notice, view)
                message = self._child_updown(notice, view, notice.child_id, None)
                self._broadcast("child-updown", message)
        is_over = isinstance(notice, ChildDown) and notice.ike_id not in self._up  # its IKE SA may be gone already
        if view is not None and not isinstance(notice, IkeDown) and not is_over:
            self._last_seen[view.ike_id] = view

    def hear_path(self, news: PathNews) -> None:
        def build() -> Encodable:
            children = {f"{name}-{child_id}": {"ike": connection} for connection, name, child_id in news.children}
            return {
                "local-host": str(news.local),
                "remote-host": str(news.remote),
                "step": news.kind,
                "path-mtu": news.mtu,
                "before": news.before,
                "path-mtu-source": news.source,
                "child-sas": children,
            }

        self._broadcast("path-mtu", build)

    def _ike_up(self, notice: IkeUp, view: IkeView | None) -> None:
        self._up.add(notice.ike_id)
        if notice.replaces is None:
            self._broadcast("ike-updown", lambda: {"up": "yes", notice.connection: self._sa(notice.ike_id, view)})
            return
        self._replaced.add(notice.replaces)
        old = self._last_seen.get(notice.replaces)
        old_id = notice.replaces
        self._broadcast(
            "ike-rekey",
            lambda: {notice.connection: {"old": self._sa(old_id, old), "new": self._sa(notice.ike_id, view)}},
        )

    def _ike_down(self, notice: IkeDown, view: IkeView | None) -> None:
        view = view or self._last_seen.get(notice.ike_id)
        self._last_seen.pop(notice.ike_id, None)
        was_up = notice.ike_id in self._up
        replaced = notice.ike_id in self._replaced
        self._up.discard(notice.ike_id)
        self._replaced.discard(notice.ike_id)
        if was_up and not replaced:
            self._broadcast("ike-updown", lambda: {notice.connection: self._sa(notice.ike_id, view)})

    def _child_up(self, notice: ChildUp, view: IkeView | None) -> None:
        if notice.replaces is None:
            self._broadcast("child-updown", self._child_updown(notice, view, notice.child_id, "yes"))
            return
        old_id = notice.replaces

        def rekeyed() -> Encodable:
            pair = {
                "old": self._child(notice.ike_id, view, old_id, notice.name),
                "new": self._child(notice.ike_id, view, notice.child_id, notice.name),
            }
            return {notice.connection: {**self._ike(notice.ike_id, view), "child-sas": {notice.name: pair}}}

        self._broadcast("child-rekey", rekeyed)

    def _keep(self, notice: ChildDown, view: IkeView | None) -> None:
        """The dataplane forgets it now; its own event, and that of its IKE SA, which may follow, shall still show it."""
        self._ended[notice.child_id] = self._child(notice.ike_id, view, notice.child_id, notice.name)
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def _child_updown(
        self, notice: ChildUp | ChildDown, view: IkeView | None, child_id: int, up: str | None
    ) -> Callable[[], Encodable]:
        def build() -> Encodable:
            child = self._child(notice.ike_id, view, child_id, notice.name)
            children = {f"{notice.name}-{child_id}": child}
            return {"up": up, notice.connection: {**self._ike(notice.ike_id, view), "child-sas": children}}

        return build

    def _sa(self, ike_id: int, view: IkeView | None) -> Encodable:
        if view is None:
            return {"uniqueid": ike_id}
        section = sa_section(view, self._control)
        for child in view.children:
            if child.child_id in self._ended:
                section["child-sas"][f"{child.name}-{child.child_id}"] = self._ended[child.child_id]
        return section

    def _ike(self, ike_id: int, view: IkeView | None) -> dict[str, Any]:
        return {"uniqueid": ike_id} if view is None else ike_section(view, self._control.now())

    def _child(self, ike_id: int, view: IkeView | None, child_id: int, name: str) -> dict[str, Any]:
        if child_id in self._ended:
            return self._ended[child_id]
        for known in (view, self._last_seen.get(ike_id)):
            if known is not None and (child := _find(known, child_id)) is not None:
                return child_section(child, self._control, known.children)
        return {"name": name, "uniqueid": child_id}


def _find(view: IkeView | None, child_id: int) -> ChildView | None:
    return next((child for child in view.children if child.child_id == child_id), None) if view else None
