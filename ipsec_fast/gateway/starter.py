"""Brings up what the configuration wants up, by start_action, dpd_action and close_action, and again when it is lost.

A child is begun at once, and again 1 s after an attempt or an SA failed, then 2 s, 4 s, up to 60 s between two beginnings, each with
jitter; a tunnel that stood for a minute begins anew at 1 s. An attempt whose peer does not answer lasts longer than that and is
followed by the next. A silent peer's children are begun anew at once, while the old IKE SA still waits. A trapped child is begun by
its packets, no sooner than the same intervals allow. What the operator took down stays down until somebody brings it up.
Called by gateway.daemon and control.manager; time is an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..errors import IpsecFastError
from ..ike.config import Action, ChildConfig, ConnectionConfig
from ..ike.events import ChildDown, ChildFailed, ChildUp, IkeDown, IkeView, Notice, PeerBack, PeerSilent
from ..model import TrafficSelector

FIRST_S, MOST_S, FACTOR = 1.0, 60.0, 2.0
JITTER = 0.25
STOOD_S = 60.0  # a tunnel that stood that long was a good one
TRAP_AGAIN_S = 5.0  # after the host refused it
LOOK_AGAIN_S = 2.0  # a child that went without anybody's fault may come back by the peer

Key = tuple[str, str]  # connection, child
Packet = tuple[TrafficSelector, TrafficSelector]  # its local and its remote selector


@dataclass(slots=True)
class _Child:
    connection: ConnectionConfig
    config: ChildConfig
    is_wanted: bool = False  # until it stands; start_action = start wants it for good
    is_held: bool = False  # the operator took it down
    due: float | None = None
    began_at: float | None = None
    wait_s: float = FIRST_S
    up_since: float | None = None
    trap_at: float | None = None  # when to trap it again, after the host refused it

    @property
    def key(self) -> Key:
        return self.connection.name, self.config.name


class Starter:
    """`initiate` starts one child, for a packet if one is named, and raises if that cannot even begin; `is_up` says
    whether it is up or being set up; `trap` makes its packets begin it from now on; `chance` gives 0..1.
    """

    def __init__(
        self,
        connections: Iterable[ConnectionConfig],
        initiate: Callable[..., None],
        is_up: Callable[[str, str], bool],
        log: Callable[[str], None],
        *,
        trap: Callable[[ConnectionConfig, ChildConfig], None] = lambda connection, child: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._initiate = initiate
        self._is_up = is_up
        self._log = log
        self._trap = trap
        self._chance = chance
        self._children: dict[Key, _Child] = {}
        self._names: dict[str, list[Key]] = {}  # by connection
        for connection in connections:
            self.load(connection)

    def load(self, connection: ConnectionConfig) -> None:
        """From now on this connection's actions hold; `start` begins what it starts."""
        self.unload(connection.name)
        for config in connection.children:
            self._children[connection.name, config.name] = _Child(connection, config)
        self._names[connection.name] = [(connection.name, config.name) for config in connection.children]

    def unload(self, connection: str) -> None:
        for key in self._names.pop(connection, ()):
            self._children.pop(key, None)

    def start(self, now: float, connection: str | None = None) -> None:
        """Begin what start_action starts: of one connection, or of all."""
        for child in self._children.values():
            if connection in (None, child.connection.name) and child.config.start_action.starts:
                child.is_wanted, child.due = True, now

    def want(self, connection: str, name: str, now: float) -> None:
        """Begin this child until it stands, whatever starts it otherwise: it stood before a restart."""
        child = self._children.get((connection, name))
        if child is not None:
            child.is_wanted, child.due = True, now

    # --- time

    def get_timer(self) -> float | None:
        times = (at for child in self._children.values() for at in (child.due, child.trap_at) if at is not None)
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        for child in tuple(self._children.values()):
            if child.trap_at is not None and child.trap_at <= now:
                self._trap_or_wait(child, now)
            if child.due is not None and child.due <= now:
                child.due = None
                if child.is_wanted and not child.is_held and not self._is_up(*child.key):
                    self._begin(child, now)

    def _begin(self, child: _Child, now: float, packet: Packet | None = None) -> None:
        child.began_at = now
        try:
            self._initiate(*child.key, *([packet] if packet else []))
        except IpsecFastError as error:
            self._log(f"{child.key[0]} {child.key[1]} failed: {error}")
            self._plan_retry(child, now)

    def _plan_retry(self, child: _Child, now: float) -> None:
        """Not before `wait_s` after the last beginning, and not at once."""
        began_at = now if child.began_at is None else child.began_at
        at = max(now + self._jittered(FIRST_S), began_at + self._jittered(child.wait_s))
        child.wait_s = min(child.wait_s * FACTOR, MOST_S)
        child.due = at if child.due is None else min(child.due, at)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 - JITTER * self._chance())

    # --- what happens

    def tell(self, notice: Notice, view: IkeView | None, now: float) -> None:
        match notice:
            case ChildUp(replaces=None, resource=None):
                self._note_up(notice, now)
            case ChildDown(replaced_by=None, resource=None):
                self._note_down(notice, now)
            case ChildFailed():
                child = self._children.get((notice.connection, notice.name))
                if child is not None and child.is_wanted and not child.is_held:
                    self._plan_retry(child, now)
            case IkeDown():
                self._note_ike_down(notice, view, now)
            case PeerSilent():
                for child in self._standing(notice.connection, view):
                    if child.config.start_action.starts or child.config.dpd_action.starts:
                        child.is_wanted, child.due = True, now
            case PeerBack():
                for child in self._of(notice.connection):
                    child.due = None if self._is_up(*child.key) else child.due
            case _:
                pass

    def acquire(self, connection: str, name: str, now: float, packet: Packet | None = None) -> None:
        """A packet for a child without an SA was dropped; its selectors, if they were told, are offered first."""
        child = self._children.get((connection, name))
        if child is None or child.due is not None or self._is_up(connection, name):
            return
        if child.is_held and not child.config.start_action.traps:
            return
        if child.began_at is None or now - child.began_at >= child.wait_s:
            child.wait_s = min(child.wait_s * FACTOR, MOST_S)
            self._begin(child, now, packet)
            child.due = child.due if child.is_wanted else None  # the next packet will do

    def forget(self, connection: str, name: str | None = None) -> int:
        """The operator took it down. How many were waiting to be begun again."""
        count = 0
        for child in self._of(connection):
            if name in (None, child.config.name):
                count += child.due is not None
                child.is_held, child.due, child.trap_at = True, None, None
        return count

    # --- one by one

    def _note_up(self, notice: ChildUp, now: float) -> None:
        child = self._children.get((notice.connection, notice.name))
        if child is not None:
            child.is_held, child.due, child.up_since = False, None, now
            child.is_wanted = child.config.start_action.starts

    def _note_down(self, notice: ChildDown, now: float) -> None:
        child = self._children.get((notice.connection, notice.name))
        if child is None or child.is_held:
            return
        if child.up_since is not None and now - child.up_since >= STOOD_S:
            child.wait_s, child.began_at = FIRST_S, None
        child.up_since = None
        if notice.idle:
            child.is_wanted, child.due = False, None
        elif notice.by_peer:
            self._act(child, child.config.close_action, now)
            if not child.config.close_action.starts:
                child.is_wanted = False
        elif child.is_wanted or child.config.start_action.starts:
            child.is_wanted = True
            child.due = now + LOOK_AGAIN_S if child.due is None else child.due

    def _note_ike_down(self, notice: IkeDown, view: IkeView | None, now: float) -> None:
        """Its children's ChildDown came before. One that failed: the peer went, or an attempt did."""
        if not notice.failed:
            return
        if view is not None and view.established_at is not None:
            for child in self._standing(notice.connection, view):
                if not child.is_held:
                    self._act(child, child.config.dpd_action, now)
        for child in self._of(notice.connection):
            if child.is_wanted and not child.is_held and not self._is_up(*child.key):
                self._plan_retry(child, now)

    def _act(self, child: _Child, action: Action, now: float) -> None:
        if not (action.starts or action.traps) or self._is_up(*child.key):
            return
        if action.starts:
            child.is_wanted = True
            self._plan_retry(child, now)
        elif action.traps:
            self._trap_or_wait(child, now)

    def _trap_or_wait(self, child: _Child, now: float) -> None:
        child.trap_at = None
        try:
            self._trap(child.connection, child.config)
        except IpsecFastError as error:
            child.trap_at = now + TRAP_AGAIN_S
            self._log(f"{child.key[0]} {child.key[1]}: {error}")

    def _of(self, connection: str) -> Iterator[_Child]:
        return (self._children[key] for key in tuple(self._names.get(connection, ())))

    def _standing(self, connection: str, view: IkeView | None) -> Iterator[_Child]:
        """The configured children that an IKE SA had."""
        names = {child.name for child in view.children} if view is not None else set()
        return (child for child in self._of(connection) if child.config.name in names)
