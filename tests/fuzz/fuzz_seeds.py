"""First inputs for the libFuzzer targets beside it: packets of every kind that the C core knows, in the form each target reads.

Called by `./run fuzz`, standard library only: `fuzz_seeds.py TARGET FOLDER` writes files there. What libFuzzer finds from
these is the corpus that is kept.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

V4_ADDRESSES = bytes([10, 1, 0, 1, 10, 2, 0, 1])
V6_ADDRESSES = bytes([0x20, 1, *[0] * 13, 1, 0x20, 1, *[0] * 13, 2])
NEXT_OF_OPTIONS = (0, 60, 43)


def v4(protocol: int, payload: bytes, options: bytes = b"", offset: int = 0, ident: int = 7, tos: int = 0) -> bytes:
    length = 20 + len(options) + len(payload)
    first = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, tos, length, ident, offset, 64, protocol, 0)
    return first + V4_ADDRESSES + options + payload


def v6(protocol: int, payload: bytes, tos: int = 0) -> bytes:
    return struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), protocol, 64) + V6_ADDRESSES + payload


def v6_fragment(protocol: int, payload: bytes, offset: int) -> bytes:
    return v6(44, struct.pack("!BBHI", protocol, 0, offset, 9) + payload)


def extension(following: int, body: bytes) -> bytes:
    return bytes([following, (len(body) + 2) // 8 - 1]) + body


def udp(payload: bytes, port: int = 4500) -> bytes:
    return struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload


TCP = struct.pack("!HHIIBBHHH", 80, 1024, 1, 2, 0x50, 0x10, 100, 0, 0)


def inners() -> Iterator[tuple[int, bytes]]:
    yield 4, v4(17, udp(b"abcd"))
    yield 4, v4(6, TCP, options=bytes([7, 7, 4, 1, 2, 3, 4, 0]), tos=2)
    yield 41, v6(17, udp(b"abcd"), tos=1)
    yield 41, v6(0, extension(60, bytes(6)) + extension(6, bytes(14)) + TCP)
    yield 59, bytes(20)
    yield 94, bytes([17, 1, 4, 0, *[1] * 4, 7, 7, 4, 1, 2, 3, 4, 0]) + udp(b"abcd")
    yield 17, udp(b"abcdef")
    yield 6, TCP + b"data"


def trailer(inner: bytes, next_header: int, align: int) -> bytes:
    padding = -(len(inner) + 2) % align
    return inner + bytes(range(1, padding + 1)) + bytes([padding, next_header])


def outers(esp: bytes) -> Iterator[tuple[int, bytes]]:
    """The bits of the SA's second byte, and the packet."""
    yield 0, esp
    yield 4, v4(50, esp)
    yield 4, v6(50, esp, tos=3)
    yield 4 | 8, v4(17, udp(esp), tos=3)
    yield 4 | 8, v6(17, udp(esp))
    yield 1, v4(50, esp, options=bytes([148, 4, 0, 0]))
    yield 1, v6(0, extension(43, bytes(6)) + extension(50, bytes([4, 0, 0, 0, 0, 0])) + esp)
    yield 2, v4(50, esp)


def framed(packet: bytes, control: int) -> bytes:
    return bytes([control]) + struct.pack("!H", len(packet)) + packet


def decap() -> Iterator[bytes]:
    for next_header, inner in inners():
        for shape, iv, icv, align in ((0, 0, 8, 4), (9, 8, 16, 4), (0x1E, 16, 32, 16)):
            for number in (1, 2):
                esp = struct.pack("!II", 0x1001, number) + bytes(iv) + trailer(inner, next_header, align) + bytes(icv)
                for more, packet in outers(esp):
                    yield bytes([shape, more | 16, 0]) + framed(packet, 1)
    for top in (0, 1, 4, 2, 0x83, 3):  # one window, numbers about its edges
        for window in range(4):
            numbers = (1, 2, 2, 63, 64, 65, 200, 137, 136, 2**32 - 1, 2**32 - 64, 2**31, 5)
            packets = [struct.pack("!II", 1, number) + trailer(b"", 59, 4) + bytes(8) for number in numbers]
            yield bytes([0, window << 5 | 16, top]) + b"".join(framed(p, 1) for p in packets)
            yield bytes([0, window << 5, top]) + b"".join(framed(p, i & 1) for i, p in enumerate(packets))


def header() -> Iterator[bytes]:
    payload = b"x" * 90
    kinds = [
        v4(17, udp(payload)),
        v6(17, udp(payload)),
        v4(51, bytes(24)),
        v6(6, TCP),
        v4(1, bytes(8)),
        v6(58, bytes(8)),
    ]
    kinds += [
        v4(6, TCP, options=o) for o in (bytes([148, 4, 0, 0]), bytes([131, 7, 4, 9, 9, 9, 9, 0]), bytes([1, 130, 3, 0]))
    ]
    for kind in NEXT_OF_OPTIONS:
        for body in (bytes(6), bytes([5, 2, 0, 0, 1, 0]), bytes([0x3E, 4, 1, 2, 3, 4]), bytes([2, 1, *[7] * 20])):
            kinds.append(v6(kind, extension(17, body) + udp(payload)))
    ah = bytes([17, 4]) + bytes(22)
    kinds += [v6(0, extension(51, bytes(6)) + ah + udp(payload)), v6(51, ah + extension(6, bytes(6)) + TCP)]
    kinds += [
        v6_fragment(17, payload, 0),
        v6_fragment(17, payload, 8),
        v4(17, payload, offset=0x2001),
        v4(135, bytes(16)),
    ]
    for packet in kinds:
        for mtu in (1500, 100, 68):
            yield struct.pack("!H", mtu) + packet


def fragment() -> Iterator[bytes]:
    def together(*packets: bytes, times: tuple[int, ...] = ()) -> bytes:
        return b"".join(framed(p, times[i] if i < len(times) else 0) for i, p in enumerate(packets))

    data = udp(bytes(range(64)))
    v4_three = [v4(17, data[:24], offset=0x2000), v4(17, data[24:48], offset=0x2003), v4(17, data[48:], offset=6)]
    v6_three = [v6_fragment(17, data[:24], 1), v6_fragment(17, data[24:48], 25), v6_fragment(17, data[48:], 48)]
    for three in (v4_three, v6_three):
        a, b, c = three
        for order in ((a, b, c), (c, b, a), (b, a, c), (a, a, b, c), (a, c, b, b), (a, b)):
            yield together(*order)
        yield together(a, b, c, times=(0, 255, 255))
    yield together(v4(17, data[:24], offset=0x2000), v4(17, data[16:48], offset=0x2002))
    yield together(v6_fragment(17, data, 0), v6(17, data), v4(17, data))
    yield together(*(v4(17, data[:24], offset=0x2000, ident=i) for i in range(6)))
    yield together(v4(17, data[:24], offset=0x2000, tos=3), v4(17, data[24:], offset=3))
    yield together(v4(17, data, offset=0x1FFF), v4(17, data[:16], offset=0x2000), v6_fragment(17, data, 0xFFF9))
    yield together(
        v6(0, extension(44, bytes(6)) + struct.pack("!BBHI", 60, 0, 1, 9) + extension(17, bytes(6)) + data[:24])
    )


TARGETS = {"decap": decap, "header": header, "fragment": fragment}


def main() -> None:
    target, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for data in TARGETS[target]():
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main()
