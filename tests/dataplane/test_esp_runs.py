"""A batch gives what its packets give one by one, whatever stands between them: the kernels' quick way by runs of one SA, checked.

Outbound the plain way is there to be asked: an SA with a TFC length of one byte takes it and changes no byte. Inbound each packet is opened
in a batch of its own by a second SA with the same key.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from esp_twin import Twin
from kernel_packets import OUTERS, Slots, ipv4, ipv6, key_of, seal

from ipsec_fast import SA, protect, unprotect
from ipsec_fast.dataplane.engine import engine_for

QUICK = ("aes128gcm16", "aes256gcm8", "chacha20poly1305", "aes128gmac", "aes128ctr-sha256", "aes256ctr-sha384")
SEEDS = range(12)
on_quick_suites = pytest.mark.parametrize("algorithm", QUICK)


def sa_of(direction: str, algorithm: str, number: int, given: dict[str, Any], **more: Any) -> SA:
    key, engine = key_of(algorithm, number), engine_for(algorithm, "auto")
    return SA(direction, 0x1001 + number, algorithm, key, engine=engine, **given, **more)


def shape_of(rng: random.Random, room: int = 0) -> dict[str, Any]:
    """Outer header, ESN and first number of an SA, which has at least 60 numbers and `room` left."""
    esn = rng.random() < 0.5
    near_the_end = [(1 << 32) - 60 - room, (1 << 32) - 200]
    wrapping = [*near_the_end, (3 << 32) - 30, (1 << 64) - 60 - room]
    return {
        **OUTERS[rng.choice(list(OUTERS))],
        "esn": esn,
        "seq": rng.choice([0, 0, 1000, *(wrapping if esn else near_the_end)]),
    }


def state_of(sa: SA) -> dict[str, Any]:
    last = sa.last_drop
    kept = None if last is None else last._replace(at_s=0)
    return {**sa.counters(), "seq": sa.seq, "hard_limit": sa.hard_limit, "last_drop": kept}


def inner_packet(rng: random.Random) -> bytes:
    make, least = rng.choice([(ipv4, 20), (ipv6, 40)])
    packet = make(
        rng.choice([least, least + 1, 63, 64, 65, 576, 1400]), tos=rng.randrange(256), fill=rng.randrange(256)
    )
    kind = rng.random()
    if kind < 0.03:
        return packet[: rng.randrange(len(packet))]
    if kind < 0.06:
        return bytes([rng.randrange(256)]) + packet[1:]
    return packet + bytes(rng.choice([0, 0, 0, 3]))


def limit(rng: random.Random, sas: list[SA], seq: int, *, received: bool) -> None:
    """The same limits on each."""
    pick = rng.random()
    limits: dict[str, int] = {}
    if pick < 0.4 and seq < 1 << 62:
        limits["hard_packets"] = rng.randrange(1, 100) + (0 if received else seq)
    elif pick < 0.7:
        limits["hard_bytes"] = rng.randrange(100, 60000)
    for sa in sas:
        if limits:
            sa.set_limits(**limits)


# --- out


@pytest.mark.parametrize("seed", SEEDS)
@on_quick_suites
def test_what_is_sealed_in_runs_is_what_is_sealed_apart(algorithm: str, seed: int) -> None:
    rng = random.Random(seed)
    shapes = [shape_of(rng) for _ in range(3)]
    for shape in shapes:
        if rng.random() < 0.4:
            shape["granted"] = shape["seq"] + rng.randrange(1, 60)
    quick = [sa_of("out", algorithm, n, shape) for n, shape in enumerate(shapes)]
    plain = [sa_of("out", algorithm, n, shape, tfc=1) for n, shape in enumerate(shapes)]
    for n, shape in enumerate(shapes):
        limit(rng, [quick[n], plain[n]], shape["seq"], received=False)
    for _ in range(2):
        packets = [inner_packet(rng) for _ in range(rng.choice([1, 64, 65, 200]))]
        which = [0]
        for _ in packets[1:]:
            which.append(which[-1] if rng.random() < 0.8 else rng.randrange(3))
        room = {"before": 80, "behind": 80}
        by_runs = Slots(packets, [quick[n] for n in which], **room)
        apart = Slots(packets, [plain[n] for n in which], **room)
        assert protect(by_runs.batch) == protect(apart.batch)
        assert by_runs.names == apart.names
        assert by_runs.packets == apart.packets
        for one, other in zip(quick, plain, strict=True):
            assert state_of(one) == state_of(other)


# --- in


def hostile(rng: random.Random, sealed: list[bytes]) -> list[bytes]:
    """The same packets in disorder: again, spoilt, too short, too long, of others."""
    order = list(sealed)
    for _ in range(len(sealed) // 4):
        order.insert(rng.randrange(len(order)), rng.choice(sealed))
    for _ in range(len(order) // 6):
        a = rng.randrange(len(order))
        b = max(0, min(len(order) - 1, a + rng.randrange(-5, 6)))
        order[a], order[b] = order[b], order[a]
    found = []
    for packet in order:
        kind = rng.random()
        if kind < 0.05:
            at = rng.randrange(len(packet))
            packet = packet[:at] + bytes([packet[at] ^ 1 << rng.randrange(8)]) + packet[at + 1 :]
        elif kind < 0.07:
            packet = packet[: rng.randrange(len(packet))]
        elif kind < 0.08:
            packet += bytes(rng.randrange(1, 9))
        found.append(packet)
    return found


def marked(packet: bytes, given: dict[str, Any], rng: random.Random) -> bytes:
    """Sometimes with another ECN field in the outer header (RFC 6040)."""
    if "src" not in given or rng.random() < 0.8:
        return packet
    if packet[0] >> 4 == 4:
        return packet[:1] + bytes([packet[1] ^ rng.randrange(4)]) + packet[2:]
    return packet[:1] + bytes([packet[1] ^ rng.randrange(4) << 4]) + packet[2:]


def shuffled(streams: list[list[bytes]], rng: random.Random) -> list[tuple[int, bytes]]:
    """(stream, packet): runs of several packets of each, in the order of each."""
    left, found, n = [list(reversed(one)) for one in streams], [], 0
    while any(left):
        if not left[n] or rng.random() > 0.8:
            n = rng.choice([k for k, one in enumerate(left) if one])
        found.append((n, left[n].pop()))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@on_quick_suites
def test_what_is_opened_in_runs_is_what_is_opened_one_by_one(algorithm: str, seed: int) -> None:
    rng = random.Random(1000 + seed)
    shapes = [shape_of(rng, room=20) | {"window": rng.choice([64, 1024])} for _ in range(3)]
    by_runs = [sa_of("in", algorithm, n, shape) for n, shape in enumerate(shapes)]
    apart = [sa_of("in", algorithm, n, shape) for n, shape in enumerate(shapes)]
    for n in range(3):
        limit(rng, [by_runs[n], apart[n]], 0, received=True)
    streams = []
    for n, shape in enumerate(shapes):
        out = sa_of("out", algorithm, n, shape)
        packets = [ipv4(rng.choice([20, 61, 64, 1400]), tos=rng.randrange(256)) for _ in range(50)]
        good = [marked(packet, shape, rng) for packet in seal(packets, out)]
        odd = [seal_odd(algorithm, n, shape, out.seq + 1 + k, rng) for k in range(5)]
        streams.append(hostile(rng, good + odd))
    mixed = shuffled(streams, rng)
    chunk = rng.choice([7, 64, 100, 1000])
    for start in range(0, len(mixed), chunk):
        part = mixed[start : start + chunk]
        together = Slots([packet for _, packet in part], [by_runs[n] for n, _ in part])
        unprotect(together.batch)
        for i, (n, packet) in enumerate(part):
            alone = Slots([packet], apart[n])
            unprotect(alone.batch)
            assert together.names[i] == alone.names[0], (i, n)
            assert together.packets[i] == alone.packets[0]
    for one, other in zip(by_runs, apart, strict=True):
        assert state_of(one) == state_of(other)


def seal_odd(algorithm: str, number: int, given: dict[str, Any], seq: int, rng: random.Random) -> bytes:
    """Authentic, and yet no good: padding, next header or inner lengths are not what they should be. Dummies are among them."""
    shape = {name: value for name, value in given.items() if name not in ("seq", "window")}
    twin = Twin(algorithm, key_of(algorithm, number), spi=0x1001 + number, **shape)
    inner = ipv4(64)
    plain = rng.choice(
        [
            inner + bytes([1, 2, 2, 4]),
            inner + bytes([1, 3, 2, 4]),
            inner + bytes([0, 0, 200, 4]),
            inner + bytes([1, 2, 2, 59]),
            inner + bytes([1, 2, 2, 41]),
            inner + bytes([1, 2, 2, 6]),
            bytes([0x65]) + inner[1:] + bytes([1, 2, 2, 4]),
            inner[:2] + b"\xff\xff" + inner[4:] + bytes([1, 2, 2, 4]),
            bytes([0, 4]) + bytes(2),
        ]
    )
    wire = (0x1001 + number).to_bytes(4) + (seq & 0xFFFFFFFF).to_bytes(4)
    body, icv = twin.cipher.seal(wire, seq, given["esn"], seq.to_bytes(8), plain)
    return twin._put_on(b"", inner, wire + body + icv)
