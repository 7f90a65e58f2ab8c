"""The keys of one IKE SA and what seals and opens its messages (RFC 7296 sections 2.13-2.18).

The derivations themselves stand in crypto/prf; here the algorithms of the chosen proposal meet them. A SK{} IV of an
AEAD is a 64-bit counter per direction, never used twice and stored ahead in blocks (ARCHITECTURE.md, rule 1); for CBC
it is random. Called by sa_init, rekey_ike and child_setup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...algorithms import Encryption, Integrity, PrfRow, encryption_by_id, integrity_by_id, prf_by_id
from ...crypto.prf import IkeKeys, derive_child_keys, derive_ike_keys, derive_ike_rekey_keys
from ...crypto.seal import Sealer
from ...crypto.secret import Secret
from ...errors import AlgorithmError, ParseError
from ...iana import Integ, TransformType
from ...model import Proposal
from .collide import Nonces

IV_BLOCK = 1 << 12


@dataclass(frozen=True, slots=True)
class IkeSuite:
    encryption: Encryption
    integrity: Integrity | None
    prf: PrfRow
    group: int


def ike_suite_of(proposal: Proposal) -> IkeSuite:
    """The algorithms of a chosen IKE proposal; AlgorithmError for what we do not carry."""
    encr, prf = proposal.one(TransformType.ENCR), proposal.one(TransformType.PRF)
    integ, group = proposal.one(TransformType.INTEG), proposal.one(TransformType.KE)
    encryption = encryption_by_id(encr.id, encr.key_bits) if encr else None
    integrity = integrity_by_id(integ.id) if integ and integ.id != Integ.NONE else None
    row = prf_by_id(prf.id) if prf else None
    if encryption is None or row is None or group is None or encryption.is_aead == (integrity is not None):
        raise AlgorithmError(f"not an IKE proposal that we carry: {proposal}")
    if not encryption.in_ike or not (integrity is None or integrity.in_ike):
        raise AlgorithmError(f"not an IKE proposal that we carry: {proposal}")
    return IkeSuite(encryption, integrity, row, group.id)


def check_nonces(prf: PrfRow, nonces: Nonces) -> None:
    """ParseError for a nonce shorter than half the key of the negotiated PRF, which is known only now (section 2.10)."""
    least, shortest = prf.key_bytes // 2, min(len(nonces.ni), len(nonces.nr))
    if shortest < least:
        raise ParseError(f"a nonce of {shortest} bytes; with {prf.name} at least {least} are wanted (section 2.10)")


class IkeKeymat:
    """Keys and both sealers of one IKE SA; `initiator` is of the IKE SA (I flag, SK_*i or SK_*r).

    `first_iv`: the `iv_end` that was stored, so that what went out before a crash is not met again.
    """

    def __init__(
        self, suite: IkeSuite, keys: IkeKeys, *, initiator: bool, random: Callable[[int], bytes], first_iv: int = 0
    ) -> None:
        self.suite = suite
        self.keys = keys
        self._random = random
        out_e, in_e = (keys.sk_ei, keys.sk_er) if initiator else (keys.sk_er, keys.sk_ei)
        out_a, in_a = (keys.sk_ai, keys.sk_ar) if initiator else (keys.sk_ar, keys.sk_ai)
        self.outbound = _sealer(suite, out_e, out_a)
        self.inbound = _sealer(suite, in_e, in_a)
        self.own_sk_p, self.peer_sk_p = (keys.sk_pi, keys.sk_pr) if initiator else (keys.sk_pr, keys.sk_pi)
        self._next_iv = self.iv_end = first_iv

    def next_iv(self) -> bytes:
        """For one message of ours. Whoever sends it stores `iv_end` before it leaves."""
        if not self.suite.encryption.is_aead:
            return self._random(self.outbound.iv_bytes)
        if self._next_iv == self.iv_end:
            self.iv_end += IV_BLOCK
        iv = self._next_iv
        self._next_iv += 1
        return iv.to_bytes(8, "big")

    def child_keys(self, shared: Secret | None, nonces: Nonces, length: int) -> tuple[Secret, Secret]:
        """(initiator to responder, responder to initiator) of the exchange that makes the Child SA."""
        check_nonces(self.suite.prf, nonces)
        return derive_child_keys(self.suite.prf.id, self.keys.sk_d, shared, nonces.ni, nonces.nr, length)

    def close(self) -> None:
        self.outbound.close()
        self.inbound.close()
        self.keys.close()


def _sealer(suite: IkeSuite, sk_e: Secret, sk_a: Secret) -> Sealer:
    key_bits = suite.encryption.key_bytes * 8
    if suite.integrity is None:
        return Sealer(suite.encryption.id, key_bits, sk_e, None, None)
    return Sealer(suite.encryption.id, key_bits, sk_e, suite.integrity.id, sk_a)


def first_keys(suite: IkeSuite, shared: Secret, nonces: Nonces, spi_i: bytes, spi_r: bytes) -> IkeKeys:
    """Section 2.14."""
    check_nonces(suite.prf, nonces)
    integ_bytes = suite.integrity.key_bytes if suite.integrity else 0
    encr_bytes = suite.encryption.keymat_bytes
    return derive_ike_keys(suite.prf.id, shared, nonces.ni, nonces.nr, spi_i, spi_r, encr_bytes, integ_bytes)


def rekeyed_keys(
    suite: IkeSuite, old: IkeKeymat, shared: Secret, nonces: Nonces, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """Section 2.18: SKEYSEED by the old SA's PRF and SK_d."""
    check_nonces(suite.prf, nonces)
    check_nonces(old.suite.prf, nonces)
    integ_bytes = suite.integrity.key_bytes if suite.integrity else 0
    encr_bytes = suite.encryption.keymat_bytes
    new_prf, old_prf, sk_d = suite.prf.id, old.suite.prf.id, old.keys.sk_d
    ni, nr = nonces.ni, nonces.nr
    return derive_ike_rekey_keys(new_prf, old_prf, sk_d, shared, ni, nr, spi_i, spi_r, encr_bytes, integ_bytes)
