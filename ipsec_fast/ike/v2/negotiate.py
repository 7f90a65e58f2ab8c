"""Choosing a proposal, as responder, and checking the choice, as initiator (RFC 7296 sections 2.7, 3.3).

Pure functions. We choose by our own order: proposal by proposal as configured, transform by transform as configured.
Only tuples that stand in algorithms.py can be chosen, so that a key length that is missing or odd never makes a key. An
unknown transform type loses its proposal, an unknown transform ID or attribute only that transform (section 3.3.6).
Traffic selectors are in narrow.py. Called by the exchanges; every refusal shows both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ...errors import NegotiationError
from ...iana import Esn, Group, Integ, NotifyType, ProtocolId, TransformType, name_of
from ...model import Proposal, Transform
from .narrow import check_narrowed, narrow
from .offer import FIRST_ESP_SPI, SPI_BYTES, TYPES, NoCommonProposal, Offer, is_aead, is_carried

__all__ = [
    "check_chosen",
    "check_narrowed",
    "choose_proposal",
    "narrow",
    "numbered",
    "uses_esn",
    "wanted_group",
    "without_ke",
]

_DEPTHS = {  # the order in which _match looks
    TransformType.ENCR: 1,
    TransformType.INTEG: 2,
    TransformType.PRF: 3,
    TransformType.KE: 4,
    TransformType.ESN: 5,
}
_SHOWN_PROPOSALS = 6
_COMPARED_PROPOSALS = 16  # of ours, for the reasons of a refusal
_SHOWN_TRANSFORMS = 24

_NO_INTEG = Transform(TransformType.INTEG, Integ.NONE)
_NO_KE = Transform(TransformType.KE, Group.NONE)
_NO_ESN = Transform(TransformType.ESN, Esn.NO_ESN)


class _Lost(Exception):
    """Why one proposal does not fit one of ours; never leaves this file. A deeper reason is a nearer miss.

    `reason` may be a function, because few of many misses are shown.
    """

    def __init__(self, reason: str | Callable[[], str], depth: int = 0) -> None:
        super().__init__(reason)
        self._reason = reason
        self.depth = depth

    def __str__(self) -> str:
        return self._reason if isinstance(self._reason, str) else self._reason()


def choose_proposal(
    offered: Sequence[Proposal],
    configured: Sequence[Proposal],
    *,
    spi_bytes: int | None = None,
    groups_allowed: Iterable[int] | None = None,
) -> Proposal:
    """The proposal of `offered` that we take, with its number and SPI and one transform of each type.

    `spi_bytes` is the SPI size a proposal must have: by default 4 for ESP and 0 for IKE; 8 in the rekey of an IKE SA.
    `groups_allowed` narrows our groups further. NegotiationError (NO_PROPOSAL_CHOSEN) where nothing fits.
    """
    allowed = None if groups_allowed is None else frozenset(groups_allowed)
    found = _offer_of(offered).find(configured, spi_bytes, allowed)
    if found is None:
        raise NoCommonProposal(lambda: _refusal(offered, configured, _misses(offered, configured, spi_bytes, allowed)))
    ours, place = found
    theirs = offered[place]
    return replace(theirs, transforms=_match(theirs, configured[ours], spi_bytes, allowed))


_last_offer = Offer(())  # a cache of one: the same offer is matched with one candidate connection after the other


def _offer_of(offered: Sequence[Proposal]) -> Offer:
    global _last_offer
    offer = _last_offer
    if offer.proposals is not offered or not isinstance(offered, tuple):
        _last_offer = offer = Offer(offered)
    return offer


def _misses(
    offered: Sequence[Proposal], configured: Sequence[Proposal], spi_bytes: int | None, allowed: frozenset[int] | None
) -> dict[int, _Lost]:
    """The nearest miss of each offered proposal that is shown, by its place in the offer."""
    misses: dict[int, _Lost] = {}
    for ours in configured[:_COMPARED_PROPOSALS]:
        for place, theirs in enumerate(offered[:_SHOWN_PROPOSALS]):
            try:
                _match(theirs, ours, spi_bytes, allowed)
            except _Lost as lost:
                if place not in misses or lost.depth > misses[place].depth:
                    misses[place] = lost
    return misses


def check_chosen(offered: Sequence[Proposal], chosen: Sequence[Proposal], *, spi_bytes: int | None = None) -> Proposal:
    """The responder's choice, checked: exactly one proposal, of those we offered, one transform of each type.

    A missing ESN transform counts as no ESN. NegotiationError (NO_PROPOSAL_CHOSEN) otherwise.
    """
    try:
        if len(chosen) != 1:
            raise _Lost(f"it holds {len(chosen)} proposals, exactly one was wanted")
        ours = next((p for p in offered if p.number == chosen[0].number), None)
        if ours is None:
            raise _Lost(f"we offered no proposal number {chosen[0].number}")
        _check_one_of_each(ours, chosen[0], spi_bytes)
    except _Lost as lost:
        answer = _shown(chosen) or "nothing"
        text = f"the responder chose what we did not offer: it chose {answer}, we offered {_shown(offered)}; {lost}"
        raise NegotiationError(text, NotifyType.NO_PROPOSAL_CHOSEN) from None
    return chosen[0]


def numbered(proposals: Iterable[Proposal], spi: bytes = b"") -> tuple[Proposal, ...]:
    """Our proposals as they are sent: numbered from 1, each with our SPI."""
    return tuple(replace(p, number=number, spi=spi) for number, p in enumerate(proposals, 1))


def without_ke(proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """The Child proposals of IKE_AUTH, which has no KE payload (RFC 7296 section 1.2)."""
    return tuple(replace(p, transforms=_not_of(p, TransformType.KE)) for p in proposals)


def wanted_group(chosen: Proposal, ke_group: int | None) -> int | None:
    """The group to ask for by INVALID_KE_PAYLOAD, None where the KE payload fits (or none is needed and none came).

    `ke_group` is the group of the request's KE payload, None where it had none.
    """
    transform = chosen.one(TransformType.KE)
    group = transform.id if transform else Group.NONE
    if group == Group.NONE or group == ke_group:
        return None
    return group


def uses_esn(chosen: Proposal) -> bool:
    """Whether the Child SA has extended sequence numbers; a peer that says nothing has none."""
    transform = chosen.one(TransformType.ESN)
    return transform is not None and transform.id == Esn.ESN


# --- one offered proposal against one of ours


def _match(
    theirs: Proposal, ours: Proposal, spi_bytes: int | None, groups: frozenset[int] | None
) -> tuple[Transform, ...]:
    _check_head(theirs, ours.protocol, spi_bytes)
    encr, integ = _pick_cipher(theirs, ours)
    picked = [encr]
    if ours.protocol == ProtocolId.IKE:
        picked.append(_pick(theirs, ours.of(TransformType.PRF), TransformType.PRF))
    picked += integ
    picked += _pick_ke(theirs, ours, groups)
    if ours.protocol == ProtocolId.ESP:
        picked += _pick_esn(theirs, ours)
    return tuple(picked)


def _check_head(theirs: Proposal, protocol: int, spi_bytes: int | None) -> None:
    if theirs.protocol != protocol:
        raise _Lost(f"it is for {name_of(ProtocolId, theirs.protocol)}, not {name_of(ProtocolId, protocol)}")
    wanted = SPI_BYTES.get(protocol, 4) if spi_bytes is None else spi_bytes  # type: ignore[call-overload]
    if len(theirs.spi) != wanted:
        raise _Lost(f"its SPI has {len(theirs.spi)} bytes, {wanted} wanted")
    if wanted and int.from_bytes(theirs.spi, "big") < (FIRST_ESP_SPI if protocol == ProtocolId.ESP else 1):
        raise _Lost(f"its SPI {theirs.spi.hex()} is reserved (RFC 4303 section 2.1, RFC 7296 section 3.1)")
    types = TYPES.get(protocol, ())  # type: ignore[call-overload]
    strange = next((t.type for t in theirs.transforms if t.type not in types), None)
    if strange is not None:
        raise _Lost(f"transform type {name_of(TransformType, strange)} is unknown to us for this protocol")


def _pick_cipher(theirs: Proposal, ours: Proposal) -> tuple[Transform, list[Transform]]:
    """A cipher with its integrity algorithm: none, or NONE if they say so, for an AEAD; a true one for the others."""
    common = [
        t for t in ours.of(TransformType.ENCR) if t in theirs.of(TransformType.ENCR) and is_carried(t, ours.protocol)
    ]
    if not common:
        raise _no_common(TransformType.ENCR, theirs.of(TransformType.ENCR), ours.of(TransformType.ENCR))
    offered = theirs.of(TransformType.INTEG)
    reason: _Lost | None = None
    for encr in common:
        if is_aead(encr):
            if not offered or _NO_INTEG in offered:
                return encr, [_NO_INTEG] if offered else []
            reason = reason or _beside_aead(encr, offered)
            continue
        wanted = [t for t in ours.of(TransformType.INTEG) if t.id != Integ.NONE]
        integ = next((t for t in wanted if t in offered and is_carried(t, ours.protocol)), None)
        if integ is not None:
            return encr, [integ]
        reason = reason or _no_common(TransformType.INTEG, offered, wanted)
    raise reason or _no_common(TransformType.INTEG, offered, ours.of(TransformType.INTEG))


def _pick_ke(theirs: Proposal, ours: Proposal, groups: frozenset[int] | None) -> list[Transform]:
    offered = theirs.of(TransformType.KE)
    wanted = tuple(t for t in ours.of(TransformType.KE) if groups is None or t.id in groups)
    if ours.protocol == ProtocolId.IKE or ours.of(TransformType.KE):
        return [_pick(theirs, wanted, TransformType.KE)]
    if not offered:
        return []
    if _NO_KE in offered:
        return [_NO_KE]
    raise _Lost(f"they insist on a key exchange of its own (PFS) with {_list(offered)}, we allow none", 4)


def _pick_esn(theirs: Proposal, ours: Proposal) -> list[Transform]:
    """The RFC demands a transform of this type; without one, ESN is not offered and there is nothing to echo."""
    offered = theirs.of(TransformType.ESN)
    wanted = ours.of(TransformType.ESN) or (_NO_ESN,)
    if offered:
        return [_pick(theirs, wanted, TransformType.ESN)]
    if _NO_ESN in wanted:
        return []
    raise _no_common(TransformType.ESN, (_NO_ESN,), wanted)


def _pick(theirs: Proposal, wanted: Sequence[Transform], transform_type: TransformType) -> Transform:
    offered = theirs.of(transform_type)
    for transform in wanted:
        if transform in offered and is_carried(transform, theirs.protocol):
            return transform
    raise _no_common(transform_type, offered, wanted)


# --- the answer to what we offered


def _check_one_of_each(ours: Proposal, chosen: Proposal, spi_bytes: int | None) -> None:
    _check_head(chosen, ours.protocol, spi_bytes)
    for transform in chosen.transforms:
        if transform not in ours.transforms and not _is_needless_none(transform, ours):
            raise _Lost(f"we did not offer {transform} in proposal {ours.number}")
    for transform_type in TYPES.get(ours.protocol, ()):  # type: ignore[call-overload]
        count = len(chosen.of(transform_type))
        if count > 1:
            raise _Lost(f"{count} transforms of type {transform_type.name}, one was wanted")
        if not count and _is_needed(transform_type, ours):
            raise _Lost(f"no transform of type {transform_type.name} in it")
    encr, integ = chosen.one(TransformType.ENCR), chosen.one(TransformType.INTEG)
    has_integ = integ is not None and integ.id != Integ.NONE
    if encr is not None and is_aead(encr) == has_integ:
        raise _Lost(f"{encr} with {integ or 'no integrity algorithm'}")


def _is_needless_none(transform: Transform, ours: Proposal) -> bool:
    """INTEG NONE beside an AEAD, or group NONE where we offered no group, say what leaving them out says."""
    return transform in (_NO_INTEG, _NO_KE) and not ours.of(transform.type)


def _is_needed(transform_type: TransformType, ours: Proposal) -> bool:
    offered = ours.of(transform_type)
    if transform_type == TransformType.INTEG:
        return bool(offered) and _NO_INTEG not in offered
    if transform_type == TransformType.ESN:
        return bool(offered) and _NO_ESN not in offered
    return bool(offered)


def _not_of(proposal: Proposal, transform_type: TransformType) -> tuple[Transform, ...]:
    return tuple(t for t in proposal.transforms if t.type != transform_type)


# --- words for the operator


def _no_common(transform_type: TransformType, offered: Sequence[Transform], wanted: Sequence[Transform]) -> _Lost:
    def reason() -> str:
        return f"no common {transform_type.name}: they offered {_list(offered)}, we allow {_list(wanted)}"

    return _Lost(reason, _DEPTHS[transform_type])


def _beside_aead(encr: Transform, offered: Sequence[Transform]) -> _Lost:
    return _Lost(lambda: f"{encr} brings its own ICV, but INTEG {_list(offered)} comes with it", 2)


def _refusal(offered: Sequence[Proposal], configured: Sequence[Proposal], misses: dict[int, _Lost]) -> str:
    protocol = name_of(ProtocolId, configured[0].protocol) if configured else "usable"
    shown = sorted(misses.items())[:_SHOWN_PROPOSALS]
    why = "; ".join(f"proposal {offered[place].number}: {lost}" for place, lost in shown)
    both = f"they offered {_shown(offered) or 'nothing'}, we allow {_shown(configured) or 'nothing'}"
    head = f"no common {protocol} proposal: {both}"
    return f"{head}; {why}" if why else head


def _shown(proposals: Sequence[Proposal]) -> str:
    """Both lists may come from the peer: cut, so that a log line stays a line."""
    shown = [
        f"[{p.number}] {name_of(ProtocolId, p.protocol)}:{_list(p.transforms, '/')}"
        for p in proposals[:_SHOWN_PROPOSALS]
    ]
    left = len(proposals) - _SHOWN_PROPOSALS
    return " ".join(shown) + (f" and {left} more" if left > 0 else "")


def _list(transforms: Sequence[Transform], separator: str = " ") -> str:
    shown = separator.join(_spelled(t) for t in transforms[:_SHOWN_TRANSFORMS])
    left = len(transforms) - _SHOWN_TRANSFORMS
    return (shown or "none") + (f"{separator}and {left} more" if left > 0 else "")


def _spelled(transform: Transform) -> str:
    return f"{transform} (unknown attribute)" if transform.unknown else str(transform)
