from typing import final

from .secret import Secret

__all__ = ["KeyPair", "generate", "key_pair_for_test"]

@final
class KeyPair:
    """One ephemeral key pair; `public` is the data of the KE payload (RFC 7296 section 3.4)."""

    @property
    def group(self) -> int:
        """Its number of IANA's."""

    @property
    def public(self) -> bytes: ...
    @property
    def closed(self) -> bool:
        """Whether the private value is gone."""

    def derive(self, peer_public: bytes) -> Secret:
        """The shared secret, leading zeros kept; NegotiationError (INVALID_SYNTAX) for a public value that RFC 6989 refuses."""

    def close(self) -> None:
        """Free the private value; twice is fine, any later use raises StateError."""

def generate(group: int) -> KeyPair:
    """A fresh key pair of group 14, 19, 20 or 31; AlgorithmError for any other."""

def key_pair_for_test(group: int, private: bytes) -> KeyPair:
    """The key pair of a known private value, for vectors."""
