"""What one peer may hold, and that no two peers of one configured child hold the same (RFC 4301 section 4.4.1: the SPD
is the administrator's, not the peers').

If a connection serves many peers, each picks its selectors out of the configured ones. The first peer that has a
network keeps it: overlapping selectors of another peer are refused with TS_UNACCEPTABLE, unless the child says `overlap
= "allow"`. The same peer, recognised by its authenticated identity, may always come again: a reconnection, a rekey, a
reauthentication. Policies and routes have limits per peer. A connection that accepts any identity has limits of its own
too, because one holder of its secret could appear as many peers. Called by control.children.

A look-up takes time by the prefix lengths in use and the selectors found, not by the number of peers.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from ..errors import NegotiationError
from ..iana import NotifyType
from ..ike.config import ConnectionConfig
from ..ike.events import AskInstallChild
from ..model import TrafficSelector
from ..system.routes import Network

POLICIES_PER_PEER = ROUTES_PER_PEER = 2048
PER_CONNECTION = 16384  # policies, routes and Child SAs of a connection whose peers may have any identity
LOOKED_AT_MAX = (
    1024  # selectors with the same addresses but other ports; beyond that an offer is refused without looking further
)
Key = tuple[str, str]  # connection, child
Peer = tuple[object, ...]
Prefix = tuple[int, int]  # first address, length


@dataclass(frozen=True, slots=True)
class _Held:
    """One Child SA, kept until it goes down."""

    key: Key
    peer: Peer
    shown: str
    local_ts: tuple[TrafficSelector, ...]
    networks: tuple[tuple[Network, TrafficSelector], ...]
    group: tuple[object, ...]
    policies: int


@dataclass(slots=True)
class _Used:
    """What one peer, or all peers of a connection, use. Child SAs for the same
    traffic count once, as only one has policies.
    """

    children: int = 0
    policies: int = 0
    routes: int = 0
    groups: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def add(self, held: _Held) -> None:
        self.children += 1
        self.groups[held.group] += 1
        if self.groups[held.group] == 1:
            self.policies += held.policies
            self.routes += len(held.networks)

    def remove(self, held: _Held) -> None:
        self.children -= 1
        self.groups[held.group] -= 1
        if not self.groups[held.group]:
            del self.groups[held.group]
            self.policies -= held.policies
            self.routes -= len(held.networks)


class Separation:
    """`expect` the configuration; then `admit` each Child SA before it is installed, and `leave` when it goes."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._spaces: dict[Key, _Space] = {}
        self._peers: dict[Peer, _Used] = {}
        self._connections: dict[str, _Used] = {}
        self._anybody: set[str] = set()

    def expect(self, connections: Iterable[ConnectionConfig]) -> None:
        for one in connections:
            (self._anybody.add if one.takes_many else self._anybody.discard)(one.name)

    def admit(self, ask: AskInstallChild) -> None:
        """Raises NegotiationError (TS_UNACCEPTABLE) and changes nothing if another peer
        holds some of it or this peer holds too much.
        """
        held = _held(ask)
        if not ask.overlap:
            self._refuse_overlap(held)
        self._refuse_too_much(held, self._held.get(ask.replaces or 0))
        self._held[ask.child_id] = held
        self._spaces.setdefault(held.key, _Space()).add(ask.child_id, held.networks)
        for used in self._used(held):
            used.add(held)

    def leave(self, child_id: int) -> None:
        held = self._held.pop(child_id, None)
        if held is None:
            return
        space = self._spaces[held.key]
        space.remove(child_id, held.networks)
        if not space:
            del self._spaces[held.key]
        for used in self._used(held):
            used.remove(held)
        if not self._peers[held.peer].children:
            del self._peers[held.peer]
        if not self._connections[held.key[0]].children:
            del self._connections[held.key[0]]

    @property
    def steps(self) -> int:
        """Prefixes and selectors looked at so far, over all children that there are."""
        return sum(space.steps for space in self._spaces.values())

    def _used(self, held: _Held) -> tuple[_Used, _Used]:
        connection = held.key[0]
        return self._peers.setdefault(held.peer, _Used()), self._connections.setdefault(connection, _Used())

    def _refuse_overlap(self, held: _Held) -> None:
        space = self._spaces.get(held.key)
        if space is None:
            return
        harmless: dict[int, bool] = {}  # by child: same peer, or disjoint local addresses
        for looked_at, (ours, child_id, theirs) in enumerate(space.meeting(held.networks)):
            if child_id not in harmless:
                other = self._held[child_id]
                harmless[child_id] = other.peer == held.peer or not _meet(held.local_ts, other.local_ts)
            if harmless[child_id]:
                continue
            if ours.intersect(theirs) is not None:
                raise _refusal(held, f"{ours} overlaps {theirs}, which {self._held[child_id].shown} has")
            if looked_at >= LOOKED_AT_MAX:
                raise _refusal(
                    held, f"{ours} shares its addresses with more than {LOOKED_AT_MAX} selectors of other peers"
                )

    def _refuse_too_much(self, held: _Held, replaced: _Held | None) -> None:
        """A rekey that takes no more than what it replaces is never refused."""
        if replaced is not None and held.policies <= replaced.policies and len(held.networks) <= len(replaced.networks):
            return
        limits = [(self._peers.get(held.peer), held.shown, POLICIES_PER_PEER, ROUTES_PER_PEER, None)]
        if held.key[0] in self._anybody:
            everybody = f"connection {held.key[0]}, whose peers may have any identity,"
            used = self._connections.get(held.key[0])
            limits.append((used, everybody, PER_CONNECTION, PER_CONNECTION, PER_CONNECTION))  # type: ignore[arg-type]
        for used, whose, policies, routes, children in limits:
            before = used or _Used()
            is_new = held.group not in before.groups
            wanted = before.policies + is_new * held.policies, before.routes + is_new * len(held.networks)
            if wanted[0] > policies or wanted[1] > routes:
                text = f"{whose} would have {wanted[0]} policies and {wanted[1]} routes, at most {policies} and {routes} are possible"
                raise NegotiationError(f"child {held.key[1]}: {text}", NotifyType.TS_UNACCEPTABLE)
            if children is not None and before.children >= children:
                text = f"{whose} has {before.children} Child SAs, the most that are possible"
                raise NegotiationError(f"child {held.key[1]}: {text}", NotifyType.NO_ADDITIONAL_SAS)


class _Space:
    """The remote selectors of one configured child, sorted by first address: prefixes
    nest or are disjoint, so that is enough.
    """

    def __init__(self) -> None:
        self._at: dict[tuple[int, Prefix], list[tuple[int, TrafficSelector]]] = {}
        self._sorted: dict[int, list[Prefix]] = {4: [], 6: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}
        self.steps = 0

    def add(self, child_id: int, networks: Iterable[tuple[Network, TrafficSelector]]) -> None:
        for network, ts in networks:
            version, prefix = network.version, _prefix(network)
            rows = self._at.setdefault((version, prefix), [])
            if not rows:
                insort(self._sorted[version], prefix)
                self._lengths[version][prefix[1]] += 1
            rows.append((child_id, ts))

    def remove(self, child_id: int, networks: Iterable[tuple[Network, TrafficSelector]]) -> None:
        for network, ts in networks:
            version, prefix = network.version, _prefix(network)
            rows = self._at[version, prefix]
            rows.remove((child_id, ts))
            if not rows:
                del self._at[version, prefix]
                del self._sorted[version][bisect_left(self._sorted[version], prefix)]
                self._lengths[version].subtract((prefix[1],))
                if not self._lengths[version][prefix[1]]:
                    del self._lengths[version][prefix[1]]

    def meeting(
        self, networks: Iterable[tuple[Network, TrafficSelector]]
    ) -> Iterator[tuple[TrafficSelector, int, TrafficSelector]]:
        """(one of these, child, one of its selectors) with common addresses: first
        those that contain it, then those inside it.
        """
        for network, ours in networks:
            for prefix in chain(self._around(network), self._inside(network)):
                for child_id, theirs in tuple(self._at[network.version, prefix]):
                    self.steps += 1
                    yield ours, child_id, theirs

    def _around(self, network: Network) -> list[Prefix]:
        first, bits = int(network.network_address), network.max_prefixlen
        found = []
        for length in sorted(self._lengths[network.version]):
            if length > network.prefixlen:
                break
            self.steps += 1
            prefix = (first >> bits - length << bits - length, length)
            if (network.version, prefix) in self._at:
                found.append(prefix)
        return found

    def _inside(self, network: Network) -> Iterator[Prefix]:
        rows, last = self._sorted[network.version], int(network.broadcast_address)
        at = bisect_left(rows, (int(network.network_address), network.prefixlen + 1))
        while at < len(rows) and rows[at][0] <= last:
            self.steps += 1
            yield rows[at]
            at += 1

    def __bool__(self) -> bool:
        return bool(self._at)


def _held(ask: AskInstallChild) -> _Held:
    identity = ask.peer
    peer: Peer = ("at", ask.path.remote) if identity is None else identity.folded
    key = (ask.connection, ask.name)
    return _Held(
        key,
        peer,
        str(identity or ask.path.remote),
        ask.local_ts,
        tuple((network, ts) for ts in ask.remote_ts for network in ts.networks()),
        (key, frozenset(ask.local_ts), frozenset(ask.remote_ts)),
        len(ask.local_ts) * len(ask.remote_ts),
    )


def _meet(some: Iterable[TrafficSelector], others: tuple[TrafficSelector, ...]) -> bool:
    return any(one.intersect(other) is not None for one in some for other in others)


def _refusal(held: _Held, why: str) -> NegotiationError:
    text = (
        f'child {held.key[1]} of {held.shown}: {why}; write overlap = "allow" in the child if peers may share networks'
    )
    return NegotiationError(text, NotifyType.TS_UNACCEPTABLE)


def _prefix(network: Network) -> Prefix:
    return int(network.network_address), network.prefixlen
