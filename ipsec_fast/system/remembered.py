"""What links says of this host, asked for again only when something changed: a gateway asks at every Child SA, and a netlink dump takes a
millisecond.

Every address has a route of the kernel's, so that the news of links and routes covers addresses too. The news is read before each
answer, so none is older than the question. Called by gateway.daemon.
"""

from __future__ import annotations

from ..model import Address
from .links import Links
from .routes import Network
from .watch import RouteWatch

REMEMBERED_MAX = 4096  # ways; more are asked for each time


class Remembered:
    """`tun` and its `index` are our own device, of which neither addresses nor news count."""

    def __init__(self, links: Links, tun: str, index: int, mark: int) -> None:
        self._links, self._tun, self._mark = links, tun, mark
        self._watch = RouteWatch(index)
        self._addresses: list[Address] | None = None
        self._networks: list[Network] | None = None
        self._path_mtus: dict[Address, int] = {}

    def addresses(self) -> list[Address]:
        """As Links.addresses, without those of our own device."""
        self._hear()
        if self._addresses is None:
            self._addresses = self._links.addresses(but=self._tun)
        return list(self._addresses)

    def networks(self) -> list[Network]:
        """As Links.networks, without the networks of our own device."""
        self._hear()
        if self._networks is None:
            self._networks = self._links.networks(but=self._tun)
        return list(self._networks)

    def path_mtu(self, remote: Address, default: int) -> int:
        """As Links.path_mtu."""
        self._hear()
        found = self._path_mtus.get(remote)
        if found is None:
            found = self._links.path_mtu(remote, self._mark, default)
            if len(self._path_mtus) < REMEMBERED_MAX:
                self._path_mtus[remote] = found
        return found

    def ignore(self, index: int) -> None:
        """Our own device has this index now."""
        self._watch.ignore(index)

    def close(self) -> None:
        self._watch.close()

    def _hear(self) -> None:
        if self._watch.take():
            self._addresses = self._networks = None
            self._path_mtus.clear()
