"""Which prefixes stand in the routing table because of which Child SAs, and which stay refused without one (design.md decision 12).

A prefix is routed into the TUN from the first child that can carry it to the last one. Before and after, the prefixes of children
that the configuration starts by itself are refused, so that nothing for them leaves in clear; others are free. Called by control.children.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol

from ..ike.config import ChildConfig, ConnectionConfig
from ..model import Address, TrafficSelector
from ..system.routes import Network

LEAST_MTU = {4: 68, 6: 1280}  # of a route: RFC 791, RFC 8200


class RouteTable(Protocol):
    """What we need of system.routes.Routes."""

    def adopt(self, wanted: Iterable[Network]) -> list[Network]: ...
    def prohibit(self, network: Network) -> None: ...
    def add(
        self, network: Network, index: int, source: Address | None = None, around: Iterable[Network] = ()
    ) -> None: ...
    def set_mtu(self, network: Network, mtu: int) -> None: ...
    def remove(self, network: Network, *, keep_prohibit: bool) -> None: ...


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
        self._tun_index = tun_index
        self._addresses = addresses
        self._before_ipv6 = before_ipv6
        self._closed: set[Network] = set()
        self._users: dict[Network, set[Hashable]] = {}
        self._mtus: dict[Network, int] = {}

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
        for network in closed:
            self._table.prohibit(network)
            self._closed.add(network)  # one by one, so that the next call undoes what was done before a refusal
        gone, self._closed = self._closed - closed, closed
        for network in gone:
            if not self._users.get(network):
                self._table.remove(network, keep_prohibit=False)

    def add_child(
        self, child_id: Hashable, local_ts: Sequence[TrafficSelector], remote_ts: Sequence[TrafficSelector]
    ) -> None:
        """HostError leaves nothing of this child behind. A trapped child uses its names: it wants its routes without an SA too."""
        addresses = self._addresses()
        try:
            for network in _networks(remote_ts):
                source = next(
                    (a for ts in local_ts for a in addresses if a.version == network.version and _holds(ts, a)), None
                )
                if not self._users.get(network):
                    if network.version == 6:
                        self._before_ipv6()
                    self._table.add(network, self._tun_index, source, _networks(local_ts))
                self._users.setdefault(network, set()).add(child_id)
        except Exception:
            self.remove_child(child_id)
            raise

    def set_mtus(self, inner: Mapping[int, int]) -> None:
        """Each prefix follows the largest inner packet of the Child SAs (by id) that carry it. HostError."""
        for network, users in self._users.items():
            fits = [inner[user] for user in users if isinstance(user, int) and user in inner]
            mtu = max(min(fits), LEAST_MTU[network.version]) if fits else 0
            if mtu and self._mtus.get(network) != mtu:
                self._table.set_mtu(network, mtu)
                self._mtus[network] = mtu

    def remove_child(self, child_id: Hashable) -> None:
        for network, users in tuple(self._users.items()):
            users.discard(child_id)
            if not users:
                del self._users[network]
                self._mtus.pop(network, None)
                self._table.remove(network, keep_prohibit=network in self._closed)


def _remotes(connections: Iterable[ConnectionConfig]) -> dict[tuple[str, str], Sequence[TrafficSelector]]:
    return {(one.name, child.name): _remote_of(one, child) for one in connections for child in one.children}


def _remote_of(connection: ConnectionConfig, child: ChildConfig) -> Sequence[TrafficSelector]:
    """What the configuration lets this child reach; `dynamic` is the peer itself, as far as its address is known."""
    return child.remote_at(connection.remote_addrs)


def _networks(selectors: Iterable[TrafficSelector]) -> list[Network]:
    return list(dict.fromkeys(network for ts in selectors for network in ts.networks()))


def _holds(ts: TrafficSelector, address: Address) -> bool:
    return ts.version == address.version and int(ts.start) <= int(address) <= int(ts.end)
