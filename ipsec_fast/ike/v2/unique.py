"""How many IKE SAs one peer has with us: INITIAL_CONTACT, the `unique` policy, a bound, and what a replacement replaces.

RFC 7296 section 2.4; the policy means what strongSwan's does. A peer is a pair of identities. Two IKE SAs that both sides began at
the same time end as one: that with the lower initiator's SPI is deleted by its initiator, or later by the other side, if its
children are children of the other too. Called by ike_auth and the endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import NegotiationError
from ...iana import NotifyType
from ..config import Unique
from ..timers import TimerKind
from .ike_sa import IkeSA
from .informational import DeleteIke
from .outbound import submit
from .states import State

REAUTH_S = (
    10.0  # from the same address and port it looks like a reauthentication, whose initiator deletes the old one itself
)
OWN_DUPLICATE_S, PEERS_DUPLICATE_S = 1.0, 6.0
_STANDING = (State.ESTABLISHED, State.REKEYING)


def same_peer(sa: IkeSA) -> Iterator[IkeSA]:
    """The other authenticated IKE SAs between these identities; where any identity may answer us, with that address."""
    for other in sa.core.with_peer(sa):
        if other is sa or other.established_at is None or other.local_id != sa.local_id or other.remote_id is None:
            continue
        if other.path.remote == sa.path.remote if sa.remote_id is None else other.remote_id.matches(sa.remote_id):
            yield other


# --- initiator


def is_first_contact(sa: IkeSA) -> bool:
    """No IKE SA of ours stands between these identities; one whose peer is silent is none, and goes when the new one stands."""
    return sa.config.unique is not Unique.NEVER and all(other.silent_since is not None for other in same_peer(sa))


# --- responder


def admit(sa: IkeSA, *, initial_contact: bool) -> None:
    """NegotiationError where the authenticated peer may not have this one too."""
    others = list(same_peer(sa))
    _admit_to_connection(sa, len(others))
    if initial_contact and sa.config.unique is not Unique.NEVER:
        return  # the others go
    most = sa.core.settings.ike_sas_per_peer
    if len(others) >= most:
        text = f"{sa.remote_id} has {len(others)} IKE SAs already, {most} are the most"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
    if sa.config.unique is not Unique.KEEP:
        return
    for other in others:
        if (
            other.name == sa.name
            and other.state in _STANDING
            and other.silent_since is None
            and not _same_place(sa, other)
        ):
            text = f"unique = keep: {sa.remote_id} has an IKE SA already, at {other.path.remote}"
            raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)


def _admit_to_connection(sa: IkeSA, others: int) -> None:
    """Where more than one identity will do, one holder of the secret could invent any number of peers."""
    most = sa.core.settings.ike_sas_per_connection
    if sa.config.takes_many and not others and sa.core.count_anybody(sa.name) >= most:
        text = f"connection {sa.name}, whose peers may have any identity, has {most} IKE SAs already, the most"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)


def _same_place(sa: IkeSA, other: IkeSA) -> bool:
    return (sa.path.remote, sa.path.remote_port) == (other.path.remote, other.path.remote_port)


# --- both, when it is established


def settle(sa: IkeSA, *, initial_contact: bool) -> None:
    """What becomes of the peer's other IKE SAs."""
    policy = sa.config.unique
    if initial_contact and policy is not Unique.NEVER:
        for other in same_peer(sa):  # the peer has forgotten everything: without a word to it
            other.close("replaced: the peer sent INITIAL_CONTACT", failed=False, by_peer=True)
    for other in same_peer(sa):
        if other.ike_id in sa.displaces:  # our INITIAL_CONTACT has declared it dead
            other.close("replaced: its peer had fallen silent", failed=False)
        elif other.name != sa.name or other.state not in _STANDING:
            continue
        elif _takes_over(sa, other):
            text = f"{sa.remote_id} has an IKE SA at {other.path.remote} too; traffic for the same networks goes to the newer one"
            sa.progress(f"{text}. If those are two hosts, give each an identity of its own", level=0)
        elif other.silent_since is not None:
            submit(other, DeleteIke("replaced: its peer had fallen silent"))
        elif policy is Unique.REPLACE and not sa.initiator:
            _replace(sa, other)
        elif policy is not Unique.NEVER and _crosses(sa, other):
            _watch_duplicate(sa, other)


def _takes_over(sa: IkeSA, other: IkeSA) -> bool:
    """Whether the other IKE SA stays and has another address: a host that has moved, or two hosts with one identity."""
    ends = sa.config.unique is Unique.REPLACE or other.silent_since is not None or _crosses(sa, other)
    return not sa.initiator and not ends and not _same_place(sa, other)


def _replace(sa: IkeSA, other: IkeSA) -> None:
    if _same_place(sa, other):
        other.set_timer(TimerKind.EXPIRE, REAUTH_S)
    else:
        submit(other, DeleteIke("replaced: unique = replace"))


# --- both sides began at once


def _crosses(sa: IkeSA, other: IkeSA) -> bool:
    """Neither stood yet when the other was begun, and the two have different initiators of their first exchange."""
    if sa.authenticated_at is None or other.authenticated_at is None or sa.began_here == other.began_here:
        return False
    return sa.created_at < other.authenticated_at and other.created_at < sa.authenticated_at


def _watch_duplicate(sa: IkeSA, other: IkeSA) -> None:
    loser = min(sa, other, key=lambda one: one.spi_i)
    loser.set_timer(TimerKind.DUPLICATE, OWN_DUPLICATE_S if loser.began_here else PEERS_DUPLICATE_S)


def end_duplicate(sa: IkeSA) -> None:
    """Time to delete the loser, if the winner still stands and carries all that this one does."""
    if sa.state is not State.ESTABLISHED:
        return
    wanted = {(child.local_ts, child.remote_ts) for child in sa.children.values()}
    for other in same_peer(sa):
        carried = {(child.local_ts, child.remote_ts) for child in other.children.values()}
        is_winner = other.state in _STANDING and other.silent_since is None and _crosses(sa, other)
        if is_winner and wanted <= carried:
            sa.reauthenticated_by = other.ike_id  # what is under way on its children is received for their grace
            submit(sa, DeleteIke("redundant: both sides had begun one"))
            return
