"""Which Child SAs are one group of RFC 9611: the same traffic, one for each resource (a CPU, a worker), and a fallback that all may use.

The first Child SA of a group is the fallback; whoever sends SA_RESOURCE_INFO again for the same selectors adds one that belongs to a
single resource. Pure questions about an IKE SA; create_resource.py asks for more, create_child_answer.py grants or refuses.
What the notify's data says (section 5.1: opaque, for debugging) is shown in the log and used for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...algorithms import suite_of
from ...errors import NegotiationError
from ...iana import Esn, Integ, NotifyType, TransformType
from ...model import Proposal, TrafficSelector, Transform
from ..config import ChildConfig
from .child_sa import ChildSA, Place
from .negotiate import uses_esn
from .payloads import NotifyPayload
from .states import ChildState

if TYPE_CHECKING:
    from .ike_sa import IkeSA

Selectors = tuple[TrafficSelector, ...]
RESOURCES_MAX = 64  # that we ask for, of one group
LEAST_LIMIT = 16  # section 6: at least twice our CPUs are let in; a peer may have many more of them than we
DATA_SHOWN_BYTES = 16
STANDING = (ChildState.INSTALLING, ChildState.INSTALLED, ChildState.REKEYING)


def speaks(sa: IkeSA, config: ChildConfig) -> bool:
    """Whether this child of ours may become a group: as configured, otherwise where we have several resources."""
    return sa.core.settings.resources > 1 if config.per_resource is None else config.per_resource


def limit_of(sa: IkeSA, config: ChildConfig) -> int:
    """How many per-resource Child SAs both sides together may have in one group."""
    return config.per_resource_max or min(max(LEAST_LIMIT, 2 * sa.core.settings.resources + 2), RESOURCES_MAX)


# --- who is in a group


def group_of(sa: IkeSA, config: ChildConfig, local_ts: Selectors, remote_ts: Selectors) -> Iterator[ChildSA]:
    """The Child SAs that stand for this traffic, the fallback among them; not those that are replaced or being deleted."""
    wanted = (config.name, frozenset(local_ts), frozenset(remote_ts))
    for child in sa.children.values():
        known = (child.name, frozenset(child.local_ts), frozenset(child.remote_ts))
        if child.place.in_group and child.state in STANDING and not child.is_redundant and known == wanted:
            yield child


def fallback_of(sa: IkeSA, config: ChildConfig, local_ts: Selectors, remote_ts: Selectors) -> ChildSA | None:
    found = group_of(sa, config, local_ts, remote_ts)
    return next((child for child in found if child.resource is None and child.state is not ChildState.INSTALLING), None)


def has_fallback(sa: IkeSA, config: ChildConfig) -> bool:
    """The fallback of a group of this child stands, for whatever selectors."""
    named = (child for child in sa.children.values() if child.name == config.name and child.resource is None)
    return any(child.place.in_group and child.state in STANDING for child in named)


# --- as responder of the exchange


def admit(sa: IkeSA, fallback: ChildSA) -> Place:
    """The resource of one more in this group: the one that has the fewest (section 4).

    At the limit NegotiationError with TS_MAX_QUEUE: NO_ADDITIONAL_SAS would speak for other traffic too (section 6).
    """
    members = list(group_of(sa, fallback.config, fallback.local_ts, fallback.remote_ts))
    count, limit = len([child for child in members if child.resource is not None]), limit_of(sa, fallback.config)
    if count >= limit:
        sa.core.counters["resource_children_refused"] += 1
        text = f"child {fallback.name} has {count} per-resource SAs, {limit} are the most"
        raise NegotiationError(text, NotifyType.TS_MAX_QUEUE)
    used = Counter(child.resource for child in members)
    used.update(asked_for(sa, fallback))
    return Place(True, min(range(sa.core.settings.resources), key=lambda resource: used[resource]))


def asked_for(sa: IkeSA, fallback: ChildSA) -> Iterator[int]:
    """The resources that requests of ours, sent or waiting, are to serve."""
    for exchange in (sa.active, *sa.queue, *sa.put_off):
        if exchange is not None and (resource := exchange.resource_for(fallback)) is not None:
            yield resource


# --- what must be the same in a group (section 3)


def is_alike(proposal: Proposal, child: ChildSA) -> bool:
    """A chosen proposal gives what the Child SA has: algorithms and kind of sequence numbers."""
    return suite_of(proposal) == child.suite and uses_esn(proposal) == child.esn


def alike(proposals: tuple[Proposal, ...], child: ChildSA) -> tuple[Proposal, ...]:
    """Of proposals with alternatives, what leads to the algorithms of this Child SA; the group of a key exchange is free."""
    narrowed = (replace(one, transforms=tuple(t for t in one.transforms if _is_used(t, child))) for one in proposals)
    return tuple(new for new, old in zip(narrowed, proposals, strict=True) if _kinds(new) == _kinds(old))


def _is_used(transform: Transform, child: ChildSA) -> bool:
    cipher, integrity = child.suite.encryption, child.suite.integrity
    match transform.type:
        case TransformType.ENCR:
            return (transform.id, transform.key_bits) == (cipher.id, cipher.key_bits)
        case TransformType.INTEG:
            return transform.id == (integrity.id if integrity else Integ.NONE)
        case TransformType.ESN:
            return transform.id == (Esn.ESN if child.esn else Esn.NO_ESN)
    return True


def _kinds(proposal: Proposal) -> frozenset[int]:
    return frozenset(t.type for t in proposal.transforms)


# --- the notify


def info(resource: int | None) -> NotifyPayload:
    """What we say of ours: nothing of a fallback, four bytes of a resource's number otherwise."""
    return NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"" if resource is None else resource.to_bytes(4, "big"))


def shown(notify: NotifyPayload) -> str:
    """The peer's identifier, for the log."""
    if not notify.data:
        return "no identifier"
    dots = "..." if len(notify.data) > DATA_SHOWN_BYTES else ""
    return f"identifier 0x{notify.data[:DATA_SHOWN_BYTES].hex()}{dots}"
