"""The third-party vectors that cover our ESP suites, and a count of what ran and what was skipped (printed by conftest.py)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tally import tally

from ipsec_fast.algorithms import esp_suite

FOLDER = Path(os.environ.get("IPSEC_FAST_VECTORS") or Path(__file__).parents[2].parent / "shared" / "vectors")
OWN = Path(__file__).parents[1] / "vectors"  # those that may be copied
RAN = tally("vectors {name}: {count} run")
SKIPPED = tally("vectors {name}: {count} skipped")

ENCRYPTION = {
    "aes-gcm-16": "aes{}gcm16",
    "chacha20-poly1305": "chacha20poly1305",
    "aes-cbc": "aes{}",
    "aes-ctr": "aes{}ctr",
    "null": "null",
}
INTEGRITY = {
    "hmac-sha2-256-128": "sha256",
    "hmac-sha2-512-256": "sha512",
    "aes-xcbc-96": "aesxcbc",
    "null": "sha256",  # no ICV: the cipher alone is checked
}


def suite_of(cipher: dict[str, Any] | None, auth: dict[str, Any] | None) -> str | None:
    """Our name of a vector's algorithms, None where we do not carry them."""
    if cipher is None or cipher["alg"] not in ENCRYPTION or (auth and auth["alg"] not in INTEGRITY):
        return None
    name = ENCRYPTION[cipher["alg"]].format(len(cipher["key"]) * 4)
    return f"{name}-{INTEGRITY[auth['alg']]}" if auth else name


def load(name: str, at_collection: bool = False) -> dict[str, Any]:
    """A file of the folder; without the folder the test is skipped, at collection there are no vectors to parametrize by."""
    path = FOLDER / name if (FOLDER / name).exists() else OWN / name
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
        return self.esp[-esp_suite(self.suite).icv_bytes :] if self.has_icv else b""

    @property
    def ciphertext(self) -> bytes:
        return self.esp[8 + len(self.iv) : len(self.esp) - len(self.icv)]

    @property
    def is_aead(self) -> bool:
        return esp_suite(self.suite).encryption.is_aead

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
        suite = suite_of(cipher, auth) if raw["proto"] == "esp" else None
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
