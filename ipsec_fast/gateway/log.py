"""Lines to stderr: one per state change, one per failure, and a bound on what strangers can make us write. Called by the daemon."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Protocol

from ..control.paths import PathNews
from ..ike.events import (
    ChildDown,
    ChildFailed,
    ChildUp,
    IkeDown,
    IkeUp,
    IkeView,
    Notice,
    PathMoved,
    PeerBack,
    PeerSilent,
    Progress,
)
from ..ike.fair import Bucket, Rate
from ..model import selectors_text

BURST, PER_S = 50, 10.0
TOLD_LINES, TOLD_SAS = 8, 256
SAME_LINE_S, RECENT_LINES = 20.0, 64
LINE_CHARACTERS = 4096
FRESH_S, KEYS = 30.0, 1024
TRACEBACK_S = 10.0
LINES_A_SECOND = 10  # about peers and strangers together: others can provoke them
WAITING_LINES = 1024


class Cause(Enum):
    """Who caused a line. Each cause has a budget of its own, so that none uses up another's."""

    OPERATOR = "operator"  # a command or a reload: logged even if it repeats
    HOST = "host"  # this gateway and the host that it runs on
    PEER = "peer"  # an IKE or Child SA of a connection of ours
    STRANGER = "stranger"  # an unauthenticated sender; the endpoint itself lets few of these lines through
    FAULT = "fault"  # an internal error


_RATES = {
    Cause.OPERATOR: Rate(BURST, PER_S),
    Cause.HOST: Rate(BURST, PER_S),
    Cause.PEER: Rate(20, 3),  # of what is not fresh
    Cause.STRANGER: Rate(4, 3),  # so that of ten lines a second three are left in any case
    Cause.FAULT: Rate(60, 1),
}


class Handle(Protocol):
    def cancel(self) -> None: ...


class Log:
    """Token buckets before stderr, one for each cause. Lines without a token are
    counted, and the next line says how many.

    A line about a peer that has a `key` which was not told of for 30 s is told in any case: so the first line of each kind about each
    connection always comes, and what one peer repeats in a loop is left out. The same line again within 20 s is left out too: a peer's
    retransmissions to a responder that keeps no state of a refusal.

    No second has more than ten lines that others can provoke. Those about peers wait for the next second and come with the time at
    which they were said; those about strangers are left out. `later(seconds, call)` is the loop's; without it
    what waits comes with the next line, or with `flush`.
    """

    def __init__(
        self, write: Callable[[str], object] = sys.stderr.write, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._budgets = {cause: Bucket(rate, clock()) for cause, rate in _RATES.items()}
        self._lost = 0
        self._recent: dict[str, float] = {}
        self._told: OrderedDict[Hashable, float] = OrderedDict()  # when each key was told last
        self._written: deque[float] = deque(maxlen=LINES_A_SECOND)  # when the last ones were
        self._waiting: deque[str] = deque()
        self._handle: Handle | None = None
        self.later: Callable[[float, Callable[[], None]], Handle] | None = None

    def __call__(self, line: str, cause: Cause = Cause.HOST, key: Hashable = None) -> None:
        now = self._clock()
        line = cut(line)
        self._write_waiting(now)
        if cause is not Cause.OPERATOR and now - self._recent.get(line, now - SAME_LINE_S) < SAME_LINE_S:
            return
        is_fresh = cause is Cause.PEER and self._is_fresh(key, now)
        if not self._may_come(cause, now) and not is_fresh:
            self._lost += 1
            return
        self._recent[line] = now
        while len(self._recent) > RECENT_LINES:
            del self._recent[next(iter(self._recent))]
        stamped = f"{time.strftime('%H:%M:%S')} %s{printable(line).replace('%', '%%')}\n"
        if cause not in (Cause.PEER, Cause.STRANGER):
            self._put(stamped)
        elif cause is Cause.STRANGER or (not self._waiting and self._has_room(now)):
            self._written.append(now)
            self._put(stamped)
        else:
            self._wait(stamped, now)

    def flush(self) -> None:
        """What waits, at once: this is the end."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self.later = None
        while self._waiting:
            self._put(self._waiting.popleft())

    def _may_come(self, cause: Cause, now: float) -> bool:
        return (cause is not Cause.STRANGER or self._has_room(now)) and self._budgets[cause].take(now)

    def _has_room(self, now: float) -> bool:
        return len(self._written) < LINES_A_SECOND or now - self._written[0] >= 1.0

    def _put(self, stamped: str) -> None:
        lost, self._lost = self._lost, 0
        self._write(stamped % (f"({lost} line{'s' * (lost > 1)} left out) " if lost else ""))
        sys.stderr.flush()

    def _wait(self, stamped: str, now: float) -> None:
        if len(self._waiting) >= WAITING_LINES:
            self._lost += 1
            return
        self._waiting.append(stamped)
        self._plan(now)

    def _plan(self, now: float) -> None:
        if self._waiting and self._handle is None and self.later is not None:
            self._handle = self.later(max(0.0, self._written[0] + 1.0 - now), self._go_on)

    def _go_on(self) -> None:
        self._handle = None
        now = self._clock()
        self._write_waiting(now)
        self._plan(now)

    def _write_waiting(self, now: float) -> None:
        while self._waiting and self._has_room(now):
            self._written.append(now)
            self._put(self._waiting.popleft())

    def _is_fresh(self, key: Hashable, now: float) -> bool:
        """Whether this key was not logged for FRESH_S; marks it as logged."""
        if key is None or now - self._told.get(key, now - FRESH_S) < FRESH_S:
            return False
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > KEYS:
            self._told.popitem(last=False)
        return True


def tell(log: Callable[[str], None], line: str, cause: Cause, key: Hashable = None) -> None:
    """Log with cause and key if the log knows them, else the line alone."""
    if isinstance(log, Log):
        log(line, cause, key)
    else:
        log(line)


def cut(line: str) -> str:
    more = len(line) - LINE_CHARACTERS
    return line if more <= 0 else f"{line[:LINE_CHARACTERS]}... ({more} characters more)"


def printable(line: str) -> str:
    """One line without control characters: peers choose some of the text."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


class Narrator:
    """The line of a notice, unless the same reason was told of the same IKE SA already: one clear line per failure."""

    def __init__(self) -> None:
        self._told: OrderedDict[int, list[str]] = OrderedDict()  # reasons logged for the newest IKE SAs
        self._up: set[int] = set()

    def line(self, notice: Notice, view: IkeView | None) -> str | None:
        ike_id = getattr(notice, "ike_id", 0)
        line = None if self._repeats(notice, ike_id) else line_of(notice, view)
        if isinstance(notice, IkeUp):
            self._up.add(ike_id)
        if isinstance(notice, IkeDown):
            self._told.pop(ike_id, None)
            self._up.discard(ike_id)
        elif (
            line is not None and cause_of(notice)[0] is not Cause.STRANGER
        ):  # no further notice of an unauthenticated IKE SA follows
            self._remember(ike_id, _reason(notice) or line)
        return line

    def _remember(self, ike_id: int, reason: str) -> None:
        self._told.setdefault(ike_id, []).append(reason)
        self._told.move_to_end(ike_id)
        del self._told[ike_id][:-TOLD_LINES]
        if len(self._told) > TOLD_SAS:
            self._told.popitem(last=False)

    def _repeats(self, notice: Notice, ike_id: int) -> bool:
        """A state change of its own (an IKE SA that was up and goes down) is told in any case."""
        if not isinstance(notice, ChildFailed | Progress | IkeDown) or (
            ike_id in self._up and isinstance(notice, IkeDown)
        ):
            return False
        reason = _reason(notice)
        return bool(reason) and any(reason in told or told in reason for told in self._told.get(ike_id, ()))


def _reason(notice: Notice) -> str:
    return notice.text if isinstance(notice, Progress) else getattr(notice, "reason", "")


def cause_of(notice: Notice) -> tuple[Cause, Hashable]:
    """The cause of a notice's line, and its key: the kind of notice, the connection and the child."""
    connection = getattr(notice, "connection", "")
    if not connection:
        return Cause.STRANGER, None
    is_rekey = getattr(notice, "replaces", None) is not None
    return Cause.PEER, (connection, getattr(notice, "name", ""), type(notice).__name__, is_rekey)


def line_of(notice: Notice, view: IkeView | None) -> str | None:
    """What the operator should read of a notice; None for what is only for those who ask."""
    match notice:
        case IkeUp():
            who = f": {view.local_id} with {view.remote_id}, {view.path}" if view else ""
            how = "restored" if notice.restored else "rekeyed" if notice.replaces is not None else "established"
            return f"{notice.connection} {how} (IKE SA {notice.ike_id}){who}"
        case IkeDown():
            name = notice.connection or "somebody"
            return f"{name} {'failed' if notice.failed else 'closed'} (IKE SA {notice.ike_id}): {notice.reason}"
        case PeerSilent():
            return f"{notice.connection}: {notice.reason} (IKE SA {notice.ike_id})"
        case PeerBack():
            return f"{notice.connection}: the peer is there again (IKE SA {notice.ike_id})"
        case PathMoved():
            before, path = notice.before, notice.path
            return (
                f"{notice.connection}: the NAT of the peer has moved it from {before.remote}[{before.remote_port}] "
                f"to {path.remote}[{path.remote_port}] (IKE SA {notice.ike_id})"
            )
        case ChildUp():
            child = next((c for c in view.children if c.child_id == notice.child_id), None) if view else None
            what = (
                f": {child.suite.name}, {selectors_text(child.local_ts)} === {selectors_text(child.remote_ts)}"
                + (f", narrowed {child.narrowed}" if child.narrowed else "")
                if child
                else ""
            )
            how = "rekeyed" if notice.replaces is not None else "installed"
            whose = "" if notice.resource is None else f" for worker {notice.resource}"
            return f"{notice.connection} {notice.name} {how}{whose} (child {notice.child_id}){what}"
        case ChildDown():
            return f"{notice.connection} {notice.name} closed (child {notice.child_id}): {notice.reason}"
        case ChildFailed():
            return f"{notice.connection} {notice.name or '(a child that the peer wanted)'} failed: {notice.reason}"
        case Progress(level=0) if " established " not in notice.text:  # IkeUp and ChildUp say more
            return f"{notice.connection}: {notice.text}" if notice.connection else notice.text
    return None


PATH_WORDS = {
    "interface": "its interface has it",
    "learned": "ICMP says so, and quotes a packet of ours",
    "settled": "found by probes",
    "fell": "more does not come through any more",
    "raised": "more comes through",
    "aged": "what ICMP said is old",
    "unprobeable": "the peer answers no probe: set mtu_probe to an address behind it that answers pings, or to off",
}


def path_line(news: PathNews) -> str:
    """What the operator should read of a path's MTU."""
    names = ", ".join(dict.fromkeys(f"{connection} {name}" for connection, name, _ in news.children[:3]))
    more = f" and {len(news.children) - 3} more" if len(news.children) > 3 else ""
    before = f", was {news.before}" if news.before != news.mtu else ""
    return f"{names}{more}: path to {news.remote} has MTU {news.mtu}{before}: {PATH_WORDS[news.kind]}"
