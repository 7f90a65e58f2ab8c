"""One row per transform that we carry, and the proposal strings of strongSwan's spelling that name them.

`aes128gcm16-prfsha256-x25519` is an IKE proposal, `aes128gcm16`, `aes128-sha256-esn`, `aes256-sha256-x25519` (PFS) are
ESP proposals. A word may be repeated with other values; the peer picks one of each type. What strongSwan leaves out of
a proposal is left out here: integrity next to an AEAD (in IKE it names the PRF), a PRF in ESP. Sizes are in bytes unless
the name says bits. Which engine runs a row is the dataplane's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .errors import AlgorithmError
from .iana import Encr, Esn, Group, Integ, Prf, ProtocolId, TransformType
from .model import Proposal, Transform


class Mode(Enum):
    """How a cipher runs, and thereby what its IV is and what goes with it."""

    GCM = "gcm"
    CCM = "ccm"
    CHACHA20 = "chacha20poly1305"
    GMAC = "gmac"  # authenticates alone, RFC 4543
    CBC = "cbc"
    CTR = "ctr"
    NULL = "null"


AEAD_MODES = frozenset({Mode.GCM, Mode.CCM, Mode.CHACHA20, Mode.GMAC})


@dataclass(frozen=True, slots=True)
class Encryption:
    """A cipher. `key_bytes` is the cipher key, `salt_bytes` follows it in KEYMAT (RFC 4106 section 8.1).

    `iv_bytes` is what stands in the packet: 0 too where the IV is implicit (RFC 8750). `in_ike`: SK{} payloads can use it.
    """

    name: str
    id: Encr
    mode: Mode
    key_bytes: int
    salt_bytes: int
    iv_bytes: int
    icv_bytes: int  # 0: not an AEAD, an integrity algorithm goes with it
    block_bytes: int
    in_ike: bool = False

    @property
    def is_aead(self) -> bool:
        return self.mode in AEAD_MODES

    @property
    def keymat_bytes(self) -> int:
        return self.key_bytes + self.salt_bytes

    @property
    def key_bits(self) -> int | None:
        """The Key Length attribute (RFC 7296 section 3.3.5); None where there is only one length, and no attribute."""
        return None if self.mode in (Mode.CHACHA20, Mode.NULL) else self.key_bytes * 8


@dataclass(frozen=True, slots=True)
class Integrity:
    """`digest` names the hash of an HMAC, or the MAC itself. `is_weak`: carried because peers need it, warned about when configured."""

    name: str
    id: Integ
    key_bytes: int
    icv_bytes: int
    digest: str
    in_ike: bool = False
    is_weak: bool = False


@dataclass(frozen=True, slots=True)
class PrfRow:
    name: str
    id: Prf
    digest: str
    key_bytes: int  # preferred key length and output length, RFC 7296 section 2.13
    is_weak: bool = False


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A key exchange method; `public_bytes` is the length of the KE payload's data.

    `is_weak`: RFC 8247 section 2.4 advises against it; a connection must allow it.
    """

    name: str
    id: Group
    public_bytes: int
    is_weak: bool = False


def _aes(
    name: str,
    id: Encr,
    mode: Mode,
    salt_bytes: int,
    iv_bytes: int,
    icv_bytes: int = 0,
    *,
    block_bytes: int = 4,
    ike: str = "",
) -> tuple[Encryption, ...]:
    """A row for each key length, strongest first; `{}` in the name is the key length, `ike` those that SK{} payloads know."""
    return tuple(
        Encryption(
            name.format(bits),
            id,
            mode,
            bits // 8,
            salt_bytes,
            iv_bytes,
            icv_bytes,
            block_bytes,
            str(bits) in ike.split(),
        )
        for bits in (256, 192, 128)
    )


# strongest first; what is offered where nothing is configured stands in default_*_proposals
ENCRYPTION = (
    *_aes("aes{}gcm16", Encr.AES_GCM_16, Mode.GCM, 4, 8, 16, ike="256 192 128"),
    *_aes("aes{}gcm12", Encr.AES_GCM_12, Mode.GCM, 4, 8, 12),
    *_aes("aes{}gcm8", Encr.AES_GCM_8, Mode.GCM, 4, 8, 8),
    *_aes("aes{}gcm16iiv", Encr.AES_GCM_16_IIV, Mode.GCM, 4, 0, 16),
    Encryption("chacha20poly1305", Encr.CHACHA20_POLY1305, Mode.CHACHA20, 32, 4, 8, 16, 4, in_ike=True),
    Encryption("chacha20poly1305iiv", Encr.CHACHA20_POLY1305_IIV, Mode.CHACHA20, 32, 4, 0, 16, 4),
    *_aes("aes{}ccm16", Encr.AES_CCM_16, Mode.CCM, 3, 8, 16),
    *_aes("aes{}ccm12", Encr.AES_CCM_12, Mode.CCM, 3, 8, 12),
    *_aes("aes{}ccm8", Encr.AES_CCM_8, Mode.CCM, 3, 8, 8),
    *_aes("aes{}ccm8iiv", Encr.AES_CCM_8_IIV, Mode.CCM, 3, 0, 8),
    *_aes("aes{}gmac", Encr.NULL_AES_GMAC, Mode.GMAC, 4, 8, 16),
    *_aes("aes{}", Encr.AES_CBC, Mode.CBC, 0, 16, block_bytes=16, ike="256 192 128"),
    *_aes("aes{}ctr", Encr.AES_CTR, Mode.CTR, 4, 8),
    Encryption("null", Encr.NULL, Mode.NULL, 0, 0, 0, 0, 4),
)
INTEGRITY = (
    Integrity("sha512", Integ.HMAC_SHA2_512_256, 64, 32, "sha512", in_ike=True),
    Integrity("sha384", Integ.HMAC_SHA2_384_192, 48, 24, "sha384", in_ike=True),
    Integrity("sha256", Integ.HMAC_SHA2_256_128, 32, 16, "sha256", in_ike=True),
    Integrity("aescmac", Integ.AES_CMAC_96, 16, 12, "cmac"),
    Integrity("aesxcbc", Integ.AES_XCBC_96, 16, 12, "xcbc"),
    Integrity("sha1", Integ.HMAC_SHA1_96, 20, 12, "sha1", in_ike=True, is_weak=True),
)
PRFS = (
    PrfRow("prfsha512", Prf.PRF_HMAC_SHA2_512, "sha512", 64),
    PrfRow("prfsha384", Prf.PRF_HMAC_SHA2_384, "sha384", 48),
    PrfRow("prfsha256", Prf.PRF_HMAC_SHA2_256, "sha256", 32),
    PrfRow("prfsha1", Prf.PRF_HMAC_SHA1, "sha1", 20, is_weak=True),
)
GROUPS = (
    GroupRow("x25519", Group.CURVE_25519, 32),
    GroupRow("ecp521", Group.ECP_521, 132),
    GroupRow("ecp384", Group.ECP_384, 96),
    GroupRow("ecp256", Group.ECP_256, 64),
    GroupRow("modp4096", Group.MODP_4096, 512),
    GroupRow("modp3072", Group.MODP_3072, 384),
    GroupRow("modp2048", Group.MODP_2048, 256),
    GroupRow("modp1536", Group.MODP_1536, 192, is_weak=True),
    GroupRow("modp1024", Group.MODP_1024, 128, is_weak=True),
)
GROUP_ALIASES = {"curve25519": "x25519"}
_ENCRYPTION = {row.name: row for row in ENCRYPTION}
_ENCRYPTION |= {f"aes{bits}gcm": _ENCRYPTION[f"aes{bits}gcm16"] for bits in (128, 192, 256)}
_ENCRYPTION |= {f"aes{bits}ccm": _ENCRYPTION[f"aes{bits}ccm16"] for bits in (128, 192, 256)}
# the ICV in bits, as strongSwan takes it too
_ENCRYPTION |= {
    f"aes{bits}{mode}{icv * 8}": _ENCRYPTION[f"aes{bits}{mode}{icv}"]
    for bits in (128, 192, 256)
    for mode in ("gcm", "ccm")
    for icv in (8, 12, 16)
}
_ENCRYPTION |= {"aes": _ENCRYPTION["aes128"], "aesctr": _ENCRYPTION["aes128ctr"]}
_INTEGRITY = {row.name: row for row in INTEGRITY}
_INTEGRITY |= {f"sha2_{bits}": _INTEGRITY[f"sha{bits}"] for bits in (256, 384, 512)}
_INTEGRITY |= {"sha": _INTEGRITY["sha1"]}
_PRFS = {row.name: row for row in PRFS}
_PRF_OF_INTEGRITY = {row.digest: row for row in PRFS}
_GROUPS = {row.name: row for row in GROUPS} | {
    alias: row for row in GROUPS for alias, name in GROUP_ALIASES.items() if name == row.name
}


def encryption_by_id(transform_id: int, key_bits: int | None) -> Encryption | None:
    """The row of an ENCR transform, None where we do not carry it."""
    return next((row for row in ENCRYPTION if row.id == transform_id and row.key_bits == key_bits), None)


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
    if encryption is None or len(words) > 2 or (len(words) == 2 and integrity is None):
        raise AlgorithmError(f"unknown ESP algorithm {name!r}; {_known_esp()}")
    if encryption.is_aead and integrity is not None:
        raise AlgorithmError(f"{name!r}: {encryption.name} brings its own ICV, write it without {words[1]}")
    if not encryption.is_aead and integrity is None:
        raise AlgorithmError(f"{name!r}: {encryption.name} alone has no integrity, write {encryption.name}-sha256")
    return EspSuite(encryption, integrity)


def esp_suite_names() -> tuple[str, ...]:
    """Every ESP suite that we carry: AEAD first, then each cipher with each integrity algorithm."""
    aead = tuple(row.name for row in ENCRYPTION if row.is_aead)
    return aead + tuple(f"{row.name}-{integ.name}" for row in ENCRYPTION if not row.is_aead for integ in INTEGRITY)


@dataclass(frozen=True, slots=True)
class AhSuite:
    """What an AH SA runs: `sha256`, `aes128gmac`. `icv_bytes` is without GMAC's IV; `kernel` is the ESP suite with the same crypto."""

    name: str
    id: Integ
    keymat_bytes: int
    iv_bytes: int
    icv_bytes: int
    kernel: str
    is_weak: bool = False


# AH needs no table of its own: every integrity algorithm, and every GMAC under the number it has as one (RFC 4543 section 9)
_GMAC_AS_INTEGRITY = {16: Integ.AES_128_GMAC, 24: Integ.AES_192_GMAC, 32: Integ.AES_256_GMAC}
AH_SUITES = (
    *(
        AhSuite(row.name, _GMAC_AS_INTEGRITY[row.key_bytes], row.keymat_bytes, row.iv_bytes, row.icv_bytes, row.name)
        for row in ENCRYPTION
        if row.mode is Mode.GMAC
    ),
    *(AhSuite(row.name, row.id, row.key_bytes, 0, row.icv_bytes, f"null-{row.name}", row.is_weak) for row in INTEGRITY),
)


def ah_suite(name: str) -> AhSuite:
    """The suite of a name such as `sha256` or `aes128gmac`; AlgorithmError names what we carry."""
    wanted = _INTEGRITY[name.lower()].name if name.lower() in _INTEGRITY else name.lower()
    for row in AH_SUITES:
        if row.name == wanted:
            return row
    raise AlgorithmError(f"unknown AH algorithm {name!r}; we carry {', '.join(ah_suite_names())}")


def ah_suite_names() -> tuple[str, ...]:
    return tuple(row.name for row in AH_SUITES)


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
    rest += [row.name for row in encryption if not row.in_ike] + [row.name for row in integrity if not row.in_ike]
    if rest:
        raise AlgorithmError(_unknown_word(text, rest[0], "IKE", _ike_words(), _known_words()))
    if not encryption:
        raise AlgorithmError(f"{text!r} names no cipher; for example aes128gcm16-prfsha256-x25519")
    _check_aead_mix(text, encryption, integrity)
    if not prfs and not integrity:
        raise AlgorithmError(f"{text!r} names no PRF; an AEAD cipher needs one, for example prfsha256")
    if not groups:
        raise AlgorithmError(f"{text!r} names no key exchange group; add one, for example x25519")
    prfs = prfs or [_PRF_OF_INTEGRITY[row.digest] for row in integrity]
    if encryption[0].is_aead:
        integrity = []  # it brings its own ICV
    transforms = [
        *(Transform(TransformType.ENCR, row.id, row.key_bits) for row in encryption),
        *(Transform(TransformType.PRF, row.id) for row in prfs),
        *(Transform(TransformType.INTEG, row.id) for row in integrity),
        *(Transform(TransformType.KE, row.id) for row in groups),
    ]
    return Proposal(1, ProtocolId.IKE, b"", tuple(transforms))


def parse_esp_proposal(text: str) -> Proposal:
    """`aes128gcm16`, `aes128-sha256-x25519-esn` as a Proposal. Naming neither `esn` nor `noesn` offers both, ESN first."""
    encryption, integrity, _, groups, rest = _sort_words(text)
    esn = [word for word in rest if word in ("esn", "noesn")]
    wrong = [word for word in rest if word not in ("esn", "noesn")]
    if wrong:
        raise AlgorithmError(_unknown_word(text, wrong[0], "ESP", _esp_words(), _known_esp()))
    if not encryption:
        raise AlgorithmError(f"{text!r} names no cipher; for example aes128gcm16 or aes128-sha256")
    _check_aead_mix(text, encryption, integrity)
    if encryption[0].is_aead:
        integrity = []  # it brings its own ICV
    transforms = [
        *(Transform(TransformType.ENCR, row.id, row.key_bits) for row in encryption),
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
    if plain and not integrity:
        raise AlgorithmError(f"{text!r}: {plain[0]} alone has no integrity, add sha256")


def _unknown_word(text: str, word: str, protocol: str, known: Iterable[str], carried: str) -> str:
    """The word, the one that was probably meant, or else what there is."""
    import difflib  # only for a wrong word: importing it slows the start of the command line

    where = f" in {text!r}" if word != text.strip().lower() else ""
    near = [one for one in difflib.get_close_matches(word, tuple(known), n=1, cutoff=0.6) if one != word]
    hint = f"did you mean {near[0]!r}?" if near else carried
    return f"{word!r}{where} is no {protocol} algorithm of ours; {hint}"


def _ike_words() -> list[str]:
    """The words that may be suggested: nothing weak."""
    rows = [row.name for row in (*INTEGRITY, *PRFS, *GROUPS) if not row.is_weak]
    return [*(row.name for row in ENCRYPTION if row.in_ike), *rows]


def _esp_words() -> list[str]:
    rows = [row.name for row in (*INTEGRITY, *GROUPS) if not row.is_weak]
    return [*(row.name for row in ENCRYPTION if row.mode is not Mode.NULL), *rows, "esn", "noesn"]


def _known_words() -> str:
    ciphers = [row.name for row in ENCRYPTION if row.in_ike]
    integrity = [row.name for row in INTEGRITY if row.in_ike]
    return "we carry " + " ".join([*ciphers, *integrity, *(row.name for row in PRFS), *(row.name for row in GROUPS)])


def _known_esp() -> str:
    def families(aead: bool) -> str:
        names = (re.sub("^aes(128|192|256)", "aesN", row.name) for row in ENCRYPTION if row.is_aead == aead)
        return ", ".join(dict.fromkeys(names))

    integrity = ", ".join(row.name for row in INTEGRITY)
    return f"we carry {families(True)}, and {families(False)} with one of {integrity} (N is 128, 192 or 256)"


def weak_words(proposals: Iterable[Proposal]) -> tuple[str, ...]:
    """The integrity algorithms and PRFs of these proposals that are warned about
    (RFC 8221 section 6, RFC 8247 section 2).
    """
    names: dict[str, str] = {}  # by digest, because `sha1` is an integrity algorithm and a PRF
    for one in proposals:
        rows: list[Integrity | PrfRow | None] = [integrity_by_id(t.id) for t in one.of(TransformType.INTEG)]
        rows += [prf_by_id(t.id) for t in one.of(TransformType.PRF)]
        for row in rows:
            if row is not None and row.is_weak:
                names.setdefault(row.digest, row.name)
    return tuple(names.values())


def weak_groups(proposals: Iterable[Proposal]) -> tuple[str, ...]:
    """The key exchange groups of these proposals that a connection must allow (`allow_weak`)."""
    found = (group_by_id(t.id) for one in proposals for t in one.of(TransformType.KE))
    return tuple(dict.fromkeys(row.name for row in found if row is not None and row.is_weak))
