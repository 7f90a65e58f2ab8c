"""Inner packets made by hand for the tests of the I/O side: IPv4 and IPv6, TCP, UDP and ICMP, with good checksums."""

from __future__ import annotations

import struct
from ipaddress import ip_address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
FIN, SYN, PSH, ACK, ECE, CWR = 0x01, 0x02, 0x08, 0x10, 0x40, 0x80


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo(src: str, dst: str, protocol: int, length: int) -> bytes:
    return ip_address(src).packed + ip_address(dst).packed + struct.pack("!II", length, protocol)


def ip(src: str, dst: str, protocol: int, payload: bytes, *, ident: int = 1, df: bool = True, tos: int = 0, ttl: int = 64,
       options: bytes = b"", fragment: int = 0) -> bytes:  # fmt: skip
    if ip_address(src).version == 6:
        return (
            struct.pack("!IHBB", 6 << 28 | tos << 20, len(payload), protocol, ttl)
            + ip_address(src).packed
            + ip_address(dst).packed
            + payload
        )
    head = struct.pack(
        "!BBHHHBBH",
        0x45 + len(options) // 4,
        tos,
        20 + len(options) + len(payload),
        ident,
        df << 14 | fragment,
        ttl,
        protocol,
        0,
    )
    head += ip_address(src).packed + ip_address(dst).packed + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp(src: str, dst: str, payload: bytes = b"", *, seq: int = 1000, ack: int = 5, flags: int = ACK, options: bytes = b"",
        window: int = 500, ports: tuple[int, int] = (40000, 443), **ip_fields: int) -> bytes:  # fmt: skip
    head = struct.pack("!HHIIBBHHH", *ports, seq, ack, (20 + len(options)) // 4 << 4, flags, window, 0, 0) + options
    total = checksum(pseudo(src, dst, TCP, len(head) + len(payload)) + head + payload)
    return ip(src, dst, TCP, head[:16] + struct.pack("!H", total) + head[18:] + payload, **ip_fields)


def udp(src: str, dst: str, payload: bytes = b"", *, ports: tuple[int, int] = (40000, 53), **ip_fields: int) -> bytes:
    head = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    total = checksum(pseudo(src, dst, UDP, 8 + len(payload)) + head + payload) or 0xFFFF
    return ip(src, dst, UDP, head[:6] + struct.pack("!H", total) + payload, **ip_fields)


def icmp(src: str, dst: str, kind: int, code: int, body: bytes = b"") -> bytes:
    head = bytes([kind, code, 0, 0]) + body
    return ip(src, dst, ICMP, head[:2] + struct.pack("!H", checksum(head)) + head[4:])


def header_length(packet: bytes) -> int:
    return 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4


def transport_is_sound(packet: bytes) -> bool:
    """Lengths agree, the IPv4 header's sum and the TCP or UDP sum are good."""
    at = header_length(packet)
    if packet[0] >> 4 == 4:
        if checksum(packet[:at]) or struct.unpack_from("!H", packet, 2)[0] != len(packet):
            return False
        addresses, protocol = packet[12:20], packet[9]
    else:
        if struct.unpack_from("!H", packet, 4)[0] != len(packet) - 40:
            return False
        addresses, protocol = packet[8:40], packet[6]
    body = packet[at:]
    if protocol == UDP and struct.unpack_from("!H", body, 4)[0] != len(body):
        return False
    return checksum(addresses + struct.pack("!II", len(body), protocol) + body) == 0
