"""A GatewayControl of real view objects, without a dataplane: for tests of the control socket and the command line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

from ipsec_fast.algorithms import esp_suite, parse_esp_proposal, parse_ike_proposal
from ipsec_fast.control.paths import PathView
from ipsec_fast.errors import ConfigError, NegotiationError, Problem
from ipsec_fast.gateway.config import GatewaySettings, LoadedConfig
from ipsec_fast.gateway.configuration import Configuration, Surroundings
from ipsec_fast.gateway.exchange_counters import ExchangeCounters
from ipsec_fast.gateway.vici.control import (
    ChildCounters,
    ChildMtu,
    ChildPath,
    ControlLog,
    GatewayStats,
    Listener,
    PathListener,
    Selection,
)
from ipsec_fast.gateway.vici.server import ViciServer
from ipsec_fast.gateway.waiting import Change
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import ChildView, IkeView, Notice, Progress
from ipsec_fast.model import Identity, Path, TrafficSelector

NOW = 1000.0
LOCAL_TS, REMOTE_TS = TrafficSelector.parse("10.1.0.0/24"), TrafficSelector.parse("10.2.0.0/24[tcp/443]")


def child_view(child_id: int = 7, name: str = "net", state: str = "INSTALLED") -> ChildView:
    return ChildView(
        child_id=child_id,
        name=name,
        state=state,
        suite=esp_suite("aes128gcm16"),
        esn=True,
        group=0,
        encap=True,
        spi_in=0xC8FB5536,
        spi_out=0x00825208,
        local_ts=(LOCAL_TS,),
        remote_ts=(REMOTE_TS,),
        installed_at=NOW - 100,
        rekey_at=NOW + 2247,
    )


def ike_view(
    ike_id: int = 1, name: str = "paris", children: tuple[ChildView, ...] = (), state: str = "ESTABLISHED"
) -> IkeView:
    return IkeView(
        ike_id=ike_id,
        connection=name,
        state=state,
        initiator=True,
        spi_i=bytes.fromhex("3a902cfcdd0b42e2"),
        spi_r=bytes.fromhex("ee60f4ad85f2b723"),
        path=Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4500, True),
        local_id=Identity.parse("london.example"),
        remote_id=Identity.parse("paris.example"),
        proposal=parse_ike_proposal("aes128gcm16-prfsha256-x25519"),
        nat_local=False,
        nat_remote=True,
        nat_fake=True,
        established_at=NOW - 100,
        rekey_at=NOW + 13000,
        children=children,
    )


CONNECTIONS = (
    ConnectionConfig(
        name="paris",
        local_addrs=(ip_address("192.0.2.1"),),
        remote_addrs=(ip_address("192.0.2.2"),),
        proposals=(parse_ike_proposal("aes128gcm16-prfsha256-x25519"),),
        local_id=Identity.parse("london.example"),
        remote_id=Identity.parse("paris.example"),
        children=(
            ChildConfig("net", (LOCAL_TS,), (REMOTE_TS,), (parse_esp_proposal("aes128gcm16"),)),
            ChildConfig("slow"),
            ChildConfig("refused"),
        ),
    ),
    ConnectionConfig(name="rome", children=(ChildConfig("coast"),)),
)


class FakeControl:
    """Child `slow` comes up when `release` is called, `refused` never does."""

    workers = 1

    def __init__(self) -> None:
        self.sas: list[IkeView] = [ike_view(children=(child_view(),)), ike_view(2, "rome", (child_view(9, "coast"),))]
        self.listeners: list[Listener] = []
        self.path_listeners: list[PathListener] = []
        self.released = asyncio.Event()
        self.calls: list[object] = []
        self.applied: list[tuple[str, ...]] = []  # names of the connections, per change
        self.begun: list[tuple[str, str]] = []
        self.messages: dict[tuple[str, int, bool, bool], int] = {}
        self.exchange_counters = ExchangeCounters(lambda: self.messages, lambda: {"malformed": 2, "unknown_spi": 1})
        self.traps: list[tuple[str, str]] = []
        config = LoadedConfig(GatewaySettings(), CONNECTIONS, start=(), trap=(), mss={}, mtu_probe={}, secrets=())
        self.configuration = Configuration(config, Surroundings(self._check, self._apply, self._begin))

    def _check(self, connection: ConnectionConfig) -> None:
        if ip_address("198.51.100.1") in connection.local_addrs:
            raise ConfigError([Problem(f"connections.{connection.name}.local_addrs", "this gateway listens elsewhere")])

    def _apply(self, change: Change) -> None:
        self.applied.append(tuple(one.name for one in change.all))

    def _begin(self, change: Change) -> None:
        self.begun += [
            (one.name, child.name) for one in change.fresh for child in one.children if child.start_action.starts
        ]

    def views(self) -> Sequence[IkeView]:
        return self.sas

    def child_counters(self, child_id: int) -> ChildCounters:
        if child_id == 9:
            return {"bytes_in": 0, "packets_in": 0, "bytes_out": 0, "packets_out": 0}
        return {
            "bytes_in": 168, "packets_in": 2, "use_in_s": 3.7, "bytes_out": 1680, "packets_out": 20, "use_out_s": 1.0,
        }  # fmt: skip

    def child_mtu(self, child_id: int) -> ChildMtu | None:
        return {"mtu": 1430, "mss_ipv4": 1390, "mss_ipv6": 1370}

    def path_view(self, child_id: int) -> PathView | None:
        return PathView(1492, "probe", self.now() - 7, "echo")

    def probe_mtu(self, selection: Selection) -> int:
        return sum(len(children) for _, children in selection.pick(self.sas))

    def subscribe_paths(self, listener: PathListener) -> Callable[[], None]:
        self.path_listeners.append(listener)
        return lambda: self.path_listeners.remove(listener)

    def child_path(self, child_id: int) -> ChildPath | None:
        return {
            "path_mtu": 1492, "inner_version": 4, "outer_version": 4, "copy_df": True, "cuts": True,
            "max_inner_bytes": 1430, "mss_ipv4": 1390, "mss_ipv6": 1370,
            "findings": {"computed": {"path_mtu": 1500, "at": None}, "probed": {"path_mtu": 1492, "at": NOW - 7}},
        }  # fmt: skip

    def connections(self) -> Sequence[ConnectionConfig]:
        return self.configuration.connections

    def trapped(self) -> Sequence[tuple[ConnectionConfig, ChildConfig]]:
        found = (self.configuration.peers.find(*key) for key in self.traps)
        return [(connection, child) for connection, (child,) in found]

    def install(self, ike: str | None, child: str) -> None:
        connection, (one,) = self.configuration.peers.find(ike, child)
        self.traps.append((connection.name, one.name))

    def uninstall(self, ike: str | None, child: str) -> None:
        connection, (one,) = self.configuration.peers.find(ike, child)
        self.traps.remove((connection.name, one.name))

    def reload(self) -> None:
        self.configuration.reload()

    async def initiate(self, ike: str | None, child: str | None, log: ControlLog) -> None:
        self.calls.append(("initiate", ike, child))
        log(Progress(3, "paris", "initiating IKE_SA paris[3] to 192.0.2.2"))
        log(Progress(3, "paris", "too chatty", level=2))
        if child == "refused":
            raise NegotiationError("no common ESP proposal: aes128gcm16 offered, aes256gcm16 wanted")
        if child == "slow":
            await self.released.wait()

    async def terminate(self, selection: Selection, force: bool, log: ControlLog) -> int:
        self.calls.append(("terminate", selection, force))
        picked = selection.pick(self.sas)
        ids = {view.ike_id for view, _ in picked}
        if selection.names_child:
            gone = {child.child_id for _, children in picked for child in children}
            self.sas = [replace(v, children=tuple(c for c in v.children if c.child_id not in gone)) for v in self.sas]
            return len(gone)
        log(Progress(1, "paris", "deleting IKE_SA paris[1]"))
        self.sas = [view for view in self.sas if view.ike_id not in ids]
        return len(ids)

    def rekey(self, selection: Selection, reauth: bool) -> int:
        self.calls.append(("reauthenticate" if reauth else "rekey", selection))
        picked = selection.pick(self.sas)
        return sum(len(children) for _, children in picked) if selection.names_child else len(picked)

    def stats(self) -> GatewayStats:
        return {
            "state": "running", "engine": "openssl", "workers": self.workers, "uptime_s": 180.0, "scheduled": 2,
            "state_store": "directory /run/x.state",
            "counters": {"punted": 4},
        }  # fmt: skip

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def now(self) -> float:
        return NOW

    def tell(self, notice: Notice, view: IkeView | None) -> None:
        for listener in self.listeners:
            listener(notice, view)


@contextmanager
def running_server(path: str) -> Iterator[tuple[FakeControl, Callable[[Callable[[], None]], None]]]:
    """A server in a thread of its own, for blocking clients; yields the control and a way to run calls in its loop."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    made: list[FakeControl] = []
    stop = asyncio.Event()

    async def serve() -> None:
        made.append(FakeControl())
        server = ViciServer(path, made[0])
        await server.start()
        ready.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0], loop.call_soon_threadsafe
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
