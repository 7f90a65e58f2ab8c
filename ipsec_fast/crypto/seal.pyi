from typing import final

from .secret import Secret

__all__ = ["Sealer"]

@final
class Sealer:
    """Seals or opens the SK{} payloads of one direction of one IKE SA. Copies its keys inside the arena.

    An IV has `iv_bytes`, an ICV `icv_bytes`; the padded plaintext is a multiple of
    `block_bytes` (1 for AEADs, RFC 5282 section 3).
    """

    def __init__(
        self, encr_id: int, key_bits: int, sk_e: Secret, integ_id: int | None = None, sk_a: Secret | None = None
    ) -> None: ...
    @property
    def iv_bytes(self) -> int: ...
    @property
    def icv_bytes(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def closed(self) -> bool:
        """Whether the keys are gone."""

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """IV | ciphertext | ICV. `aad` is the message up to and including the SK payload's generic header."""

    def open(self, aad: bytes, body: bytes) -> bytes:
        """The plaintext with its padding; IntegrityError, one text for every cause; the ICV is verified before anything is used."""

    def close(self) -> None:
        """Wipe the keys; any later use raises StateError."""
