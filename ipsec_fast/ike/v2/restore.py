"""An IKE SA out of its record, after a restart (ARCHITECTURE.md, rule 1): it goes on where
the record says, and nothing is used twice.

Message IDs, the stored response and the SK{} IVs continue; its Child SAs are installed as they were and then
rekeyed at once, which is also the question whether the peer still has them. One with a request of ours
outstanding is not restored: nobody knows whether the peer has acted on it. Leaves out: numbers of ESP packets,
which are the shell's. Called by the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import IpsecFastError
from ..asks import Steps
from ..config import ChildConfig, ConnectionConfig, digest_of_settings
from ..core import Core
from ..events import IkeUp
from ..records import ChildRecord, IkeRecord
from ..timers import TimerKind
from .child_sa import ChildSA, Place, install_child
from .expire import RecreateChild
from .ike_sa import REPLACED_S, IkeSA
from .informational import DeleteChild, Liveness
from .keymat import IkeKeymat, ike_suite_of
from .lifetime import EARLIEST_S, stop_child_timers
from .outbound import submit
from .rekey_child import RekeyChild
from .states import ChildState, State
from .window import Window

_GOES_ON = (State.ESTABLISHED, State.REKEYED)


def why_not(core: Core, record: IkeRecord, connection: ConnectionConfig | None) -> str | None:
    """Why this record cannot go on as an IKE SA; None where it can."""
    if record.own_outstanding:
        return "a request of ours was outstanding"
    if record.state not in _GOES_ON:
        return f"it was {record.state.value}"
    if connection is None:
        return f"connection {record.connection} is not configured"
    if record.settings != digest_of_settings(connection):
        return f"connection {record.connection} was changed meanwhile"
    own_spi = record.spi_i if record.initiator else record.spi_r
    if own_spi in core.by_spi or record.ike_id in core.sas:
        return "it is there already"
    return None


def make(core: Core, record: IkeRecord, connection: ConnectionConfig) -> IkeSA:
    """In the tables, with its keys and its window, and without its children; the record's secrets are its own from now on."""
    own_spi, peer_spi = (record.spi_i, record.spi_r) if record.initiator else (record.spi_r, record.spi_i)
    sa = IkeSA(core, record.ike_id, record.initiator, own_spi, record.path, peer_spi=peer_spi, connection=connection)
    suite = ike_suite_of(record.proposal)
    sa.keymat = IkeKeymat(suite, record.keys, initiator=record.initiator, random=core.random, first_iv=record.iv_end)
    sa.window = Window(
        next_own=record.next_own_message_id,
        expected=record.expected_message_id,
        last_digest=record.last_request_digest,
        last_response=record.last_response,
    )
    sa.proposal, sa.local_id, sa.remote_id = record.proposal, record.local_id, record.remote_id
    sa.nat, sa.nat_fake, sa.began_here = record.nat, record.nat_fake, record.began_here
    sa.fragments, sa.fragment_bytes = record.fragments, record.fragment_bytes
    sa.created_at, sa.authenticated_at = record.created_at, record.authenticated_at
    sa.established_at, sa.last_inbound_at, sa.was_announced = record.established_at, core.now, True
    core.keep_id("ike", record.ike_id)
    for child in record.children:
        core.keep_id("child", child.child_id)
    core.add(sa)
    core.note_peer(sa)
    sa.enter(State.ESTABLISHED)
    return sa


def resume(sa: IkeSA, record: IkeRecord) -> Steps[None]:
    """Its children into the dataplane, its timers, and the first request."""
    sa.core.emit(IkeUp(sa.ike_id, sa.name, restored=True))
    children = {child.name: child for child in sa.config.children}
    for one in sorted(record.children, key=lambda child: child.child_id):
        yield from _install(sa, _without_strangers(one, record), children)
    if record.state is State.REKEYED:
        sa.enter(State.REKEYED)
        sa.set_timer(TimerKind.EXPIRE, REPLACED_S)
        return
    _start_timers(sa, record)
    rekeyed = [
        child for child in sa.children.values() if child.state is ChildState.INSTALLED and not child.is_redundant
    ]
    for child in rekeyed:
        submit(sa, RekeyChild(child))
    if not rekeyed:
        submit(sa, Liveness())


def _install(sa: IkeSA, record: ChildRecord, configs: Mapping[str, ChildConfig]) -> Steps[None]:
    child = _make_child(record, configs[record.name], sa.core.settings.resources)
    try:
        yield from install_child(sa, child)
    except IpsecFastError as error:  # the host has changed: the peer is told, and it is made anew
        sa.progress(f"CHILD SA {record.name}{{{record.child_id}}} cannot be restored: {error}", group="chd", level=0)
        submit(sa, DeleteChild(None, str(error), spi_in=record.spi_in))
        if record.state is ChildState.INSTALLED and record.resource is None:
            submit(sa, RecreateChild(child.config))
        return
    if record.state is ChildState.INSTALLED and not record.is_redundant:
        return
    stop_child_timers(sa, child)
    if record.state is ChildState.DELETING:
        submit(sa, DeleteChild(child, "deleted by us"))
        return
    if record.state is ChildState.REKEYED:
        child.enter(ChildState.REKEYED)
    sa.set_timer(TimerKind.CHILD_EXPIRE, REPLACED_S, child.child_id)


def _without_strangers(one: ChildRecord, record: IkeRecord) -> ChildRecord:
    """It replaced something that is not there any more."""
    is_known = any(other.child_id == one.replaces for other in record.children)
    return one if is_known else replace(one, replaces=None)


def _make_child(record: ChildRecord, config: ChildConfig, resources: int) -> ChildSA:
    """There may be more or fewer resources now: whose it is follows from its SPI."""
    resource = None if record.resource is None else record.spi_in % resources
    return ChildSA(
        child_id=record.child_id,
        config=config,
        suite=record.suite,
        esn=record.esn,
        group=record.group,
        encap=record.encap,
        spi_in=record.spi_in,
        spi_out=record.spi_out,
        key_in=record.key_in,
        key_out=record.key_out,
        local_ts=record.local_ts,
        remote_ts=record.remote_ts,
        initiator=record.initiator,
        installed_at=record.installed_at,
        outbound_deferred=record.outbound_deferred,
        is_redundant=record.is_redundant,
        replaces=record.replaces,
        replaced_by=record.replaced_by,
        rekey_at=record.rekey_at,
        life_at=record.life_at,
        place=Place(record.in_group, resource),
        narrowed=record.narrowed,
    )


def _start_timers(sa: IkeSA, record: IkeRecord) -> None:
    due = (
        (TimerKind.REKEY, record.rekey_at),
        (TimerKind.REAUTH, record.reauth_at),
        (TimerKind.LIFE, record.life_at),
    )
    for kind, at in due:
        sa.set_timer(kind, None if at is None else max(at - sa.core.now, EARLIEST_S))
    if sa.config.dpd_delay_s > 0:
        sa.set_timer(TimerKind.LIVENESS, sa.config.dpd_delay_s)
