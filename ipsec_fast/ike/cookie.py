"""The responder's stateless cookie (RFC 7296 section 2.6): it proves that the initiator receives at its address.

Cookie = version of the secret | HMAC-SHA-256(secret, nonce | address | SPIi). The current secret and the one before it
are good, so a cookie lives between one and two rotations. When to demand one is the endpoint's business.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from ..model import Address

SECRET_BYTES = 32
ROTATE_S = 60.0
COOKIE_BYTES = 4 + 32  # RFC 7296 section 2.6 allows 1..64


class CookieIssuer:
    """`random` hands out secrets; times are the caller's clock, in seconds."""

    def __init__(self, random: Callable[[int], bytes], rotate_s: float = ROTATE_S) -> None:
        self._random = random
        self._rotate_s = rotate_s
        self._version = 0
        self._current = b""
        self._previous = b""
        self._rotated_at = float("-inf")

    def issue(self, ni: bytes, address: Address, spi_i: bytes, now: float) -> bytes:
        """The data of the COOKIE notify for this request."""
        self._rotate(now)
        return _cookie(self._version, self._current, ni, address, spi_i)

    def is_valid(self, cookie: bytes, ni: bytes, address: Address, spi_i: bytes, now: float) -> bool:
        """A wrong or old cookie is no error: it counts as none, and the request gets a new one."""
        self._rotate(now)
        secrets = ((self._version, self._current), (self._version - 1, self._previous))
        good = [_cookie(version & 0xFFFFFFFF, secret, ni, address, spi_i) for version, secret in secrets if secret]
        return any(hmac.compare_digest(cookie, wanted) for wanted in good)

    def _rotate(self, now: float) -> None:
        age_s = now - self._rotated_at
        if age_s < self._rotate_s:
            return
        # after a long rest both old secrets are too old
        self._previous = self._current if age_s < 2 * self._rotate_s else b""
        self._current = self._random(SECRET_BYTES)
        self._version = (self._version + 1) & 0xFFFFFFFF
        self._rotated_at = now


def _cookie(version: int, secret: bytes, ni: bytes, address: Address, spi_i: bytes) -> bytes:
    # unambiguous: the version tells the address's length, SPIi has 8 bytes, the nonce is the rest
    data = bytes([address.version]) + address.packed + spi_i + ni
    return version.to_bytes(4, "big") + hmac.digest(secret, data, hashlib.sha256)
