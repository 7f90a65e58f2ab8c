"""Packets and batches for the kernel tests: inner packets of any length, and a buffer of exactly the size that a batch needs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from ipsec_fast import SA, PacketBatch, protect, unprotect
from ipsec_fast.algorithms import esp_suite, esp_suite_names
from ipsec_fast.dataplane.engine import engine_for
from ipsec_fast.dataplane.status import NAMES

SUITES = esp_suite_names()
# one of each way to run: nonce, IV, AAD, ICV length, block
KINDS = (
    "aes128gcm16", "aes256gcm8", "aes192gcm12", "aes128gcm16iiv", "chacha20poly1305", "aes128ccm8", "aes256ccm16", "aes128gmac",
    "aes128-sha256", "aes256-sha512", "aes192-sha1", "aes128ctr-sha384", "aes256ctr-aescmac", "null-aesxcbc", "null-sha256",
)  # fmt: skip
OUTERS = {
    "none": {},
    "v4": {"src": "192.0.2.1", "dst": "192.0.2.2"},
    "v6": {"src": "2001:db8::1", "dst": "2001:db8::2"},
    "v4udp": {"src": "192.0.2.1", "dst": "192.0.2.2", "encap": (4500, 4500)},
    "v6udp": {"src": "2001:db8::1", "dst": "2001:db8::2", "encap": (4500, 4500)},
}


def ones_sum(data: bytes) -> int:
    """The internet checksum by the book (RFC 1071), not inverted."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(length: int, tos: int = 0, protocol: int = 17, fill: int = 0xA5) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, tos, length, 1, 0, 64, protocol, 0, b"\x0a\1\0\1", b"\x0a\2\0\1")
    header = header[:10] + struct.pack("!H", ones_sum(header) ^ 0xFFFF) + header[12:]
    return header + bytes([fill]) * (length - 20)


def ipv6(length: int, tos: int = 0, protocol: int = 17, fill: int = 0xA5) -> bytes:
    header = (
        struct.pack("!IHBB", 6 << 28 | tos << 20, length - 40, protocol, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    )
    return header + bytes([fill]) * (length - 40)


def key_of(algorithm: str, seed: int = 7) -> bytes:
    return bytes((seed + i * 13) % 256 for i in range(esp_suite(algorithm).keymat_bytes))


class Engine:
    """What `pair` asks for where a test does not say; conftest's `each_engine` sets it."""

    wanted = "auto"


def pair(algorithm: str = "aes128gcm16", spi: int = 0x1001, outer: str = "none", **more) -> tuple[SA, SA]:
    out_only = {name: more.pop(name) for name in ("granted",) if name in more}
    seqs = more.pop("seqs", (0, 0))
    common = {"engine": engine_for(algorithm, Engine.wanted), **OUTERS[outer], **more}
    return (
        SA("out", spi, algorithm, key_of(algorithm), seq=seqs[0], **out_only, **common),
        SA("in", spi, algorithm, key_of(algorithm), seq=seqs[1], **common),
    )


class Slots:
    """Packets with exactly the room that is asked for between them, bound as a batch."""

    def __init__(self, packets: Sequence[bytes], sas: SA | Sequence[SA], before: int = 0, behind: int = 0) -> None:
        size = sum(before + len(p) + behind for p in packets)
        self.buffer = np.full(size, 0xEE, np.uint8)
        self.offsets = np.zeros(len(packets), np.uint32)
        self.lengths = np.array([len(p) for p in packets], np.uint32)
        self.verdicts = np.full(len(packets), 0xFF, np.uint8)
        at = 0
        for i, packet in enumerate(packets):
            at += before
            self.offsets[i] = at
            self.buffer[at : at + len(packet)] = np.frombuffer(packet, np.uint8)
            at += len(packet) + behind
        self.batch = PacketBatch(self.buffer, self.offsets, self.lengths, sas, self.verdicts)

    @property
    def packets(self) -> list[bytes]:
        return [
            bytes(self.buffer[o : o + n]) for o, n in zip(self.offsets.tolist(), self.lengths.tolist(), strict=True)
        ]

    @property
    def names(self) -> list[str]:
        return [NAMES[v] for v in self.verdicts]


def seal(packets: Sequence[bytes], sa: SA) -> list[bytes]:
    """Every packet sealed; the test stops where one is not."""
    slots = Slots(packets, sa, sa.headroom, sa.tailroom)
    assert protect(slots.batch) == len(packets), slots.names
    return slots.packets


def open_batch(packets: Sequence[bytes], sa: SA) -> Slots:
    slots = Slots(packets, sa)
    unprotect(slots.batch)
    return slots


def verdicts_of(packets: Sequence[bytes], sa: SA) -> list[str]:
    return open_batch(packets, sa).names
