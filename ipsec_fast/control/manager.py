"""Between an IKE endpoint and everything it acts on: answers its asks, does what its
notices say, tells it what the dataplane saw.

The shell calls `drain` after every input to the endpoint, then stores records, then sends datagrams
(ARCHITECTURE.md, "The walk of an IKE message"). So an inbound SA is in the worker's tables before the message that
lets the peer use it leaves. Called by gateway.daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from ..dataplane.notice import Notice as WorkerNotice
from ..dataplane.notice import NoticeKind
from ..errors import IpsecFastError
from ..ike.events import (
    Ask,
    AskInstallChild,
    CheckIdle,
    CheckSource,
    ChildDown,
    ChildFailed,
    ChildMoved,
    ChildUp,
    IkeDown,
    IkeUp,
    IkeView,
    Notice,
    PathMoved,
    PeerBack,
    PeerSilent,
    Progress,
    SwitchOutbound,
)
from ..model import Address
from .answers import Answers
from .children import Children

if TYPE_CHECKING:
    from ..dataplane.spd import Tables
    from ..ike.endpoint import Endpoint

Listener = Callable[[Notice, IkeView | None], None]


class Dataplane(Protocol):
    """What we need of the workers: `tables` gives each its own, by number."""

    def publish(self, tables: Callable[[int], Tables]) -> None: ...


class Manager:
    """`log` gets one line per unexpected failure of ours; `resize` the TUN's new MTU question after children came or
    went; `acquire` the child that a dropped packet was for, with that packet's selectors if they were told; `settle`
    comes before new tables are published. `moved`: the peer of some Child SAs has another address.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        answers: Answers,
        children: Children,
        dataplane: Dataplane,
        *,
        log: Callable[[str], None],
        resize: Callable[[list[int]], None] = lambda inner: None,
        acquire: Callable[..., None] = lambda connection, child, packet=None: None,
        stranger: Callable[[int, Address], None] = lambda spi, remote: None,
        settle: Callable[[float], None] = lambda now: None,
        moved: Callable[[Sequence[int], float], None] = lambda child_ids, now: None,
        view_of: Callable[[int], IkeView | None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._answers = answers
        self._children = children
        self._dataplane = dataplane
        self._log = log
        self._resize = resize
        self._acquire = acquire
        self._stranger = stranger
        self._settle = settle
        self._moved = moved
        self._view_of = view_of or (lambda ike_id: next((v for v in endpoint.views() if v.ike_id == ike_id), None))
        self._listeners: list[Listener] = []
        self._views: dict[int, IkeView] = {}  # the state at their last notice

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def drain(self, now: float) -> None:
        """Until the endpoint has nothing more to say; then the dataplane gets its tables."""
        self._children.begin_turn(now)
        seen: set[int] = set()  # IKE SAs that have changed
        untold: list[Notice] = []  # from a ChildUp on: whoever hears of it may send at once
        while (event := self._endpoint.next_event()) is not None:
            if isinstance(event, Ask):
                self._answer(event, now)
                continue
            if not isinstance(event, Progress | CheckSource):
                seen.update(_ike_ids(event))
            if isinstance(event, ChildDown):  # a listener may still want the counters of what goes
                self._tell_all(untold, now)
                self._tell(event)
                self._act(event, now)
            else:
                self._act(event, now)
                if untold or isinstance(event, ChildUp):
                    untold.append(event)
                else:
                    self._tell(event)
        self._tell_all(untold, now)
        self._look_at(seen)
        for line in self._children.take_reports():
            self._log(line)
        self._publish(now)

    def _tell_all(self, notices: list[Notice], now: float) -> None:
        """After the dataplane has the tables that they tell of."""
        if notices:
            self._publish(now)
        for notice in notices:
            self._tell(notice)
        notices.clear()

    def _publish(self, now: float) -> None:
        if self._children.changed:
            self._settle(now)
            self._children.changed = False
            self._dataplane.publish(self._children.tables)
            self._resize(self._children.max_inner_bytes())

    def take_notices(self, notices: Iterable[WorkerNotice], now: float) -> None:
        """Notices of the worker; `drain` must follow. The tag (the child's number) identifies
        an SA, since two peers may choose one SPI.
        """
        for notice in notices:
            match notice.kind:
                case NoticeKind.FIRST_INBOUND:
                    if self._children.get(notice.tag) is not None:
                        self._endpoint.inbound_seen(notice.tag, now)
                case NoticeKind.NO_SA:
                    if (key := self._children.wanted_by(notice.spi)) is not None:
                        self._acquire(*key, *([notice.packet] if notice.packet else []))
                case NoticeKind.UNKNOWN_SPI:
                    if notice.remote is not None:
                        self._stranger(notice.spi, notice.remote)
                        self._endpoint.note_unknown_spi(notice.spi, notice.remote, now)
                case NoticeKind.PEER_MOVED:
                    self._peer_moved(notice.spi, now)
                case NoticeKind.GRANT_WANTED:
                    self._children.extend_grant(notice.tag)
                case NoticeKind.REKEY_SOON | NoticeKind.IN_REKEY_SOON:
                    if self._children.standing(notice.tag) is not None:
                        self._endpoint.rekey_child(notice.tag, now)
                case NoticeKind.LIFE_OVER | NoticeKind.IN_LIFE_OVER:
                    if self._children.standing(notice.tag) is not None:
                        self._endpoint.child_expired(notice.tag, "its lifetime is over", now)
                case NoticeKind.SEQ_EXHAUSTED:
                    if (child := self._children.standing(notice.tag)) is not None:
                        self._log(
                            f"{child.connection} {child.name}: no sequence number left, nothing is sent until it is rekeyed"
                        )
                        self._endpoint.rekey_child(child.child_id, now)

    def _peer_moved(self, child_id: int, now: float) -> None:
        """A packet came from elsewhere. The newest one of all Child SAs of the IKE SA says where the peer is."""
        if self._endpoint.path_rests(child_id):
            return  # CheckSource follows, and the worker reports nothing until then
        source = self._children.newest_source(self._endpoint.children_beside(child_id))
        if source is not None:
            self._endpoint.packet_came_from(child_id, *source, now)

    def _look_at(self, ike_ids: Iterable[int]) -> None:
        for ike_id in ike_ids if self._listeners else ():
            view = self._view_of(ike_id)
            if view is not None:
                self._views[ike_id] = view
            else:
                self._views.pop(ike_id, None)

    # --- asks

    def _answer(self, ask: Ask, now: float) -> None:
        try:
            if isinstance(ask, AskInstallChild):
                self._children.install(ask)
                value: object = None
            else:
                value = self._answers.answer(ask)
        except IpsecFastError as error:
            value = error
        except Exception as error:  # whatever goes wrong ends one exchange, not the gateway
            self._log(f"{type(ask).__name__}: {type(error).__name__}: {error}")
            value = error
        self._endpoint.answer(ask.ticket, value, now)

    # --- notices

    def _act(self, notice: Notice, now: float) -> None:
        try:
            match notice:
                case SwitchOutbound(child_id=child_id):
                    self._children.switch_outbound(child_id)
                case CheckIdle(child_id=child_id):
                    self._endpoint.child_used(child_id, self._children.last_used_s(child_id), now)
                case PathMoved():
                    self._children.move(notice.child_ids, notice.path)
                    self._moved(notice.child_ids, now)
                case CheckSource():
                    source = self._children.newest_source(notice.child_ids)
                    self._endpoint.source_checked(notice.ike_id, source, now)
                case PeerSilent() | PeerBack():
                    view = self._view_of(notice.ike_id)
                    children = [child.child_id for child in view.children] if view is not None else []
                    self._children.set_silent(children, is_silent=isinstance(notice, PeerSilent))
                case ChildDown():
                    self._children.remove(notice.child_id, now, notice.inbound_grace_s, notice.replaced_by)
                case _:
                    pass
        except IpsecFastError as error:
            self._log(str(error))

    def _tell(self, notice: Notice) -> None:
        if not self._listeners:
            return
        view = None
        match notice:
            case IkeDown() | ChildDown():
                view = self._views.get(notice.ike_id)
            case IkeUp() | ChildUp() | ChildFailed() | PeerSilent() | PeerBack() | PathMoved():
                view = self._view_of(notice.ike_id)
            case ChildMoved():
                view = self._view_of(notice.new_ike_id)
            case _:
                pass
        for listener in tuple(self._listeners):
            listener(notice, view)


def _ike_ids(notice: Notice) -> Iterable[int]:
    """The IKE SAs that a notice is about."""
    found = [getattr(notice, name, None) for name in ("ike_id", "new_ike_id", "old_ike_id")]
    if isinstance(notice, IkeUp):
        found.append(notice.replaces)
    return (ike_id for ike_id in found if ike_id is not None)
