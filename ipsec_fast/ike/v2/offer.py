"""The offer of a peer, indexed so that a choice costs a few dictionary look-ups for each proposal of ours.

Anybody may send an offer of 64 proposals and 512 transforms, and many connections may have to be asked. The index has
for each transform the set of the peer's proposals that contain it, one bit each. A proposal of ours fits where the sets
of its transform types intersect. No pair of proposals is compared, and no text is built. The rules are those of
negotiate.py, which reads the proposal that is found here and explains a refusal. Called by negotiate.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from ...algorithms import encryption_by_id, group_by_id, integrity_by_id, prf_by_id
from ...errors import NegotiationError
from ...iana import Esn, Group, Integ, NotifyType, ProtocolId, TransformType
from ...model import Proposal, Transform

Key = tuple[int, int, int | None, bool]  # of a transform: type, ID, key length, whether it holds an unknown attribute

# the types that a proposal of a protocol may hold, in the order in which we send them
TYPES = {
    ProtocolId.IKE: (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE),
    ProtocolId.ESP: (TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN),
}
SPI_BYTES = {ProtocolId.IKE: 0, ProtocolId.ESP: 4}
FIRST_ESP_SPI = 256
_NO_INTEG: Key = (TransformType.INTEG, Integ.NONE, None, False)
_NO_KE: Key = (TransformType.KE, Group.NONE, None, False)
_NO_ESN: Key = (TransformType.ESN, Esn.NO_ESN, None, False)


class NoCommonProposal(NegotiationError):
    """NO_PROPOSAL_CHOSEN. Its text shows both sides and is built when it is read, since few refusals are logged."""

    def __init__(self, explain: Callable[[], str]) -> None:
        super().__init__("no common proposal", NotifyType.NO_PROPOSAL_CHOSEN)
        self._explain = explain

    def __str__(self) -> str:
        return self._explain()


class Wanted:
    """One proposal of ours as keys, without transforms that we do not carry."""

    def __init__(self, ours: Proposal) -> None:
        carried = [t for t in ours.transforms if is_carried(t, ours.protocol)]
        ciphers = [t for t in carried if t.type == TransformType.ENCR]
        self.protocol = ours.protocol
        self.aeads = [_key(t) for t in ciphers if is_aead(t)]
        self.ciphers = [_key(t) for t in ciphers if not is_aead(t)]
        self.integrity = [_key(t) for t in carried if t.type == TransformType.INTEG and t.id != Integ.NONE]
        self.prfs = [_key(t) for t in carried if t.type == TransformType.PRF]
        self.groups = [_key(t) for t in carried if t.type == TransformType.KE]
        self.has_groups = bool(ours.of(TransformType.KE))
        self.esns = [_key(t) for t in carried if t.type == TransformType.ESN] or [_NO_ESN]


@lru_cache(maxsize=1024)
def wanted(ours: Proposal) -> Wanted:
    return Wanted(ours)


class Offer:
    """The proposals of one SA payload."""

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        self.proposals = proposals
        self._holders: dict[Key, int] = {}  # by transform: the proposals that contain it
        self._typed: dict[int, int] = {}  # by transform type: the proposals that contain any transform of it
        self._heads: dict[tuple[int, int | None], int] = {}
        self._found: dict[
            tuple[int, int | None, frozenset[int] | None], tuple[Sequence[Proposal], int | None, int]
        ] = {}
        for place, proposal in enumerate(proposals):
            self._add(proposal, 1 << place)

    def find(
        self, configured: Sequence[Proposal], spi_bytes: int | None, groups: frozenset[int] | None
    ) -> tuple[int, int] | None:
        """The index of our first proposal that fits any of theirs, and the index of the first one that it fits."""
        key = (id(configured), spi_bytes, groups)
        known = self._found.get(key)  # many connections share a list, so each list is matched once
        if known is None:
            known = (configured, *self._find(configured, spi_bytes, groups))
            self._found[key] = known  # keeps `configured` alive, so that its id is not used again
        _, ours, theirs = known
        return None if ours is None else (ours, theirs)

    def _find(
        self, configured: Sequence[Proposal], spi_bytes: int | None, groups: frozenset[int] | None
    ) -> tuple[int | None, int]:
        for ours, proposal in enumerate(configured):
            fitting = self._fitting(wanted(proposal), spi_bytes, groups)
            if fitting:
                return ours, (fitting & -fitting).bit_length() - 1
        return None, 0

    def _fitting(self, ours: Wanted, spi_bytes: int | None, groups: frozenset[int] | None) -> int:
        """The set of their proposals that this one of ours fits."""
        fitting = self._with_head(ours.protocol, spi_bytes) & self._with_cipher(ours)
        if fitting and ours.protocol == ProtocolId.IKE:
            fitting &= self._with_any(ours.prfs)
        if fitting:
            fitting &= self._with_group(ours, groups)
        if fitting and ours.protocol == ProtocolId.ESP:
            silent = ~self._typed.get(TransformType.ESN, 0) if _NO_ESN in ours.esns else 0
            fitting &= self._with_any(ours.esns) | silent
        return fitting

    def _with_head(self, protocol: int, spi_bytes: int | None) -> int:
        key = (protocol, spi_bytes)
        if key not in self._heads:
            good = (place for place, one in enumerate(self.proposals) if has_good_head(one, protocol, spi_bytes))
            self._heads[key] = sum(1 << place for place in good)
        return self._heads[key]

    def _with_cipher(self, ours: Wanted) -> int:
        """The proposals with an AEAD and no integrity algorithm or NONE, or with another cipher and a real one."""
        no_integrity = ~self._typed.get(TransformType.INTEG, 0) | self._holders.get(_NO_INTEG, 0)
        found = self._with_any(ours.aeads) & no_integrity
        if ours.ciphers:
            found |= self._with_any(ours.ciphers) & self._with_any(ours.integrity)
        return found

    def _with_group(self, ours: Wanted, groups: frozenset[int] | None) -> int:
        if ours.protocol == ProtocolId.IKE or ours.has_groups:
            return self._with_any(key for key in ours.groups if groups is None or key[1] in groups)
        return ~self._typed.get(TransformType.KE, 0) | self._holders.get(_NO_KE, 0)

    def _with_any(self, keys: Iterable[Key]) -> int:
        found = 0
        for key in keys:
            found |= self._holders.get(key, 0)
        return found

    def _add(self, proposal: Proposal, bit: int) -> None:
        holders, typed = self._holders, self._typed
        for transform in proposal.transforms:
            key = (transform.type, transform.id, transform.key_bits, transform.unknown)
            holders[key] = holders.get(key, 0) | bit
            typed[transform.type] = typed.get(transform.type, 0) | bit


def has_good_head(proposal: Proposal, protocol: int, spi_bytes: int | None) -> bool:
    """Whether a proposal is of this protocol, with a valid SPI and without unknown transform types."""
    wanted_bytes = SPI_BYTES.get(protocol, 4) if spi_bytes is None else spi_bytes  # type: ignore[call-overload]
    if proposal.protocol != protocol or len(proposal.spi) != wanted_bytes:
        return False
    least = FIRST_ESP_SPI if protocol == ProtocolId.ESP else 1
    if wanted_bytes and int.from_bytes(proposal.spi, "big") < least:
        return False
    types = TYPES.get(protocol, ())  # type: ignore[call-overload]
    return all(transform.type in types for transform in proposal.transforms)


def is_carried(transform: Transform, protocol: int) -> bool:
    """Whether algorithms.py has exactly this tuple for the protocol, so that odd
    key lengths and private IDs are refused.
    """
    is_ike = protocol == ProtocolId.IKE
    if transform.type == TransformType.ENCR:
        cipher = encryption_by_id(transform.id, transform.key_bits)
        return cipher is not None and not transform.unknown and (cipher.in_ike or not is_ike)
    if transform.key_bits is not None or transform.unknown:
        return False
    if transform.type == TransformType.PRF:
        return prf_by_id(transform.id) is not None
    if transform.type == TransformType.INTEG:
        integrity = integrity_by_id(transform.id)
        return integrity is not None and (integrity.in_ike or not is_ike)
    if transform.type == TransformType.KE:
        return group_by_id(transform.id) is not None
    return transform.id in (Esn.NO_ESN, Esn.ESN)


def is_aead(transform: Transform) -> bool:
    row = encryption_by_id(transform.id, transform.key_bits)
    return row is not None and row.is_aead


def _key(transform: Transform) -> Key:
    return transform.type, transform.id, transform.key_bits, transform.unknown
