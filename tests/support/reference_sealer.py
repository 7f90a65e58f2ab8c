"""SK{} protection written a second time, in Python on `cryptography`, with the face of crypto.seal.Sealer.

It carries more than we do (CCM, ChaCha20-Poly1305, 3DES), so that every capture can be opened by the codecs, and it
checks ours where both can. Tests alone use it.
"""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ipsec_fast.errors import IntegrityError

_AEADS: dict[str, tuple[Any, int]] = {
    "aes-gcm-16": (AESGCM, 4),
    "aes-ccm-16": (AESCCM, 3),
    "chacha20-poly1305": (ChaCha20Poly1305, 4),
}
_BLOCKS: dict[str, tuple[Any, int]] = {"aes-cbc": (AES, 16), "3des-cbc": (TripleDES, 8)}
_DIGESTS = {"hmac-sha2-256-128": ("sha256", 16), "hmac-sha1-160": ("sha1", 20), "hmac-sha1-96": ("sha1", 12)}


class ReferenceSealer:
    def __init__(self, encryption: str, key: bytes, integrity: str = "none", integrity_key: bytes = b"") -> None:
        self._aead: Any = None
        self.closed = False
        if encryption in _AEADS:
            factory, salt_bytes = _AEADS[encryption]
            self._aead = factory(key[:-salt_bytes])
            self._salt = key[-salt_bytes:]
            self.iv_bytes, self.icv_bytes, self.block_bytes = 8, 16, 1
            return
        algorithm, self.block_bytes = _BLOCKS[encryption]
        self._digest, self.icv_bytes = _DIGESTS[integrity]
        self._algorithm, self._integrity_key = algorithm(key), integrity_key
        self.iv_bytes = self.block_bytes

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        if self._aead is not None:
            return iv + self._aead.encrypt(self._salt + iv, plaintext, aad)
        encryptor = Cipher(self._algorithm, modes.CBC(iv)).encryptor()
        body = iv + encryptor.update(plaintext) + encryptor.finalize()
        return body + self._icv(aad + body)

    def open(self, aad: bytes, body: bytes) -> bytes:
        if len(body) < self.iv_bytes + self.icv_bytes:
            raise IntegrityError("too short")
        iv, rest = body[: self.iv_bytes], body[self.iv_bytes :]
        if self._aead is not None:
            try:
                return self._aead.decrypt(self._salt + iv, rest, aad)
            except InvalidTag:
                raise IntegrityError("bad ICV") from None
        ciphertext, icv = rest[: -self.icv_bytes], rest[-self.icv_bytes :]
        if not hmac.compare_digest(icv, self._icv(aad + iv + ciphertext)):
            raise IntegrityError("bad ICV")
        if len(ciphertext) % self.block_bytes:
            raise IntegrityError("not whole blocks")
        decryptor = Cipher(self._algorithm, modes.CBC(iv)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def _icv(self, data: bytes) -> bytes:
        return hmac.digest(self._integrity_key, data, self._digest)[: self.icv_bytes]

    def close(self) -> None:
        self.closed = True
