"""What the control socket can see and do: `GatewayControl` over an endpoint, its manager and the dataplane.

A command that waits is a Waiter: a listener on the notices that ends when all it waits for has come or cannot come any more.
Called by gateway.vici.commands and, for what the configuration starts by itself, by gateway.starter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..control.children import Children
from ..control.manager import Listener, Manager
from ..control.paths import PathNews, Paths, PathView
from ..control.resources import group_of
from ..control.views import child_counters, child_mtu, child_path
from ..errors import HostError, StateError, UsageError
from ..ike.config import ChildConfig, ConnectionConfig
from ..ike.events import ChildDown, ChildFailed, ChildUp, ChildView, IkeDown, IkeUp, IkeView, Notice, Progress
from ..model import Address, Path, TrafficSelector
from .configuration import Configuration
from .exchange_counters import ExchangeCounters
from .ike_io import IKE_PORT, source_for
from .turns import Turns
from .vici.control import ChildCounters, ChildMtu, ChildPath, ControlLog, GatewayStats, PathListener, Selection
from .waiting import Waiting

if TYPE_CHECKING:
    from ..ike.endpoint import Endpoint

LIVE = ("ESTABLISHED", "REKEYING")
DEAD = ("DELETING", "DELETED")
Packet = tuple[TrafficSelector, TrafficSelector]  # its local and its remote selector


class Waiter:
    """Waits until every child of `children` stands or failed (or, without children, the IKE SA), or everything of `going` is gone."""

    def __init__(self, log: ControlLog) -> None:
        self.ike_ids: set[int] = set()
        self.children: set[tuple[str, str]] = set()
        self.going: set[tuple[str, int]] = set()
        self.errors: list[str] = []
        self.is_taken_down = False  # an operator ended the attempt, which is no failure
        self._log = log
        self._done = asyncio.get_running_loop().create_future()

    def hear(self, notice: Notice, view: IkeView | None) -> None:
        match notice:
            case Progress(ike_id=ike_id) if ike_id in self.ike_ids:
                self._log(notice)
            case IkeUp(replaces=replaced) if replaced in self.ike_ids:
                self.ike_ids ^= {replaced, notice.ike_id}  # what waits goes on with the IKE SA that took over
            case IkeUp():
                self.going.discard(("up", notice.ike_id))
            case ChildUp():
                self.children.discard((notice.connection, notice.name))
            case ChildFailed() if (notice.connection, notice.name) in self.children:
                self._fail(notice.connection, notice.name, notice.reason)
            case ChildDown():
                self.going.discard(("child", notice.child_id))
            case IkeDown(ike_id=ike_id):
                self.going.discard(("ike", ike_id))
                self.going -= {("child", child.child_id) for child in (view.children if view else ())}
                if ike_id in self.ike_ids and ("up", ike_id) in self.going:
                    self.going.discard(("up", ike_id))
                    self.errors.append(notice.reason)
                if ike_id in self.ike_ids:
                    self.is_taken_down |= not notice.failed
                    for connection, name in tuple(self.children):
                        self._fail(connection, name, notice.reason)
        self.check()

    def check(self) -> None:
        if not self.children and not self.going and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        self.check()
        await asyncio.shield(self._done)

    def _fail(self, connection: str, name: str, reason: str) -> None:
        self.children.discard((connection, name))
        if reason not in self.errors:
            self.errors.append(reason)


class Operations:
    """`pump` is the daemon's: it makes the endpoint's events, records and datagrams go where they belong."""

    def __init__(
        self,
        endpoint: Endpoint,
        manager: Manager,
        children: Children,
        configuration: Configuration,
        waiting: Waiting,
        *,
        now: Callable[[], float],
        pump: Callable[[], None],
        stats: Callable[[], GatewayStats],
        taken_down: Callable[[str, str | None], int],
        reload: Callable[[], None],
        exchange_counters: ExchangeCounters,
        paths: Paths,
        workers: int = 1,
    ) -> None:
        self._endpoint = endpoint
        self._manager = manager
        self._children = children
        self.configuration = configuration
        self._peers = configuration.peers
        self._waiting = waiting
        self._now = now
        self._pump = pump
        self._stats = stats
        self._taken_down = taken_down
        self.reload = reload
        self.workers = workers
        self.exchange_counters = exchange_counters
        self._paths = paths
        self._path_listeners: list[PathListener] = []
        self._asked: dict[int, set[str]] = {}  # per IKE SA that is being set up: the children that come with it
        self._creating: dict[tuple[str, str], int] = {}  # asked for on an IKE SA that stands
        self._turns = Turns()
        manager.subscribe(self._forget_asked)

    # --- looking

    def views(self) -> Sequence[IkeView]:
        return self._endpoint.views()

    def child_counters(self, child_id: int) -> ChildCounters:
        return child_counters(self._children.get(child_id), self._now())  # type: ignore[return-value]

    def child_mtu(self, child_id: int) -> ChildMtu | None:
        return child_mtu(self._children.get(child_id))  # type: ignore[return-value]

    def path_view(self, child_id: int) -> PathView | None:
        return self._paths.view(child_id)

    def child_path(self, child_id: int) -> ChildPath | None:
        return child_path(self._children.get(child_id))  # type: ignore[return-value]

    def connections(self) -> Sequence[ConnectionConfig]:
        return self._peers.connections

    def stats(self) -> GatewayStats:
        return self._stats()

    def subscribe_paths(self, listener: PathListener) -> Callable[[], None]:
        self._path_listeners.append(listener)
        return lambda: self._path_listeners.remove(listener) if listener in self._path_listeners else None

    def tell_path(self, news: PathNews) -> None:
        for listener in tuple(self._path_listeners):
            listener(news)

    def probe_mtu(self, selection: Selection) -> int:
        """Look now whether more passes; of how many Child SAs."""
        found = [child for _, children in selection.pick(self.views()) for child in children]
        for child in found:
            self._paths.search(child.child_id, self._now())
        self._pump()
        return len(found)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._manager.subscribe(listener)

    def now(self) -> float:
        return self._now()

    def is_up(self, connection: str, child: str) -> bool:
        return self._endpoint.has_child(connection, child)

    def is_up_or_rising(self, connection: str, child: str) -> bool:
        """Whether it stands, or has been asked for and neither came nor failed yet."""
        if self.is_up(connection, child) or (connection, child) in self._creating:
            return True
        rising = {ike_id for ike_id, names in self._asked.items() if child in names}
        return bool(rising) and any(view.ike_id in rising for view in self._endpoint.views(connection))

    # --- doing

    async def initiate(self, ike: str | None, child: str | None, log: ControlLog) -> None:
        connection, children = self._peers.find(ike, child)
        missing = [one.name for one in children if not self.is_up(connection.name, one.name)]
        views = self._endpoint.views(connection.name)
        if not missing and (children or any(view.state in LIVE for view in views)):
            return
        errors: list[str] = []
        for _ in range(max(1, len(connection.remote_addrs))):
            place = self._turns.place(connection)
            is_next, found = await self._initiate_once(connection, missing, log)
            errors += [one for one in found if one not in errors]
            if not found:
                return
            if not is_next:
                break
            self._turns.hand_over(connection, place)
            missing = [name for name in missing if not self.is_up(connection.name, name)]
        raise StateError("; ".join(errors))

    async def _initiate_once(
        self, connection: ConnectionConfig, missing: list[str], log: ControlLog
    ) -> tuple[bool, list[str]]:
        """Whether another address may succeed (the IKE SA was not established yet), and what went wrong."""
        waiter = Waiter(log)
        waiter.children = {(connection.name, name) for name in missing}
        unsubscribe = self._manager.subscribe(waiter.hear)
        try:
            self._begin(connection, missing, waiter)
            is_attempt = not waiter.ike_ids.isdisjoint(self._asked)
            self._pump()
            await waiter.wait()
        finally:
            unsubscribe()
        return is_attempt and not waiter.is_taken_down, waiter.errors

    def start(self, connection_name: str, child: str, packet: Packet | None = None) -> None:
        """Begin and do not wait. `packet`: the selectors of the packet that asked for it."""
        connection, _ = self._peers.find(connection_name, child)
        self._begin(connection, [child], None, packet)
        self._pump()

    async def terminate(self, selection: Selection, force: bool, log: ControlLog) -> int:
        picked = selection.pick(self.views())
        planned = self._stop_planned(selection)
        picked += self._rising_for(selection)
        waiter = Waiter(log)
        waiter.ike_ids = {view.ike_id for view, _ in picked}
        unsubscribe = self._manager.subscribe(waiter.hear)
        try:
            for view, children in picked:
                if selection.names_child and view.established_at is not None:
                    for one in _whole_groups(view, children):
                        self._taken_down(view.connection, one.name)
                        waiter.going.add(("child", one.child_id))
                        self._endpoint.terminate_child(one.child_id, self._now())
                else:
                    self._taken_down(view.connection, None)
                    waiter.going.add(("ike", view.ike_id))
                    self._endpoint.terminate_ike(view.ike_id, self._now(), force)
            count = len(waiter.going) or planned
            self._pump()
            self._drop_gone(waiter)
            if selection.names_child and force:
                return count
            await waiter.wait()
        finally:
            unsubscribe()
        return count

    def _drop_gone(self, waiter: Waiter) -> None:
        """End waits for IKE SAs that vanish without a notice: a half-open one of the responder is never announced."""
        views = self.views()
        left = {("ike", view.ike_id) for view in views}
        left |= {("child", child.child_id) for view in views for child in view.children}
        waiter.going &= left

    def _stop_planned(self, selection: Selection) -> int:
        """What a name means of the configuration is not begun again; how many were about to be."""
        if selection.ike_id is not None or selection.child_id is not None:
            return 0
        connections = (one for one in self._peers.connections if selection.ike in (None, one.name))
        keys = [(one.name, child.name) for one in connections for child in one.children]
        return sum(self._taken_down(*key) for key in keys if selection.child in (None, key[1]))

    def _rising_for(self, selection: Selection) -> list[tuple[IkeView, tuple[ChildView, ...]]]:
        """Attempts that are for the named child alone: they have no Child SA yet that a selection would find."""
        if selection.child is None:
            return []
        alone = {ike_id for ike_id, names in self._asked.items() if names == {selection.child}}
        return [(view, ()) for view in self.views() if view.ike_id in alone and selection.matches_ike(view)]

    def rekey(self, selection: Selection, reauth: bool) -> int:
        count = 0
        for view, children in selection.pick(self.views()):
            if selection.names_child:
                for one in children:
                    self._endpoint.rekey_child(one.child_id, self._now())
                    count += 1
            else:
                again = self._endpoint.reauthenticate if reauth else self._endpoint.rekey_ike
                again(view.ike_id, self._now())
                count += 1
        self._pump()
        return count

    def forget_turns(self, connection: str) -> None:
        """Its configuration went or is another: an attempt begins at the first address again."""
        self._turns.forget(connection)

    # --- trap policies

    def trapped(self) -> Sequence[tuple[ConnectionConfig, ChildConfig]]:
        return self._waiting.trapped()

    def install(self, ike: str | None, child: str) -> None:
        connection, (one,) = self._peers.find(ike, child)
        self._waiting.install(connection, one)
        self._pump()

    def uninstall(self, ike: str | None, child: str) -> None:
        connection, (one,) = self._peers.find(ike, child)
        self._waiting.uninstall(connection, one)
        self._pump()

    # --- beginning

    def _begin(
        self, connection: ConnectionConfig, names: list[str], waiter: Waiter | None, packet: Packet | None = None
    ) -> None:
        """On the connection's IKE SA if it has one, with the one that is being set up if there is one, otherwise with a new one."""
        now = self._now()
        views = self._endpoint.views(connection.name)
        # a silent peer's IKE SA is asked for nothing more: another one takes its place, or it comes back by itself
        live = next((view for view in reversed(views) if view.state in LIVE and view.silent_since is None), None)
        if live is not None:
            self._begin_children(live.ike_id, connection, names, packet)
        else:
            rising = next((v for v in views if v.ike_id in self._asked and v.state not in DEAD), None)
            ike_id = (
                rising.ike_id
                if rising
                else self._endpoint.initiate(connection, tuple(names), self._path(connection), now, packet)
            )
            if rising is None:
                self._turns.begin(ike_id, connection)
            late = [name for name in names if name not in self._asked.get(ike_id, names)]
            self._asked.setdefault(ike_id, set()).update(names)
            if late:
                self._begin_when_up(ike_id, connection, late, packet)
            if waiter is not None and not names:
                waiter.going.add(("up", ike_id))
        if waiter is not None:
            waiter.ike_ids.add(live.ike_id if live else ike_id)

    def _begin_children(
        self, ike_id: int, connection: ConnectionConfig, names: Sequence[str], packet: Packet | None = None
    ) -> None:
        for name in names:
            child = connection.child(name)
            is_asked_for = self._creating.get((connection.name, name)) == ike_id
            if child is not None and not is_asked_for:
                self._creating[connection.name, name] = ike_id
                self._endpoint.initiate_child(ike_id, child, self._now(), packet)

    def _begin_when_up(
        self, ike_id: int, connection: ConnectionConfig, names: Sequence[str], packet: Packet | None
    ) -> None:
        def hear(notice: Notice, view: IkeView | None) -> None:
            if isinstance(notice, IkeUp | IkeDown) and notice.ike_id == ike_id:
                unsubscribe()
                if isinstance(notice, IkeUp):
                    self._begin_children(ike_id, connection, names, packet)

        unsubscribe = self._manager.subscribe(hear)

    def _forget_asked(self, notice: Notice, view: IkeView | None) -> None:
        self._turns.hear(notice)
        match notice:
            case IkeUp(replaces=replaced):
                self._asked.pop(notice.ike_id, None)
                self._creating = {k: notice.ike_id if i == replaced else i for k, i in self._creating.items()}
            case IkeDown(ike_id=ike_id):
                self._asked.pop(ike_id, None)
                self._creating = {key: i for key, i in self._creating.items() if i != ike_id}
            case ChildUp() | ChildFailed():
                self._creating.pop((notice.connection, notice.name), None)
            case _:
                pass

    def _path(self, connection: ConnectionConfig) -> Path:
        if not connection.remote_addrs:
            raise UsageError(f"connection {connection.name} has no remote_addrs: it can only wait for its peer")
        for _ in connection.remote_addrs[1:]:
            try:
                return self._path_to(connection, connection.remote_addrs[self._turns.place(connection)])
            except HostError:  # no route to this address: try the next
                self._turns.hand_over(connection, self._turns.place(connection))
        return self._path_to(connection, connection.remote_addrs[self._turns.place(connection)])

    def _path_to(self, connection: ConnectionConfig, remote: Address) -> Path:
        same = [one for one in connection.local_addrs if one.version == remote.version]
        if connection.local_addrs and not same:
            raise HostError(
                f"connection {connection.name} has no IPv{remote.version} address in local_addrs to reach {remote} from"
            )
        return Path(same[0] if same else source_for(remote), IKE_PORT, remote, IKE_PORT)


def _whole_groups(view: IkeView, children: Sequence[ChildView]) -> list[ChildView]:
    """A fallback goes with those that stand beside it for single workers (RFC 9611), and first, or they would be made again."""
    groups = [group_of(child) for child in children if child.in_group and child.resource is None]
    also = [
        one for one in view.children if one.resource is not None and one not in children and group_of(one) in groups
    ]
    return sorted([*children, *also], key=lambda one: one.resource is not None)
