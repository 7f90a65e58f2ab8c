"""One Child SA as IKE sees it, and its way into and out of the dataplane (RFC 7296 section 2.8, design "The way of a rekey").

`install_child` asks the shell and waits; `switch_outbound` and `close_child` tell it. How a Child SA is negotiated
stands in child_setup.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...algorithms import EspSuite
from ...crypto.secret import Secret
from ...errors import NegotiationError
from ...model import TrafficSelector, selectors_text
from ..asks import Steps, ask_install
from ..config import ChildConfig
from ..events import AskInstallChild, ChildDown, ChildUp, ChildView, SwitchOutbound
from ..records import ChildRecord
from ..timers import TimerKey, TimerKind
from .collide import ChildDoing, Nonces
from .lifetime import EARLIEST_S, draw_traffic, start_child_timers, stop_child_timers
from .states import ChildState, check_child_transition

if TYPE_CHECKING:
    from .ike_sa import IkeSA
    from .rekey_child import RekeyChild


class ChildGoneError(NegotiationError):
    """The peer has deleted it while it was being made: there is nothing at either side that could be closed."""


@dataclass(frozen=True, slots=True)
class Place:
    """In a group of RFC 9611 (resources.py). `in_group`: both sides speak of it, so that others may stand beside it for the same traffic.

    `resource`: of ours, the only one that sends on it; None for the fallback, or where there is no group.
    """

    in_group: bool = False
    resource: int | None = None


ORDINARY, FALLBACK = Place(), Place(in_group=True)


@dataclass(frozen=True, slots=True)
class PeerChildRekey:
    """The peer's rekey of a Child SA: what it made, and the nonces that settle a crossing."""

    child: ChildSA
    nonces: Nonces


@dataclass(slots=True, eq=False)
class ChildSA:
    child_id: int
    config: ChildConfig
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
    initiator: bool
    installed_at: float
    state: ChildState = ChildState.INSTALLING
    outbound_deferred: bool = False  # sends on it wait for its first inbound packet, or the DELETE of the old one
    is_redundant: bool = False  # the loser of a crossing: its creator is about to close it
    replaces: int | None = None
    replaced_by: int | None = None
    own_rekey: RekeyChild | None = None
    peer_rekey: PeerChildRekey | None = None
    rekey_failures: int = 0
    narrowed_in_rekey: bool = (
        False  # a rekey was narrowed by the peer: the next try is a new Child SA, which may be narrower
    )
    rekey_at: float | None = None  # by its time, without the retries of a rekey that failed
    life_at: float | None = None
    quiet_since: float = 0.0  # nothing is known to have passed since; a rekey is no traffic
    place: Place = ORDINARY
    narrowed: str = ""  # `by the peer from 10.1.0.0/16`, `by us from ...`: what the offer had in addition

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def resource(self) -> int | None:
        return self.place.resource

    @property
    def doing(self) -> ChildDoing:
        """For the rules of crossing exchanges (collide.py)."""
        if self.state is ChildState.DELETING:
            return ChildDoing.CLOSING
        if self.state is ChildState.REKEYED or self.peer_rekey is not None or self.is_redundant:
            return ChildDoing.REPLACED
        if self.state is ChildState.REKEYING:
            return ChildDoing.REKEYING
        return ChildDoing.NOTHING

    def enter(self, state: ChildState) -> None:
        """The one place where the state of a Child SA changes."""
        if state is not self.state:
            check_child_transition(self.state, state)
            self.state = state

    def rekey_timer(self, ike_id: int) -> TimerKey:
        return TimerKey(ike_id, TimerKind.CHILD_REKEY, self.child_id)

    def set_timers(self, sa: IkeSA, try_again_at: float | None = None) -> None:
        """Also after an IKE rekey has moved it, with the next try of a rekey that was put off. A replaced one only waits for its end."""
        if self.state is ChildState.INSTALLED and not self.is_redundant:
            start_child_timers(sa, self)
            if try_again_at is not None:
                sa.set_timer(TimerKind.CHILD_REKEY, max(try_again_at - sa.core.now, EARLIEST_S), self.child_id)

    def view(self, rekey_at: float | None) -> ChildView:
        return ChildView(
            child_id=self.child_id,
            name=self.name,
            state=self.state.value,
            suite=self.suite,
            esn=self.esn,
            group=self.group,
            encap=self.encap,
            spi_in=self.spi_in,
            spi_out=self.spi_out,
            local_ts=self.local_ts,
            remote_ts=self.remote_ts,
            installed_at=self.installed_at,
            rekey_at=rekey_at,
            life_at=self.life_at,
            initiator=self.initiator,
            in_group=self.place.in_group,
            resource=self.resource,
            narrowed=self.narrowed,
        )

    def record(self) -> ChildRecord:
        return ChildRecord(
            child_id=self.child_id,
            name=self.name,
            state=self.state,
            initiator=self.initiator,
            suite=self.suite,
            esn=self.esn,
            group=self.group,
            encap=self.encap,
            spi_in=self.spi_in,
            spi_out=self.spi_out,
            key_in=self.key_in,
            key_out=self.key_out,
            local_ts=self.local_ts,
            remote_ts=self.remote_ts,
            outbound_deferred=self.outbound_deferred,
            is_redundant=self.is_redundant,
            replaces=self.replaces,
            replaced_by=self.replaced_by,
            installed_at=self.installed_at,
            rekey_at=self.rekey_at,
            life_at=self.life_at,
            in_group=self.place.in_group,
            resource=self.resource,
            narrowed=self.narrowed,
        )


def install_child(sa: IkeSA, child: ChildSA) -> Steps[None]:
    """Into the dataplane. A LocalError of the shell comes out of here, and nothing is left of the child."""
    sa.children[child.child_id] = child
    sa.core.owners[child.child_id] = sa

    try:
        yield from ask_install(_asker(sa, child))
    except Exception:
        sa.children.pop(child.child_id, None)
        sa.core.owners.pop(child.child_id, None)
        close_keys(child)
        raise
    if child.state is ChildState.DELETED:  # and the shell heard of that before it had installed anything
        sa.core.emit(ChildDown(sa.ike_id, child.child_id, sa.name, child.name, "deleted while it was being installed"))
        raise ChildGoneError(f"{sa.remote_id} has deleted it while it was being installed")
    child.enter(ChildState.INSTALLED)
    child.set_timers(sa)
    sa.core.mark_changed(sa)
    sa.core.emit(ChildUp(sa.ike_id, child.child_id, sa.name, child.name, child.replaces, child.resource))
    _tell_established(sa, child)


def _asker(sa: IkeSA, child: ChildSA) -> Callable[[int], AskInstallChild]:
    """Makes the ask from its ticket. The limits have jitter, so they are drawn once."""
    limits = draw_traffic(sa.core, child.config.lifetimes.bytes, child.config.lifetimes.packets)

    def make(ticket: int) -> AskInstallChild:
        return AskInstallChild(
            ticket=ticket,
            ike_id=sa.ike_id,
            child_id=child.child_id,
            connection=sa.name,
            name=child.name,
            suite=child.suite,
            esn=child.esn,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            key_in=child.key_in,
            key_out=child.key_out,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            path=sa.path,
            encap=child.encap,
            initiator=child.initiator,
            outbound_deferred=child.outbound_deferred,
            replaces=child.replaces,
            limits=limits,
            resource=child.resource,
            peer=sa.remote_id,
            overlap=child.config.overlap,
            follows_peer=child.encap and sa.follows_peer,
        )

    return make


def _tell_established(sa: IkeSA, child: ChildSA) -> None:
    ts = f"TS {selectors_text(child.local_ts)} === {selectors_text(child.remote_ts)}"
    spis = f"SPIs {child.spi_in:08x}_i {child.spi_out:08x}_o"
    whose = "" if child.resource is None else f" for resource {child.resource}"
    sa.progress(f"CHILD SA {child.name}{{{child.child_id}}}{whose} established with {spis} and {ts}")
    if child.narrowed:
        sa.progress(f"CHILD SA {child.name}{{{child.child_id}}} narrowed {child.narrowed}", group="chd")


def switch_outbound(sa: IkeSA, child: ChildSA) -> None:
    """The end of the deferral: from now on we send on it."""
    if child.outbound_deferred and not child.is_redundant:
        child.outbound_deferred = False
        sa.core.emit(SwitchOutbound(child.child_id))


def close_child(
    sa: IkeSA, child: ChildSA, reason: str, *, grace_s: float = 0.0, by_peer: bool = False, idle: bool = False
) -> None:
    """Out of the dataplane: outbound at once, inbound after the grace. Sends nothing to the peer."""
    if sa.children.pop(child.child_id, None) is None:
        return
    sa.core.owners.pop(child.child_id, None)
    child.enter(ChildState.DELETED)
    stop_child_timers(sa, child)
    close_keys(child)
    sa.core.mark_changed(sa)
    down = ChildDown(sa.ike_id, child.child_id, sa.name, child.name, reason, resource=child.resource)
    sa.core.emit(replace(down, inbound_grace_s=grace_s, replaced_by=child.replaced_by, by_peer=by_peer, idle=idle))
    sa.progress(f"CHILD SA {child.name}{{{child.child_id}}} closed: {reason}", group="chd")


def close_succeeded_child(sa: IkeSA, child: ChildSA, reason: str) -> bool:
    """The child of an IKE SA that a reauthentication has replaced, if the new one carries the same: without a gap."""
    new = sa.core.sas.get(sa.reauthenticated_by or 0)
    carried = (child.name, child.local_ts, child.remote_ts)
    found = [
        one
        for one in (new.children.values() if new is not None else ())
        if one.state in (ChildState.INSTALLED, ChildState.REKEYING)
        and not one.is_redundant
        and (one.name, one.local_ts, one.remote_ts) == carried
    ]
    if new is None or not found:
        return False
    # of a group the one for the same resource, else the fallback, which serves them all
    successor = min(found, key=lambda one: (one.resource != child.resource, one.resource is not None))
    switch_outbound(new, successor)
    child.replaced_by = successor.child_id
    close_child(sa, child, reason, grace_s=sa.core.settings.old_inbound_s)
    return True


def close_keys(child: ChildSA) -> None:
    child.key_in.close()
    child.key_out.close()
