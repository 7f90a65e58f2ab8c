"""Crossing exchanges (RFC 7296 sections 2.8.1, 2.8.2 and 2.25) as pure functions: who gives way, and with which notify.

Nothing here knows an IKE SA or sends anything; create_child, rekey_ike and informational ask and act.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ...iana import NotifyType


@dataclass(frozen=True, slots=True)
class Nonces:
    """The two nonces of one CREATE_CHILD_SA exchange."""

    ni: bytes
    nr: bytes

    @property
    def lowest(self) -> bytes:
        return min(self.ni, self.nr)  # octet by octet; where one is the other's beginning, the shorter is lower


def own_is_redundant(own: Nonces, peers: Nonces) -> bool:
    """Two crossing rekeys made two SAs: is it the one that we initiated which its creator, we, must close?"""
    return own.lowest < peers.lowest


class Doing(Enum):
    """What an IKE SA of ours is doing when a CREATE_CHILD_SA request comes in."""

    NOTHING = auto()
    CHANGING_CHILDREN = auto()  # an own request that makes, rekeys or deletes a Child SA is outstanding
    REKEYING_IKE = auto()  # an own IKE rekey request is outstanding
    REKEYED = auto()  # another IKE SA has taken its place
    CLOSING = auto()


class ChildDoing(Enum):
    """What the Child SA is doing that a request wants to rekey."""

    NOTHING = auto()
    REKEYING = auto()  # our own rekey of it is outstanding: the crossing is settled by the nonces
    REPLACED = auto()  # it has been rekeyed already
    CLOSING = auto()
    GONE = auto()


def refuse_new_child(doing: Doing) -> NotifyType | None:
    """Section 2.25.2: no new Child SAs on an IKE SA that is being replaced or closed."""
    return NotifyType.TEMPORARY_FAILURE if doing in (Doing.REKEYING_IKE, Doing.REKEYED, Doing.CLOSING) else None


def refuse_child_rekey(doing: Doing, child: ChildDoing) -> NotifyType | None:
    """Section 2.25.1: an unknown Child SA first, since the peer may then forget it at once."""
    if child is ChildDoing.GONE:
        return NotifyType.CHILD_SA_NOT_FOUND
    if child in (ChildDoing.CLOSING, ChildDoing.REPLACED):
        return NotifyType.TEMPORARY_FAILURE
    return refuse_new_child(doing)


def refuse_ike_rekey(doing: Doing, half_made_children: bool) -> NotifyType | None:
    """Section 2.25.2: an IKE rekey waits for the Child exchanges under way; against our own rekey it is settled by the nonces."""
    if half_made_children or doing in (Doing.CHANGING_CHILDREN, Doing.REKEYED, Doing.CLOSING):
        return NotifyType.TEMPORARY_FAILURE
    return None
