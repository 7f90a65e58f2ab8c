"""The slow twin's cryptography: one ESP algorithm by the RFCs' text, on pyca/cryptography and the standard library, one packet at a time.

It shares nothing with the product but the table of names and sizes. Called by: esp_twin.py.
"""

from __future__ import annotations

import hashlib
import hmac
import warnings
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.cmac import CMAC

from ipsec_fast.algorithms import EspSuite, Mode, esp_suite

warnings.filterwarnings("ignore", message=".*min_tag_length.*")
PLAIN_IV = {Mode.CBC: 16, Mode.NULL: 0}


def aes_block(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def xcbc(key: bytes, message: bytes) -> bytes:
    """RFC 3566 section 4."""
    k1, k2, k3 = (aes_block(key, bytes([n]) * 16) for n in (1, 2, 3))
    blocks = [message[i : i + 16] for i in range(0, len(message), 16)] or [b""]
    state = bytes(16)
    for block in blocks[:-1]:
        state = aes_block(k1, bytes(a ^ b for a, b in zip(state, block, strict=True)))
    last, mask = blocks[-1], k2
    if len(last) < 16:
        last, mask = (last + b"\x80").ljust(16, b"\0"), k3
    return aes_block(k1, bytes(a ^ b ^ c for a, b, c in zip(state, last, mask, strict=True)))


def mac(digest: str, key: bytes, message: bytes) -> bytes:
    if digest == "xcbc":
        return xcbc(key, message)
    if digest == "cmac":
        state = CMAC(algorithms.AES(key))
        state.update(message)
        return state.finalize()
    return hmac.new(key, message, getattr(hashlib, digest)).digest()


@dataclass
class TwinCipher:
    """Keys of one SA. `seal` gives IV, ciphertext and ICV; `open` the plaintext, None where the ICV is wrong."""

    algorithm: str
    keymat: bytes

    @property
    def suite(self) -> EspSuite:
        return esp_suite(self.algorithm)

    @property
    def parts(self) -> tuple[bytes, bytes, bytes]:
        row = self.suite.encryption
        return (
            self.keymat[: row.key_bytes],
            self.keymat[row.key_bytes : row.keymat_bytes],
            self.keymat[row.keymat_bytes :],
        )

    def seal(self, header: bytes, seq: int, esn: bool, iv: bytes, plain: bytes) -> tuple[bytes, bytes]:
        row, (key, salt, mac_key) = self.suite.encryption, self.parts
        wire_iv = iv if row.iv_bytes else b""
        if row.is_aead:
            aad = header[:4] + seq.to_bytes(8, "big") if esn else header
            sealed = self._aead(key, salt + iv, aad, plain, wire_iv)
            return wire_iv + sealed[:-16], sealed[-16:][: row.icv_bytes]
        body = wire_iv + self._plain_cipher(key, salt, iv, plain, True)
        covered = header + body + ((seq >> 32).to_bytes(4, "big") if esn else b"")
        assert self.suite.integrity is not None
        return body, mac(self.suite.integrity.digest, mac_key, covered)[: self.suite.icv_bytes]

    def open(self, header: bytes, seq: int, esn: bool, body: bytes, icv: bytes) -> bytes | None:
        row, (key, salt, mac_key) = self.suite.encryption, self.parts
        wire_iv, data = body[: row.iv_bytes], body[row.iv_bytes :]
        iv = wire_iv or (b"" if row.mode is Mode.NULL else seq.to_bytes(8, "big"))
        if row.is_aead:
            aad = header[:4] + seq.to_bytes(8, "big") if esn else header
            return self._aead_open(key, salt + iv, aad, data, wire_iv, icv)
        covered = header + body + ((seq >> 32).to_bytes(4, "big") if esn else b"")
        assert self.suite.integrity is not None
        if mac(self.suite.integrity.digest, mac_key, covered)[: self.suite.icv_bytes] != icv:
            return None
        return self._plain_cipher(key, salt, iv, data, False)

    def _aead(self, key: bytes, nonce: bytes, aad: bytes, plain: bytes, wire_iv: bytes) -> bytes:
        """Ciphertext and 16 bytes of tag, of which a shorter ICV is the front (not so for CCM: its tag depends on its length)."""
        mode = self.suite.encryption.mode
        if mode is Mode.CHACHA20:
            return ChaCha20Poly1305(key).encrypt(nonce, plain, aad)
        if mode is Mode.CCM:
            return AESCCM(key, self.suite.icv_bytes).encrypt(nonce, plain, aad).ljust(len(plain) + 16, b"\0")
        machine = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
        if mode is Mode.GMAC:  # RFC 4543 section 3: everything is AAD
            machine.authenticate_additional_data(aad + wire_iv + plain)
            machine.finalize()
            return plain + machine.tag
        machine.authenticate_additional_data(aad)
        return machine.update(plain) + machine.finalize() + machine.tag

    def _aead_open(self, key: bytes, nonce: bytes, aad: bytes, data: bytes, wire_iv: bytes, icv: bytes) -> bytes | None:
        mode = self.suite.encryption.mode
        try:
            if mode is Mode.CHACHA20:
                return ChaCha20Poly1305(key).decrypt(nonce, data + icv, aad)
            if mode is Mode.CCM:
                return AESCCM(key, len(icv)).decrypt(nonce, data + icv, aad)
            machine = Cipher(algorithms.AES(key), modes.GCM(nonce, icv, len(icv))).decryptor()
            machine.authenticate_additional_data(aad + wire_iv + data if mode is Mode.GMAC else aad)
            plain = data if mode is Mode.GMAC else machine.update(data)
            machine.finalize()
            return plain
        except InvalidTag:
            return None

    def _plain_cipher(self, key: bytes, salt: bytes, iv: bytes, data: bytes, seal: bool) -> bytes:
        mode = self.suite.encryption.mode
        if mode is Mode.NULL:
            return data
        if mode is Mode.CTR:  # RFC 3686 section 4: nonce, IV, and a block counter from 1
            return Cipher(algorithms.AES(key), modes.CTR(salt + iv + b"\0\0\0\1")).encryptor().update(data)
        cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
        return (cipher.encryptor() if seal else cipher.decryptor()).update(data)
