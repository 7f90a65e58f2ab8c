"""The paths of a gateway's Child SAs and what their MTU is now: joins probes, ICMP, stalls and interfaces, and tells the Child SAs.

Child SAs that share both outer addresses and the way of encapsulation share a path; a rekeyed one inherits what is known. What a path is
believed to carry is path_mtu.py's business, who is asked is path_echo.py's and, where no inner address answers, path_ike.py's; which
ICMP is believed, path_learning.py's; what looks like a stall, path_stall.py's. Where outer fragments are wanted (copy_df = false) nothing
is probed. A path without a big packet for 10 minutes is left alone, so that probes keep no idle Child SA alive.
Called by gateway.daemon, with the time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..dataplane.echo import LEAST_BYTES, echo_request
from ..dataplane.notice import Notice, NoticeKind
from ..dataplane.spd import last_big_s, last_received_s
from ..errors import StateError
from ..model import Address, TrafficSelector
from .children import Children, InstalledChild
from .mtu import Source as FindingSource
from .path_echo import SMALL, EchoProber, Target
from .path_ike import IkeAnswer, IkeProber
from .path_learning import REFUSALS, SAMPLE_EVERY_S, Outbound, SequenceWatch, TooBig, judge
from .path_mtu import AGE_S, PathEvent, PathMtu, Probing, Source
from .path_stall import LOOK_EVERY_S, Look, StallWatch

ASK_AGAIN_S = (5.0, 600.0)  # a peer that does not answer
TARGETS = 8  # of one path that are asked
PROBED_CHILDREN = 4  # of one path whose selectors are looked at for targets
ADDRESSES_S = 1.0  # for so long a list of this host's addresses is good
HINT_EVERY_S, HINTED_PATHS = 1.0, 4  # ICMP that quotes too little is a reason to look, not more
HINT_BY_IKE_EVERY_S = 60.0  # anybody can send such ICMP, and an IKE SA has one request at a time
REREAD = 32  # paths whose interface is asked for at once: a netlink call each
FINDING: dict[Source, FindingSource] = {
    "interface": "computed", "icmp": "learned", "probe": "probed", "fallback": "probed",
}  # fmt: skip
ICMP_PROTOCOLS = {4: 1, 6: 58}
Wish = Literal["auto", "off"] | tuple[Address, ...]  # whom to ask: configuration's mtu_probe
Key = tuple[Address, Address, bool, bool]  # local, remote, encapsulated in UDP, whole


@dataclass(frozen=True, slots=True)
class PathHost:
    """What is needed of the rest. `inject` a packet on a child's outbound SA; `probe_by_ike` StateError where that cannot be done."""

    interface_mtu: Callable[[Address], int]
    addresses: Callable[[], Sequence[Address]]
    wish: Callable[[str], Wish]
    inject: Callable[[int, bytes], bool]
    probe_by_ike: Callable[[int, Sequence[int], float, float], None]
    owner_of: Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class PathNews:
    """A step of one path. `names` are "connection child" of the Child SAs on it; `reason` of refused ICMP."""

    local: Address
    remote: Address
    kind: str
    before: int
    mtu: int
    source: Source
    children: tuple[tuple[str, str, int], ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PathView:
    mtu: int
    source: Source
    since: float
    probing: str


@dataclass(slots=True, eq=False)
class _Path:
    key: Key
    mtu: PathMtu
    echo: EchoProber
    ike: IkeProber
    stall: StallWatch = field(default_factory=StallWatch)
    children: tuple[InstalledChild, ...] = ()
    standing: tuple[tuple[int, int, bool], ...] = ()  # of its Child SAs: id, order, and whether their peer is silent
    by_ike: bool = False
    ask_at: float | None = None
    patience_s: float = ASK_AGAIN_S[0]
    look_at: float | None = None
    hint_at: float = 0.0  # when a hint may be followed again
    due: float | None = None

    @property
    def rtt_s(self) -> float:
        return (self.ike.rtt_s if self.by_ike else self.echo.rtt_s) or 0.0

    @property
    def is_silent(self) -> bool:
        """Whether the peer is known to be silent; then nothing is probed."""
        return bool(self.children) and all(child.is_silent for child in self.children)

    def sending(self) -> list[InstalledChild]:
        return sorted((child for child in self.children if child.order), key=lambda child: -child.order)


class Paths:
    """`tell` hears of every step. After each call `Children.changed` may be set: publish its tables."""

    def __init__(self, children: Children, host: PathHost, tell: Callable[[PathNews], None]) -> None:
        self._children = children
        self._host = host
        self._tell = tell
        self._paths: dict[Key, _Path] = {}
        self._of: dict[int, _Path] = {}
        self._by_spi: dict[int, list[InstalledChild]] = {}
        self._by_remote: dict[Address, list[_Path]] = {}
        self._ours: tuple[float, Sequence[Address]] = (float("-inf"), ())
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Path] = {}  # by number of an echo, the youngest last
        self._watch = SequenceWatch()
        self._sample_at = 0.0
        self._heap: list[tuple[float, int, _Path]] = []
        self._heap_id = itertools.count()
        self._reread: list[_Path] = []
        self.counters: Counter[str] = Counter(
            {f"path_icmp_{name}": 0 for name in ("believed", *REFUSALS)}
            | {
                f"path_mtu_{kind}": 0
                for kind in ("settled", "fell", "raised", "aged", "unprobeable", "interface", "stalls")
            }
        )

    # --- which paths there are

    def sync(self, now: float) -> None:
        """After Child SAs came or went, before their tables are published."""
        found: dict[Key, list[InstalledChild]] = {}
        for child in self._children.all():
            if child.inbound_until is None:
                found.setdefault(_key(child), []).append(child)
        for key in [key for key in self._paths if key not in found]:
            path = self._paths.pop(key)
            path.due = None
        self._of, self._by_spi, self._by_remote = {}, {}, {}
        for key, children in found.items():
            path = self._paths.get(key) or self._make(key, children[0], now)
            standing = _standing(children)
            fresh, path.standing = path.standing != standing, standing
            path.children = tuple(children)
            self._by_remote.setdefault(key[1], []).append(path)
            for child in children:
                self._of[child.child_id] = path
                self._by_spi.setdefault(child.sa_out.spi, []).append(child)
            if fresh:
                self._refit(path, now)
                self._drive(path, now)

    def moved(self, child_ids: Iterable[int], now: float) -> None:
        """Move these Child SAs to the path of the peer's new address, without looking at any other."""
        left: dict[Key, list[InstalledChild]] = {}
        for child in (self._children.get(child_id) for child_id in child_ids):
            old = self._of.get(child.child_id) if child is not None else None
            if child is not None and old is not None and _key(child) != old.key:
                left.setdefault(old.key, []).append(child)
        for key, children in left.items():
            old = self._paths[key]
            new_key = _key(children[0])
            self._give(old, tuple(child for child in old.children if child not in children), now)
            path = self._paths.get(new_key) or self._make(new_key, children[0], now)
            if not path.children:
                self._by_remote.setdefault(new_key[1], []).append(path)
            self._give(path, (*path.children, *children), now)

    def _give(self, path: _Path, children: tuple[InstalledChild, ...], now: float) -> None:
        """Set the Child SAs on this path; without any, the path ends."""
        path.children = children
        path.standing = _standing(children)
        for child in children:
            self._of[child.child_id] = path
        if children:
            self._refit(path, now)
            self._drive(path, now)
            return
        del self._paths[path.key]
        path.due = None
        beside = [one for one in self._by_remote.get(path.key[1], ()) if one is not path]
        if beside:
            self._by_remote[path.key[1]] = beside
        else:
            self._by_remote.pop(path.key[1], None)

    def _make(self, key: Key, child: InstalledChild, now: float) -> _Path:
        machine = PathMtu(key[1].version, child.path_mtu, now, probing=False)
        path = _Path(
            key,
            machine,
            EchoProber(lambda target, size, number: self._send_echo(path, target, size, number), self._next_number),
            IkeProber(lambda sizes, wait_s, at: self._send_by_ike(path, sizes, wait_s, at)),
        )
        self._paths[key] = path
        return path

    def _refit(self, path: _Path, now: float) -> None:
        """Its Child SAs are others now."""
        sending = path.sending()
        if sending:
            wraps = sending[0].wraps
            path.mtu.fit = lambda size: wraps.sealed_bytes(inner) if (inner := wraps.max_inner_bytes(size)) else 0
        path.mtu.switch(path.key[3] and any(self._host.wish(c.connection) != "off" for c in path.children), now)
        path.echo.move(self._targets(path, now))

    def _next_number(self) -> int:
        return next(self._numbers) & 0xFFFFFFFF

    # --- input

    def take_notices(self, notices: Iterable[Notice], now: float) -> None:
        """Those of workers that are about paths."""
        for notice in notices:
            match notice.kind:
                case NoticeKind.TOO_BIG:
                    self._take_icmp(notice, now)
                case NoticeKind.ECHO_ANSWERED:
                    self._take_echo(notice, now)
                case NoticeKind.BIG_SENT:
                    if (path := self._of.get(notice.spi)) is not None:
                        self._big_left(path, now)
                case _:
                    pass

    def take_ike_answer(self, answer: IkeAnswer, now: float) -> None:
        """What the IKE endpoint says of its probe."""
        for path in self._paths.values():
            if path.ike.is_busy and any(self._host.owner_of(c.child_id) == answer.ike_id for c in path.sending()):
                self._take_ike(path, answer, now)
                return

    def interfaces_changed(self) -> None:
        """Links or routes of this host are others now: every path's is asked for, some at a time."""
        self._reread = list(self._paths.values())

    def search(self, child_id: int, now: float) -> None:
        """Somebody wants to know whether more passes now."""
        path = self._of.get(child_id)
        if path is not None:
            if path.mtu.probing is Probing.IMPOSSIBLE:
                path.mtu.ask_again()
            path.mtu.search_up(now)
            self._drive(path, now)

    def get_timer(self) -> float | None:
        if not self._paths:
            return None
        while self._heap and self._heap[0][2].due != self._heap[0][0]:
            heapq.heappop(self._heap)
        times = [self._sample_at, *([0.0] if self._reread else []), *([self._heap[0][0]] if self._heap else [])]
        return min(times)

    def handle_timer(self, now: float) -> None:
        self._reread_some(now)
        if now >= self._sample_at and self._paths:
            self._sample_at = now + SAMPLE_EVERY_S
            self._watch.sample({child.child_id: child.sa_out.seq for child in self._children.all()}, now)
        while self._heap and self._heap[0][0] <= now:
            due, _, path = heapq.heappop(self._heap)
            if path.due == due:
                self._turn(path, now)

    # --- what may be seen

    def view(self, child_id: int) -> PathView | None:
        path = self._of.get(child_id)
        if path is None:
            return None
        machine = path.mtu
        probing = machine.probing.value
        if machine.probing is Probing.ON:
            probing = "ike" if path.by_ike else "echo"
        return PathView(machine.mtu, machine.source, machine.since, probing)

    # --- a path's turn

    def _turn(self, path: _Path, now: float) -> None:
        machine = path.mtu
        if path.look_at is not None and path.look_at <= now:
            self._look(path, now)
        if not path.by_ike and (timer := path.echo.get_timer()) is not None and timer <= now:
            looking = path.echo.is_looking
            lost = path.echo.handle_timer(now)
            if lost is None and looking:
                self._ask_by_ike(path, now)
            elif lost is None:
                machine.silent(now)
            for size in sorted(lost or ()):
                machine.lost(size, now)
        if path.by_ike and not path.ike.handle_timer(now):
            self._nobody(path, now)
        if path.ask_at is not None and path.ask_at <= now:
            path.ask_at = None
            machine.ask_again()
        if (timer := machine.get_timer()) is not None and timer <= now:
            if machine.may_rest and self._is_idle(path, now):
                machine.put_off()
            else:
                machine.handle_timer(now)
        self._drive(path, now)

    def _big_left(self, path: _Path, now: float) -> None:
        path.stall.big_left(now)
        path.look_at = path.look_at or now + LOOK_EVERY_S
        if path.mtu.is_overdue:
            path.mtu.search_up(now)
        self._drive(path, now)

    def _look(self, path: _Path, now: float) -> None:
        sending = path.sending()
        big = max((at for c in sending if (at := last_big_s(c.sa_out)) is not None), default=None)
        back = max((at for c in path.children if (at := last_received_s(c.sa_in)) is not None), default=None)
        seen = path.stall.look(big, back, path.rtt_s, now)
        path.look_at = now + LOOK_EVERY_S if path.stall.is_active else None
        if seen is Look.STALL:
            self.counters["path_mtu_stalls"] += 1
            path.mtu.suspect(now)
        elif seen is Look.CONFIRM and not path.by_ike:  # an IKE SA has better things to do twice a second
            path.mtu.confirm(now)

    def _drive(self, path: _Path, now: float) -> None:
        """Whatever its state machine wants now; then its Child SAs follow."""
        machine = path.mtu
        if not path.is_silent:
            self._probe(path, now)
        for event in machine.take_events():
            self._report(path, event)
        for child in path.children:
            if child.path_mtu != machine.mtu or FINDING[machine.source] not in child.findings:
                self._children.set_path_mtu(child.child_id, machine.mtu, FINDING[machine.source], now)
        self._schedule(path)

    def _probe(self, path: _Path, now: float) -> None:
        machine = path.mtu
        if machine.probing is Probing.ASKING and path.sending() and not path.echo.is_looking and not path.ike.is_busy:
            path.by_ike = False
            targets = self._targets(path, now)
            if targets:
                path.echo.look_for(targets, now)
            else:
                self._ask_by_ike(path, now)
        if machine.probing is Probing.ON and path.by_ike:
            sizes = frozenset(max(size, machine.least) for size in machine.wanted)
            if not path.ike.probe(sizes, machine.least, now, machine.search):
                self._nobody(path, now)
        elif machine.probing is Probing.ON:
            path.echo.probe(machine.wanted, machine.tries, now, machine.search, hurry=machine.is_in_a_hurry)

    def _ask_by_ike(self, path: _Path, now: float) -> None:
        path.by_ike = True
        path.mtu.begin(now, one_at_a_time=True)
        if not path.mtu.wanted:
            path.mtu.confirm(now)

    def _nobody(self, path: _Path, now: float) -> None:
        path.ike.forget()
        path.mtu.ask_again()
        path.mtu.give_up(now)
        path.ask_at = now + path.patience_s
        path.patience_s = min(2 * path.patience_s, ASK_AGAIN_S[1])

    def _schedule(self, path: _Path) -> None:
        times = (
            path.mtu.get_timer(), path.ask_at, path.look_at,
            path.ike.get_timer() if path.by_ike else path.echo.get_timer(),
        )  # fmt: skip
        due = min((at for at in times if at is not None), default=None)
        if due != path.due:
            path.due = due
            if due is not None:
                heapq.heappush(self._heap, (due, next(self._heap_id), path))

    def _is_idle(self, path: _Path, now: float) -> bool:
        """No big packet has left for as long as knowledge is good; probes and the answers to a peer's are none."""
        times = [at for c in path.children if (at := last_big_s(c.sa_out)) is not None]
        return now - max(times, default=float("-inf")) > AGE_S

    # --- probes

    def _send_echo(self, path: _Path, target: Target, size: int, number: int) -> None:
        child = next((one for one in path.children if one.child_id == target.child_id), None)
        if child is None or path.is_silent:
            return
        length = child.wraps.max_inner_bytes(size) if size != SMALL else LEAST_BYTES[target.address.version]
        self._asked[number] = path
        while len(self._asked) > 65536:
            del self._asked[next(iter(self._asked))]
        if length >= LEAST_BYTES[target.address.version]:
            self._host.inject(child.child_id, echo_request(target.source, target.address, number, length))

    def _take_echo(self, notice: Notice, now: float) -> None:
        path = self._asked.pop(notice.number, None)
        if path is None or self._of.get(notice.spi) is not path:  # an answer must come on a Child SA of its path
            return
        looking = path.echo.is_looking
        size = path.echo.answer(notice.number, now)
        if size is None:
            return
        if looking and path.mtu.probing is Probing.ASKING:
            path.patience_s = ASK_AGAIN_S[0]
            path.by_ike = False
            path.mtu.begin(now)
        elif size != SMALL:
            path.mtu.answered(size, now)
        self._drive(path, now)

    def _send_by_ike(self, path: _Path, sizes: Sequence[int], wait_s: float, now: float) -> None:
        sending = path.sending()
        if not sending:
            raise StateError("no Child SA sends on this path")
        self._host.probe_by_ike(sending[0].child_id, sizes, wait_s, now)

    def _take_ike(self, path: _Path, answer: IkeAnswer, now: float) -> None:
        if answer.size is None:
            self._nobody(path, now)
        else:
            path.patience_s = ASK_AGAIN_S[0]
            found = path.ike.answered(answer.size, answer.waited_s, path.mtu.search)
            if found is not None:
                if found[0]:
                    path.mtu.answered(found[0], now)
                lost = {size for size in path.mtu.wanted if max(size, path.mtu.least) in found[1]}
                for size in sorted(lost):
                    path.mtu.lost(size, now)
        self._drive(path, now)

    def _targets(self, path: _Path, now: float) -> list[Target]:
        """Addresses of the peer that may answer, with an address of ours that may ask; each (source, address) once."""
        if path.mtu.probing is Probing.OFF:
            return []
        if now - self._ours[0] > ADDRESSES_S:
            self._ours = (now, self._host.addresses())
        ours = self._ours[1]
        found: dict[tuple[Address, Address], Target] = {}
        for child in path.sending()[:PROBED_CHILDREN]:
            wish = self._host.wish(child.connection)
            wanted = _likely(child) if wish == "auto" else wish if isinstance(wish, tuple) else ()
            for address in wanted:
                source = next(
                    (one for one in ours if one.version == address.version and _echo_in(child.local_ts, one)), None
                )
                if source is not None and _echo_in(child.remote_ts, address):
                    found.setdefault((source, address), Target(child.child_id, source, address))
        return list(found.values())[:TARGETS]

    # --- ICMP and interfaces

    def _take_icmp(self, notice: Notice, now: float) -> None:
        if notice.remote is None:
            return
        quoted = notice.spi != 0
        news = TooBig(notice.remote, notice.size, notice.spi if quoted else None, notice.number if quoted else None)
        known = [
            Outbound(
                child.child_id, child.path.remote, child.sa_out.seq, child.sa_out.esn, self._of[child.child_id].mtu.mtu
            )
            for child in self._by_spi.get(notice.spi, ())
        ]
        believed, reason = judge(news, known, self._watch, now)
        if believed is None:
            self.counters[f"path_icmp_{reason}"] += 1
            if reason == "quotes_too_little":
                self._take_hint(notice.remote, now)
            return
        self.counters["path_icmp_believed"] += 1
        path = self._of[believed.child_id]
        path.mtu.learned(news.mtu, now)
        self._drive(path, now)

    def _take_hint(self, remote: Address, now: float) -> None:
        """Whoever sent it: whether what is in use still passes can be asked, now and then."""
        for path in self._by_remote.get(remote, ())[:HINTED_PATHS]:
            if now >= path.hint_at:
                path.hint_at = now + (HINT_BY_IKE_EVERY_S if path.by_ike else HINT_EVERY_S)
                path.mtu.confirm(now)
                self._drive(path, now)

    def _reread_some(self, now: float) -> None:
        some, self._reread = self._reread[:REREAD], self._reread[REREAD:]
        for path in some:
            if self._paths.get(path.key) is path:
                path.mtu.set_interface(self._host.interface_mtu(path.key[1]), now)
                self._drive(path, now)

    def _report(self, path: _Path, event: PathEvent) -> None:
        if event.kind != "learned":
            self.counters[f"path_mtu_{event.kind}"] += 1
        names = tuple((c.connection, c.name, c.child_id) for c in path.children)
        self._tell(PathNews(path.key[0], path.key[1], event.kind, event.before, event.mtu, event.source, names))


def _key(child: InstalledChild) -> Key:
    return child.path.local, child.path.remote, child.wraps.encap, child.whole


def _standing(children: Iterable[InstalledChild]) -> tuple[tuple[int, int, bool], ...]:
    """The properties of the Child SAs on a path that decide which of them sends, and how."""
    return tuple((child.child_id, child.order, child.is_silent) for child in children)


def _echo_in(selectors: Iterable[TrafficSelector], address: Address) -> bool:
    """Whether an echo may have this address."""
    return any(
        ts.version == address.version
        and int(ts.start) <= int(address) <= int(ts.end)
        and ts.protocol in (0, ICMP_PROTOCOLS[address.version])
        and ts.is_any_port
        for ts in selectors
    )


def _likely(child: InstalledChild) -> Iterator[Address]:
    """Where the peer's gateway may have an inner address: its outer one, and the first of each of its networks."""
    yield child.path.remote
    for ts in child.remote_ts:
        network = ts.networks()[0]
        if network.num_addresses == 1:
            yield network[0]
        elif network.prefixlen >= 8:
            yield network[1]
