"""Echo requests that probe a tunnel from inside (RFC 792, RFC 4443 section 4.1), and the mark by which the worker knows their answers.

    IP | ICMP type 8 (128), identifier, sequence | COOKIE (8) | number (4) | zeros up to the wanted length

IPv4 requests may be fragmented behind the tunnel: what is probed ends at the peer's gateway. The cookie is drawn anew by each process,
so an answer to anybody else's echo is not taken for ours. Called by control and worker.
"""

from __future__ import annotations

import os
import struct

from ..errors import UsageError
from ..model import Address

COOKIE = os.urandom(8)
ICMP, ICMPV6 = 1, 58
REQUEST = {4: 8, 6: 128}
LEAST_BYTES = {4: 20 + 8 + 12, 6: 40 + 8 + 12}


def echo_request(source: Address, address: Address, number: int, length: int) -> bytes:
    """An inner packet of `length` bytes; `number` (32 bits) comes back in ECHO_ANSWERED. UsageError: it cannot be so short or long."""
    version = address.version
    if source.version != version or not LEAST_BYTES[version] <= length <= 65535:
        raise UsageError(
            f"an echo from {source} to {address} of {length} bytes: at least {LEAST_BYTES[version]}, of one IP version"
        )
    header = 20 if version == 4 else 40
    data = COOKIE + struct.pack(">I", number) + bytes(length - LEAST_BYTES[version])
    identifier = int.from_bytes(COOKIE[:2], "big")
    upper = struct.pack(">BBHHH", REQUEST[version], 0, 0, identifier, number & 0xFFFF) + data
    if version == 6:
        pseudo = source.packed + address.packed + struct.pack(">II", len(upper), ICMPV6)
        upper = upper[:2] + struct.pack(">H", _checksum(pseudo + upper)) + upper[4:]
        return struct.pack(">IHBB", 0x60000000, length - header, ICMPV6, 64) + source.packed + address.packed + upper
    upper = upper[:2] + struct.pack(">H", _checksum(upper)) + upper[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, length, number & 0xFFFF, 0, 64, ICMP, 0) + source.packed + address.packed
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + upper


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
