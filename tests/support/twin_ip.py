"""The slow twin's IP: headers taken apart and put together by the book. Called by: esp_twin.py, tests that need odd headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


def ones_sum(data: bytes) -> int:
    """RFC 1071, not inverted."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass
class Head:
    """An IP header with everything in front of the upper layer. `field`: offset of the byte that names what follows `length` bytes."""

    version: int
    length: int
    total: int
    field: int
    protocol: int
    tos: int
    ttl: int
    dont_fragment: bool
    label: int
    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    is_fragment: bool
    chain: list[tuple[int, int, int]]  # IPv6: (kind, offset, bytes) of each extension header


def head_of(packet: bytes) -> Head | None:
    """None: not an IP packet that a gateway takes."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        size, total = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
        if size < 20 or size > len(packet) or not size <= total <= len(packet):
            return None
        flags = struct.unpack("!H", packet[6:8])[0]
        return Head(
            4, size, total, 9, packet[9], packet[1], packet[8], bool(flags & 0x4000), 0,
            ip_address(packet[12:16]), ip_address(packet[16:20]), bool(flags & 0x3FFF), [],
        )  # fmt: skip
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        first, payload = struct.unpack("!IH", packet[:6])
        total = 40 + payload
        if total > len(packet):
            return None
        chain: list[tuple[int, int, int]] = []
        at, field, kind, is_fragment, offset = 40, 6, packet[6], False, 0
        while kind in (0, 43, 44, 51, 60, 139, 140) and not offset:
            again = kind == 44 and any(one[0] == 44 for one in chain)
            if len(chain) == 8 or total - at < 8 or again:
                return None
            size = 8 if kind == 44 else (packet[at + 1] + 2) * 4 if kind == 51 else (packet[at + 1] + 1) * 8
            if size > total - at or at + size - 40 > 256:
                return None
            if kind == 44:
                word = struct.unpack("!H", packet[at + 2 : at + 4])[0]
                is_fragment, offset = bool(word & 0xFFF9), word & 0xFFF8
            chain.append((kind, at, size))
            field, kind, at = at, packet[at], at + size
        return Head(
            6, at, total, field, kind, first >> 20 & 0xFF, packet[7], True, first & 0xFFFFF,
            ip_address(packet[8:24]), ip_address(packet[24:40]), is_fragment, chain,
        )  # fmt: skip
    return None


def split_of(packet: bytes, head: Head) -> tuple[int, int]:
    """Where ESP goes in transport mode (RFC 4303 section 3.1.1), and the byte that will name it."""
    if head.version == 4:
        return head.length, 9
    outside = [place for place, (kind, _, _) in enumerate(head.chain) if kind in (0, 43, 44)]
    before_ah = next((place for place, (kind, _, _) in enumerate(head.chain) if kind == 51), len(head.chain))
    outside = [place for place in outside if place < before_ah]
    if not outside:
        return 40, 6
    _, at, size = head.chain[outside[-1]]
    return at + size, at


def with_length(header: bytes, payload: int) -> bytes:
    """The header with its length fields for so many bytes behind it, and its checksum."""
    if header[0] >> 4 == 6:
        return header[:4] + struct.pack("!H", len(header) - 40 + payload) + header[6:]
    bare = header[:2] + struct.pack("!H", len(header) + payload) + header[4:10] + b"\0\0" + header[12:]
    return bare[:10] + struct.pack("!H", ones_sum(bare) ^ 0xFFFF) + bare[12:]


def ipv4_header(src, dst, protocol: int, *, tos=0, ident=0, df=True, ttl=64, options=b"", payload=0) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 0, ident, 0x4000 if df else 0, ttl, protocol, 0,
        ip_address(src).packed, ip_address(dst).packed,
    )  # fmt: skip
    return with_length(header + options, payload)


def ipv6_header(src, dst, next_header: int, *, tos=0, label=0, ttl=64, payload=0) -> bytes:
    first = 6 << 28 | tos << 20 | label
    return struct.pack("!IHBB", first, payload, next_header, ttl) + ip_address(src).packed + ip_address(dst).packed


def pseudo_sum(src, dst, protocol: int, length: int) -> int:
    return ones_sum(src.packed + dst.packed + struct.pack("!IBBBB", length, 0, 0, 0, protocol))


def upper_checksum(src, dst, protocol: int, upper: bytes) -> int:
    """Of TCP or UDP, whose field must be zero in `upper`."""
    total = pseudo_sum(src, dst, protocol, len(upper)) + ones_sum(upper)
    total = ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF
    return 0xFFFF if total == 0 and protocol == 17 else total
