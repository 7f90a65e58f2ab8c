"""Which prefixes have routes because of which Child SAs, and which stay refused without one (ARCHITECTURE.md, rule 6).

A prefix is routed into the TUN from the first child that can carry it to the last one. Before and after that, prefixes
of children that the configuration starts by itself are refused, so that no packet for them leaves in clear; other
prefixes are not blocked.

A child's routes are added at once, in one batch. They are removed in pieces of PIECE prefixes, one piece per turn of
the event loop, and nobody waits for the kernel. Our books change at once: a prefix that is wanted again is not removed
any more. If the kernel refuses a removal, it is retried until the route is gone, with a line at the beginning and at
the end. Called by control.children and, for removals that are left, by the gateway's timer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..errors import HostError
from ..ike.config import ChildConfig, ConnectionConfig
from ..model import Address, TrafficSelector
from ..system.routes import Network

LEAST_MTU = {4: 68, 6: 1280}  # of a route: RFC 791, RFC 8200
PIECE = 64  # prefixes that leave the kernel's tables in one turn of the event loop: some milliseconds
WAIT_S = 0.02  # for the kernel's answer to one piece, before other work goes on
LOOK_EVERY_S = 0.005  # when the kernel takes longer
AGAIN_S, AGAIN_MOST_S = 1.0, 30.0  # between two attempts at what was refused


class RouteTable(Protocol):
    """What we need of system.routes.Routes, one prefix at a time."""

    def adopt(self, wanted: Iterable[Network]) -> list[Network]: ...
    def prohibit(self, network: Network) -> None: ...
    def add(
        self, network: Network, index: int, source: Address | None = None, around: Iterable[Network] = ()
    ) -> None: ...
    def set_mtu(self, network: Network, mtu: int) -> None: ...
    def remove(self, network: Network, *, keep_prohibit: bool) -> None: ...


class Removal(Protocol):
    def is_done(self, wait_s: float = 0.0) -> bool: ...
    def refused(self) -> dict[Network, str]: ...


@runtime_checkable
class BatchTable(Protocol):
    """A RouteTable that also takes many prefixes at a time."""

    def prohibit_all(self, networks: Iterable[Network]) -> None: ...
    def add_all(
        self, sources: Mapping[Network, Address | None], index: int, around: Iterable[Network] = ()
    ) -> None: ...
    def set_mtus(self, mtus: Mapping[Network, int]) -> None: ...
    def remove_all(self, networks: Mapping[Network, bool]) -> Removal: ...


class Routing:
    """`addresses` lists this host's own, of which the first inside a child's local selectors becomes the source of its routes.

    `before_ipv6` is called before an IPv6 route goes into the TUN, which must be able to take it.
    """

    def __init__(
        self,
        table: RouteTable,
        tun_index: int,
        addresses: Callable[[], Sequence[Address]],
        before_ipv6: Callable[[], None] = lambda: None,
    ) -> None:
        self._table = table
        self._batches: BatchTable = table if isinstance(table, BatchTable) else _OneByOne(table)
        self._tun_index = tun_index
        self._addresses = addresses
        self._before_ipv6 = before_ipv6
        self._closed: set[Network] = set()
        self._users: dict[Network, set[Hashable]] = {}
        self._networks_of: dict[Hashable, list[Network]] = {}
        self._sources: dict[Network, Address | None] = {}
        self._mtus: dict[Network, int] = {}
        self._leaving: dict[Network, None] = {}  # no child uses them, and the kernel still has them
        self._under_way: Removal | None = None
        self._left = PIECE  # prefixes that this turn may still remove
        self._look_at = 0.0
        self._refused: dict[Network, None] = {}  # to be removed again at `_again_at`
        self._again_at, self._again_s = 0.0, AGAIN_S
        self._was_refused: set[Network] = set()  # since when the log says so
        self._reports: list[str] = []

    def start(self, connections: Iterable[ConnectionConfig], started: Iterable[tuple[str, str]]) -> None:
        """Adopt what a crash left for children that are still configured, and refuse in clear what `started` children will carry."""
        connections = tuple(connections)
        remote = _remotes(connections)
        self._table.adopt(_networks(ts for selectors in remote.values() for ts in selectors))
        self.expect(connections, started)

    def expect(self, connections: Iterable[ConnectionConfig], started: Iterable[tuple[str, str]]) -> None:
        """The configuration is this now: refuse in clear what `started` children will carry, and nothing else that no child carries."""
        remote = _remotes(connections)
        closed = set(_networks(ts for key in started for ts in remote.get(key, ())))
        self._closed |= closed  # before the kernel can refuse one, so that the next call removes those added before it
        self._batches.prohibit_all(closed)
        gone, self._closed = self._closed - closed, closed
        self._leaving.update(dict.fromkeys(network for network in gone if network not in self._users))
        self._work()

    # --- children

    def add_child(
        self, child_id: Hashable, local_ts: Sequence[TrafficSelector], remote_ts: Sequence[TrafficSelector]
    ) -> None:
        """HostError leaves nothing of this child behind. A trapped child uses its names: it wants its routes without an SA too."""
        addresses = self._addresses()
        networks = _networks(remote_ts)
        fresh = {network: _source(network, local_ts, addresses) for network in networks if network not in self._users}
        self._networks_of[child_id] = networks
        for network in networks:
            self._users.setdefault(network, set()).add(child_id)
        for network in fresh:
            self._leaving.pop(network, None)
            self._refused.pop(network, None)
        self._sources.update(fresh)
        try:
            if any(network.version == 6 for network in fresh):
                self._before_ipv6()
            if fresh:
                self._batches.add_all(fresh, self._tun_index, _networks(local_ts))
        except Exception:
            self.remove_child(child_id)
            raise

    def remove_child(self, child_id: Hashable) -> None:
        """Takes time by the child's own prefixes only. `handle_timer` removes what is left."""
        for network in self._networks_of.pop(child_id, ()):
            users = self._users[network]
            users.discard(child_id)
            if not users:
                del self._users[network], self._sources[network]
                self._mtus.pop(network, None)
                self._leaving[network] = None
        self._work()

    def set_mtus(self, inner: Mapping[int, int]) -> None:
        """Each prefix follows the largest inner packet of the Child SAs (by id) that carry it. HostError."""
        changed: dict[Network, int] = {}
        for network, users in self._users.items():
            fits = [inner[user] for user in users if isinstance(user, int) and user in inner]
            mtu = max(min(fits), LEAST_MTU[network.version]) if fits else 0
            if mtu and self._mtus.get(network) != mtu:
                changed[network] = mtu
        if changed:
            self._batches.set_mtus(changed)
            self._mtus.update(changed)

    def move(self, tun_index: int) -> None:
        """Install all routes on a new TUN device. HostError; may be repeated."""
        self._tun_index = tun_index
        self._mtus.clear()
        if any(network.version == 6 for network in self._sources):
            self._before_ipv6()
        if self._sources:
            self._batches.add_all(self._sources, tun_index)

    # --- what is left to do

    def begin_turn(self) -> None:
        """One more piece may be removed in this turn of the event loop."""
        self._left = PIECE

    def get_timer(self) -> float | None:
        if self._under_way is not None:
            return self._look_at
        if self._leaving:
            return 0.0
        return self._again_at if self._refused else None

    def handle_timer(self, now: float) -> None:
        self.begin_turn()
        if self._under_way is not None:
            if not self._under_way.is_done():
                self._look_at = now + LOOK_EVERY_S
                return
            removal, self._under_way = self._under_way, None
            self._take(removal)
        tries = bool(self._refused) and now >= self._again_at
        if tries:
            self._leaving.update(self._refused)
            self._refused.clear()
        self._work()
        if tries and self._refused:
            self._again_at = now + self._again_s
            self._again_s = min(2 * self._again_s, AGAIN_MOST_S)

    def take_reports(self) -> list[str]:
        """Lines for the log: what the kernel refused to remove, and that it is gone after all."""
        reports, self._reports = self._reports, []
        return reports

    def _work(self) -> None:
        """Remove as many pieces as this turn may."""
        while self._leaving and self._left > 0 and self._under_way is None:
            piece = [network for network, _ in zip(self._leaving, range(self._left), strict=False)]
            self._left -= len(piece)
            for network in piece:
                del self._leaving[network]
            removal = self._batches.remove_all({network: network in self._closed for network in piece})
            if removal.is_done(WAIT_S):
                self._take(removal)
            else:
                self._under_way = removal
        if self._was_refused and not self._refused and not self._leaving and self._under_way is None:
            self._was_refused.clear()
            self._again_at, self._again_s = 0.0, AGAIN_S
            self._reports.append("the routes that the kernel refused to remove are gone now")

    def _take(self, removal: Removal) -> None:
        """Retry a refused removal at once and then at growing intervals, unless the prefix is wanted again."""
        refused = {network: why for network, why in removal.refused().items() if network not in self._users}
        if not refused:
            return
        if not self._was_refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            self._reports.append(f"{next(iter(refused.values()))}{more}; it is tried again until it is gone")
        for network in refused:
            (self._refused if network in self._was_refused else self._leaving)[network] = None
        self._was_refused.update(refused)


class _OneByOne:
    """Makes a BatchTable of a RouteTable. A refusal concerns one prefix only."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table

    def prohibit_all(self, networks: Iterable[Network]) -> None:
        for network in networks:
            self._table.prohibit(network)

    def add_all(self, sources: Mapping[Network, Address | None], index: int, around: Iterable[Network] = ()) -> None:
        for network, source in sources.items():
            self._table.add(network, index, source, around)

    def set_mtus(self, mtus: Mapping[Network, int]) -> None:
        for network, mtu in mtus.items():
            self._table.set_mtu(network, mtu)

    def remove_all(self, networks: Mapping[Network, bool]) -> Removal:
        refused: dict[Network, str] = {}
        for network, keep_prohibit in networks.items():
            try:
                self._table.remove(network, keep_prohibit=keep_prohibit)
            except HostError as error:
                refused[network] = str(error)
        return _Removed(refused)


class _Removed:
    def __init__(self, refused: dict[Network, str]) -> None:
        self._refused = refused

    def is_done(self, wait_s: float = 0.0) -> bool:
        return True

    def refused(self) -> dict[Network, str]:
        return self._refused


def _remotes(connections: Iterable[ConnectionConfig]) -> dict[tuple[str, str], Sequence[TrafficSelector]]:
    return {(one.name, child.name): _remote_of(one, child) for one in connections for child in one.children}


def _remote_of(connection: ConnectionConfig, child: ChildConfig) -> Sequence[TrafficSelector]:
    """What the configuration lets this child reach; `dynamic` is the peer itself, as far as its address is known."""
    return child.remote_at(connection.remote_addrs)


def _networks(selectors: Iterable[TrafficSelector]) -> list[Network]:
    return list(dict.fromkeys(network for ts in selectors for network in ts.networks()))


def _holds(ts: TrafficSelector, address: Address) -> bool:
    return ts.version == address.version and int(ts.start) <= int(address) <= int(ts.end)


def _source(network: Network, local_ts: Sequence[TrafficSelector], addresses: Sequence[Address]) -> Address | None:
    return next((a for ts in local_ts for a in addresses if a.version == network.version and _holds(ts, a)), None)
