"""Lines to stderr: one per state change, one per failure, and a bound on what strangers can make us write. Called by the daemon."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

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
from ..model import selectors_text

BURST, PER_S = 50, 10.0
TOLD_LINES = 8
SAME_LINE_S, RECENT_LINES = 20.0, 64


class Log:
    """A token bucket before stderr; lines that found none are counted and told of with the next one.

    The same line again within 20 s is left out: a peer's retransmissions to a responder that keeps no state of a refusal.
    """

    def __init__(
        self, write: Callable[[str], object] = sys.stderr.write, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._tokens = float(BURST)
        self._at = clock()
        self._lost = 0
        self._recent: dict[str, float] = {}

    def __call__(self, line: str) -> None:
        now = self._clock()
        if now - self._recent.get(line, now - SAME_LINE_S) < SAME_LINE_S:
            return
        self._tokens = min(BURST, self._tokens + (now - self._at) * PER_S)
        self._at = now
        if self._tokens < 1:
            self._lost += 1
            return
        self._tokens -= 1
        self._recent[line] = now
        while len(self._recent) > RECENT_LINES:
            del self._recent[next(iter(self._recent))]
        if self._lost:
            line, self._lost = f"({self._lost} lines left out) {line}", 0
        self._write(f"{time.strftime('%H:%M:%S')} {printable(line)}\n")
        sys.stderr.flush()


def printable(line: str) -> str:
    """One line without control characters: peers choose some of the text."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


class Narrator:
    """The line of a notice, unless the same reason was told of the same IKE SA already: one clear line per failure."""

    def __init__(self) -> None:
        self._told: dict[int, list[str]] = {}
        self._up: set[int] = set()

    def line(self, notice: Notice, view: IkeView | None) -> str | None:
        ike_id = getattr(notice, "ike_id", 0)
        line = None if self._repeats(notice, ike_id) else line_of(notice, view)
        if isinstance(notice, IkeUp):
            self._up.add(ike_id)
        if isinstance(notice, IkeDown):
            self._told.pop(ike_id, None)
            self._up.discard(ike_id)
        elif line is not None:
            self._told.setdefault(ike_id, []).append(_reason(notice) or line)
            del self._told[ike_id][:-TOLD_LINES]
        return line

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
