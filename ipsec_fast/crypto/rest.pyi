from collections.abc import Iterable
from typing import final

from .secret import Secret

__all__ = ["MIN_KEY_BYTES", "SEALED_EXTRA_BYTES", "OpenedRecord", "RestKey"]

MIN_KEY_BYTES: int
SEALED_EXTRA_BYTES: int

@final
class RestKey:
    """Seals records at rest under a subkey of this process; opens those of any process that had the same key. Copies the key."""

    def __init__(self, key: Secret) -> None: ...
    @property
    def closed(self) -> bool:
        """Whether the key is gone."""

    def seal(self, aad: bytes, parts: Iterable[bytes | Secret]) -> bytes:
        """The parts one behind the other, sealed; `aad` is bound to them and not in the result."""

    def open(self, aad: bytes, sealed: bytes) -> OpenedRecord:
        """StateError, one text for every cause, unless `sealed` was made with this `aad` under this key."""

    def tag(self, data: bytes) -> bytes:
        """32 bytes that only a holder of the key can make: for marks that are readable but not to be forged."""

    def close(self) -> None:
        """Wipe the keys; any later use raises StateError."""

@final
class OpenedRecord:
    """A plaintext inside the arena, taken from front to back; a piece beyond its end is a StateError."""

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""

    def take(self, n: int) -> bytes:
        """The next bytes, which must not be a secret."""

    def take_secret(self, n: int) -> Secret:
        """The next bytes as a secret of their own."""

    def close(self) -> None:
        """Wipe the plaintext; what was taken stays."""

    def __enter__(self) -> OpenedRecord: ...
    def __exit__(self, *exc: object) -> None: ...
