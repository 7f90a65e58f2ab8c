"""Packets with a transport header, and single fragments written by hand, for the tests of reassembly and cutting."""

from __future__ import annotations

import struct

from kernel_packets import ipv4, ipv6, ones_sum


def with_checksum(header: bytes) -> bytes:
    header = header[:10] + b"\0\0" + header[12:]
    return header[:10] + (ones_sum(header) ^ 0xFFFF).to_bytes(2, "big") + header[12:]


def udp_v4(length: int, *, tos: int = 0, ident: int = 1, options: bytes = b"", df: bool = False) -> bytes:
    plain = ipv4(length - len(options), tos)
    header = bytes([0x45 + len(options) // 4]) + plain[1:2] + struct.pack("!HH", length, ident)
    header += struct.pack("!H", 0x4000 * df) + plain[8:20] + options
    body = bytes(i * 7 % 251 for i in range(length - len(header)))
    return with_checksum(header) + body


def udp_v6(length: int, *, tos: int = 0) -> bytes:
    plain = ipv6(length, tos)
    return plain[:40] + bytes(i * 7 % 251 for i in range(length - 40))


def piece_v4(
    offset: int, data: bytes, more: bool, *, ident: int = 1, tos: int = 0, protocol: int = 17, options: bytes = b""
) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(data), ident,
        offset // 8 | 0x2000 * more, 64, protocol, 0, b"\x0a\1\0\1", b"\x0a\2\0\1",
    )  # fmt: skip
    return with_checksum(header + options) + data


def piece_v6(
    offset: int, data: bytes, more: bool, *, ident: int = 1, tos: int = 0, protocol: int = 17, before: bytes = b""
) -> bytes:
    """`before`: the extension headers in front of the fragment header, the last of which says 44 (its first byte: what comes next)."""
    fragment = struct.pack("!BBHI", protocol, 0, offset | more, ident)
    body = before + fragment + data
    head = struct.pack("!IHBB", 6 << 28 | tos << 20, len(body), 0 if before else 44, 64)
    return head + bytes(15) + b"\1" + bytes(15) + b"\2" + body


def piece(version: int, offset: int, data: bytes, more: bool, **fields) -> bytes:
    return (piece_v4 if version == 4 else piece_v6)(offset, data, more, **fields)
