"""The gateway in the foreground: opens every descriptor, owns the clock and the signals, joins the parts that know nothing of each other.

After every input the order is: the endpoint's events are acted on, its records stored, its datagrams sent, the timer set anew
(`_pump`). What the process before us stored goes on before anything else is begun. What cannot be opened (a port in use, no TUN
device) is one line on stderr and exit code 1, with nothing left behind. A failed connection never ends the gateway.
Called by cli (`ipsec-fast gateway`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..control.answers import Answers
from ..control.audit import AuditLog
from ..control.children import POLICIES_MAX, ROUTES_MAX, Children, Host
from ..control.grants import Grants
from ..control.keeper import Keeper
from ..control.liveness import TrafficWatch
from ..control.manager import Manager
from ..control.mtu import IPV6_MIN_MTU, tun_mtu
from ..control.path_ike import IkeAnswer
from ..control.paths import PathHost, PathNews, Paths
from ..control.resources import Resources
from ..control.restore import Restorer
from ..control.routing import Routing
from ..control.spi import SpiPool
from ..control.store_open import OpenedStore, open_store
from ..crypto.secret import harden_process
from ..dataplane.engine import engines
from ..dataplane.notice import NoticeKind
from ..dataplane.offload import Offload
from ..dataplane.spd import Tables
from ..errors import ConfigError, HostError, IpsecFastError, Problem, StateError
from ..ike.config import ConnectionConfig, EndpointSettings
from ..ike.endpoint import Endpoint
from ..ike.events import IkeDown, IkeUp, IkeView, Notice, Outer, Outgoing, ProbeAnswered, ProbeFailed
from ..model import Address, Path
from ..system.links import Links
from ..system.netlink import Netlink
from ..system.own_device import OwnDevice
from ..system.remembered import Remembered
from ..system.routes import MARK, Routes
from ..system.watch import RouteWatch
from .config import LoadedConfig
from .configuration import Configuration, Surroundings
from .exchange_counters import ExchangeCounters
from .forwarding import Forwarding, worker_count
from .ike_cut import CutSender
from .ike_io import KEEPALIVE, NAT_PORT, NON_ESP_MARKER, IkeSockets, listening_addresses
from .keepalive import Keepalives
from .log import TRACEBACK_S, Cause, Log, Narrator, cause_of, path_line, tell
from .operations import Operations
from .starter import Starter
from .stranger_queue import StrangerQueue, is_sa_init_request
from .suspend import SuspendWatch
from .tun_keeper import TunKeeper
from .vici.control import GatewayStats
from .vici.server import ViciServer
from .waiting import Change, Waiting

DEFAULT_MTU = 1500
CONFIGURATION_LOG = "ipsec_fast.configuration"  # what the control socket's commands are warned of
ROUTES_REST_S = 0.05
GOODBYE_S = 1.0  # how long an orderly stop waits for the peers' answers to DELETE


def run(config: LoadedConfig, *, log: Callable[[str], None] | None = None) -> int:
    """Until SIGTERM or SIGINT: 0 then, 1 if the host does not let us begin."""
    log = log or Log()
    with _logging_to(log):
        try:
            return asyncio.run(_main(config, log))
        finally:
            if isinstance(log, Log):
                log.flush()


async def _main(config: LoadedConfig, log: Callable[[str], None]) -> int:
    _allow_descriptors()
    for warning in (*config.warnings, *harden_process()):
        tell(log, warning, Cause.OPERATOR)
    loop = asyncio.get_running_loop()
    if isinstance(log, Log):
        log.later = loop.call_later
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(config, log)
    try:
        await gateway.open()
        loop.add_signal_handler(signal.SIGHUP, gateway.reload_or_log)
        await stop.wait()
        log("stopping")
        await gateway.say_goodbye()
    except IpsecFastError as error:
        log(str(error))
        return 1
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        log(
            f"{error.strerror}: raise the limit (ulimit -n, LimitNOFILE=), or set fewer [gateway] workers or local_addrs"
        )
        return 1
    finally:
        await gateway.close()
    log("stopped")
    return 0


def _allow_descriptors() -> None:
    """As many as the host lets us have: each worker has sockets for each address. Nothing here uses select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Gateway:
    """`open`, `say_goodbye`, `close`; between them everything runs in callbacks of the loop."""

    def __init__(self, config: LoadedConfig, log: Callable[[str], None]) -> None:
        self._config = config
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._note_exception)
        self._closing = contextlib.AsyncExitStack()
        self._started_at = time.monotonic()
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._pumping = False
        self._pump_soon: asyncio.Handle | None = None
        self._needs_keepalive_plan = False
        self._resize_failed = False
        self._rereading = False
        self._narrator = Narrator()
        self._strangers = StrangerQueue(self._take_stranger, self._loop.call_later, self._pump)
        self._suspend = SuspendWatch()
        self._orderly = False

    # --- life

    async def open(self) -> None:
        """Raises HostError; whatever was opened until then, `close` undoes."""
        config, settings = self._config, self._config.settings
        self._engine = _pick_engine(settings.engine)
        offload = Offload(**dataclasses.asdict(settings.offload))
        self._configuration = Configuration(
            config, Surroundings(self._check_addresses, lambda change: self._waiting.apply(change), self._begin)
        )
        self._closing.callback(self._configuration.close)
        self._addresses = addresses = listening_addresses([one.local_addrs for one in config.connections])
        # first what another gateway may have, so that we fail before we touch a route
        self._ike = self._closing.enter_context(contextlib.closing(IkeSockets(self._receive)))
        self._ike.open(addresses)
        self._cut = self._closing.enter_context(contextlib.closing(CutSender()))
        self._forwarding = self._closing.enter_context(Forwarding(worker_count(settings), offload, self._engine))
        self._forwarding.open(addresses, settings.tun)
        self._nat, tun = self._forwarding.nat, self._forwarding.tun_name
        netlink = self._closing.enter_context(Netlink())
        self._links, self._tun_name, self._tun_mtu = Links(netlink), tun, tun_mtu([], DEFAULT_MTU)
        index = self._links.set_up(tun, self._tun_mtu)
        self._route_watch = self._closing.enter_context(contextlib.closing(RouteWatch(index)))
        device = OwnDevice(index, self._links.addresses_of(index), name=tun)
        self._device = self._closing.enter_context(contextlib.closing(device))
        self._tun_keeper = TunKeeper(tun, self._remake_tun, self._log)
        routes = Routes(netlink, tun)
        self._host = self._closing.enter_context(contextlib.closing(Remembered(self._links, tun, index, MARK)))
        routing = Routing(routes, index, self._host.addresses, self._widen_tun)
        self._workers = self._forwarding.workers
        opened = self._open_store()
        self._build(routing, opened)
        vici = ViciServer(settings.socket, self.operations)
        self._closing.push_async_callback(vici.close)
        await vici.start()
        # a failed start keeps the prohibit routes that a crash has left
        self._closing.callback(lambda: routes.close(keep_adopted=not self._orderly))
        self._waiting.start(config.connections)
        self._restorer.restore(opened.stored, config.connections, self._now())
        self._forwarding.start()
        self._closing.callback(self._strangers.close)
        self._listen()
        where = ", ".join(str(address) for address in addresses)
        self._log(
            f"listening on {where}; device {tun}, engine {self._workers.engine}, control socket {settings.socket}"
        )
        self._starter.start(self._now())
        self._pump()

    def _open_store(self) -> OpenedStore:
        settings, key = self._config.settings, self._config.state_key
        opened = open_store(settings.state_dir, key, settings.state_mark)
        if key is not None:
            key.close()
        # what a start that fails finds there is left for the next one
        self._closing.callback(lambda: opened.store.close(keep=not self._orderly))
        self._log(opened.line)
        return opened

    def _build(self, routing: Routing, opened: OpenedStore) -> None:
        """The parts above the descriptors; nothing here can fail."""
        workers = self._workers.count
        spis = SpiPool(os.urandom, workers)
        self._build_children(routing, opened, spis)
        self._build_manager(spis)
        self._build_operations(workers)
        self._build_watches(workers)

    def _build_children(self, routing: Routing, opened: OpenedStore, spis: SpiPool) -> None:
        workers = self._workers.count
        settings = EndpointSettings(
            resources=workers,
            fragment_bytes=self._config.settings.ike_fragment_bytes,
            policies_per_child=POLICIES_MAX,
            routes_per_child=ROUTES_MAX,
        )
        self._endpoint = Endpoint(settings, os.urandom, self._host.networks)
        host = Host(
            self._nat.index_of,
            self._path_mtu,
            self._configuration.mss,
            self._config.settings.engine,
            self._nat.raw_index_of,
            self._configuration.copies_df,
            workers,
        )
        self._keeper = Keeper(
            opened.store, self._endpoint.owner_of, lambda child_id: self._children.mark_of(child_id), self._log
        )
        self._children = Children(host, routing, spis, Grants(self._keeper))
        self._waiting = Waiting(self._children, routing)
        self._paths = Paths(
            self._children,
            PathHost(
                self._path_mtu,
                lambda: self._links.addresses(but=self._tun_name),
                self._configuration.mtu_probe,
                self._inject,
                self._probe_by_ike,
                self._endpoint.owner_of,
            ),
            self._hear_path,
        )

    def _build_manager(self, spis: SpiPool) -> None:
        answers = Answers(self._configuration.peers, self._configuration.credentials, spis)
        self._manager = Manager(
            self._endpoint,
            answers,
            self._children,
            self,
            log=self._log,
            resize=self._resize_tun,
            acquire=lambda connection, child, packet=None: self._starter.acquire(
                connection, child, self._now(), packet
            ),
            stranger=lambda spi, remote: self._audit.note_unknown_spi(spi, remote, self._now()),
            settle=lambda now: self._paths.sync(now),
            moved=lambda child_ids, now: self._paths.moved(child_ids, now),
            view_of=self._endpoint.view_of,
        )

    def _build_operations(self, workers: int) -> None:
        counters = ExchangeCounters(lambda: self._endpoint.messages, lambda: self._endpoint.counters)
        self.operations = Operations(
            self._endpoint,
            self._manager,
            self._children,
            self._configuration,
            self._waiting,
            now=self._now,
            pump=self._pump,
            stats=self._stats,
            taken_down=lambda connection, child: self._starter.forget(connection, child),
            reload=self.reload,
            exchange_counters=counters,
            workers=workers,
            paths=self._paths,
        )
        self._starter = Starter(
            self._config.connections,
            self.operations.start,
            self.operations.is_up_or_rising,
            self._log,
            trap=self._children.trap,
        )
        self._restorer = Restorer(
            self._endpoint,
            self._children,
            self._keeper,
            begin_anew=lambda connection, child: self._starter.want(connection, child, self._now()),
            log=self._log,
        )
        self._closing.callback(self._restorer.close)
        self._manager.subscribe(counters.hear)
        self._manager.subscribe(self._hear)

    def _build_watches(self, workers: int) -> None:
        self._resources = Resources(self._endpoint, workers, self._log)
        self._watch = TrafficWatch(self._endpoint, self._children)
        self._audit = AuditLog(self._children, lambda line: tell(self._log, line, Cause.PEER, line))
        self._keepalives = Keepalives(self._endpoint.views, self._children.last_sent_s, self._send_keepalive)

    def _listen(self) -> None:
        self._ike.start(self._loop)
        for fd, callback in (
            (self._route_watch.fd, self._take_route_news),
            (self._device.fd, self._take_device_news),
        ):
            self._loop.add_reader(fd, callback)
            self._closing.callback(self._loop.remove_reader, fd)
        for punt_fd, notify_fd in self._workers.fds:
            for fd, callback in ((punt_fd, self._take_punted), (notify_fd, self._take_notices)):
                self._loop.add_reader(fd, callback)
                self._closing.callback(self._loop.remove_reader, fd)

    async def say_goodbye(self) -> None:
        """Delete every IKE SA, and give the peers a second to say that they heard it."""
        self._stopping = True
        for view in self._endpoint.views(most_half_open=None):
            self._endpoint.terminate_ike(view.ike_id, self._now())
        self._pump()
        until = self._now() + GOODBYE_S
        while self._endpoint.views() and self._now() < until:
            await asyncio.sleep(0.01)
        self._orderly = True

    async def close(self) -> None:
        """Undo what `open` did, in the opposite order; what fails is logged and the rest goes on."""
        for handle in (self._timer, self._pump_soon):
            if handle is not None:
                handle.cancel()
        try:
            await self._closing.aclose()
        except Exception as error:
            self._log(f"while stopping: {error}")

    # --- a configuration that changes

    def reload(self) -> None:
        """Read the file again; IpsecFastError, and nothing changed, where that cannot be done."""
        for line in self._configuration.reload():
            tell(self._log, line, Cause.OPERATOR)

    def reload_or_log(self) -> None:
        try:
            self.reload()
        except IpsecFastError as error:
            tell(self._log, f"reload failed, everything stays as it was: {error}", Cause.OPERATOR)

    def _check_addresses(self, connection: ConnectionConfig) -> None:
        """The worker's sockets are fixed at the start; a wildcard socket has every address."""
        for address in connection.local_addrs:
            if not any(
                one == address or (one.is_unspecified and one.version == address.version) for one in self._addresses
            ):
                have = ", ".join(map(str, self._addresses))
                reason = (
                    f"{address}: this gateway listens on {have} only, as its file said when it started; add a connection "
                    "without local_addrs to the file, or none at all, and restart: then it listens on every address"
                )
                raise ConfigError([Problem(f"connections.{connection.name}.local_addrs", reason)])

    def _begin(self, change: Change) -> None:
        for connection in change.gone:
            self._starter.unload(connection.name)
            self.operations.forget_turns(connection.name)
        for connection in change.fresh:
            self._starter.load(connection)
            self._restorer.claim(connection, self._now())
            self._starter.start(self._now(), connection.name)
        self._pump()

    # --- input

    def _now(self) -> float:
        return time.monotonic()

    def _receive(self, data: bytes, path: Path) -> None:
        """Queue an IKE_SA_INIT request; hand over anything else now, and pump once
        for all that this turn of the loop brings.
        """
        if is_sa_init_request(data):
            self._strangers.add(data, path)
            return
        self._endpoint.receive_datagram(data, path, self._now())
        if self._pump_soon is None:
            self._pump_soon = self._loop.call_soon(self._pump)

    def _take_stranger(self, data: bytes, path: Path) -> None:
        """Work on one queued request. Its answer leaves with the others of its slice."""
        self._endpoint.receive_datagram(data, path, self._now())
        self._pumping = True
        try:
            self._manager.drain(self._now())
        finally:
            self._pumping = False

    def _take_punted(self) -> None:
        for punted in self._workers.take_punted():
            self._receive(punted.data, self._nat.path_of(punted))

    def _take_notices(self) -> None:
        notices = self._workers.take_notices()
        self._manager.take_notices(notices, self._now())
        self._paths.take_notices(notices, self._now())
        if any(notice.kind is NoticeKind.TUN_LOST for notice in notices):
            self._take_tun_lost()
        self._pump()

    def _take_device_news(self) -> None:
        self._device.take()
        if self._device.is_broken:
            self._tun_keeper.note_lost(self._now())
            self._pump()

    def _take_tun_lost(self) -> None:
        """Resume the workers if the device exists again, since a worker may notice the loss late."""
        if self._forwarding.has_tun:
            self._workers.resume_inner()
        else:
            self._tun_keeper.note_lost(self._now())

    def _remake_tun(self) -> None:
        """Restore device, MTU, addresses, routes and queues. After a HostError the next call continues."""
        self._forwarding.remake_tun()
        index = self._links.set_up(self._tun_name, self._tun_mtu)
        self._route_watch.ignore(index)
        self._host.ignore(index)
        self._device.take()
        self._device.move(index)
        for address in self._device.addresses:
            self._links.add_address(self._tun_name, address)
        self._children.move_routes(index)
        self._workers.resume_inner()

    def _take_route_news(self) -> None:
        if self._route_watch.take() and not self._rereading:
            self._rereading = True
            self._loop.call_later(ROUTES_REST_S, self._reread_routes)

    def _reread_routes(self) -> None:
        """Some time after the first news, since one change has many messages."""
        self._rereading = False
        self._paths.interfaces_changed()
        self._pump()

    def _handle_timer(self) -> None:
        self._timer, self._timer_at = None, None
        now = self._now()
        try:
            if slept_s := self._suspend.take():
                self._log(
                    f"the host was suspended for {slept_s:.0f} s: what is due is rekeyed, and every peer is asked"
                )
                self._endpoint.note_suspended(slept_s, now)
            self._endpoint.handle_timer(now)
            if not self._stopping:
                self._starter.handle_timer(now)
                self._resources.handle_timer(now)
                self._keepalives.handle_timer(now)
                self._watch.handle_timer(now)
                self._audit.handle_timer(now)
                self._restorer.handle_timer(now)
                self._paths.handle_timer(now)
                self._tun_keeper.handle_timer(now)
            self._endpoint.change_again(self._keeper.handle_timer(now))
            self._children.handle_timer(now)
            self._children.retry_grants()
            if self._resize_failed:
                self._resize_tun(self._children.max_inner_bytes())
        finally:
            self._pump()

    def _hear(self, notice: Notice, view: IkeView | None) -> None:
        line = self._narrator.line(notice, view)
        if line is not None:
            tell(self._log, line, *cause_of(notice))
        self._starter.tell(notice, view, self._now())
        if isinstance(notice, ProbeAnswered):
            self._paths.take_ike_answer(IkeAnswer(notice.ike_id, notice.answered_bytes, notice.waited_s), self._now())
        elif isinstance(notice, ProbeFailed):
            self._paths.take_ike_answer(IkeAnswer(notice.ike_id, None), self._now())
        self._resources.tell(notice, view, self._now())
        if isinstance(notice, IkeUp | IkeDown):
            self._needs_keepalive_plan = True

    # --- output

    def _pump(self) -> None:
        """Events, then records, then datagrams, then the timer. A listener that causes a second round is served by this one."""
        if self._pumping:
            return
        self._pumping = True
        if self._pump_soon is not None:
            self._pump_soon.cancel()
            self._pump_soon = None
        try:
            now = self._now()
            self._manager.drain(now)
            if self._needs_keepalive_plan:
                self._needs_keepalive_plan = False
                self._keepalives.plan(now)
            withheld = self._keeper.store(self._endpoint.changed_records())
            if withheld:
                self._endpoint.change_again(withheld)
                self._endpoint.withhold(withheld)
            for outgoing in self._endpoint.datagrams_to_send(now):
                self._send(outgoing, now)
        finally:
            self._pumping = False
            self._set_timer()

    def _send(self, outgoing: Outgoing, now: float) -> None:
        """A datagram that the host refuses is as good as lost: retransmission goes on, the reason is told (a probe expects it)."""
        path = outgoing.path
        try:
            for datagram in outgoing.datagrams:
                self._send_one(datagram, path, outgoing.outer)
        except (OSError, HostError) as error:
            if outgoing.outer is not Outer.NEVER:
                # a stranger's source address may be one that cannot be reached
                tell(self._log, f"cannot send to {path.remote} port {path.remote_port}: {error}", Cause.STRANGER)
            return
        self._keepalives.note_sent(path, now)

    def _send_one(self, datagram: bytes, path: Path, outer: Outer) -> None:
        if outer is Outer.CUT:
            with contextlib.suppress(OSError, HostError):  # without CAP_NET_RAW it goes as it went before
                self._cut.send(NON_ESP_MARKER + datagram if path.marker else datagram, path)
                return
        (self._nat if path.local_port == NAT_PORT else self._ike).send(datagram, path, outer)

    def _send_keepalive(self, path: Path) -> None:
        with contextlib.suppress(OSError, HostError):  # the next one is due in 20 s
            self._nat.send(KEEPALIVE, dataclasses.replace(path, marker=False))

    def _set_timer(self) -> None:
        parts = (
            self._endpoint,
            self._children,
            self._starter,
            self._resources,
            self._keepalives,
            self._watch,
            self._audit,
            self._keeper,
            self._restorer,
            self._paths,
            self._tun_keeper,
        )
        at = min((t for part in parts if (t := part.get_timer()) is not None), default=None)
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self._loop.call_later(max(0.0, at - self._now()), self._handle_timer)

    # --- what the parts ask of the host

    def publish(self, tables: Callable[[int], Tables]) -> None:
        """What the children have come to, for every worker and for the kernel before them."""
        self._forwarding.publish(tables, self._children.owners())

    def _path_mtu(self, remote: Address) -> int:
        return self._host.path_mtu(remote, DEFAULT_MTU)

    def _inject(self, child_id: int, packet: bytes) -> bool:
        child = self._children.get(child_id)
        return child is not None and self._workers.inject(child.worker(self._workers.count), child_id, packet)

    def _probe_by_ike(self, child_id: int, sizes: Sequence[int], wait_s: float, now: float) -> None:
        ike_id = self._endpoint.owner_of(child_id)
        if ike_id is None:
            raise StateError(f"CHILD SA {child_id} has no IKE SA")
        self._endpoint.probe(ike_id, sizes, wait_s, now)

    def _hear_path(self, news: PathNews) -> None:
        tell(self._log, path_line(news), Cause.PEER, ("path", news.remote, news.kind))
        self.operations.tell_path(news)

    def _resize_tun(self, inner: list[int]) -> None:
        wanted = tun_mtu(inner, DEFAULT_MTU, self._children.has_ipv6())
        self._resize_failed = False
        try:
            if wanted != self._tun_mtu:
                self._set_tun_mtu(wanted)
            self._children.route_mtus()
        except HostError as error:  # tried again with the next timer, once a second
            self._resize_failed = True
            self._log(str(error))

    def _widen_tun(self) -> None:
        """On a device below 1280 the kernel has no IPv6."""
        if self._tun_mtu < IPV6_MIN_MTU:
            self._set_tun_mtu(IPV6_MIN_MTU)

    def _set_tun_mtu(self, mtu: int) -> None:
        self._links.set_mtu(self._tun_name, mtu)
        self._tun_mtu = mtu

    def _stats(self) -> GatewayStats:
        counters = {
            **self._workers.counters(),
            **self._paths.counters,
            **{f"ike_{name}": n for name, n in self._endpoint.counters.items()},
            "ike_requests_displaced": self._strangers.displaced,
        }
        return {
            "state": "stopping" if self._stopping else "running",
            "engine": self._workers.engine,
            "workers": self._workers.count,
            "state_store": self._keeper.keeps,
            "uptime_s": self._now() - self._started_at,
            "half_open": self._endpoint.half_open_count,
            "counters": counters,
        }

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback is ours to mend; the gateway goes on without that one step."""
        error = context.get("exception")
        logging.getLogger("ipsec_fast").error("%s: %r", context.get("message"), error, exc_info=error)


def _pick_engine(wanted: str) -> str:
    """The name of the engine that `auto` means here; HostError where the wanted one is not built in or not for this CPU."""
    known = engines()
    if wanted == "auto":
        return next(iter(known))
    if wanted not in known:
        raise HostError(f"engine {wanted} is not available here; there is {', '.join(known)}")
    return wanted


@contextlib.contextmanager
def _logging_to(log: Callable[[str], None]) -> Any:
    """Whatever the parts tell Python's logging, warnings and worse, comes out as our lines."""

    class Handler(logging.Handler):
        told_at = -TRACEBACK_S

        def emit(self, record: logging.LogRecord) -> None:
            tell(log, record.getMessage(), Cause.OPERATOR if record.name == CONFIGURATION_LOG else Cause.FAULT)
            # never for what a peer or an operator can do, only for a mistake of ours; which may be made again and again
            if record.exc_info and record.created - self.told_at >= TRACEBACK_S:
                self.told_at = record.created
                for line in logging.Formatter().formatException(record.exc_info).splitlines():
                    tell(log, line, Cause.FAULT)

    handler, root = Handler(logging.WARNING), logging.getLogger("ipsec_fast")
    root.addHandler(handler)
    propagated, root.propagate = root.propagate, False
    try:
        yield
    finally:
        root.propagate = propagated
        root.removeHandler(handler)
