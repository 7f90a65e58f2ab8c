"""What an IKE endpoint must know of a connection. Made by the control layer from the configuration; frozen.

No file, no socket, no secret stands here: the PSK is asked for (events.AskCredential) and travels as a handle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import sha256

from ..algorithms import default_esp_proposals, default_ike_proposals
from ..model import Address, DynamicSelector, Identity, Proposal, TrafficSelector
from .lifetimes import ChildLifetimes, IkeLifetimes


class Action(Enum):
    """What is done about a child of the configuration (swanctl.conf's words)."""

    NONE = "none"
    TRAP = "trap"  # its packets are dropped, and the first one that is begins a negotiation
    START = "start"
    TRAP_START = "trap|start"

    @property
    def traps(self) -> bool:
        return self in (Action.TRAP, Action.TRAP_START)

    @property
    def starts(self) -> bool:
        return self in (Action.START, Action.TRAP_START)


class Unique(Enum):
    """What an authenticated peer's second IKE SA means to its first (swanctl.conf's words and meanings)."""

    NEVER = "never"  # nothing; INITIAL_CONTACT is neither sent nor obeyed
    NO = "no"  # nothing, unless INITIAL_CONTACT came with it
    KEEP = "keep"  # the second is refused
    REPLACE = "replace"  # the first is deleted


class Fragmentation(Enum):
    """What is announced and done about IKE fragmentation, RFC 7383 (swanctl.conf's words and meanings)."""

    YES = "yes"
    ACCEPT = "accept"  # announced, for the peer's sake; our own messages leave whole
    FORCE = "force"  # of IKEv1; here it is YES
    NO = "no"

    @property
    def announces(self) -> bool:
        return self is not Fragmentation.NO

    @property
    def sends(self) -> bool:
        return self in (Fragmentation.YES, Fragmentation.FORCE)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """One child of a connection. `*_dynamic`: selectors of the IKE SA's own address on that side.

    A side without any selector means the whole of that address.
    """

    name: str
    local_ts: tuple[TrafficSelector, ...] = ()
    remote_ts: tuple[TrafficSelector, ...] = ()
    proposals: tuple[Proposal, ...] = field(default_factory=default_esp_proposals)
    lifetimes: ChildLifetimes = field(default_factory=ChildLifetimes)
    start_action: Action = Action.NONE  # at the start, and again whenever it is lost
    dpd_action: Action = Action.NONE  # when the peer fell silent
    close_action: Action = Action.NONE  # when the peer closed it
    copy_df: bool = True  # False: no DF outside, and what is too long then leaves in outer fragments
    per_resource: bool | None = None  # RFC 9611 is offered and answered; None: where we have more than one resource
    per_resource_max: int = 0  # how many per-resource SAs both sides together may have for it; 0: by our resources
    overlap: bool = False  # selectors of two peers may overlap; else the first peer that has them keeps them
    local_dynamic: tuple[DynamicSelector, ...] = ()
    remote_dynamic: tuple[DynamicSelector, ...] = ()

    def local_at(self, addresses: Iterable[Address]) -> tuple[TrafficSelector, ...]:
        """The local selectors if the IKE SA has one of these addresses."""
        return _selectors_at(self.local_ts, self.local_dynamic, addresses)

    def remote_at(self, addresses: Iterable[Address]) -> tuple[TrafficSelector, ...]:
        return _selectors_at(self.remote_ts, self.remote_dynamic, addresses)

    @property
    def needs_local_address(self) -> bool:
        """Some local selector is dynamic."""
        return bool(self.local_dynamic) or not self.local_ts

    @property
    def needs_remote_address(self) -> bool:
        return bool(self.remote_dynamic) or not self.remote_ts


def _selectors_at(
    fixed: tuple[TrafficSelector, ...], dynamic: tuple[DynamicSelector, ...], addresses: Iterable[Address]
) -> tuple[TrafficSelector, ...]:
    if fixed and not dynamic:
        return fixed
    everything = dynamic or (DynamicSelector(),)
    return (*fixed, *(one.at(address) for address in addresses for one in everything))


@lru_cache(maxsize=1024)
def _shared(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """One representative of all equal values."""
    return proposals


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One connection. Empty addresses mean any; `remote_id` None means any identity that proves itself with the PSK."""

    name: str
    local_addrs: tuple[Address, ...] = ()
    remote_addrs: tuple[Address, ...] = ()
    proposals: tuple[Proposal, ...] = field(default_factory=default_ike_proposals)
    local_id: Identity | None = None  # None: the local address
    remote_id: Identity | None = None
    encap: bool = (
        True  # our NAT_DETECTION_SOURCE_IP never matches, so the peer must encapsulate (RFC 7296 section 2.23)
    )
    children: tuple[ChildConfig, ...] = ()
    lifetimes: IkeLifetimes = field(default_factory=IkeLifetimes)
    dpd_delay_s: float = 5.0  # silence after which the peer is asked; 0: it is never asked
    dpd_timeout_s: float = 4.0  # how long a request may stay unanswered until the peer counts as silent
    unique: Unique = Unique.NO
    fragmentation: Fragmentation = Fragmentation.YES
    any_identity: bool = False  # `remote_id` is None on purpose: any holder of any secret, also at a named address
    allow_weak: bool = False  # groups that RFC 8247 advises against, secrets of less than 8 bytes

    def __post_init__(self) -> None:
        # equal proposals become one object, so that an offer is matched with them once (v2/offer.py)
        object.__setattr__(self, "proposals", _shared(self.proposals))

    @property
    def takes_many(self) -> bool:
        """Any identity, or any that a pattern covers: one holder of the secret may then pass for many peers."""
        return self.remote_id is None or self.remote_id.is_pattern

    def child(self, name: str) -> ChildConfig | None:
        return next((child for child in self.children if child.name == name), None)


def digest_of_settings(connection: ConnectionConfig) -> bytes:
    """Another one for every difference in the connection or its children; within one version of this package."""
    return sha256(repr(connection).encode()).digest()


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What holds for all IKE SAs of an endpoint. Times in seconds."""

    retransmit_first_s: float = 0.5
    retransmit_factor: float = 1.6
    retransmit_cap_s: float = 8.0
    retransmit_sends: int = 16
    retransmit_jitter: float = 0.1
    half_open_s: float = 100.0
    unprotected_error_s: float = 5.0  # RFC 7296 section 2.21.1: wait that long for a better answer
    old_inbound_s: float = 5.0
    childless_s: float = 30.0  # our responder keeps an IKE SA whose Child was refused that long
    cookie_always: bool = False  # the responder answers every IKE_SA_INIT without a COOKIE by one, without state
    cookie_from_half_open: int = 64  # half-open IKE SAs from which on a COOKIE is demanded
    cookie_from_requests_per_s: int = 500  # IKE_SA_INIT requests from which on a COOKIE is demanded
    cookie_from_refusals_per_s: int = (
        10  # refused IKE_SA_INIT requests from which on, for a while, a COOKIE is demanded
    )
    keepalive_s: float = 20.0
    resources: int = 1  # workers, of which each may have a Child SA of its own (RFC 9611)
    fragment_bytes: int = 1280  # the largest IP datagram of a message that may be fragmented, with all its headers
    policies_per_child: int = 0  # pairs of selectors that a responder lets one Child SA have, 0: any number
    routes_per_child: int = 0  # prefixes of its remote selectors, 0: any number
    ike_sas_per_peer: int = 32  # of one pair of identities, so that nobody fills our memory with what it may have
    ike_sas_per_connection: int = 4096  # of a connection whose peers may have any identity
