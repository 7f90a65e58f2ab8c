"""Which connection a peer means: first by the addresses of its datagram, then by the identities of IKE_AUTH (RFC 4301 section 4.4.3.1).

Called by control.answers for AskConfig and AskConnection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import NegotiationError, UsageError
from ..iana import NotifyType
from ..ike.config import ChildConfig, ConnectionConfig
from ..model import Address, Identity, Path

SHOWN = 6  # connections, or addresses of one, in the text of a refusal
FEW = 16  # candidates that are simply walked
LOCALS_MAX = 256  # local addresses whose connections are remembered


class Peers:
    """The connections of a gateway, in the order of its configuration."""

    def __init__(self, connections: Iterable[ConnectionConfig]) -> None:
        self.replace(connections)

    def replace(self, connections: Iterable[ConnectionConfig]) -> None:
        """From now on these; an IKE SA goes on with the one that it was made with."""
        self.connections = tuple(connections)
        self._named: dict[
            Address, list[ConnectionConfig]
        ] = {}  # by remote address, so that a stranger's datagram walks
        self._any_remote: list[ConnectionConfig] = []  # no more connections than may be meant
        for one in self.connections:
            for address in dict.fromkeys(one.remote_addrs):
                self._named.setdefault(address, []).append(one)
            if not one.remote_addrs:
                self._any_remote.append(one)
        self._of_local: dict[Address, tuple[ConnectionConfig, ...]] = {}  # for remote addresses that none names
        self._expecting: _Expecting | None = None  # made when it is asked for: connections are loaded one by one
        self._own = {one.local_id.folded for one in self.connections if one.local_id is not None}
        self._allowing_weak = frozenset(one.name for one in self.connections if one.allow_weak)

    def allows_weak(self, connection: str) -> bool:
        return connection in self._allowing_weak

    def by_path(self, path: Path) -> tuple[ConnectionConfig, ...]:
        """Those whose addresses allow this path, best first: a named remote address weighs more than a named local one."""
        named = [one for one in self._named.get(path.remote, ()) if _allows(one, path)]
        fitting = (*sorted(named, key=lambda one: -_address_score(one)), *self._for_any_remote(path))
        if not fitting:
            raise NegotiationError(
                f"no connection for {path.local} with {path.remote}; {self._addresses()}", NotifyType.NO_PROPOSAL_CHOSEN
            )
        return fitting

    def _for_any_remote(self, path: Path) -> tuple[ConnectionConfig, ...]:
        fitting = self._of_local.get(path.local)
        if fitting is None:
            allowed = [one for one in self._any_remote if _allows(one, path)]
            fitting = tuple(sorted(allowed, key=lambda one: -_address_score(one)))
            if len(self._of_local) < LOCALS_MAX:
                self._of_local[path.local] = fitting
        return fitting

    def by_identity(
        self, path: Path, candidates: Sequence[ConnectionConfig], remote_id: Identity, local_id: Identity | None
    ) -> ConnectionConfig:
        """The candidate that expects this peer, and, if the peer said whom it wants, that is us."""
        fitting = [
            one
            for one in self._meant(candidates, remote_id)
            if _allows(one, path)  # IKE_AUTH may come from another address than IKE_SA_INIT did
            and self._expects(one, remote_id)
            and (local_id is None or own_identity(one, path).matches(local_id))
        ]
        if not fitting:
            wanted = _shown(
                candidates,
                lambda one: (
                    f"{one.name} wants {_beside(one.remote_id, remote_id)} and is "
                    f"{_beside(own_identity(one, path), local_id)}"
                ),
            )
            asks = f", who asks for {local_id.with_type}," if local_id is not None else ""
            said = remote_id.with_type + asks
            raise NegotiationError(
                f"no connection for {said} at {path.remote}: {wanted}", NotifyType.AUTHENTICATION_FAILED
            )
        return min(fitting, key=lambda one: _vagueness(one.remote_id))  # the first among equals

    def _meant(self, candidates: Sequence[ConnectionConfig], remote_id: Identity) -> Sequence[ConnectionConfig]:
        """Those that may expect this peer, in their order. Many are not asked one by one: a stranger may claim any identity."""
        if len(candidates) <= FEW:
            return candidates
        if self._expecting is None:
            self._expecting = _Expecting(self.connections)
        return self._expecting.among(candidates, remote_id)

    def find(self, ike: str | None, child: str | None) -> tuple[ConnectionConfig, tuple[ChildConfig, ...]]:
        """The connection and children that a command names; a connection alone means all its children."""
        matching = [one for one in self.connections if ike is None or one.name == ike]
        if child is not None:
            matching = [one for one in matching if one.child(child) is not None]
        if not matching:
            known = ", ".join(f"{one.name} ({' '.join(c.name for c in one.children)})" for one in self.connections)
            wanted = " ".join([f"connection {ike}"] * (ike is not None) + [f"child {child}"] * (child is not None))
            raise UsageError(f"no {wanted} in the configuration, which has {known or 'no connections'}")
        if len(matching) > 1:
            raise UsageError(f"child {child} is in {', '.join(one.name for one in matching)}: name the connection too")
        connection = matching[0]
        return connection, tuple(one for one in connection.children if child is None or one.name == child)

    def _expects(self, connection: ConnectionConfig, remote_id: Identity) -> bool:
        """If several identities are accepted, none of ours may be: the peer's AUTH could be our own message, reflected."""
        wanted = connection.remote_id
        if wanted is None or wanted.is_pattern:
            return remote_id.folded not in self._own and (wanted is None or wanted.covers(remote_id))
        return wanted.matches(remote_id)

    def _addresses(self) -> str:
        return _shown(
            self.connections, lambda one: f"{one.name} is {_any_of(one.local_addrs)} with {_any_of(one.remote_addrs)}"
        )


class _Expecting:
    """Connections by the identity that they expect; compared by what they are, which costs less than by what they hold."""

    def __init__(self, connections: Iterable[ConnectionConfig]) -> None:
        self._exact: dict[tuple[int, bytes], set[int]] = {}
        self._vague: set[int] = set()
        self._present = {id(one): one for one in connections}
        for one in self._present.values():
            if one.remote_id is None or one.takes_many:
                self._vague.add(id(one))
            else:
                self._exact.setdefault(one.remote_id.folded, set()).add(id(one))

    def among(self, candidates: Sequence[ConnectionConfig], remote_id: Identity) -> Sequence[ConnectionConfig]:
        """All, if some are of the configuration before this one."""
        if not all(id(one) in self._present for one in candidates):
            return candidates
        meant = self._vague | self._exact.get(remote_id.folded, set())
        return [one for one in candidates if id(one) in meant]


def _any_of(addresses: Sequence[Address]) -> str:
    """The first few addresses, because anybody may cause this text."""
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return " ".join(map(str, addresses[:SHOWN])) + more or "any"


def _shown(connections: Sequence[ConnectionConfig], row: Callable[[ConnectionConfig], str]) -> str:
    more = f"; and {len(connections) - SHOWN} more" if len(connections) > SHOWN else ""
    return "; ".join(row(one) for one in connections[:SHOWN]) + more or "none is configured"


def own_identity(connection: ConnectionConfig, path: Path) -> Identity:
    """Who we are on this connection: the configured identity, otherwise our address."""
    return connection.local_id if connection.local_id is not None else Identity.of_address(path.local)


def _allows(connection: ConnectionConfig, path: Path) -> bool:
    return (not connection.local_addrs or path.local in connection.local_addrs) and (
        not connection.remote_addrs or path.remote in connection.remote_addrs
    )


def _beside(configured: Identity | None, said: Identity | None) -> str:
    """The identity, with its type if the texts of both are the same."""
    if configured is None:
        return "anybody"
    return configured.with_type if said is not None and configured.type != said.type else str(configured)


def _vagueness(wanted: Identity | None) -> int:
    """0 for a whole identity, more for a wildcard, most for anybody."""
    return 2 if wanted is None else int(wanted.is_pattern)


def _address_score(connection: ConnectionConfig) -> int:
    return 2 * bool(connection.remote_addrs) + bool(connection.local_addrs)
