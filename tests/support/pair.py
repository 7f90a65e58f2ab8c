"""Pair: two Endpoints in memory, with a virtual clock and a network that loses, doubles, delays and translates.

A Shell answers its endpoint's asks with the real crypto and keeps a picture of the dataplane: what is installed, on which
SA it sends. Nothing here sleeps; time goes from one event to the next.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from secret_scan import register

from ipsec_fast.algorithms import parse_esp_proposal, parse_ike_proposal
from ipsec_fast.crypto.exchange import generate
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import NegotiationError, SecretError
from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig, EndpointSettings
from ipsec_fast.ike.endpoint import Endpoint
from ipsec_fast.ike.events import (
    AskConfig,
    AskConnection,
    AskCredential,
    AskInstallChild,
    AskKeyPair,
    AskSharedSecret,
    AskSpi,
    CheckIdle,
    ChildDown,
    Event,
    IkeView,
    Outer,
    Progress,
    SwitchOutbound,
)
from ipsec_fast.ike.lifetimes import ChildLifetimes, ike_lifetimes, time_limits
from ipsec_fast.model import Identity, Path, TrafficSelector

ADDRESS_A, ADDRESS_B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
LATENCY_S = 0.01
PSK = register(b"correct horse battery staple")


def child(name: str = "net", *, local: str = "10.1.0.0/24", remote: str = "10.2.0.0/24", **options) -> ChildConfig:
    esp = options.pop("esp", ("aes128gcm16",))
    local_ts = tuple(TrafficSelector.parse(text) for text in local.split())
    remote_ts = tuple(TrafficSelector.parse(text) for text in remote.split())
    if "rekey_time_s" in options:
        options["lifetimes"] = ChildLifetimes(time=time_limits(options.pop("rekey_time_s")))
    return ChildConfig(name, local_ts, remote_ts, tuple(parse_esp_proposal(text) for text in esp), **options)


def connection(side: str = "a", **options) -> ConnectionConfig:
    """One side of a site-to-site connection; side b mirrors side a."""
    ike = options.pop("ike", ("aes128gcm16-prfsha256-x25519",))
    if "rekey_time_s" in options:
        options["lifetimes"] = ike_lifetimes(options.pop("rekey_time_s"))
    ids = (Identity.parse("a.example"), Identity.parse("b.example"))
    children = options.pop("children", None)
    if children is None:
        children = (child(),) if side == "a" else (child(local="10.2.0.0/24", remote="10.1.0.0/24"),)
    config = ConnectionConfig(
        name=f"to-{'b' if side == 'a' else 'a'}",
        proposals=tuple(parse_ike_proposal(text) for text in ike),
        local_id=ids[0] if side == "a" else ids[1],
        remote_id=ids[1] if side == "a" else ids[0],
        children=tuple(children),
        dpd_delay_s=30.0,  # liveness checks are rare here; its own tests ask for the defaults
    )
    return replace(config, **options)


@dataclass
class Installed:
    """A Child SA in the picture of the dataplane."""

    ask: AskInstallChild
    sends: bool  # the outbound SA may be used
    inbound_until: float | None = None  # None: for good
    is_down: bool = False
    used_at: float | None = None  # its last packet, or the last one of the child that it replaces


class Shell:
    """One side: an endpoint, the answers to its asks, and what it was told."""

    def __init__(self, side: str, seed: int, settings: EndpointSettings, configs: Sequence[ConnectionConfig]) -> None:
        self.side = side
        self.resources = settings.resources
        self.random = random.Random(f"{side}{seed}")
        self.endpoint = Endpoint(settings, self.random.randbytes)
        self.configs = list(configs)
        self.psk: bytes | None = PSK
        self.events: list[Event] = []
        self.children: dict[int, Installed] = {}
        self.refuse: dict[type, Exception] = {}  # asks that are answered by an error
        self.rest: set[type] = set()  # asks that are not answered, but kept
        self.resting: list[Event] = []
        self.records: dict[int, object] = {}
        self.gaps: list[float] = []  # moments at which traffic had no outbound SA although it had had one
        self.had_outbound = False

    # --- asks

    def drain(self, now: float) -> None:
        while (event := self.endpoint.next_event()) is not None:
            self.events.append(event)
            if not hasattr(event, "ticket"):
                self.note(event, now)
            elif type(event) in self.rest:
                self.resting.append(event)
            else:
                self.reply(event, now)
        for record in self.endpoint.changed_records():
            self.records[record.ike_id] = record

    def reply(self, event: Event, now: float) -> None:
        answer: object
        try:
            if type(event) in self.refuse:
                raise self.refuse[type(event)]
            answer = self.answer_to(event)
        except Exception as error:
            answer = error
        self.endpoint.answer(event.ticket, answer, now)

    def answer_to(self, event: Event) -> object:
        match event:
            case AskConfig(path=path):
                return [c for c in self.configs if not c.local_addrs or path.local in c.local_addrs]
            case AskConnection(candidates=candidates, remote_id=remote_id):
                for candidate in candidates:
                    if candidate.remote_id is None or candidate.remote_id.matches(remote_id):
                        return candidate
                raise NegotiationError(f"nobody here knows {remote_id}", NotifyType.AUTHENTICATION_FAILED)
            case AskCredential():
                if self.psk is None:
                    raise SecretError("no PSK for these identities")
                return secret_from_buffer(self.psk)
            case AskKeyPair(group=group):
                return generate(group)
            case AskSharedSecret(key_pair=key_pair, peer_public=public):
                return key_pair.derive(public)
            case AskSpi(resource=resource, replaces=replaced):
                spi, owner = self.random.randrange(256, 1 << 32), resource if replaced is None else replaced
                return spi if owner is None else spi + (owner - spi) % self.resources
            case AskInstallChild():
                replaced = self.children.get(event.replaces or 0)
                used_at = replaced.used_at if replaced else None
                self.children[event.child_id] = Installed(event, sends=not event.outbound_deferred, used_at=used_at)
                return None
        raise AssertionError(f"unknown ask {event}")

    def note(self, event: Event, now: float) -> None:
        match event:
            case SwitchOutbound(child_id=child_id):
                self.children[child_id].sends = True
            case CheckIdle(child_id=child_id):
                self.endpoint.child_used(child_id, self.children[child_id].used_at, now)
            case ChildDown(child_id=child_id, inbound_grace_s=grace_s) if child_id in self.children:
                installed = self.children[child_id]
                installed.sends = False
                installed.is_down = True
                installed.inbound_until = now + grace_s

    # --- the picture

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def log(self) -> str:
        return "\n".join(event.text for event in self.of(Progress))

    def views(self, *states: str) -> list[IkeView]:
        return [view for view in self.endpoint.views() if not states or view.state in states]

    @property
    def view(self) -> IkeView:
        (view,) = self.views()
        return view

    @property
    def live(self) -> list[Installed]:
        return [installed for installed in self.children.values() if not installed.is_down]

    def outbound(self) -> Installed | None:
        """The SA that traffic leaves on: the newest that may send, of the connection's first child."""
        named = self.configs[0].children[0].name if self.configs[0].children else ""
        sending = [installed for installed in self.live if installed.sends and installed.ask.name == named]
        return max(sending, key=lambda installed: installed.ask.child_id, default=None)

    def receives(self, spi: int, now: float) -> Installed | None:
        for installed in self.children.values():
            is_open = installed.inbound_until is None or now < installed.inbound_until
            if installed.ask.spi_in == spi and is_open:
                return installed
        return None


@dataclass(frozen=True)
class Sent:
    """A datagram on the wire, as the network function sees it."""

    number: int
    sender: str
    data: bytes
    path: Path  # the sender's
    outer: Outer = Outer.NEEDED

    @property
    def ip_bytes(self) -> int:
        """The size of its IP datagram."""
        ip_header_bytes = 20 if self.path.remote.version == 4 else 40
        return ip_header_bytes + 8 + 4 * self.path.marker + len(self.data)


Network = Callable[[Sent], Sequence[float]]  # delays of the copies that arrive; empty: lost


def perfect(sent: Sent) -> Sequence[float]:
    return (LATENCY_S,)


def narrow(mtu: int, under: Network = perfect) -> Network:
    """A path that drops what is longer, in silence, unless it may be cut."""
    return lambda sent: () if sent.ip_bytes > mtu and sent.outer is not Outer.CUT else under(sent)


def adverse(seed: int, *, loss: float = 0.0, duplicate: float = 0.0, jitter_s: float = 0.0) -> Network:
    """Loss, duplication and reordering, by chance but always the same for a seed."""
    rng = random.Random(seed)

    def network(sent: Sent) -> Sequence[float]:
        if rng.random() < loss:
            return ()
        copies = 2 if rng.random() < duplicate else 1
        return [LATENCY_S + rng.random() * jitter_s for _ in range(copies)]

    return network


class Pair:
    def __init__(
        self,
        a: Sequence[ConnectionConfig] | ConnectionConfig | None = None,
        b: Sequence[ConnectionConfig] | ConnectionConfig | None = None,
        *,
        seed: int = 1,
        settings: EndpointSettings | None = None,
        network: Network = perfect,
        nat: str = "",
        settings_b: EndpointSettings | None = None,
    ) -> None:
        self.now = 1000.0
        self.network = network
        self.nat = nat  # "a": a sits behind a NAT that gives it another address and port
        self.sent: list[Sent] = []
        self.tamper: Callable[[Sent], bytes] | None = None
        settings = settings or EndpointSettings()
        self.a = Shell("a", seed, settings, _listed(a, connection("a")))
        self.b = Shell("b", seed, settings_b or settings, _listed(b, connection("b")))
        self.traffic_every_s = 0.0
        self._next_traffic = self.now
        self.transit_s: Callable[[], float] | None = None  # how long a packet is under way; None: not at all
        self._flying: list[tuple[float, int, str, int]] = []
        self._wire: list[tuple[float, int, str, bytes, Path]] = []
        self._order = itertools.count()

    # --- time

    def run(self, seconds: float = 5.0, *, until: Callable[[], bool] | None = None) -> None:
        """On until nothing is under way within `seconds`, or until the condition holds."""
        end = self.now + seconds
        self.flush()
        while until is None or not until():
            at = min(
                (
                    t
                    for t in (
                        self._wire[0][0] if self._wire else None,
                        *self._timers(),
                        self._traffic_at(),
                        self._packet_at(),
                    )
                    if t is not None
                ),
                default=None,
            )
            if at is None or at > end:
                self.now = end
                break
            self.now = max(self.now, at)
            self._step()
            self.flush()
        self.check()

    def _timers(self) -> list[float | None]:
        return [shell.endpoint.get_timer() for shell in (self.a, self.b)]

    def _traffic_at(self) -> float | None:
        return self._next_traffic if self.traffic_every_s else None

    def _packet_at(self) -> float | None:
        return self._flying[0][0] if self._flying else None

    def _step(self) -> None:
        while self._wire and self._wire[0][0] <= self.now:
            _, _, side, data, path = heapq.heappop(self._wire)
            self.shell(side).endpoint.receive_datagram(data, path, self.now)
            self.flush()
        while self._flying and self._flying[0][0] <= self.now:
            _, _, side, spi = heapq.heappop(self._flying)
            self._receive_packet(self.shell(side), spi)
        for shell in (self.a, self.b):
            at = shell.endpoint.get_timer()
            if at is not None and at <= self.now:
                shell.endpoint.handle_timer(self.now)
        if self.traffic_every_s and self.now >= self._next_traffic:
            self._next_traffic = self.now + self.traffic_every_s
            self._send_traffic()

    def flush(self) -> None:
        """The shell's order: events, records, then datagrams."""
        for shell in (self.a, self.b):
            shell.drain(self.now)
            for path, datagrams, outer in shell.endpoint.datagrams_to_send(self.now):
                for data in datagrams:
                    self.transmit(shell.side, data, path, outer)

    # --- the network

    def shell(self, side: str) -> Shell:
        return self.a if side == "a" else self.b

    def transmit(self, sender: str, data: bytes, path: Path, outer: Outer = Outer.NEEDED) -> None:
        sent = Sent(len(self.sent), sender, data, path, outer)
        self.sent.append(sent)
        if self.tamper is not None:
            data = self.tamper(sent)
        arrival = self._arrival(sender, path)
        receiver = self.at(arrival)
        if receiver is None:
            return
        for delay in self.network(sent):
            heapq.heappush(self._wire, (self.now + delay, next(self._order), receiver, data, arrival))

    def at(self, arrival: Path) -> str | None:
        return {ADDRESS_A: "a", ADDRESS_B: "b"}.get(arrival.local)

    def _arrival(self, sender: str, path: Path) -> Path:
        """The path as the receiver sees it, behind any NAT."""
        local, local_port, remote, remote_port = path.remote, path.remote_port, path.local, path.local_port
        outside = ip_address("203.0.113.9")
        if self.nat == "a" and sender == "a":
            remote, remote_port = outside, remote_port + 30000
        if self.nat == "a" and sender == "b" and local == outside:
            local, local_port = ADDRESS_A, local_port - 30000
        return Path(local, local_port, remote, remote_port, path.marker)

    def inject(self, side: str, data: bytes, path: Path) -> None:
        """A datagram from nowhere, at once."""
        self.shell(side).endpoint.receive_datagram(data, path, self.now)
        self.flush()

    def start_traffic(self, every_s: float) -> Pair:
        self.traffic_every_s, self._next_traffic = every_s, self.now
        return self

    def _send_traffic(self) -> None:
        """One packet each way; a packet that finds no SA at the other side is a gap."""
        for sender, receiver in ((self.a, self.b), (self.b, self.a)):
            out = sender.outbound()
            if out is None:
                if sender.had_outbound:
                    sender.gaps.append(self.now)
                continue
            sender.had_outbound = True
            out.used_at = self.now
            if self.transit_s is None:
                self._receive_packet(receiver, out.ask.spi_out)
            else:
                flight = (self.now + self.transit_s(), next(self._order), receiver.side, out.ask.spi_out)
                heapq.heappush(self._flying, flight)
        self.flush()

    def _receive_packet(self, receiver: Shell, spi: int) -> None:
        target = receiver.receives(spi, self.now)
        if target is None:
            (self.b if receiver is self.a else self.a).gaps.append(self.now)
        elif not target.is_down:
            receiver.endpoint.inbound_seen(target.ask.child_id, self.now)
            self.flush()

    # --- what tests say

    def initiate(self, side: str = "a", *names: str) -> int:
        path = Path(ADDRESS_A, 500, ADDRESS_B, 500) if side == "a" else Path(ADDRESS_B, 500, ADDRESS_A, 500)
        shell = self.shell(side)
        ike_id = shell.endpoint.initiate(shell.configs[0], names, path, self.now)
        self.flush()
        return ike_id

    def up(self, side: str = "a", *names: str) -> Pair:
        self.initiate(side, *names)
        self.run(2.0)
        self.check_one_pair()
        return self

    def call(self, side: str, verb: str, *args: object) -> None:
        getattr(self.shell(side).endpoint, verb)(*args, self.now)
        self.flush()

    def check(self) -> None:
        for shell in (self.a, self.b):
            assert shell.endpoint.counters["internal_errors"] == 0, f"internal error at {shell.side}"

    def check_one_pair(self, children: int = 1) -> None:
        """One IKE SA and so many Child SAs, and both sides mean the same."""
        view_a, view_b = self.a.view, self.b.view
        assert (view_a.state, view_b.state) == ("ESTABLISHED", "ESTABLISHED"), f"{self.a.log}\n---\n{self.b.log}"
        assert (view_a.spi_i, view_a.spi_r) == (view_b.spi_i, view_b.spi_r)
        assert view_a.initiator != view_b.initiator
        assert len(view_a.children) == len(view_b.children) == children
        pairs_a = {(c.spi_in, c.spi_out, c.esn, c.suite) for c in view_a.children}
        assert pairs_a == {(c.spi_out, c.spi_in, c.esn, c.suite) for c in view_b.children}
        for child_a in view_a.children:
            (child_b,) = (c for c in view_b.children if c.spi_in == child_a.spi_out)
            assert (child_a.local_ts, child_a.remote_ts) == (child_b.remote_ts, child_b.local_ts)
            assert child_a.state == child_b.state == "INSTALLED"
        for shell, view in ((self.a, view_a), (self.b, view_b)):
            assert {i.ask.child_id for i in shell.live} == {c.child_id for c in view.children}
            assert not view.tasks_active
            assert not view.tasks_queued

    def check_nothing_left(self) -> None:
        for shell in (self.a, self.b):
            assert not shell.views()
            assert not shell.live


def _listed(
    given: Sequence[ConnectionConfig] | ConnectionConfig | None, default: ConnectionConfig
) -> list[ConnectionConfig]:
    if given is None:
        return [default]
    return [given] if isinstance(given, ConnectionConfig) else list(given)
