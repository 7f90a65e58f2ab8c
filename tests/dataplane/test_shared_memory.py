"""A buffer that another thread writes to meanwhile: no byte outside of a packet's region changes.

The other thread keeps switching a byte that decides on a length between two values. Each length is read once, so that
the checked value is the used one.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from kernel_packets import OUTERS, ipv4, ipv6, key_of

from ipsec_fast import SA, PacketBatch, protect, unprotect

COUNT, STRIDE, AT = 64, 2048, 640
SECONDS = 1.5

# the byte that decides on a length, and what it is changed to
IHL, EXTENSION = (0, (0x45, 0x4F)), (41, (0, 31))


def with_extension(packet: bytes) -> bytes:
    """A hop-by-hop header of 8 bytes behind the IPv6 header."""
    extension = bytes([packet[6], 0, 1, 4, 0, 0, 0, 0])
    return packet[:4] + (len(packet) - 32).to_bytes(2, "big") + b"\0" + packet[7:40] + extension + packet[40:]


CASES = {
    "transport v4": ({"mode": "transport"}, ipv4(1200), IHL),
    "transport v6": ({"mode": "transport"}, with_extension(ipv6(1200)), EXTENSION),
    "transport udp": ({"mode": "transport", "encap": (4500, 4500)}, ipv4(1200), (24, (0, 0xFF))),
    "tunnel udp": ({**OUTERS["v4udp"]}, ipv4(1200), (24, (4, 0xFF))),
    "ah transport v4": ({"mode": "transport", "protocol": "ah", "algorithm": "sha256"}, ipv4(1200), IHL),
    "ah transport v6": ({"mode": "transport", "protocol": "ah", "algorithm": "sha256"}, with_extension(ipv6(1200)), EXTENSION),
    "beet": (
        {"mode": "beet", "inner": ("10.1.0.1", "10.2.0.1"), "src": "192.0.2.1", "dst": "192.0.2.2"},
        ipv4(1200),
        IHL,
    ),
}  # fmt: skip


def sa_of(direction: str, options: dict[str, object]) -> SA:
    more = dict(options)
    algorithm = str(more.pop("algorithm", "aes128gcm16"))
    key = bytes(32) if more.get("protocol") == "ah" else key_of(algorithm)
    return SA(direction, 0x1001, algorithm, key, **more)  # type: ignore[arg-type]


def filled(packets: list[bytes], into: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    into[:] = 0xEE
    offsets = np.arange(COUNT, dtype=np.uint32) * STRIDE + AT
    for offset, packet in zip(offsets.tolist(), packets, strict=True):
        into[offset : offset + len(packet)] = np.frombuffer(packet, np.uint8)
    return offsets, np.array([len(p) for p in packets], np.uint32)


def outside(buffer: np.ndarray, before: int, end: int) -> int:
    """How many of the packets have bytes changed outside of [AT - before, end)."""
    rows = buffer.reshape(COUNT, STRIDE)
    return int(((rows[:, : AT - before] != 0xEE).any(axis=1) | (rows[:, end:] != 0xEE).any(axis=1)).sum())


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_a_packet_is_written(case: str, way: str) -> None:
    options, inner, (place, values) = CASES[case]
    buffer = np.zeros(COUNT * STRIDE, np.uint8)
    done: list[int] = []

    def disturb() -> None:
        column = buffer[AT + place :: STRIDE]
        while not done:
            column[:] = values[1]
            column[:] = values[0]

    other = threading.Thread(target=disturb)
    other.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            out, into = sa_of("out", options), sa_of("in", options)
            made = np.zeros(COUNT * STRIDE, np.uint8)
            verdicts = np.zeros(COUNT, np.uint8)
            offsets, lengths = filled([inner] * COUNT, buffer if way == "out" else made)
            if way == "out":
                protect(PacketBatch(buffer, offsets, lengths, out, verdicts))
                assert outside(buffer, out.headroom, AT + len(inner) + out.tailroom) == 0
                continue
            assert protect(PacketBatch(made, offsets, lengths, out, verdicts)) == COUNT
            sealed = [bytes(made[o : o + n]) for o, n in zip(offsets.tolist(), lengths.tolist(), strict=True)]
            offsets, lengths = filled(sealed, buffer)
            unprotect(PacketBatch(buffer, offsets, lengths, into, verdicts))
            assert outside(buffer, 0, AT + len(sealed[0])) == 0
    finally:
        done.append(1)
        other.join()
