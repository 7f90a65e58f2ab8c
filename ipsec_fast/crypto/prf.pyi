from typing import final

from .secret import Secret

__all__ = [
    "IkeKeys",
    "derive_child_keys",
    "derive_ike_keys",
    "derive_ike_rekey_keys",
    "prf",
    "prf_plus",
    "psk_auth",
    "verify",
]

@final
class IkeKeys:
    """The seven keys of an IKE SA (RFC 7296 section 2.14): `sk_d`, `sk_ai`,
    `sk_ar`, `sk_ei`, `sk_er`, `sk_pi`, `sk_pr`.

    `sk_ai` and `sk_ar` have length 0 with an AEAD.
    """

    sk_d: Secret
    sk_ai: Secret
    sk_ar: Secret
    sk_ei: Secret
    sk_er: Secret
    sk_pi: Secret
    sk_pr: Secret
    def __init__(
        self, sk_d: Secret, sk_ai: Secret, sk_ar: Secret, sk_ei: Secret, sk_er: Secret, sk_pi: Secret, sk_pr: Secret
    ) -> None: ...
    def close(self) -> None:
        """Wipe and free all of them."""

def prf(prf_id: int, key: Secret | bytes, data: bytes) -> bytes:
    """prf(key, data), for output that is no secret: AUTH octets, cookies."""

def prf_plus(prf_id: int, key: Secret, seed: bytes, length: int) -> Secret:
    """prf+(key, seed), `length` bytes of it (RFC 7296 section 2.13); at most 255 blocks."""

def derive_ike_keys(
    prf_id: int,
    shared: Secret,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    encr_keymat_bytes: int,
    integ_key_bytes: int,
) -> IkeKeys:
    """The keys of the first IKE SA (RFC 7296 section 2.14). `encr_keymat_bytes` is cipher key plus salt."""

def derive_ike_rekey_keys(
    prf_id: int,
    old_prf_id: int,
    old_sk_d: Secret,
    shared: Secret,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    encr_keymat_bytes: int,
    integ_key_bytes: int,
) -> IkeKeys:
    """The keys of a rekeyed IKE SA (RFC 7296 section 2.18): SKEYSEED by the old SA's PRF, the rest by the new one's."""

def derive_child_keys(
    prf_id: int, sk_d: Secret, shared: Secret | None, ni: bytes, nr: bytes, bytes_per_direction: int
) -> tuple[Secret, Secret]:
    """KEYMAT of a Child SA (RFC 7296 section 2.17): (initiator to responder, responder to initiator)."""

def psk_auth(
    prf_id: int, psk: Secret | bytes, message: bytes, nonce: bytes, sk_p: Secret, id_payload_body: bytes
) -> bytes:
    """The AUTH data of a pre-shared key (RFC 7296 section 2.15). `nonce` is the other side's."""

def verify(a: bytes, b: bytes) -> None:
    """Constant-time comparison; IntegrityError unless both are equal."""
