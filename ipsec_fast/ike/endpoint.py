"""The face of IKE for its shell: sans-IO, deterministic given inputs and answers.

In: `receive_datagram`, `initiate`, `rekey_*`, `terminate_*`, `handle_timer`, `answer`. Out, taken in this order:
`next_event`, `changed_records`, `datagrams_to_send`, `get_timer`. It finds the IKE SA of a datagram by its SPIs and
answers what needs no IKE SA; the rest is v2/. No datagram makes it raise: one guard, counted as `internal_errors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from ..errors import RemoteError, StateError, UsageError
from ..iana import ExchangeType, NotifyType
from ..model import Address, Path
from .config import ChildConfig, ConnectionConfig, EndpointSettings
from .core import Core, MessageKind
from .events import Event, IkeView, Outgoing
from .header import FLAG_RESPONSE, IkeHeader
from .records import IkeGone, IkeRecord
from .timers import TimerKey, TimerKind
from .v2 import hints, inbound, liveness, moves, outbound, reauth, resources, restore, sa_init, sa_init_answer, unique
from .v2.child_sa import ChildSA, switch_outbound
from .v2.child_setup import Packet
from .v2.create_child import CreateChild
from .v2.create_resource import CreateResourceChild
from .v2.expire import expire_child
from .v2.fragments import check_size, may_fragment
from .v2.ike_sa import ZERO_SPI, IkeSA
from .v2.informational import DeleteChild, DeleteIdleChild, DeleteIke, Liveness
from .v2.lifetime import ask_idle, note_used
from .v2.message import encode_message
from .v2.payloads import NotifyPayload
from .v2.probe import Probe, check_probe
from .v2.reassembly import expire
from .v2.rekey_child import RekeyChild
from .v2.rekey_ike import RekeyIke
from .v2.states import ChildState, State
from .v2.window import digest_of

SHOWN_HALF_OPEN = 64  # there may be thousands, and a view of each would be slow
LIFE_LEFT_S = 10.0
RENEWALS = frozenset((TimerKind.REKEY, TimerKind.REAUTH, TimerKind.CHILD_REKEY, TimerKind.CHILD_IDLE))
ENDS = frozenset((TimerKind.LIFE, TimerKind.CHILD_LIFE))
ENDING_CHILD = frozenset((ChildState.DELETING, ChildState.DELETED, ChildState.REKEYED))
VERSION_REPLY_MIN_BYTES = 36  # the reply is never longer than what it answers


class Endpoint:
    """`random(n)` gives n bytes, for nonces, SPIs, IVs and jitter. Times are the caller's clock in seconds, any origin.

    `connected` lists the networks of this host's interfaces, which are cut out
    of what a peer proposes (v2/reserved.py).
    """

    def __init__(
        self,
        settings: EndpointSettings,
        random: Callable[[int], bytes],
        connected: Callable[[], Sequence[IPv4Network | IPv6Network]] = tuple,
    ) -> None:
        self._core = Core(settings, random, connected)

    @property
    def counters(self) -> dict[str, int]:
        return self._core.counters

    @property
    def messages(self) -> Mapping[MessageKind, int]:
        """IKE messages by connection, exchange and direction."""
        return self._core.messages

    # --- in

    def receive_datagram(self, data: bytes, path: Path, now: float) -> None:
        """`data` without the non-ESP marker; `path.marker` says whether it was there."""
        self._core.now = now
        self._core.counters["received"] += 1
        try:
            self._receive(bytes(data), path)
        except Exception:
            self._core.count_internal_error("receive_datagram")

    def initiate(
        self,
        connection: ConnectionConfig,
        child_names: Sequence[str],
        path: Path,
        now: float,
        packet: Packet | None = None,
    ) -> int:
        """A new IKE SA with these children (the first of the connection if none is named); returns its number.

        `packet`: local and remote selector of the packet that triggered the first child; they are offered first.
        """
        names = tuple(child_names) or tuple(child.name for child in connection.children[:1])
        if not names:
            raise UsageError(f"connection {connection.name} has no children; an IKE SA starts with one")
        for name in names:
            if connection.child(name) is None:
                known = ", ".join(child.name for child in connection.children)
                raise UsageError(f"connection {connection.name} has no child {name!r}; it has {known}")
        core = self._core
        core.now = now
        sa = IkeSA(core, core.new_id("ike"), True, core.new_spi(), path, connection=connection)
        sa.was_announced = True
        sa.packets = {names[0]: packet} if packet is not None else {}
        sa.stands_in_for = liveness.silent_twins(sa)
        core.add(sa)
        core.run(sa, sa_init.start(sa, names))
        return sa.ike_id

    def restore(self, record: IkeRecord, connection: ConnectionConfig | None, now: float) -> None:
        """An IKE SA that stood before a restart goes on, and its children are rekeyed at once (AskInstallChild of each comes first).

        The clock is the one of the record's times. Its secrets are ours then. StateError, and nothing changed, where it must be
        negotiated anew: one clause for the log.
        """
        core = self._core
        core.now = now
        reason = restore.why_not(core, record, connection)
        if reason is not None or connection is None:
            raise StateError(reason or "no connection")
        sa = restore.make(core, record, connection)
        core.run(sa, restore.resume(sa, record))

    def initiate_child(self, ike_id: int, child: ChildConfig, now: float, packet: Packet | None = None) -> None:
        """`packet` as in `initiate`."""
        outbound.submit(self._sa(ike_id, now), CreateChild(child, packet))

    def initiate_resource(self, child_id: int, resource: int, now: float) -> None:
        """One more Child SA for the traffic of this fallback, for one resource of ours (RFC 9611). Nothing where it has one.

        It comes as ChildUp, or as ResourceFailed. StateError where the child is gone, or is not the fallback of a group.
        """
        sa, child = self._child(child_id, now)
        if not child.place.in_group or child.resource is not None:
            raise StateError(f"CHILD SA {child_id} is not the fallback of a group")
        if resource not in resources.asked_for(sa, child):
            outbound.submit(sa, CreateResourceChild(child.config, child.local_ts, child.remote_ts, resource))

    def view_of_owner(self, child_id: int) -> IkeView | None:
        """The IKE SA that a Child SA belongs to now."""
        sa = self._core.owners.get(child_id)
        return sa.view() if sa is not None else None

    def rekey_ike(self, ike_id: int, now: float) -> None:
        outbound.submit(self._sa(ike_id, now), RekeyIke())

    def reauthenticate(self, ike_id: int, now: float) -> None:
        """A new IKE SA with its children beside this one, then the end of this one (RFC 7296 section 2.8.3)."""
        self._reauthenticate(self._sa(ike_id, now))

    def rekey_child(self, child_id: int, now: float) -> None:
        sa, child = self._child(child_id, now)
        outbound.submit(sa, RekeyChild(child))

    def terminate_ike(self, ike_id: int, now: float, force: bool = False) -> None:
        """By a DELETE, which waits for the outstanding request; `force` does not wait for an answer, nor do we where the peer is silent."""
        sa = self._sa(ike_id, now)
        if sa.established_at is None:
            sa.close(f"taken down by us before it was set up with {sa.path.remote}", failed=False)
        elif not any(isinstance(exchange, DeleteIke) for exchange in (sa.active, *sa.queue)):
            outbound.submit(sa, DeleteIke())
        if force or sa.silent_since is not None:
            sa.close("deleted by us", failed=False)

    def terminate_child(self, child_id: int, now: float) -> None:
        sa, child = self._child(child_id, now)
        queued = (exchange.child for exchange in (sa.active, *sa.queue) if isinstance(exchange, DeleteChild))
        if child not in queued:
            grace_s = 0.0 if child.resource is None else self._core.settings.old_inbound_s
            outbound.submit(sa, DeleteChild(child, "deleted by us", grace_s=grace_s))

    def inbound_seen(self, child_id: int, now: float) -> None:
        """The dataplane has received the first valid packet on a new inbound SA. Silent where the child is gone."""
        self._core.now = now
        sa = self._core.owners.get(child_id)
        if sa is not None:
            switch_outbound(sa, sa.children[child_id])

    def child_expired(self, child_id: int, reason: str, now: float) -> None:
        """The dataplane has reached a hard limit of this child and sends nothing on it any more. Silent where the child is gone."""
        self._core.now = now
        sa = self._core.owners.get(child_id)
        if sa is not None:
            expire_child(sa, sa.children[child_id], reason)

    def child_used(self, child_id: int, used_at: float | None, now: float) -> None:
        """The answer to CheckIdle: when the last packet passed, None for never. Silent where the child is gone."""
        self._core.now = now
        sa = self._core.owners.get(child_id)
        if sa is not None and note_used(sa, sa.children[child_id], used_at):
            child = sa.children[child_id]
            outbound.submit(sa, DeleteIdleChild(child, child.config.lifetimes.inactivity_s))

    def check_liveness(self, ike_id: int, now: float) -> None:
        self._ask(self._sa(ike_id, now))

    def probe(self, ike_id: int, sizes: Sequence[int], wait_s: float, now: float) -> int:
        """Ask the peer whether the path carries IP datagrams of sizes[0] bytes, by one padded request that leaves whole and with DF.

        `sizes` are IP datagrams with all headers, falling, each at least 576 (IPv6: 1280). What is not answered within `wait_s` goes out
        again under the same message ID, as fragments (RFC 7383) whose first has exactly sizes[1], and so on. If `wait_s` behind the
        last size there is no answer, its ordinary retransmissions begin, whole and without DF as well, because the window is blocked
        until it is answered: keep `wait_s` times sizes below `dpd_timeout`. The answer is ProbeAnswered; ProbeFailed where none will
        come. Returns the size that the datagram really has: up to 15 bytes less than sizes[0] where CBC knows only whole blocks.

        The shell must send by `Outer.NEVER`: a probe longer than the interface's MTU is lost, not cut.
        StateError: the IKE SA is not ESTABLISHED, has a request outstanding, or, where there are several sizes, no IKE fragmentation.
        UsageError: the sizes do not fall or are out of bounds.
        """
        sa = self._sa(ike_id, now)
        check_probe(sa, sizes, wait_s)
        exchange = Probe(sa, sizes, wait_s)
        outbound.submit(sa, exchange)
        return exchange.bytes

    def refragment(self, ike_id: int, datagram_bytes: int, now: float) -> bool:
        """The outstanding request goes out again at once, under its message ID, in IP datagrams of at most so many bytes.

        The number of fragments grows with it (RFC 7383 section 2.5.2). False, and nothing happens, where none is outstanding, it has
        no longer datagrams, or fragmentation was not negotiated or is switched off. UsageError for less than 576 bytes (IPv6: 1280).
        """
        sa = self._sa(ike_id, now)
        check_size(datagram_bytes, sa.path)
        own = sa.window.outstanding
        if own is None or own.answered or not may_fragment(sa) or not outbound.refragment(sa, datagram_bytes):
            return False
        outbound.retransmit(sa, as_it_is=True)
        return True

    def set_fragment_bytes(self, ike_id: int, datagram_bytes: int, now: float) -> None:
        """The path of this IKE SA carries IP datagrams of so many bytes: its messages are cut to fit from now on; 0: the setting again.

        Its own finding, by requests that were only answered in smaller fragments, is replaced. UsageError as `refragment`.
        """
        sa = self._sa(ike_id, now)
        if datagram_bytes:
            check_size(datagram_bytes, sa.path)
        sa.fragment_bytes = datagram_bytes
        self._core.mark_changed(sa)

    def view_of(self, ike_id: int) -> IkeView | None:
        sa = self._core.sas.get(ike_id)
        return sa.view() if sa is not None else None

    def owner_of(self, child_id: int) -> int | None:
        """The IKE SA that a Child SA belongs to now."""
        sa = self._core.owners.get(child_id)
        return sa.ike_id if sa is not None else None

    def note_traffic(self, ike_id: int, sent_at: float | None, received_at: float | None, now: float) -> None:
        """When the last ESP packets of its children left and came, for the liveness check; to be told about once a second."""
        self._core.now = now
        sa = self._core.sas.get(ike_id)
        if sa is not None:
            liveness.note_traffic(sa, sent_at, received_at)

    def children_beside(self, child_id: int) -> tuple[int, ...]:
        """All Child SAs of its IKE SA; none if it is gone."""
        sa = self._core.owners.get(child_id)
        return tuple(sa.children) if sa is not None else ()

    def path_rests(self, child_id: int) -> bool:
        """Whether its IKE SA followed the peer within the last second; CheckSource follows when it may move again."""
        sa = self._core.owners.get(child_id)
        return sa is not None and sa.path_rests

    def packet_came_from(self, child_id: int, remote: Address, port: int, at: float, now: float) -> None:
        """Source and time of the newest authentic packet of this child and its siblings. Ignored if the child is gone."""
        self._core.now = now
        sa = self._core.owners.get(child_id)
        if sa is not None:
            moves.note_packet(sa, remote, port, at)

    def source_checked(self, ike_id: int, source: tuple[Address, int, float] | None, now: float) -> None:
        """The answer to CheckSource: address, port and time of the newest packet; None if there was none."""
        self._core.now = now
        sa = self._core.sas.get(ike_id)
        if sa is None or not sa.asks_source:
            return
        if source is not None:
            moves.note_packet(sa, *source)
        moves.decide(sa)

    def note_unknown_spi(self, spi: int, remote: Address, now: float) -> None:
        """ESP came for an SPI that nobody has here."""
        self._core.now = now
        hints.tell_unknown_spi(self._core, spi, remote)

    def handle_timer(self, now: float) -> None:
        """Everything that is due at `now`; `get_timer` says when to call again."""
        self._core.now = now
        while (key := self._core.timers.pop_due(now)) is not None:
            try:
                self._fire(key)
            except Exception:
                self._core.count_internal_error(f"timer {key}")

    def note_suspended(self, seconds: float, now: float) -> None:
        """The host was suspended for so long, which `now` does not include, but lifetimes do.

        SAs whose rekey was due are rekeyed at once. SAs whose lifetime is over live LIFE_LEFT_S longer
        for that. Every peer gets a liveness check.
        """
        core = self._core
        core.now = now
        core.timers.advance(RENEWALS, seconds, now)
        core.timers.advance(ENDS, seconds, now + LIFE_LEFT_S)
        for sa in tuple(core.sas.values()):
            self._ask(sa)

    def answer(self, ticket: int, value_or_error: object, now: float) -> None:
        """The answer to an ask, of the type that the ask names, or an Exception
        instance. It is ignored if the SA is gone.

        UsageError for any other value; the ask then still waits.
        """
        self._core.now = now
        self._core.check_answer(ticket, value_or_error)
        try:
            self._core.answer(ticket, value_or_error)
        except Exception:
            self._core.count_internal_error("answer")

    # --- out

    def next_event(self) -> Event | None:
        return self._core.next_event()

    def changed_records(self) -> list[IkeRecord | IkeGone]:
        """What must be stored before `datagrams_to_send` may be sent."""
        return self._core.take_records()

    def change_again(self, ike_ids: Collection[int]) -> None:
        """`changed_records` gives the records of these once more: they could not be stored."""
        for ike_id in ike_ids:
            if (sa := self._core.sas.get(ike_id)) is not None:
                self._core.mark_changed(sa)

    def withhold(self, ike_ids: Collection[int]) -> None:
        """What waits to be sent for these IKE SAs is dropped, because their records could not be stored; counted as `withheld`."""
        self._core.withhold(ike_ids)

    def datagrams_to_send(self, now: float) -> list[Outgoing]:
        """Without non-ESP marker; `path.marker` says whether the shell adds it, `outer` what may become of a datagram below."""
        return self._core.take_outbox()

    def get_timer(self) -> float | None:
        return self._core.timers.next_at()

    def views(self, connection: str | None = None, *, most_half_open: int | None = SHOWN_HALF_OPEN) -> list[IkeView]:
        """All IKE SAs, or those of one connection.

        Of those begun by peers and not authenticated, at most so many, the oldest; None: all.
        """
        sas: Iterable[IkeSA] = self._core.sas.values()
        if most_half_open is not None:
            begun = itertools.islice(self._core.half_open_sas, most_half_open)
            sas = itertools.chain((sa for sa in sas if not sa.is_half_open), begun)
        return [sa.view() for sa in sas if connection in (None, sa.name)]

    @property
    def half_open_count(self) -> int:
        """The number of IKE SAs begun by peers and not authenticated."""
        return self._core.half_open_count

    def has_child(self, connection: str, name: str) -> bool:
        """Whether such a Child SA is up or being made, on an IKE SA whose peer is not silent. Makes no view."""
        return any(
            child.name == name and child.resource is None and child.state not in ENDING_CHILD
            for sa in self._core.sas.values()
            if sa.name == connection and sa.silent_since is None
            for child in sa.children.values()
        )

    # --- finding things

    def _sa(self, ike_id: int, now: float) -> IkeSA:
        self._core.now = now
        sa = self._core.sas.get(ike_id)
        if sa is None:
            raise StateError(f"there is no IKE SA {ike_id}")
        if sa.stands_aside and sa.replaced:  # what is asked of it is asked of the one whose children it may get
            return sa.replaced[-1]
        return sa

    def _child(self, child_id: int, now: float) -> tuple[IkeSA, ChildSA]:
        self._core.now = now
        sa = self._core.owners.get(child_id)
        if sa is None:
            raise StateError(f"there is no CHILD SA {child_id}")
        return sa, sa.children[child_id]

    # --- datagrams

    def _receive(self, data: bytes, path: Path) -> None:
        counters = self._core.counters
        try:
            header = IkeHeader.decode(data)
        except RemoteError as error:
            counters["malformed"] += 1
            if error.notify == NotifyType.INVALID_MAJOR_VERSION:
                self._answer_version(data, path)
            return
        if header.major != 2:
            counters["wrong_version"] += 1
        elif header.exchange == ExchangeType.IKE_SA_INIT and not header.response and header.spi_r == ZERO_SPI:
            sa_init_answer.receive_request(self._core, header, data, path)
        else:
            self._receive_for_sa(header, data, path)

    def _receive_for_sa(self, header: IkeHeader, data: bytes, path: Path) -> None:
        # the I flag is the sender's: an original initiator names our SPI as that of the responder
        own_spi, peer_spi = (header.spi_r, header.spi_i) if header.initiator else (header.spi_i, header.spi_r)
        sa = self._core.by_spi.get(own_spi)
        if sa is None:
            self._answer_from_grave(header, own_spi, peer_spi, data, path)
            return
        is_first_answer = header.exchange == ExchangeType.IKE_SA_INIT and header.response and sa.initiator
        if sa.initiator == header.initiator or (sa.peer_spi != peer_spi and not is_first_answer):
            self._core.counters["wrong_spi"] += 1
            return
        inbound.receive(sa, header, data, path)

    def _answer_from_grave(self, header: IkeHeader, own_spi: bytes, peer_spi: bytes, data: bytes, path: Path) -> None:
        """A deleted IKE SA repeats its last response, and knows nothing else; of others there is nothing at all."""
        tombstone = self._core.tombstones.get(own_spi)
        if tombstone is not None and tombstone.peer_spi == peer_spi and tombstone.digest == digest_of(data):
            self._core.counters["requests_repeated"] += 1
            self._core.send(path, tombstone.datagrams)
            return
        self._core.counters["unknown_spi"] += 1
        is_hint, sa = hints.find_hinted(self._core, header, data, path)
        if not is_hint:
            hints.answer_unknown_spi(self._core, header, data, path)
        elif sa is not None:
            liveness.take_hint(sa)
            self._ask(sa)

    def _ask(self, sa: IkeSA) -> None:
        """A liveness check, unless a request is outstanding, which is one too."""
        if sa.active is None and sa.established_at is not None:
            outbound.submit(sa, Liveness())

    def _answer_version(self, data: bytes, path: Path) -> None:
        """Section 2.5: the highest version we speak, in clear, to requests only."""
        if len(data) < VERSION_REPLY_MIN_BYTES or data[19] & FLAG_RESPONSE:
            return
        if not self._core.strangers.may_refuse(path.remote, self._core.now):
            self._core.counters["answers_left_out"] += 1
            return
        message_id = int.from_bytes(data[20:24], "big")
        header = IkeHeader.make(data[:8], data[8:16], data[18], message_id, initiator=False, response=True)
        self._core.send(path, (encode_message(header, (NotifyPayload(NotifyType.INVALID_MAJOR_VERSION),)),))

    # --- timers

    def _fire(self, key: TimerKey) -> None:
        core = self._core
        if key.kind is TimerKind.TOMBSTONE:
            core.drop_old_tombstones()
            return
        if key.kind is TimerKind.ASK:
            core.expire_ask(key.child)
            return
        sa = core.sas.get(key.owner)
        if sa is None:
            return
        child = sa.children.get(key.child)
        if child is not None:
            self._fire_child(sa, child, key.kind)
        elif not key.child:
            self._fire_ike(sa, key.kind)

    def _fire_ike(self, sa: IkeSA, kind: TimerKind) -> None:
        if kind is TimerKind.RETRANSMIT:
            outbound.retransmit(sa)
        elif kind is TimerKind.HALF_OPEN:
            self._end_half_open(sa)
        elif kind is TimerKind.UNPROTECTED_ERROR:
            sa_init.end_by_error(sa)
        elif kind is TimerKind.LIVENESS:
            self._watch(sa)
        elif kind is TimerKind.SILENT:
            liveness.judge(sa)
        elif kind is TimerKind.DUPLICATE:
            unique.end_duplicate(sa)
        elif kind is TimerKind.REKEY:
            outbound.submit(sa, RekeyIke())
        elif kind is TimerKind.REAUTH:
            self._reauthenticate(sa)
        elif kind is TimerKind.LIFE:
            outbound.submit(sa, DeleteIke("its lifetime is over", failed=True))
        elif kind is TimerKind.RETRY:
            outbound.submit_put_off(sa)
        elif kind is TimerKind.MOVE:
            moves.rest_is_over(sa)
        elif kind is TimerKind.FRAGMENTS:
            expire(sa)
        elif kind is TimerKind.CHILDLESS and not sa.children:
            outbound.submit(sa, DeleteIke("it has no Child SA", failed=True))
        elif kind is TimerKind.EXPIRE and sa.established_at is None:
            sa.close("redundant, and its creator has forgotten it", failed=False)  # so nobody would answer a DELETE
        elif kind is TimerKind.EXPIRE and sa.state is not State.DELETING:
            outbound.submit(sa, DeleteIke("replaced by a rekey"))  # the peer did not close it, or we waited with it

    def _fire_child(self, sa: IkeSA, child: ChildSA, kind: TimerKind) -> None:
        if kind is TimerKind.CHILD_REKEY:
            outbound.submit(sa, RekeyChild(child))
        elif kind is TimerKind.CHILD_LIFE:
            expire_child(sa, child, "its lifetime is over")
        elif kind is TimerKind.CHILD_SWITCH:
            switch_outbound(sa, child)
        elif kind is TimerKind.CHILD_IDLE:
            ask_idle(sa, child)
        elif kind is TimerKind.CHILD_EXPIRE and child.state is not ChildState.DELETING:
            outbound.submit(sa, DeleteChild(child, "replaced, and the peer did not close it"))

    def _reauthenticate(self, sa: IkeSA) -> None:
        begun = reauth.begin(sa)
        if begun is not None:
            new, names = begun
            self._core.run(new, sa_init.start(new, names))

    def _end_half_open(self, sa: IkeSA) -> None:
        if sa.half_open_key is not None:  # from now on a copy of its first request would be a new one
            self._core.half_open.pop(sa.half_open_key, None)
        if sa.is_half_open:
            self._core.counters["half_open_expired"] += 1
            sa.close(f"not authenticated within {self._core.settings.half_open_s:.0f} s", failed=True)

    def _watch(self, sa: IkeSA) -> None:
        """Nothing heard for too long: ask; otherwise look again when that could be."""
        core, due = self._core, liveness.check_due(sa)
        if core.now >= due:
            if liveness.is_watched(sa):
                self._ask(sa)
            due = core.now + liveness.delay_of(sa)
        if not sa.is_closed:
            core.timers.set(TimerKey(sa.ike_id, TimerKind.LIVENESS), due)
