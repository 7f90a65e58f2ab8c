"""The commands of the control socket: a table of names, each with the coroutine that answers it.

Keys and texts are charon's wherever swanctl or a script could look at them. What the gateway must bring is
control.py's GatewayControl. Called by server.py.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ...errors import IpsecFastError, StateError, UsageError
from ...ike.events import NO_ANSWER, ChildView, IkeView, Progress
from .channel import ClientGone
from .codec import Decoded, Encodable, flag, number, text
from .config_commands import ConfigCommands
from .control import ControlLog, GatewayControl, Handler, Selection, Session
from .views import broken_section, connection_section, mtu_section, sa_section

log = logging.getLogger("ipsec_fast.cfg")
DEFAULT_LOGLEVEL = 1
MAX_ERRMSG = 8192
NOT_ESTABLISHED = ("CREATED", "CONNECTING")


@dataclass(frozen=True, slots=True)
class _Initiation:
    """What is being set up, who gets its log lines, and what it waits for."""

    task: asyncio.Task[None]
    posts: list[ControlLog]
    hindrance: list[str]


class Commands:
    def __init__(self, control: GatewayControl) -> None:
        self._control = control
        self._started = time.time()
        self._background: set[asyncio.Task[None]] = set()
        self._initiating: dict[tuple[str | None, str | None], _Initiation] = {}
        self.table: dict[str, Handler] = {
            "version": self.version,
            "stats": self.stats,
            "list-sas": self.list_sas,
            "list-conns": self.list_conns,
            "list-mtus": self.list_mtus,
            "initiate": self.initiate,
            "terminate": self.terminate,
            "rekey": self.rekey,
            "probe-mtu": self.probe_mtu,
            **ConfigCommands(control).table,
        }

    async def run(self, name: str, request: Decoded, session: Session) -> Encodable:
        """The response to a command of the table. An error becomes `success = no` with its reason."""
        try:
            return await self.table[name](request, session)
        except IpsecFastError as error:
            return {"success": "no", "errmsg": _one_line(str(error))}
        except ClientGone:
            raise  # nobody waits for the rest
        except Exception:
            log.exception("command %s failed", name)
            return {"success": "no", "errmsg": f"internal error in {name}; the gateway's log has the details"}

    def close(self) -> None:
        """Ends the waiting of commands that returned at once (timeout = -1)."""
        for task in self._background:
            task.cancel()

    async def version(self, request: Decoded, session: Session) -> Encodable:
        system = platform.uname()
        return {
            "daemon": "ipsec-fast",
            "version": __version__,
            "sysname": system.system,
            "release": system.release,
            "machine": system.machine,
        }

    async def stats(self, request: Decoded, session: Session) -> Encodable:
        stats = self._control.stats()
        up, half_open = _count_ike_sas(self._control.views(), stats.get("half_open"))
        workers = stats.get("workers", 0)
        uptime_s = stats.get("uptime_s", time.time() - self._started)
        none = {"critical": 0, "high": 0, "medium": 0, "low": 0}
        return {
            "uptime": {
                "running": _duration_text(uptime_s),
                "since": time.strftime("%b %d %H:%M:%S %Y", time.localtime(time.time() - uptime_s)),
            },
            "workers": {"total": workers, "idle": 0, "active": none | {"critical": workers}},
            "queues": none,
            "scheduled": stats.get("scheduled", 0),
            "ikesas": {"total": up + half_open, "half-open": half_open},
            "plugins": ["ipsec-fast", stats.get("engine", "")],
            "gateway": {
                "state": stats.get("state", "running"),
                "engine": stats.get("engine", ""),
                "workers": workers,
                "state_store": stats.get("state_store", "memory"),
            },
            "counters": dict(stats.get("counters", {})),
        }

    async def list_sas(self, request: Decoded, session: Session) -> Encodable:
        # noblock: charon skips SAs that are busy; nothing here ever waits for an SA
        for view, children in _selection(request).pick(self._control.views()):
            await self._send_sa(view, children, session)
        return {}

    async def _send_sa(self, view: IkeView, children: Sequence[ChildView], session: Session) -> None:
        """Send one IKE SA; if it cannot be shown, an entry that says so takes its place."""
        try:
            await session.send_event("list-sa", {view.connection: sa_section(view, self._control, children)})
        except OSError:  # the client went away
            raise
        except Exception as error:
            log.error("IKE SA %d cannot be shown: %s", view.ike_id, error)
            section = broken_section(view, _one_line(str(error)))
            await session.send_event("list-sa", {view.connection: section})

    async def list_mtus(self, request: Decoded, session: Session) -> Encodable:
        """Ours: how each Child SA of the selection wraps its packets, and what is known of its path."""
        for view, children in _selection(request).pick(self._control.views()):
            for child in children:
                if (path := self._control.child_path(child.child_id)) is not None:
                    key = f"{child.name}-{child.child_id}"
                    await session.send_event("list-mtu", {key: mtu_section(view, child, path, self._control.now())})
        return {}

    async def list_conns(self, request: Decoded, session: Session) -> Encodable:
        wanted = text(request, "ike")
        for connection in self._control.connections():
            if wanted in (None, connection.name):
                await session.send_event("list-conn", {connection.name: connection_section(connection)})
        return {}

    async def initiate(self, request: Decoded, session: Session) -> Encodable:
        ike, child = text(request, "ike"), text(request, "child")
        self._check_configured(ike, child)
        timeout_ms = number(request, "timeout")
        what = f"CHILD_SA '{child}'" if child is not None else f"IKE_SA '{ike}'"
        initiation = self._join_initiation(ike, child)
        post = _control_log(request, session)
        initiation.posts.append(post)
        try:
            await self._wait(initiation.task, timeout_ms, f"{what} not established", initiation.hindrance)
        finally:
            initiation.posts.remove(post)
        return {"success": "yes"}

    def _join_initiation(self, ike: str | None, child: str | None) -> _Initiation:
        """Requests for what is being set up already share one task, so that any number of them costs no more than one."""
        known = self._initiating.get((ike, child))
        if known is None or known.task.done():
            posts: list[ControlLog] = []
            hindrance: list[str] = []  # the newest one, if any

            def post_to_all(progress: Progress) -> None:
                if progress.text.startswith(NO_ANSWER):
                    hindrance[:] = [progress.text]
                for post in tuple(posts):
                    post(progress)

            work = self._control.initiate(ike, child, post_to_all)
            known = self._initiating[ike, child] = _Initiation(asyncio.ensure_future(work), posts, hindrance)
            known.task.add_done_callback(lambda task: self._initiating.pop((ike, child), None))
        return known

    async def terminate(self, request: Decoded, session: Session) -> Encodable:
        selection = _required(_selection(request), "terminate")
        matches = self._count(selection)
        post = _control_log(request, session)
        timeout_ms, force = number(request, "timeout"), flag(request, "force")
        if not matches:  # but something may be tried again and again
            stopped = await self._control.terminate(selection, force, post)
            if stopped:
                return {"success": "yes", "matches": stopped, "terminated": stopped}
            return {"success": "no", "errmsg": "no matching SAs to terminate found", "matches": 0, "terminated": 0}
        gone: list[int] = []

        async def work() -> None:
            gone.append(await self._control.terminate(selection, force, post))

        await self._wait(work(), timeout_ms, "not all matching SAs terminated")
        terminated = gone[0] if gone else matches  # none yet: nobody wants to wait for it
        if terminated < matches:
            reason = "not all matching SAs could be terminated"
            return {"success": "no", "errmsg": reason, "matches": matches, "terminated": terminated}
        return {"success": "yes", "matches": matches, "terminated": terminated}

    async def rekey(self, request: Decoded, session: Session) -> Encodable:
        selection = _required(_selection(request), "rekey")
        reauth = flag(request, "reauth")
        if reauth and selection.names_child:
            raise UsageError("an IKE SA is reauthenticated as a whole; name it by ike or ike-id, and no child")
        matches = self._control.rekey(selection, reauth)
        if not matches:
            return {"success": "no", "errmsg": "no matching SAs to rekey found", "matches": 0}
        return {"success": "yes", "matches": matches}

    async def probe_mtu(self, request: Decoded, session: Session) -> Encodable:
        """Ours: look now whether the paths of these Child SAs carry more."""
        matches = self._control.probe_mtu(_required(_selection(request), "probe-mtu"))
        if not matches:
            return {"success": "no", "errmsg": "no matching SAs to probe found", "matches": 0}
        return {"success": "yes", "matches": matches}

    def _count(self, selection: Selection) -> int:
        picked = selection.pick(self._control.views())
        return sum(len(children) for _, children in picked) if selection.names_child else len(picked)

    def _check_configured(self, ike: str | None, child: str | None) -> None:
        if ike is None and child is None:
            raise UsageError("missing configuration name: give child, ike or both")
        connections = self._control.connections()
        if ike is not None and all(connection.name != ike for connection in connections):
            names = ", ".join(connection.name for connection in connections) or "none"
            raise StateError(f"IKE_SA config '{ike}' not found; there are: {names}")
        candidates = [connection for connection in connections if ike in (None, connection.name)]
        if child is not None and all(connection.child(child) is None for connection in candidates):
            names = ", ".join(c.name for connection in candidates for c in connection.children) or "none"
            raise StateError(f"CHILD_SA config '{child}' not found; there are: {names}")

    async def _wait(
        self,
        work: Coroutine[Any, Any, None] | asyncio.Task[None],
        timeout_ms: int | None,
        what: str,
        hindrance: Sequence[str] = (),
    ) -> None:
        """timeout in ms: 0 or left out waits for ever, a negative one does not wait. The work goes on in any case.

        `hindrance` says what the work waits for when the time is over.
        """
        task = asyncio.ensure_future(work)
        if task not in self._background:
            self._background.add(task)
            task.add_done_callback(self._forget)
        if timeout_ms is not None and timeout_ms < 0:
            return
        try:
            await asyncio.wait_for(asyncio.shield(task), timeout_ms / 1000 if timeout_ms else None)
        except TimeoutError:
            raise StateError(": ".join([f"{what} after {timeout_ms}ms", *hindrance])) from None

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, IpsecFastError):
            log.error("a command's work failed: %r", error)


def _count_ike_sas(views: Sequence[IkeView], strangers: int | None) -> tuple[int, int]:
    """(established, half-open): `views` does not hold all half-open ones."""
    rising = [view for view in views if view.state in NOT_ESTABLISHED]
    ours = [view for view in rising if view.initiator]
    return len(views) - len(rising), len(rising) if strangers is None else len(ours) + strangers


def _one_line(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= MAX_ERRMSG else f"{line[:MAX_ERRMSG]} ... ({len(line) - MAX_ERRMSG} characters more)"


def progress_section(progress: Progress) -> dict[str, object]:
    """A line of a negotiation, as the events log and control-log carry it."""
    return {
        "group": progress.group.upper(),
        "level": progress.level,
        "thread": 1,
        "ikesa-name": progress.connection or None,
        "ikesa-uniqueid": progress.ike_id or None,
        "msg": progress.text,
    }


def _control_log(request: Decoded, session: Session) -> ControlLog:
    level = number(request, "loglevel")
    most = DEFAULT_LOGLEVEL if level is None else level

    def post(progress: Progress) -> None:
        if progress.level <= most:
            session.post_event("control-log", progress_section(progress))

    return post


def _selection(request: Decoded) -> Selection:
    return Selection(
        ike=text(request, "ike"),
        ike_id=number(request, "ike-id"),
        child=text(request, "child"),
        child_id=number(request, "child-id"),
    )


def _required(selection: Selection, command: str) -> Selection:
    if selection == Selection():
        raise UsageError(f"missing {command} selector: give ike, ike-id, child or child-id")
    return selection


def _duration_text(seconds: float) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}s"
    return f"{int(seconds)} second{'' if int(seconds) == 1 else 's'}"
