"""What an IKE endpoint tells and asks its shell (design: sans-IO). Taken by `Endpoint.next_event()`, in order.

A notice needs no answer. An ask carries a `ticket`; the exchange that asked rests until `Endpoint.answer(ticket, value_or_error, now)`,
where an error is any Exception instance (a RemoteError's notify is what the peer gets). An answer for a vanished SA is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from ..algorithms import EspSuite
from ..model import Identity, Path, Proposal, TrafficSelector
from .config import ConnectionConfig
from .lifetimes import NO_LIMITS, TrafficLimits

if TYPE_CHECKING:  # the compiled handles; only their names are needed here
    from ..crypto.exchange import KeyPair
    from ..crypto.secret import Secret


# --- asks


@dataclass(frozen=True, slots=True)
class AskConfig:
    """Responder, IKE_SA_INIT: which connections may this path belong to? Answer: Sequence[ConnectionConfig], best first, or error."""

    ticket: int
    path: Path


@dataclass(frozen=True, slots=True)
class AskConnection:
    """Responder, IKE_AUTH: which of the candidates do these identities mean? Answer: ConnectionConfig, or NegotiationError."""

    ticket: int
    path: Path
    candidates: Sequence[ConnectionConfig]
    remote_id: Identity
    local_id: Identity | None  # the IDr that the initiator sent, if it did


@dataclass(frozen=True, slots=True)
class AskCredential:
    """The PSK of a pair of identities. Answer: Secret, or SecretError."""

    ticket: int
    connection: str
    local_id: Identity
    remote_id: Identity


@dataclass(frozen=True, slots=True)
class AskKeyPair:
    """A fresh key pair of a group. Answer: KeyPair."""

    ticket: int
    group: int


@dataclass(frozen=True, slots=True)
class AskSharedSecret:
    """The key exchange with the peer's public value, bytes as in the KE payload. Answer: Secret, or NegotiationError for a bad value."""

    ticket: int
    key_pair: KeyPair
    peer_public: bytes


@dataclass(frozen=True, slots=True)
class AskSpi:
    """A fresh inbound SPI (never 0..255, in use by nobody). Answer: int.

    `resource`: of the Child SA, if it is to have one (RFC 9611): the SPI's remainder by EndpointSettings.resources must be it.
    `replaces`: the inbound SPI of the Child SA whose rekey asks; then the remainder must be the same.
    """

    ticket: int
    protocol: int
    resource: int | None = None
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class AskInstallChild:
    """Install a Child SA: inbound at once; outbound at once, or, if `outbound_deferred`,
    when SwitchOutbound says so. Answer: None.

    `key_in` and `key_out` are handles in KEYMAT order (cipher key, salt, integrity key). `replaces` is the child this
    one rekeys. `limits` hold for each direction by itself; the shell reports them by `Endpoint.rekey_child` and
    `Endpoint.child_expired`. `resource`: our resource that should send on it (RFC 9611); None for an ordinary or a
    fallback Child SA. `peer`: the authenticated identity of the peer. Unless `overlap`, answer with a NegotiationError
    (TS_UNACCEPTABLE) if another peer of this child has selectors that overlap. `follows_peer`: the peer is behind a NAT
    and we are not; the shell calls `Endpoint.packet_came_from` when its ESP comes from elsewhere.
    """

    ticket: int
    ike_id: int
    child_id: int
    connection: str
    name: str
    suite: EspSuite
    esn: bool
    spi_in: int
    spi_out: int
    key_in: Secret
    key_out: Secret
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    path: Path
    encap: bool
    initiator: bool
    outbound_deferred: bool
    replaces: int | None = None
    limits: TrafficLimits = NO_LIMITS
    resource: int | None = None
    peer: Identity | None = None
    overlap: bool = False
    follows_peer: bool = False


Ask = AskConfig | AskConnection | AskCredential | AskKeyPair | AskSharedSecret | AskSpi | AskInstallChild


# --- notices


NO_ANSWER = "no answer from "  # the beginning of the Progress text that says why an attempt takes so long


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a negotiation, for control-log and the log. group: ike, cfg, chd, net, enc; level as strongSwan's, 0 audit, 1 control."""

    ike_id: int
    connection: str
    text: str
    group: str = "ike"
    level: int = 1


@dataclass(frozen=True, slots=True)
class IkeUp:
    """An IKE SA is ESTABLISHED (authenticated). `replaces`: the IKE SA whose rekey made it. `restored`: it stood before a restart."""

    ike_id: int
    connection: str
    replaces: int | None = None
    restored: bool = False


@dataclass(frozen=True, slots=True)
class IkeDown:
    """An IKE SA is gone, with all children that were not moved. `failed`: it never was, or no longer is, what was wanted.

    `by_peer`: the peer deleted it, or said that it has forgotten it (INITIAL_CONTACT).
    """

    ike_id: int
    connection: str
    reason: str
    failed: bool
    by_peer: bool = False


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """The quick verdict: a request was not answered in time, and nothing else came. The IKE SA stays until its retransmissions end."""

    ike_id: int
    connection: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerBack:
    """A peer that was silent has been heard again, on the same IKE SA."""

    ike_id: int
    connection: str


@dataclass(frozen=True, slots=True)
class ChildUp:
    ike_id: int
    child_id: int
    connection: str
    name: str
    replaces: int | None = None
    resource: int | None = None  # one of several for the same traffic (RFC 9611), not the fallback


@dataclass(frozen=True, slots=True)
class ChildMoved:
    """An IKE rekey gave the child to another IKE SA; the dataplane does not care."""

    child_id: int
    old_ike_id: int
    new_ike_id: int


@dataclass(frozen=True, slots=True)
class SwitchOutbound:
    """From now on send on this child's outbound SA (the deferred outbound switch of a rekey)."""

    child_id: int


@dataclass(frozen=True, slots=True)
class ChildDown:
    """Remove a Child SA: outbound at once, inbound after `inbound_grace_s` (0: at once)."""

    ike_id: int
    child_id: int
    connection: str
    name: str
    reason: str
    inbound_grace_s: float = 0.0
    replaced_by: int | None = None
    by_peer: bool = False  # the peer deleted it, alone or with its IKE SA
    idle: bool = False  # we deleted it because nothing passed (inactivity)
    resource: int | None = None  # as in ChildUp


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """A Child SA that was wanted did not come to be; the reason names what was offered and what was wanted."""

    ike_id: int
    connection: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResourceFailed:
    """A per-resource Child SA of a group was refused (RFC 9611). `has_enough`: the peer wants no more of them. The fallback stands."""

    ike_id: int
    child_id: int  # the fallback's
    connection: str
    name: str
    resource: int
    reason: str
    has_enough: bool


@dataclass(frozen=True, slots=True)
class CheckIdle:
    """When did a packet pass on this child, in either direction? To be told by `Endpoint.child_used`, at once or later."""

    child_id: int


@dataclass(frozen=True, slots=True)
class PathMoved:
    """The NAT of the peer has moved it: everything for it, these Child SAs too, goes
    to the new path (RFC 7296 section 2.23).
    """

    ike_id: int
    connection: str
    before: Path
    path: Path
    child_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckSource:
    """Asks for the source of the newest ESP packet of these Child SAs; answer with
    `Endpoint.source_checked`, best at once.
    """

    ike_id: int
    child_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """`Endpoint.probe` was answered after `waited_s`, when it had last gone out in datagrams of up to `answered_bytes` each.

    Where `is_whole` it was one, of `probed_bytes`: that size passes. Otherwise the sizes before were not answered in time, and fragments
    of `answered_bytes` pass. 0: it was answered only after it had been left to IP fragments as well, which tells nothing of a size but
    that none was answered in time. An answer that was slow may be to a form before, so each finding is a lower bound.
    """

    ike_id: int
    probed_bytes: int
    answered_bytes: int
    is_whole: bool
    waited_s: float


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A probe that nobody will answer: its IKE SA is gone, or the peer does not answer any size."""

    ike_id: int
    probed_bytes: int
    reason: str


Notice = (
    Progress
    | IkeUp
    | IkeDown
    | PeerSilent
    | PeerBack
    | ChildUp
    | ChildMoved
    | SwitchOutbound
    | ChildDown
    | ChildFailed
    | ResourceFailed
    | CheckIdle
    | PathMoved
    | CheckSource
    | ProbeAnswered
    | ProbeFailed
)
Event = Ask | Notice


# --- what leaves


class Outer(Enum):
    """What becomes of a datagram in IP."""

    NEEDED = auto()  # DF; IP fragments only where it is longer than the interface's MTU
    CUT = auto()  # with DF nothing came back: IP fragments that every path carries
    NEVER = auto()  # DF, and what the interface does not take is lost: a probe


class Outgoing(NamedTuple):
    path: Path
    datagrams: tuple[bytes, ...]
    outer: Outer = Outer.NEEDED


# --- what may be looked at (list-sas); a snapshot, nothing in it changes afterwards


@dataclass(frozen=True, slots=True)
class ChildView:
    child_id: int
    name: str
    state: str  # strongSwan's: INSTALLING INSTALLED REKEYING REKEYED DELETING DELETED
    suite: EspSuite
    esn: bool
    group: int  # key exchange of its own (PFS), 0 without
    encap: bool
    spi_in: int
    spi_out: int
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    installed_at: float
    rekey_at: float | None
    life_at: float | None = None
    initiator: bool = False  # of the exchange that made it
    in_group: bool = False  # both sides speak RFC 9611 of it
    resource: int | None = None  # of ours, that alone sends on it; None: the fallback, or no group
    narrowed: str = ""  # `by the peer from 10.1.0.0/16`, `by us from ...`: what the offer had in addition


@dataclass(frozen=True, slots=True)
class IkeView:
    ike_id: int
    connection: str
    state: str  # strongSwan's: CREATED CONNECTING ESTABLISHED REKEYING REKEYED DELETING
    initiator: bool
    spi_i: bytes
    spi_r: bytes
    path: Path
    local_id: Identity | None
    remote_id: Identity | None
    proposal: Proposal | None  # the chosen one
    nat_local: bool
    nat_remote: bool
    nat_fake: bool
    established_at: float | None
    rekey_at: float | None
    silent_since: float | None = None  # when the peer was found silent
    children: tuple[ChildView, ...] = field(default_factory=tuple)
    reauth_at: float | None = None
    tasks_queued: tuple[str, ...] = ()
    tasks_active: tuple[str, ...] = ()
    tasks_passive: tuple[str, ...] = ()
