"""What must be stored before the datagrams that depend on it may leave
(ARCHITECTURE.md, rule 1): one record per IKE SA.

Value objects; keys are handles, never bytes, so whoever stores a record seals them through crypto/. An exchange that
rests is not in it: the record shows the state before, with `own_outstanding` set where a request of ours is open.
Times are the endpoint's clock, which over a restart must be the same one (CLOCK_MONOTONIC of one boot).
v2/restore.py makes IKE SAs of records again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..algorithms import EspSuite
from ..model import Identity, Path, Proposal, TrafficSelector
from .nat import NatResult
from .v2.states import ChildState, State

if TYPE_CHECKING:
    from ..crypto.prf import IkeKeys
    from ..crypto.secret import Secret


@dataclass(frozen=True, slots=True)
class ChildRecord:
    child_id: int
    name: str
    state: ChildState
    initiator: bool
    suite: EspSuite
    esn: bool
    group: int
    encap: bool
    spi_in: int
    spi_out: int
    key_in: Secret
    key_out: Secret
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    outbound_deferred: bool
    is_redundant: bool
    replaces: int | None
    replaced_by: int | None
    installed_at: float
    rekey_at: float | None
    life_at: float | None
    in_group: bool
    resource: int | None
    narrowed: str = ""


@dataclass(frozen=True, slots=True)
class IkeRecord:
    """`iv_end`: no SK{} IV at or above it has been used; a restored SA starts there. `settings`: the digest of its connection's."""

    ike_id: int
    connection: str
    settings: bytes
    state: State
    initiator: bool
    began_here: bool
    spi_i: bytes
    spi_r: bytes
    path: Path
    nat: NatResult
    nat_fake: bool
    local_id: Identity | None
    remote_id: Identity | None
    proposal: Proposal
    keys: IkeKeys
    iv_end: int
    next_own_message_id: int
    expected_message_id: int
    own_outstanding: bool
    last_request_digest: bytes
    last_response: tuple[bytes, ...]
    fragments: bool
    fragment_bytes: int
    children: tuple[ChildRecord, ...]
    created_at: float
    authenticated_at: float | None
    established_at: float | None
    rekey_at: float | None
    reauth_at: float | None
    life_at: float | None


@dataclass(frozen=True, slots=True)
class IkeGone:
    """The record of this IKE SA is to be removed from the store."""

    ike_id: int
