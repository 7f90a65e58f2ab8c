"""One row per transform that we carry, and the proposal strings of strongSwan's spelling that name them.

`aes128gcm16-prfsha256-x25519` is an IKE proposal, `aes128gcm16`, `aes128-sha256-esn`, `aes256-sha256-x25519` (PFS) are
ESP proposals. A word may be repeated with other values; the peer picks one of each type. Sizes are in bytes unless the
name says bits. Which engine runs a row is the dataplane's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import AlgorithmError
from .iana import Encr, Esn, Group, Integ, Prf, ProtocolId, TransformType
from .model import Proposal, Transform


@dataclass(frozen=True, slots=True)
class Encryption:
    """A cipher. `key_bytes` is the cipher key, `salt_bytes` follows it in KEYMAT (RFC 4106 section 8.1)."""

    name: str
    id: Encr
    key_bytes: int
    salt_bytes: int
    iv_bytes: int
    icv_bytes: int  # 0: not an AEAD, an integrity algorithm goes with it
    block_bytes: int

    @property
    def is_aead(self) -> bool:
        return self.icv_bytes > 0

    @property
    def keymat_bytes(self) -> int:
        return self.key_bytes + self.salt_bytes


@dataclass(frozen=True, slots=True)
class Integrity:
    name: str
    id: Integ
    key_bytes: int
    icv_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class PrfRow:
    name: str
    id: Prf
    digest: str
    key_bytes: int  # preferred key length and output length, RFC 7296 section 2.13


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A key exchange method; `public_bytes` is the length of the KE payload's data."""

    name: str
    id: Group
    public_bytes: int


ENCRYPTION = (
    Encryption("aes256gcm16", Encr.AES_GCM_16, 32, 4, 8, 16, 4),
    Encryption("aes128gcm16", Encr.AES_GCM_16, 16, 4, 8, 16, 4),
    Encryption("aes256", Encr.AES_CBC, 32, 0, 16, 0, 16),
    Encryption("aes128", Encr.AES_CBC, 16, 0, 16, 0, 16),
)
INTEGRITY = (
    Integrity("sha512", Integ.HMAC_SHA2_512_256, 64, 32, "sha512"),
    Integrity("sha384", Integ.HMAC_SHA2_384_192, 48, 24, "sha384"),
    Integrity("sha256", Integ.HMAC_SHA2_256_128, 32, 16, "sha256"),
)
PRFS = (
    PrfRow("prfsha512", Prf.PRF_HMAC_SHA2_512, "sha512", 64),
    PrfRow("prfsha384", Prf.PRF_HMAC_SHA2_384, "sha384", 48),
    PrfRow("prfsha256", Prf.PRF_HMAC_SHA2_256, "sha256", 32),
)
GROUPS = (
    GroupRow("x25519", Group.CURVE_25519, 32),
    GroupRow("ecp384", Group.ECP_384, 96),
    GroupRow("ecp256", Group.ECP_256, 64),
    GroupRow("modp2048", Group.MODP_2048, 256),
)
GROUP_ALIASES = {"curve25519": "x25519"}
# ESP carries SHA2-256-128 for now; SHA-384 and SHA-512 protect SK{} payloads only
ESP_INTEGRITY = ("sha256",)

_ENCRYPTION = {row.name: row for row in ENCRYPTION} | {
    "aes128gcm": ENCRYPTION[1], "aes256gcm": ENCRYPTION[0], "aes128gcm128": ENCRYPTION[1], "aes256gcm128": ENCRYPTION[0],
    "aes": ENCRYPTION[3],
}  # fmt: skip
_INTEGRITY = {row.name: row for row in INTEGRITY} | {
    "sha2_256": INTEGRITY[2],
    "sha2_384": INTEGRITY[1],
    "sha2_512": INTEGRITY[0],
}
_PRFS = {row.name: row for row in PRFS}
_GROUPS = {row.name: row for row in GROUPS} | {
    alias: row for row in GROUPS for alias, name in GROUP_ALIASES.items() if name == row.name
}


def encryption_by_id(transform_id: int, key_bits: int | None) -> Encryption | None:
    """The row of an ENCR transform, None where we do not carry it."""
    return next((row for row in ENCRYPTION if row.id == transform_id and row.key_bytes * 8 == key_bits), None)


def integrity_by_id(transform_id: int) -> Integrity | None:
    return next((row for row in INTEGRITY if row.id == transform_id), None)


def prf_by_id(transform_id: int) -> PrfRow | None:
    return next((row for row in PRFS if row.id == transform_id), None)


def group_by_id(transform_id: int) -> GroupRow | None:
    return next((row for row in GROUPS if row.id == transform_id), None)


@dataclass(frozen=True, slots=True)
class EspSuite:
    """What an ESP SA runs: `aes128gcm16`, or a cipher with its integrity algorithm, `aes128-sha256`."""

    encryption: Encryption
    integrity: Integrity | None

    @property
    def name(self) -> str:
        return self.encryption.name + (f"-{self.integrity.name}" if self.integrity else "")

    @property
    def keymat_bytes(self) -> int:
        """Cipher key, salt, integrity key: the share of one direction in KEYMAT (RFC 7296 section 2.17)."""
        return self.encryption.keymat_bytes + (self.integrity.key_bytes if self.integrity else 0)

    @property
    def icv_bytes(self) -> int:
        return self.integrity.icv_bytes if self.integrity else self.encryption.icv_bytes


def esp_suite(name: str) -> EspSuite:
    """The suite of a name such as `aes256gcm16` or `aes128-sha256`; AlgorithmError names what we carry."""
    words = name.lower().split("-")
    encryption = _ENCRYPTION.get(words[0])
    integrity = _INTEGRITY.get(words[1]) if len(words) == 2 else None
    known = ", ".join(esp_suite_names())
    if (
        encryption is None
        or len(words) > 2
        or (len(words) == 2 and (integrity is None or integrity.name not in ESP_INTEGRITY))
    ):
        raise AlgorithmError(f"unknown ESP algorithm {name!r}; this version carries {known}")
    if encryption.is_aead and integrity is not None:
        raise AlgorithmError(f"{name!r}: {encryption.name} brings its own ICV, write it without {words[1]}")
    if not encryption.is_aead and integrity is None:
        raise AlgorithmError(f"{name!r}: {encryption.name} alone has no integrity, write {encryption.name}-sha256")
    return EspSuite(encryption, integrity)


def esp_suite_names() -> tuple[str, ...]:
    """Every ESP suite that we carry, strongest first."""
    aead = tuple(row.name for row in ENCRYPTION if row.is_aead)
    return aead + tuple(
        f"{row.name}-{integrity}" for row in ENCRYPTION if not row.is_aead for integrity in ESP_INTEGRITY
    )


def suite_of(proposal: Proposal) -> EspSuite:
    """The suite of a chosen ESP proposal (one transform of each type)."""
    encr = proposal.of(TransformType.ENCR)[0]
    encryption = encryption_by_id(encr.id, encr.key_bits)
    integ = [t for t in proposal.of(TransformType.INTEG) if t.id != Integ.NONE]
    integrity = integrity_by_id(integ[0].id) if integ else None
    if encryption is None or (integ and integrity is None):
        raise AlgorithmError(f"not an ESP proposal that we carry: {proposal}")
    return EspSuite(encryption, integrity)


def parse_ike_proposal(text: str) -> Proposal:
    """`aes128gcm16-prfsha256-x25519` as a Proposal; AlgorithmError says which word is wrong and what would be right."""
    encryption, integrity, prfs, groups, rest = _sort_words(text)
    if rest:
        raise AlgorithmError(f"{text!r}: {rest[0]!r} is no IKE algorithm of ours; {_known_words()}")
    if not encryption:
        raise AlgorithmError(f"{text!r} names no cipher; for example aes128gcm16-prfsha256-x25519")
    _check_aead_mix(text, encryption, integrity)
    if not prfs and not integrity:
        raise AlgorithmError(f"{text!r} names no PRF; an AEAD cipher needs one, for example {text}-prfsha256")
    if not groups:
        raise AlgorithmError(f"{text!r} names no key exchange group; for example {text}-x25519")
    prfs = prfs or [_PRFS["prf" + row.name] for row in integrity]
    transforms = [
        *(Transform(TransformType.ENCR, row.id, row.key_bytes * 8) for row in encryption),
        *(Transform(TransformType.PRF, row.id) for row in prfs),
        *(Transform(TransformType.INTEG, row.id) for row in integrity),
        *(Transform(TransformType.KE, row.id) for row in groups),
    ]
    return Proposal(1, ProtocolId.IKE, b"", tuple(transforms))


def parse_esp_proposal(text: str) -> Proposal:
    """`aes128gcm16`, `aes128-sha256-x25519-esn` as a Proposal. Naming neither `esn` nor `noesn` offers both, ESN first."""
    encryption, integrity, prfs, groups, rest = _sort_words(text)
    esn = [word for word in rest if word in ("esn", "noesn")]
    rest = [word for word in rest if word not in ("esn", "noesn")]
    wrong = rest + [row.name for row in prfs] + [row.name for row in integrity if row.name not in ESP_INTEGRITY]
    if wrong:
        raise AlgorithmError(
            f"{text!r}: {wrong[0]!r} is no ESP algorithm of ours; this version carries {', '.join(esp_suite_names())}"
        )
    if not encryption:
        raise AlgorithmError(f"{text!r} names no cipher; for example aes128gcm16 or aes128-sha256")
    _check_aead_mix(text, encryption, integrity)
    transforms = [
        *(Transform(TransformType.ENCR, row.id, row.key_bytes * 8) for row in encryption),
        *(Transform(TransformType.INTEG, row.id) for row in integrity),
        *(Transform(TransformType.KE, row.id) for row in groups),
        *(Transform(TransformType.ESN, Esn.ESN if word == "esn" else Esn.NO_ESN) for word in (esn or ["esn", "noesn"])),
    ]
    return Proposal(1, ProtocolId.ESP, b"", tuple(transforms))


def default_ike_proposals() -> tuple[Proposal, ...]:
    """What we offer where `proposals` is left out: strongest first, AEAD and non-AEAD apart as RFC 7296 section 3.3 wants."""
    groups = "x25519-ecp384-ecp256-modp2048"
    return (
        parse_ike_proposal(f"aes256gcm16-aes128gcm16-prfsha512-prfsha384-prfsha256-{groups}"),
        parse_ike_proposal(f"aes256-aes128-sha512-sha384-sha256-{groups}"),
    )


def default_esp_proposals() -> tuple[Proposal, ...]:
    """What we offer where `esp_proposals` is left out."""
    return (parse_esp_proposal("aes256gcm16-aes128gcm16"), parse_esp_proposal("aes256-aes128-sha256"))


def _sort_words(text: str) -> tuple[list[Encryption], list[Integrity], list[PrfRow], list[GroupRow], list[str]]:
    encryption: list[Encryption] = []
    integrity: list[Integrity] = []
    prfs: list[PrfRow] = []
    groups: list[GroupRow] = []
    rest: list[str] = []
    for word in text.strip().lower().split("-"):
        if word in _ENCRYPTION:
            encryption.append(_ENCRYPTION[word])
        elif word in _INTEGRITY:
            integrity.append(_INTEGRITY[word])
        elif word in _PRFS:
            prfs.append(_PRFS[word])
        elif word in _GROUPS:
            groups.append(_GROUPS[word])
        else:
            rest.append(word)
    return encryption, integrity, prfs, groups, rest


def _check_aead_mix(text: str, encryption: Iterable[Encryption], integrity: list[Integrity]) -> None:
    aead = [row.name for row in encryption if row.is_aead]
    plain = [row.name for row in encryption if not row.is_aead]
    if aead and plain:
        raise AlgorithmError(
            f"{text!r} mixes {aead[0]} with {plain[0]}; write them as two proposals (RFC 7296 section 3.3)"
        )
    if aead and integrity:
        raise AlgorithmError(f"{text!r}: {aead[0]} brings its own ICV, leave out {integrity[0].name}")
    if plain and not integrity:
        raise AlgorithmError(f"{text!r}: {plain[0]} alone has no integrity, add sha256")


def _known_words() -> str:
    rows = (*ENCRYPTION, *INTEGRITY, *PRFS, *GROUPS)
    return "we carry " + " ".join(row.name for row in rows)
