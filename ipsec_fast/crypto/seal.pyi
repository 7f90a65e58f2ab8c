from typing import final

from .secret import Secret

__all__ = ["Sealer"]

@final
class Sealer:
    """Seals or opens the SK{} payloads of one direction of one IKE SA. Copies its keys inside the arena."""

    def __init__(
        self, encr_id: int, key_bits: int, sk_e: Secret, integ_id: int | None = None, sk_a: Secret | None = None
    ) -> None: ...
    @property
    def iv_bytes(self) -> int: ...
    @property
    def icv_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int:
        """The padded plaintext is a multiple of this (1 for AEADs, RFC 5282 section 3)."""

    @property
    def closed(self) -> bool: ...
    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """IV | ciphertext | ICV. `aad` is the message up to and including the SK payload's generic header."""

    def open(self, aad: bytes, body: bytes) -> bytes:
        """The plaintext with its padding; IntegrityError, one text for every cause; the ICV is verified before anything is used."""

    def close(self) -> None: ...
