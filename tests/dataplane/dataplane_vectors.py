"""The third-party vectors that cover our ESP suites, and a count of what ran and what was skipped (printed by conftest.py)."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("IPSEC_FAST_VECTORS") or Path(__file__).parents[2].parent / "shared" / "vectors")
RAN: Counter[str] = Counter()
SKIPPED: Counter[str] = Counter()

SUITES = {
    ("aes-gcm-16", 16, None): "aes128gcm16",
    ("aes-gcm-16", 32, None): "aes256gcm16",
    ("aes-cbc", 16, "hmac-sha2-256-128"): "aes128-sha256",
    ("aes-cbc", 32, "hmac-sha2-256-128"): "aes256-sha256",
    ("aes-cbc", 16, "null"): "aes128-sha256",  # no ICV: the cipher alone is checked
}


def load(name: str, at_collection: bool = False) -> dict[str, Any]:
    """A file of the folder; without the folder the test is skipped, at collection there are no vectors to parametrize by."""
    path = FOLDER / name
    if not path.exists():
        if not at_collection:
            pytest.skip(f"{path} is not here; set IPSEC_FAST_VECTORS to the folder of the vectors")
        SKIPPED[f"{name} (no folder {FOLDER})"] += 1
        return {"vectors": []}
    return json.loads(path.read_text())


@dataclass(frozen=True)
class EspVector:
    id: str
    suite: str
    has_icv: bool
    is_packet: bool  # mode tunnel: the kernels' own rules apply
    keymat: bytes
    salt: bytes
    spi: int
    seq: int
    esn: bool
    iv: bytes
    esp: bytes
    inner: bytes

    @property
    def header(self) -> bytes:
        return self.esp[:8]

    @property
    def icv(self) -> bytes:
        return self.esp[-16:] if self.has_icv else b""

    @property
    def ciphertext(self) -> bytes:
        return self.esp[8 + len(self.iv) : len(self.esp) - len(self.icv)]

    @property
    def is_aead(self) -> bool:
        return "gcm" in self.suite

    @property
    def nonce(self) -> bytes:
        return self.salt + self.iv

    @property
    def aad(self) -> bytes:
        if self.is_aead and self.esn:
            return self.header[:4] + self.seq.to_bytes(8, "big")
        return self.header

    @property
    def tail(self) -> bytes:
        return self.seq.to_bytes(8, "big")[:4] if self.esn and not self.is_aead else b""


def esp_vectors() -> list[EspVector]:
    found = []
    for raw in load("esp_vectors.json", at_collection=True)["vectors"]:
        cipher, auth = raw["enc"], raw["auth"]
        key = bytes.fromhex(cipher["key"]) if cipher else b""
        suite = (
            SUITES.get((cipher["alg"], len(key), auth["alg"] if auth else None))
            if cipher and raw["proto"] == "esp"
            else None
        )
        if suite is None:
            SKIPPED[f"esp_vectors.json (algorithm not carried, or {raw['proto']})"] += 1
            continue
        integrity = bytes.fromhex(auth["key"]) if auth and auth["key"] else b""
        salt = bytes.fromhex(cipher["salt"])
        found.append(
            EspVector(
                id=raw["id"],
                suite=suite,
                has_icv=not auth or auth["alg"] != "null",
                is_packet=raw["mode"] == "tunnel",
                keymat=key + salt + (integrity or bytes(32 if "sha256" in suite else 0)),
                salt=salt,
                spi=raw["spi"],
                seq=raw["esn_hi"] << 32 | raw["seq"],
                esn=raw["esn"],
                iv=bytes.fromhex(raw["iv"]),
                esp=bytes.fromhex(raw["esp"]),
                inner=bytes.fromhex(raw["inner_packet"] or ""),
            )
        )
    return found
