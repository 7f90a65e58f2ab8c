"""One IKE SA: its state, keys, windows, children and timers. Every change of state goes through `IkeSA.enter`.

Messages come in through inbound.py and leave through outbound.py; the exchanges have a file each and work on this
object. Three initiators are three things: of the IKE SA (`initiator` here, the I flag), of an exchange (R flag), of a
Child SA (the order of its KEYMAT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...model import Identity, Path, Proposal
from ..config import ConnectionConfig, digest_of_settings
from ..core import Core, HalfOpenKey
from ..events import IkeDown, IkeUp, IkeView, Progress
from ..limiter import Allowance
from ..nat import NatResult
from ..records import IkeRecord
from ..strangers import Line
from ..timers import TimerKey, TimerKind
from .child_sa import ChildSA, close_child, close_succeeded_child
from .collide import Doing, Nonces
from .exchange import Exchange
from .keymat import IkeKeymat
from .lifetime import start_ike_timers
from .reassembly import Reassembly, drop
from .states import AUTHENTICATED, ChildState, State, check_transition
from .window import Window

if TYPE_CHECKING:
    from .child_setup import Packet
    from .rekey_ike import PeerIkeRekey, RekeyIke
    from .sa_init import Attempt

ZERO_SPI = bytes(8)
NO_NAT = NatResult(False, False, False)
PEERS_REKEYS, PEERS_REKEYS_PER_S = (
    128,
    10.0,
)  # that a peer may begin: all its Child SAs twice at once, then ten a second
REPLACED_S = 100.0  # a replaced SA whose closer is silent that long is closed by the other side


@dataclass(slots=True)
class InitOctets:
    """What AUTH covers (RFC 7296 section 2.15): both IKE_SA_INIT messages as they were sent, and the nonces."""

    nonces: Nonces
    request: bytes
    response: bytes


@dataclass(slots=True, eq=False)
class IkeSA:
    core: Core
    ike_id: int
    initiator: bool
    own_spi: bytes
    path: Path
    peer_spi: bytes = ZERO_SPI
    state: State = State.CREATED
    connection: ConnectionConfig | None = None
    candidates: Sequence[ConnectionConfig] = ()
    window: Window = field(default_factory=Window)
    queue: list[Exchange] = field(default_factory=list)
    put_off: list[Exchange] = field(
        default_factory=list
    )  # by the peer's TEMPORARY_FAILURE; submitted again by TimerKind.RETRY
    active: Exchange | None = None
    passive: str = ""  # the peer's exchange that rests
    keymat: IkeKeymat | None = None
    proposal: Proposal | None = None
    attempt: Attempt | None = None  # initiator, during IKE_SA_INIT
    init: InitOctets | None = None  # until authenticated
    half_open_key: HalfOpenKey | None = None  # responder: by which a repeated IKE_SA_INIT request finds it
    is_half_open: bool = False
    nat: NatResult = NO_NAT
    nat_fake: bool = False
    local_id: Identity | None = None
    remote_id: Identity | None = None
    children: dict[int, ChildSA] = field(default_factory=dict)
    established_at: float | None = None
    began_here: bool = field(init=False)  # who began the first of the row that rekeys make
    created_at: float = field(init=False)
    authenticated_at: float | None = None  # by IKE_AUTH; a rekey hands it on, as it does `created_at`
    last_inbound_at: float = 0.0  # a valid IKE message or, as the dataplane tells, a valid ESP packet
    sent_unheard_at: float | None = None  # since when we send ESP and nothing at all comes back
    asked_at: float = 0.0  # when the outstanding request of ours left for the first time
    silent_since: float | None = None
    hint_at: float | None = None  # the last unprotected hint that the peer has forgotten us
    stands_in_for: frozenset[int] = frozenset()  # silent IKE SAs of the connection when this one was begun
    displaces: frozenset[int] = frozenset()  # silent IKE SAs that our INITIAL_CONTACT has declared dead
    bad_icvs: int = 0
    deaf_until: float = 0.0
    own_rekey: RekeyIke | None = None
    peer_rekey: PeerIkeRekey | None = None
    rekey_failures: int = 0
    fragments: bool = False  # both sides have announced IKE fragmentation
    fragment_bytes: int = 0  # the largest IP datagram that its path is known to carry; 0: the setting
    reply_bytes: int = 0  # the largest IP datagram of the request that is being worked on, if it came in fragments
    reassemblies: dict[bool, Reassembly] = field(default_factory=dict)  # by "is a response"
    peers_rekeys: Allowance = field(default_factory=lambda: Allowance(PEERS_REKEYS, PEERS_REKEYS_PER_S))
    replaced: tuple[IkeSA, ...] = ()  # by this one, in a row, and not closed by the peer yet
    reauthenticates: int | None = None  # the IKE SA that this one is to replace (as responder: probably)
    reauthenticated_by: int | None = None
    reauth_failures: int = 0
    kin: list[IkeSA] = field(default_factory=list)  # shared by all that rekeys made of one IKE SA
    was_heard: bool = False  # a valid message of the peer has arrived on it
    heard_at: float = 0.0  # arrival of the newest message or packet that says where the peer is (moves.py)
    wanted_path: Path | None = None  # a newer source of the peer, while `path` must not change yet
    asks_source: bool = False  # the shell has been asked where the newest packet came from
    told_unanswered: bool = False  # the log says already that nobody answers
    packets: dict[str, Packet] = field(
        default_factory=dict
    )  # by child: the packet that triggered it, until IKE_AUTH is over
    was_announced: bool = False  # IkeUp has been told, or it is ours to report

    def __post_init__(self) -> None:
        self.began_here = self.initiator
        self.created_at = self.core.now

    # --- who we are

    @property
    def spi_i(self) -> bytes:
        return self.own_spi if self.initiator else self.peer_spi

    @property
    def spi_r(self) -> bytes:
        return self.peer_spi if self.initiator else self.own_spi

    @property
    def name(self) -> str:
        return self.connection.name if self.connection else ""

    @property
    def config(self) -> ConnectionConfig:
        if self.connection is None:
            raise AssertionError("the connection of this IKE SA is not known yet")
        return self.connection

    @property
    def keys(self) -> IkeKeymat:
        if self.keymat is None:
            raise AssertionError("this IKE SA has no keys yet")
        return self.keymat

    @property
    def init_octets(self) -> InitOctets:
        if self.init is None:
            raise AssertionError("the IKE_SA_INIT messages are not there, or forgotten behind IKE_AUTH")
        return self.init

    @property
    def encap(self) -> bool:
        """Whether its Child SAs are UDP-encapsulated."""
        return self.nat_fake or self.nat.local or self.nat.remote

    @property
    def follows_peer(self) -> bool:
        """Whether the peer is behind a NAT, which may change its mapping, and we are not (RFC 7296 section 2.23)."""
        return self.nat.remote and not self.nat.local and self.path.marker and self.is_authenticated

    @property
    def path_rests(self) -> bool:
        """Whether `path` changed within the last second, so that it must not change yet."""
        return self.core.timers.at(TimerKey(self.ike_id, TimerKind.MOVE)) is not None

    @property
    def is_closed(self) -> bool:
        return self.state is State.DELETED

    @property
    def is_authenticated(self) -> bool:
        return self.state in AUTHENTICATED

    @property
    def is_worth_storing(self) -> bool:
        return self.is_authenticated and self.established_at is not None and self.keymat is not None

    @property
    def is_being_reauthenticated(self) -> bool:
        """By us: until that is over no exchange changes it."""
        new = self.core.sas.get(self.reauthenticated_by or 0)
        return new is not None and new.began_here

    @property
    def stands_aside(self) -> bool:
        """Made by a rekey, and it is not settled yet whether it stays: the children are the old one's."""
        return self.state is State.ESTABLISHED and self.established_at is None

    @property
    def doing(self) -> Doing:
        """For the rules of crossing exchanges (collide.py)."""
        if self.state in (State.DELETING, State.DELETED):
            return Doing.CLOSING
        if self.state is State.REKEYED or self.peer_rekey is not None or self.is_being_reauthenticated:
            return Doing.REKEYED
        if self.own_rekey is not None:
            return Doing.REKEYING_IKE
        if self.active is not None and self.active.name.startswith("CHILD_"):
            return Doing.CHANGING_CHILDREN
        return Doing.NOTHING

    # --- life

    def enter(self, state: State) -> None:
        """The one place where the state changes."""
        if state is self.state:
            return
        check_transition(self.state, state)
        old, self.state = self.state, state
        self.core.mark_changed(self)
        self.progress(f"IKE SA {self.label} state change: {old.value} => {state.value}", level=2)

    def establish(self, *, replaces: IkeSA | None = None) -> None:
        """Both sides are authenticated, here or by the IKE SA that this one replaces."""
        self.enter(State.ESTABLISHED)
        self.established_at = self.last_inbound_at = self.core.now
        self.authenticated_at = self.core.now
        if replaces is not None:
            self.began_here = replaces.began_here
            self.created_at, self.authenticated_at = replaces.created_at, replaces.authenticated_at
            self._inherit_reauthentication(replaces)
        self.init = None
        self.attempt = None
        self.core.shown.forget(self.ike_id)
        self.core.note_peer(self)
        self.leave_half_open()
        start_ike_timers(self, replaces)
        if self.config.dpd_delay_s > 0:
            self.set_timer(TimerKind.LIVENESS, self.config.dpd_delay_s)
        self.was_announced = True
        self.core.emit(IkeUp(self.ike_id, self.name, replaces.ike_id if replaces else None))
        ids = f"{self.path.local}[{self.local_id}]...{self.path.remote}[{self.remote_id}]"
        self.progress(f"IKE SA {self.label} established between {ids}")

    def leave_half_open(self) -> None:
        if self.is_half_open:
            self.is_half_open = False
            self.core.half_open_sas.discard(self)

    def close(self, reason: str, *, failed: bool, by_peer: bool = False) -> None:
        """The end: children down, exchanges told, out of the tables, keys wiped. Sends nothing."""
        if self.is_closed:
            return
        self.enter(State.DELETED)
        self.leave_half_open()
        for child in list(self.children.values()):
            if not close_succeeded_child(self, child, reason):
                close_child(self, child, reason, by_peer=by_peer)
        own = [exchange for exchange in (self.active, *self.queue, *self.put_off) if exchange is not None]
        self.active, self.queue, self.put_off = None, [], []
        for exchange in own:
            exchange.failed(self, reason)
        for response in tuple(self.reassemblies):
            drop(self, response=response)
        self.core.bury(self)
        self.core.forget(self)
        self._close_secrets()
        self.replaced = ()  # or each would keep all before it in memory
        if self.peer_rekey is not None:  # it stood aside and now has nobody to follow
            self.peer_rekey.new.close(reason, failed=failed)
        self._end_reauthentication()
        if self.was_announced:
            self.core.emit(IkeDown(self.ike_id, self.name, reason, failed, by_peer))

    def _end_reauthentication(self) -> None:
        """One that came to nothing is tried again, by the IKE SA that it was to replace."""
        old = self.core.sas.get(self.reauthenticates or 0)
        if old is None or old.reauthenticated_by != self.ike_id:
            return
        old.reauthenticated_by = None
        if self.began_here and old.state is State.ESTABLISHED:
            wait_s = self.core.jittered(min(5.0 * 2.0**old.reauth_failures, 60.0), 0.5)
            old.reauth_failures += 1
            old.progress(f"reauthentication of IKE SA {old.label} failed; again in {wait_s:.0f} s")
            old.set_timer(TimerKind.REAUTH, wait_s)

    def _inherit_reauthentication(self, old: IkeSA) -> None:
        """A rekey gives this one the place of `old` between its predecessor and its successor."""
        sas = self.core.sas
        self.reauthenticates, self.reauthenticated_by = old.reauthenticates, old.reauthenticated_by
        before = sas.get(self.reauthenticates or 0)
        if before is not None and before.reauthenticated_by == old.ike_id:
            before.reauthenticated_by = self.ike_id
        after = sas.get(self.reauthenticated_by or 0)
        if after is not None and after.reauthenticates == old.ike_id:
            after.reauthenticates = self.ike_id

    def _close_secrets(self) -> None:
        if self.attempt is not None:
            self.attempt.close()
        if self.own_rekey is not None:
            self.own_rekey.close()
        if self.keymat is not None:
            self.keymat.close()

    # --- small help

    @property
    def label(self) -> str:
        return f"{self.name or '(unnamed)'}[{self.ike_id}]"

    def progress(self, text: str, *, group: str = "ike", level: int = 1) -> None:
        self.core.emit(Progress(self.ike_id, self.name, text, group, level))

    def tell_of_stranger(self, line: Line, build: Callable[[], str], *, level: int = 0) -> None:
        """Log a line about an unauthenticated IKE SA. The text is built only if the budget allows the line."""
        strangers = self.core.strangers
        if not strangers.may_tell(line, self.path.remote, self.core.now):
            return
        untold = strangers.take_untold(line)
        more = f" ({untold} more like this left out)" if untold else ""
        self.progress(f"{build()}{more}", level=level)

    def set_timer(self, kind: TimerKind, after_s: float | None, child: int = 0) -> None:
        """`after_s` from now; None takes the timer away."""
        key = TimerKey(self.ike_id, kind, child)
        if after_s is None:
            self.core.timers.cancel(key)
        elif not self.is_closed:
            self.core.timers.set(key, self.core.now + after_s)

    def child_by_spi_out(self, spi: bytes) -> ChildSA | None:
        """The peer names a Child SA by the SPI on which it receives."""
        wanted = int.from_bytes(spi, "big")
        return next((child for child in self.children.values() if child.spi_out == wanted), None)

    def lets_peer_rekey(self) -> bool:
        """Each rekey costs a key exchange and leaves an inbound SA for seconds, so a peer gets so many of them."""
        if self.peers_rekeys.take(self.core.now):
            return True
        self.core.counters["rekeys_refused_too_many"] += 1
        if self.core.rekey_lines.allows(self.remote_id, self.core.now):
            self.progress(
                f"{self.remote_id} rekeys more than {PEERS_REKEYS_PER_S:g} times a second; refused for now", level=0
            )
        return False

    # --- looked at from outside

    def view(self) -> IkeView:
        timers = self.core.timers
        views = (child.view(timers.at(child.rekey_timer(self.ike_id))) for child in self.children.values())
        return IkeView(
            ike_id=self.ike_id,
            connection=self.name,
            state=self.state.value,
            initiator=self.initiator,
            spi_i=self.spi_i,
            spi_r=self.spi_r,
            path=self.path,
            local_id=self.local_id,
            remote_id=self.remote_id,
            proposal=self.proposal,
            nat_local=self.nat.local,
            nat_remote=self.nat.remote,
            nat_fake=self.nat_fake,
            established_at=self.established_at,
            rekey_at=timers.at(TimerKey(self.ike_id, TimerKind.REKEY)),
            reauth_at=timers.at(TimerKey(self.ike_id, TimerKind.REAUTH)),
            silent_since=self.silent_since,
            children=tuple(views),
            tasks_queued=tuple(exchange.name for exchange in self.queue),
            tasks_active=(self.active.name,) if self.active else (),
            tasks_passive=(self.passive,) if self.passive else (),
        )

    def record(self) -> IkeRecord:
        if self.proposal is None:
            raise AssertionError("an IKE SA without a proposal is not stored")
        timers = self.core.timers
        stored = (child for child in self.children.values() if child.state is not ChildState.INSTALLING)
        return IkeRecord(
            ike_id=self.ike_id,
            connection=self.name,
            settings=digest_of_settings(self.config),
            state=self.state,
            initiator=self.initiator,
            began_here=self.began_here,
            spi_i=self.spi_i,
            spi_r=self.spi_r,
            path=self.path,
            nat=self.nat,
            nat_fake=self.nat_fake,
            local_id=self.local_id,
            remote_id=self.remote_id,
            proposal=self.proposal,
            keys=self.keys.keys,
            iv_end=self.keys.iv_end,
            next_own_message_id=self.window.next_own,
            expected_message_id=self.window.expected,
            own_outstanding=self.window.outstanding is not None,
            last_request_digest=self.window.last_digest,
            last_response=self.window.last_response,
            fragments=self.fragments,
            fragment_bytes=self.fragment_bytes,
            children=tuple(child.record() for child in stored),
            created_at=self.created_at,
            authenticated_at=self.authenticated_at,
            established_at=self.established_at,
            rekey_at=timers.at(TimerKey(self.ike_id, TimerKind.REKEY)),
            reauth_at=timers.at(TimerKey(self.ike_id, TimerKind.REAUTH)),
            life_at=timers.at(TimerKey(self.ike_id, TimerKind.LIFE)),
        )
