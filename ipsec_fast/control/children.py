"""The dataplane's half of every Child SA: its two SAs, its policies, its grants, its routes.

`install`, `switch_outbound` and `remove` change the books; the tables that each worker reads are made anew by `tables`
whenever `changed` says so. policy_order decides whose policies come first, separation who may hold which selectors. A
removed child stops sending at once and keeps receiving during its grace period. Left out: anything that speaks IKE.
Called by control.manager and the views.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..dataplane.engine import engine_for
from ..dataplane.outside import Outside
from ..dataplane.sad import SA
from ..dataplane.spd import Policy, Tables, last_received_s, last_sent_s, set_selectors
from ..dataplane.udp import newest_source, set_endpoint, set_raw_endpoint, tell_source_again
from ..errors import HostError, NegotiationError
from ..iana import NotifyType
from ..ike.config import ChildConfig, ConnectionConfig
from ..ike.events import AskInstallChild
from ..model import Address, OuterHeader, Path, TrafficSelector
from .grants import Grants
from .mtu import LEAST_LINK_MTU, MAX_MTU, Encapsulation, Finding, Mss, Source, TunnelMtu
from .policy_order import PolicyOrder, Rank, Readiness, sort_key
from .resources import sending_child
from .routing import Routing
from .separation import Separation
from .spi import SpiPool, worker_of
from .store import GrantMark

POLICIES_MAX, ROUTES_MAX = 1024, 1024  # of one child
Key = tuple[str, str]  # connection, child
Ranked = tuple[tuple[int, int], list[Rank]]  # the ranks of some policies, and the order's stamp that they hold for
UNRANKED: Ranked = ((-1, -1), [])
ESP_PORT = 4500  # RFC 3948: UDP-encapsulated ESP shares the port of IKE with the non-ESP marker


@dataclass(slots=True)
class InstalledChild:
    """One Child SA as the dataplane has it. `order` counts switches to its outbound SA; 0: not sending (yet, or any more).

    `resource`: which of ours alone shall send on it (RFC 9611); None for an ordinary or a fallback Child SA.
    """

    child_id: int
    connection: str
    name: str
    sa_in: SA
    sa_out: SA
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    path: Path
    mtu: TunnelMtu  # as it is now, from `wraps` and `path_mtu`
    wraps: Encapsulation
    path_mtu: int
    whole: bool  # outer packets are not cut (copy_df)
    findings: dict[Source, Finding]
    cuts: bool  # IPv6 packets of up to 1280 bytes that do not fit leave in outer fragments; else they are dropped
    resource: int | None = None
    order: int = 0
    ranks: Ranked = UNRANKED  # of its policies
    follows_peer: bool = False  # its worker reports packets of the peer that come from elsewhere
    replaces: int | None = None
    is_silent: bool = False  # its peer does not answer
    used_before_s: float | None = None  # when the child that it replaces last carried a packet
    inbound_until: float | None = None  # set when the child went down

    @property
    def group(self) -> tuple[object, ...]:
        """Equal for the Child SAs among which each worker chooses the one to send on."""
        return self.connection, self.name, self.path.remote, frozenset(self.local_ts), frozenset(self.remote_ts)

    def worker(self, workers: int) -> int:
        """Which of so many workers owns both its directions."""
        return worker_of(self.sa_in.spi, workers)


def _no_raw_socket(local: Address) -> int:
    raise HostError("this gateway has no raw sockets")


@dataclass(frozen=True, slots=True)
class Host:
    """What an installation needs to know of this host. `socket_index`, `raw_socket_index` of the worker's sockets by local address.

    `copies_df` by connection and child: False where outer fragments are wanted.
    """

    socket_index: Callable[[Address], int]
    path_mtu: Callable[[Address], int]
    mss: Callable[[str], Mss]
    engine: str = "auto"
    raw_socket_index: Callable[[Address], int] = _no_raw_socket
    copies_df: Callable[[str, str], bool] = lambda connection, child: True
    workers: int = 1


class Children:
    def __init__(self, host: Host, routing: Routing, spis: SpiPool, grants: Grants) -> None:
        self._host = host
        self._routing = routing
        self._spis = spis
        self._grants = grants
        self._children: dict[int, InstalledChild] = {}
        self._waiting: dict[Key, list[Policy]] = {}  # of children that are started by themselves: protect, but no SA
        self._wanted: dict[int, Key] = {}  # by the tag of their policies
        self._trapped: set[Key] = set()
        self._order = PolicyOrder()
        self._waiting_ranks: dict[Key, Ranked] = {}
        self._separation = Separation()
        self._tags = 0
        self._switches = 0
        self._resumed: dict[
            int, GrantMark
        ] = {}  # of children that stood before a restart and are about to be installed
        self._ungranted: set[int] = set()
        self._successors: dict[int, InstalledChild] = {}  # by the child that they replace
        self._ending: list[tuple[float, int]] = []  # a heap: end of the grace period, child ID
        self.changed = False

    # --- the books

    def expect(self, connections: Iterable[ConnectionConfig], started: Iterable[Key]) -> None:
        """From now on these children's packets are dropped for want of an SA until one is there, never sent otherwise."""
        connections = tuple(connections)
        children = {(one.name, child.name): (one, child) for one in connections for child in one.children}
        self._separation.expect(connections)
        self._order.learn({key: _selectors(*both) for key, both in children.items()})
        for key in started:
            self._wait(*children[key])

    def arrange(self, connections: Iterable[ConnectionConfig]) -> None:
        """Take over the whole configuration; its order is the order of the children's policies."""
        self._order.arrange(
            {(one.name, child.name): _selectors(one, child) for one in connections for child in one.children}
        )
        self.changed = True

    def trap(self, connection: ConnectionConfig, child: ChildConfig) -> None:
        """As `expect`, and its packets come to the worker also while there is no SA, so that the first one is told of."""
        key = (connection.name, child.name)
        if key in self._trapped:
            return
        self._routing.add_child(key, *_selectors(connection, child))
        self._trapped.add(key)
        self._wait(connection, child)

    def stop_waiting(self, key: Key) -> None:
        """The opposite of `expect` and `trap`, for a child that is not configured any more."""
        if key in self._trapped:
            self._trapped.discard(key)
            self._routing.remove_child(key)
        policies = self._waiting.pop(key, None)
        if policies is not None:
            self._forget_tags(policies)
            self._waiting_ranks.pop(key, None)
            self.changed = True

    def is_trapped(self, key: Key) -> bool:
        return key in self._trapped

    def wanted_by(self, tag: int) -> Key | None:
        """Which waiting child a NO_SA notice is about."""
        return self._wanted.get(tag)

    def _wait(self, connection: ConnectionConfig, child: ChildConfig) -> None:
        self._tags += 1
        key = (connection.name, child.name)
        self._forget_tags(self._waiting.get(key, ()))
        self._waiting[key] = _policies(*_selectors(connection, child), None, self._tags)
        self._waiting_ranks.pop(key, None)
        self._wanted[self._tags] = key
        self.changed = True

    def _forget_tags(self, policies: Iterable[Policy]) -> None:
        for policy in policies:
            self._wanted.pop(policy.tag, None)

    def install(self, ask: AskInstallChild) -> None:
        """Receive at once; send at once too, unless the ask defers it. Whatever fails leaves nothing behind."""
        try:
            _check_size(ask)
            self._separation.admit(ask)
            child = self._make(ask)
            child.used_before_s = self.last_used_s(ask.replaces) if ask.replaces is not None else None
            self._routing.add_child(ask.child_id, ask.local_ts, ask.remote_ts)
        except Exception:
            self._separation.leave(ask.child_id)
            self._grants.forget(ask.child_id)
            self._spis.give_back(ask.spi_in)
            raise
        self._children[ask.child_id] = child
        if ask.replaces is not None:
            self._successors[ask.replaces] = child
        self._spis.use(ask.spi_in)
        if not ask.outbound_deferred:
            self.switch_outbound(ask.child_id)
        self.changed = True

    def switch_outbound(self, child_id: int) -> None:
        child = self._children.get(child_id)
        if child is not None and child.inbound_until is None:
            self._switches += 1
            child.order = self._switches
            self.changed = True

    def remove(self, child_id: int, now: float, grace_s: float, replaced_by: int | None = None) -> None:
        """No packet leaves on it any more; packets that were on their way are received for `grace_s`."""
        child = self._children.get(child_id)
        if child is None or child.inbound_until is not None:
            return
        if replaced_by is not None and child.order and not self._is_sending(replaced_by):
            self.switch_outbound(replaced_by)
        child.order = 0
        child.inbound_until = now + grace_s
        heapq.heappush(self._ending, (child.inbound_until, child_id))
        self.changed = True
        self._grants.forget(child_id)
        self._separation.leave(child_id)
        self.expire(now)
        self._routing.remove_child(child_id)

    def set_silent(self, child_ids: Iterable[int], *, is_silent: bool) -> None:
        """While their peer is silent, packets prefer another Child SA for the same traffic, if there is one."""
        for child_id in child_ids:
            child = self._children.get(child_id)
            if child is not None and child.is_silent != is_silent:
                child.is_silent = is_silent
                self.changed = True

    def expire(self, now: float) -> None:
        """Forget inbound SAs whose grace is over."""
        while self._ending and self._ending[0][0] <= now:
            child = self._children.pop(heapq.heappop(self._ending)[1])
            if child.replaces is not None and self._successors.get(child.replaces) is child:
                del self._successors[child.replaces]
            self._spis.give_back(child.sa_in.spi)
            self.changed = True

    def begin_turn(self, now: float) -> None:
        """To be called once per turn of the event loop."""
        self.expire(now)
        self._routing.begin_turn()

    def get_timer(self) -> float | None:
        ending = self._ending[0][0] if self._ending else None
        routing = self._routing.get_timer()
        return ending if routing is None else routing if ending is None else min(ending, routing)

    def handle_timer(self, now: float) -> None:
        """Remove one more piece of the routes of removed children."""
        self._routing.handle_timer(now)

    def move_routes(self, tun_index: int) -> None:
        """Install all routes again after the TUN device was made again. HostError; may be repeated."""
        self._routing.move(tun_index)
        self.route_mtus()
        self.changed = True

    def take_reports(self) -> list[str]:
        """Lines for the log about routes that could not be removed."""
        return self._routing.take_reports()

    def set_path_mtu(self, child_id: int, path_mtu: int, source: Source, now: float) -> None:
        """The path to this child's peer carries so many bytes from now on; workers see it with their next packet."""
        child = self._children.get(child_id)
        if child is None:
            return
        path_mtu = _sane(path_mtu)
        child.findings[source] = Finding(path_mtu, now)
        if child.path_mtu == path_mtu:
            return
        child.path_mtu = path_mtu
        child.mtu = self._figures(child.connection, child.wraps, path_mtu, child.whole)
        self._aim(child.sa_out, child.path, path_mtu, child.whole)
        for sa in (child.sa_in, child.sa_out):
            _set_mtu(sa, child.mtu)
        self.changed = True

    def move(self, child_ids: Iterable[int], path: Path) -> None:
        """Send to the peer's new address from the next packet on, without new tables."""
        for child in self._known(child_ids):
            was, child.path = child.path, path
            if was.remote != path.remote:
                child.path_mtu = _sane(self._host.path_mtu(path.remote))
                child.findings = {"computed": Finding(child.path_mtu)}
                child.mtu = self._figures(child.connection, child.wraps, child.path_mtu, child.whole)
                for sa in (child.sa_in, child.sa_out):
                    _set_mtu(sa, child.mtu)
            self._aim(child.sa_out, path, child.path_mtu, child.whole)
            self._follow(child)

    def newest_source(self, child_ids: Iterable[int]) -> tuple[Address, int, float] | None:
        """Where the newest packet of these came from, and when. Each may report another source again from now on.

        A replaced child counts until its successor is used, because a later packet on it is a late one.
        """
        found = []
        for child in self._known(child_ids):
            new = self._successors.get(child.child_id)
            if not child.follows_peer or (new is not None and last_received_s(new.sa_in) is not None):
                continue
            tell_source_again(child.sa_in)
            source = newest_source(child.sa_in)
            if source is not None:
                found.append(source)
        return max(found, key=lambda source: source[2], default=None)

    def _known(self, child_ids: Iterable[int]) -> list[InstalledChild]:
        found = (self._children.get(child_id) for child_id in child_ids)
        return [child for child in found if child is not None]

    def _follow(self, child: InstalledChild) -> None:
        if child.follows_peer:
            path = child.path
            set_endpoint(child.sa_in, self._host.socket_index(path.local), path.local, path.remote, path.remote_port)

    def extend_grant(self, child_id: int) -> None:
        """Grant one more block."""
        if (child := self.standing(child_id)) is not None:
            self._extend(child)

    def retry_grants(self) -> None:
        """Those that the store could not take."""
        for child_id in tuple(self._ungranted):
            self._ungranted.discard(child_id)
            child = self._children.get(child_id)
            if child is not None and child.inbound_until is None:
                self._extend(child)

    def _extend(self, child: InstalledChild) -> None:
        try:
            end = self._grants.next_end(child.child_id, _highest(child.sa_out.esn))
        except HostError:  # told of by the keeper; what is left of the block is used meanwhile
            self._ungranted.add(child.child_id)
            return
        child.sa_out.set_grant(end)

    # --- over a restart

    def resume(self, child_id: int, mark: GrantMark) -> None:
        """This child, which is to be installed next, has used its numbers up to here."""
        self._resumed[child_id] = mark
        self._grants.start_at(child_id, mark.out_end)

    def mark_of(self, child_id: int) -> GrantMark | None:
        """What a restart has to know of its numbers; None where it is not installed."""
        child, end = self._children.get(child_id), self._grants.end_of(child_id)
        return None if child is None or end is None else GrantMark(end, child.sa_in.seq)

    # --- what others look at

    def tables(self, worker: int = 0) -> Tables:
        """What this worker shall do from now on: it receives on the SAs that it owns, and hands over what leaves on another one's."""
        workers = self._host.workers
        ranked: list[tuple[object, Policy]] = []
        for child in self._sending(worker):
            policies = _policies(child.local_ts, child.remote_ts, child.sa_out, 0, child.worker(workers))
            child.ranks = self._ranks((child.connection, child.name), policies, child.ranks)
            readiness = Readiness.SILENT if child.is_silent else Readiness.SENDING
            ranked += ((sort_key(rank, readiness), p) for rank, p in zip(child.ranks[1], policies, strict=True))
        for key, policies in self._waiting.items():
            ranks = self._waiting_ranks[key] = self._ranks(key, policies, self._waiting_ranks.get(key, UNRANKED))
            ranked += ((sort_key(rank, Readiness.WAITING), p) for rank, p in zip(ranks[1], policies, strict=True))
        ranked.sort(key=lambda row: row[0])  # type: ignore[arg-type,return-value]
        in_order = [policy for _, policy in ranked]
        return Tables([c.sa_in for c in self._children.values() if c.worker(workers) == worker], in_order)

    def _ranks(self, key: Key, policies: Sequence[Policy], before: Ranked) -> Ranked:
        """The ranks hold until the configuration changes."""
        stamp = self._order.stamp(key)
        if before[0] == stamp and len(before[1]) == len(policies):
            return before
        rank = self._order.rank
        return stamp, [rank(key, policy.local, policy.remote) for policy in policies]

    def owners(self) -> list[tuple[TrafficSelector, int | None]]:
        """Remote selectors, and the one worker that sends to them; None: each worker sends by itself."""
        workers = self._host.workers
        found: dict[TrafficSelector, set[int]] = {}
        for worker in range(workers):
            for child in self._sending(worker):
                for ts in child.remote_ts:
                    found.setdefault(ts, set()).add(child.worker(workers))
        return [(ts, owners.pop() if len(owners) == 1 else None) for ts, owners in found.items()]

    def _sending(self, worker: int) -> list[InstalledChild]:
        """Of each group the child that this worker sends on: the one switched
        to last first, those of silent peers last.
        """
        groups: dict[tuple[object, ...], list[InstalledChild]] = {}
        for child in self._children.values():
            if child.order:
                groups.setdefault(child.group, []).append(child)
        chosen = (sending_child(_heard(group), worker, self._host.workers) for group in groups.values())
        return sorted((c for c in chosen if c is not None), key=lambda child: (child.is_silent, -child.order))

    def get(self, child_id: int) -> InstalledChild | None:
        return self._children.get(child_id)

    def all(self) -> Sequence[InstalledChild]:
        return tuple(self._children.values())

    def standing(self, child_id: int) -> InstalledChild | None:
        """The child, unless it only receives any more."""
        child = self._children.get(child_id)
        return child if child is not None and child.inbound_until is None else None

    def last_sent_s(self, connection_children: Iterable[int]) -> float | None:
        """Monotonic seconds of the last ESP packet that left on one of these children."""
        found = [last_sent_s(child.sa_out) for c in connection_children if (child := self._children.get(c)) is not None]
        return max((at for at in found if at is not None), default=None)

    def last_received_s(self, child_id: int) -> float | None:
        child = self._children.get(child_id)
        return None if child is None else last_received_s(child.sa_in)

    def last_used_s(self, child_id: int) -> float | None:
        """Monotonic seconds of the last packet in either direction, on this child, on those beside it in a group, or that they replaced."""
        child = self._children.get(child_id)
        if child is None:
            return None
        found = (
            at
            for one in self.beside(child)
            for at in (last_sent_s(one.sa_out), last_received_s(one.sa_in), one.used_before_s)
        )
        return max((at for at in found if at is not None), default=None)

    def beside(self, child: InstalledChild) -> list[InstalledChild]:
        """The Child SAs with the same peer for the same traffic, this one among them: a fallback and those of single workers (RFC 9611)."""
        return [one for one in self._children.values() if one is child or one.group == child.group]

    def max_inner_bytes(self) -> list[int]:
        return [child.mtu.max_inner_bytes for child in self._children.values() if child.inbound_until is None]

    def route_mtus(self) -> None:
        """The routes of each Child SA get what fits through it. HostError."""
        sending = {c.child_id: c.mtu.max_inner_bytes for c in self._children.values() if c.inbound_until is None}
        self._routing.set_mtus(sending)

    def has_ipv6(self) -> bool:
        """Whether a selector of a child that is up, expected or trapped is IPv6: then the TUN must be able to carry it."""
        waiting = (policy.remote for policies in self._waiting.values() for policy in policies)
        installed = (ts for child in self._children.values() for ts in child.remote_ts)
        return any(ts.version == 6 for ts in (*waiting, *installed))

    # --- making one

    def _is_sending(self, child_id: int) -> bool:
        child = self._children.get(child_id)
        return child is not None and child.order > 0

    def _make(self, ask: AskInstallChild) -> InstalledChild:
        suite, path = ask.suite.name, ask.path
        inner_version = ask.remote_ts[0].version if ask.remote_ts else 4
        wraps = Encapsulation(ask.suite, path.remote.version, ask.encap, inner_version=inner_version)
        path_mtu, whole = _sane(self._host.path_mtu(path.remote)), self._host.copies_df(ask.connection, ask.name)
        mtu = self._figures(ask.connection, wraps, path_mtu, whole)
        engine = engine_for(suite, self._host.engine)
        used = self._resumed.pop(ask.child_id, GrantMark(0, 0))
        # who has an SA for each worker has no worker left that could help
        crew = self._host.workers - 1 if ask.resource is None else 0
        sa_in = SA("in", ask.spi_in, suite, ask.key_in, esn=ask.esn, seq=used.in_highest, engine=engine, crew=crew)
        end = self._grants.next_end(ask.child_id, _highest(ask.esn))
        sa_out = self._make_outbound(ask, engine, used.out_end, end, crew)
        cuts = self._aim(sa_out, path, path_mtu, whole)
        limits = ask.limits
        for sa in (sa_in, sa_out):
            sa.set_limits(limits.soft_packets, limits.hard_packets, limits.soft_bytes, limits.hard_bytes)
            _set_mtu(sa, mtu)
            sa.tag = ask.child_id
        set_selectors(sa_in, ask.local_ts, ask.remote_ts)
        child = InstalledChild(
            ask.child_id,
            ask.connection,
            ask.name,
            sa_in,
            sa_out,
            ask.local_ts,
            ask.remote_ts,
            path,
            mtu,
            wraps,
            path_mtu,
            whole,
            {"computed": Finding(path_mtu)},
            cuts,
            ask.resource,
            follows_peer=ask.follows_peer,
            replaces=ask.replaces,
        )
        self._follow(child)
        return child

    def _figures(self, connection: str, wraps: Encapsulation, path_mtu: int, whole: bool) -> TunnelMtu:
        mtu = wraps.figures(path_mtu, self._host.mss(connection))
        # two outer fragments at most; TCP stays below by its MSS
        return mtu if whole else replace(mtu, max_inner_bytes=path_mtu)

    def _make_outbound(self, ask: AskInstallChild, engine: str, seq: int, granted: int, crew: int) -> SA:
        """By UDP socket; without encapsulation, or where the outer packets may be cut, by raw socket with a header of its own."""
        path, whole = ask.path, self._host.copies_df(ask.connection, ask.name)
        make = partial(
            SA,
            "out",
            ask.spi_out,
            ask.suite.name,
            ask.key_out,
            esn=ask.esn,
            seq=seq,
            granted=granted,
            engine=engine,
            crew=crew,
        )
        if ask.encap and whole:
            return make()
        try:
            self._host.raw_socket_index(path.local)
        except HostError as error:
            text = "its outer packets shall be cut" if ask.encap else f"{path.remote} does not encapsulate ESP in UDP"
            raise NegotiationError(f"child {ask.name}: {text}, and {error}", NotifyType.NO_PROPOSAL_CHOSEN) from None
        header = OuterHeader(df="set" if whole else "clear")
        return make(src=path.local, dst=path.remote, encap=_esp_ports(path) if ask.encap else None, header=header)

    def _aim(self, sa: SA, path: Path, path_mtu: int, whole: bool) -> bool:
        """Where an outbound SA sends to, and how long a packet may be there: one that may not be refused is cut to that, if it can be."""
        ours, theirs = _esp_ports(path)
        if sa.src is not None:
            index, cut_at = self._host.raw_socket_index(path.local), 0 if whole else path_mtu
            if sa.encap is None or (sa.dst, sa.encap[1]) == (path.remote, theirs):
                set_raw_endpoint(sa, index, cut_at, path_mtu)
            else:
                set_raw_endpoint(sa, index, cut_at, path_mtu, path.remote, theirs)
            return True
        outside = None
        with contextlib.suppress(HostError):  # without raw sockets such packets are dropped, and counted
            outside = Outside(self._host.raw_socket_index(path.local), path.local, ours, path_mtu)
        set_endpoint(sa, self._host.socket_index(path.local), path.local, path.remote, theirs, outside)
        return outside is not None


def _heard(group: list[InstalledChild]) -> list[InstalledChild]:
    """The children whose peer is not silent; all of them if every peer is."""
    return [child for child in group if not child.is_silent] or group


def _check_size(ask: AskInstallChild) -> None:
    """What a peer may put into the worker's policies and the kernel's routes: it chooses how a wide range is cut up."""
    policies, routes = len(ask.local_ts) * len(ask.remote_ts), sum(len(ts.networks()) for ts in ask.remote_ts)
    if policies > POLICIES_MAX or routes > ROUTES_MAX:
        raise NegotiationError(
            f"child {ask.name}: its selectors need {policies} policies and {routes} routes, "
            f"at most {POLICIES_MAX} and {ROUTES_MAX} are taken",
            NotifyType.TS_UNACCEPTABLE,
        )


def _sane(path_mtu: int) -> int:
    """What a packet can have: a loopback device has more, and a route may say anything."""
    return max(LEAST_LINK_MTU, min(path_mtu, MAX_MTU))


def _esp_ports(path: Path) -> tuple[int, int]:
    """(ours, the peer's) of ESP in UDP."""
    return (path.local_port, path.remote_port) if path.marker else (ESP_PORT, ESP_PORT)


def _set_mtu(sa: SA, mtu: TunnelMtu) -> None:
    """On a path that nothing fits through, a limit that no packet meets: of the worker's SA 0 would mean that it has none."""
    sa.mss_ipv4, sa.mss_ipv6, sa.max_inner = mtu.mss_ipv4, mtu.mss_ipv6, max(1, mtu.max_inner_bytes)


def _highest(esn: bool) -> int:
    return (1 << 64) - 1 if esn else (1 << 32) - 1


def _policies(
    local_ts: Iterable[TrafficSelector],
    remote_ts: Sequence[TrafficSelector],
    outbound: SA | None,
    tag: int,
    owner: int | None = None,
) -> list[Policy]:
    pairs = [(local, remote) for local in local_ts for remote in remote_ts if local.version == remote.version]
    return [Policy("protect", local, remote, outbound, tag, owner) for local, remote in pairs]


def _selectors(
    connection: ConnectionConfig, child: ChildConfig
) -> tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]]:
    """(local, remote) of a child without an SA; `dynamic` is the connection's address, as far as it is known."""
    return child.local_at(connection.local_addrs), child.remote_at(connection.remote_addrs)
