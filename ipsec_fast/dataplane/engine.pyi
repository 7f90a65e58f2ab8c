from typing_extensions import Buffer

def engines() -> dict[str, tuple[str, ...]]:
    """Name -> the algorithms it carries here, best engine first."""

def seal_for_test(
    algorithm: str,
    keymat: Buffer,
    nonce: bytes,
    aad: bytes,
    plaintext: bytes,
    tail: bytes = b"",
    engine: str = "auto",
) -> tuple[bytes, bytes]:
    """(ciphertext, ICV) of the bare engine, for vectors: any AAD, no ESP.

    HMAC suites authenticate AAD, IV (if there is data), data, tail.
    """

def open_for_test(
    algorithm: str,
    keymat: Buffer,
    nonce: bytes,
    aad: bytes,
    ciphertext: bytes,
    icv: bytes,
    tail: bytes = b"",
    engine: str = "auto",
) -> bytes:
    """The plaintext, or IntegrityError. For vectors."""

def engine_for(algorithm: str, wanted: str) -> str:
    """`wanted`, or "auto" where that engine does not carry the algorithm."""
