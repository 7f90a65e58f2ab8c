"""Reauthentication of an IKE SA, made before it is broken (RFC 7296 section 2.8.3), both roles.

A new IKE SA is set up with the children of the old one, from IKE_SA_INIT on and without INITIAL_CONTACT; the old one is deleted
when all of them stand. Whoever's time has come begins, whichever role it has in the old one. Nothing on the wire says what
the new one is for: the responder takes a second IKE SA of the same connection from the same address for it, and goes on sending on the
old child until a packet comes on the new one, the old one is deleted, or DEFERRED_S (lifetime.py) have passed. Where both
sides begin at once, unique.py leaves one. Called by ike_auth, create_child_answer and the endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...iana import ExchangeType
from ..timers import TimerKind
from .exchange import Exchange
from .ike_sa import IkeSA
from .informational import DeleteIke
from .outbound import submit
from .states import ChildState, State
from .unique import same_peer

if TYPE_CHECKING:
    from .child_setup import ChildChoice

LOOK_AGAIN_S = 5.0
REASON = "replaced by a reauthentication"
_STANDING = (State.ESTABLISHED, State.REKEYING)
_CARRYING = (ChildState.INSTALLED, ChildState.REKEYING)


# --- initiator


def begin(sa: IkeSA) -> tuple[IkeSA, tuple[str, ...]] | None:
    """The new IKE SA and the children to begin it with; None where now is not the time, or nothing to reauthenticate."""
    if sa.is_being_reauthenticated:
        return None
    if sa.state is not State.ESTABLISHED or sa.silent_since is not None:
        sa.set_timer(TimerKind.REAUTH, LOOK_AGAIN_S)
        return None
    carrying = (child.name for child in sa.children.values() if child.state in _CARRYING and not child.is_redundant)
    names = tuple(name for name in dict.fromkeys(carrying) if sa.config.child(name) is not None)
    if not names:
        submit(sa, DeleteIke("to be reauthenticated, and it has no Child SA"))
        return None
    core = sa.core
    new = IkeSA(core, core.new_id("ike"), True, core.new_spi(), sa.path, connection=sa.connection)
    new.was_announced = True
    new.reauthenticates, sa.reauthenticated_by = sa.ike_id, new.ike_id
    core.add(new)
    sa.progress(f"reauthenticating IKE SA {sa.label} by {new.label}")
    return new, names


class FinishReauth(Exchange):
    """Waits in the new IKE SA's queue behind its children, and sends nothing: then the old one may go."""

    name: ClassVar[str] = "IKE_REAUTH"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL
    priority: ClassVar[int] = -1

    def is_wanted(self, sa: IkeSA) -> bool:
        old = sa.core.sas.get(sa.reauthenticates or 0)
        if sa.state not in _STANDING or old is None or old.state not in (*_STANDING, State.REKEYED):
            return False
        if sa.children:
            submit(old, DeleteIke(REASON))
        else:
            submit(sa, DeleteIke("none of the children to be reauthenticated came up", failed=True))
        return False

    def failed(self, sa: IkeSA, reason: str) -> None:
        """The new IKE SA is gone; `IkeSA.close` has the old one try again."""


# --- responder


def note_successor(sa: IkeSA) -> None:
    """A second IKE SA of an authenticated peer that has not forgotten the first: probably it is to replace it."""
    older = [
        other
        for other in same_peer(sa)
        if other.name == sa.name and other.state in _STANDING and other.path.remote == sa.path.remote
    ]
    if older:
        old = max(older, key=lambda other: other.authenticated_at or 0.0)
        sa.reauthenticates = old.ike_id
        if old.reauthenticated_by not in sa.core.sas:  # or ours was first
            old.reauthenticated_by = sa.ike_id


def is_carried(sa: IkeSA, choice: ChildChoice) -> bool:
    """The IKE SA that is to be replaced has a child that carries the same: it goes on doing so until the peer uses the new one."""
    old = sa.core.sas.get(sa.reauthenticates or 0)
    if old is None:
        return False
    return any(
        child.state in _CARRYING
        and (child.name, child.local_ts, child.remote_ts) == (choice.config.name, choice.local_ts, choice.remote_ts)
        for child in old.children.values()
    )
