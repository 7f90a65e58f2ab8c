"""ICMP errors made by hand, sent from a namespace of the test: what a router says of a packet that was too big, and what a liar says."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from ipsec_fast.dataplane.echo import _checksum
from ipsec_fast.demo.namespaces import in_namespace


def quoted_udp(source: str, target: str, payload: bytes, port: int = 4500, length: int = 1500) -> bytes:
    """IP and UDP header of a packet of `length` bytes, and the first bytes of its payload."""
    here = ip_address(source)
    udp = struct.pack(">HHHH", port, port, length - (20 if here.version == 4 else 40), 0) + payload
    return ip_header(source, target, 17, length) + udp


def quoted_esp(source: str, target: str, payload: bytes, length: int = 1500) -> bytes:
    return ip_header(source, target, 50, length) + payload


def ip_header(source: str, target: str, protocol: int, length: int) -> bytes:
    here, there = ip_address(source), ip_address(target)
    if here.version == 6:
        return struct.pack(">IHBB", 0x60000000, length - 40, protocol, 64) + here.packed + there.packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, length, 1, 0x4000, 64, protocol, 0) + here.packed + there.packed
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:]


def too_big(mtu: int, quoted: bytes, *, kind: tuple[int, int] | None = None) -> bytes:
    """The ICMP message; `kind` (type, code) for another one. The kernel fills in the checksum of ICMPv6."""
    version = quoted[0] >> 4
    if version == 6:
        return struct.pack(">BBHI", *(kind or (2, 0)), 0, mtu) + quoted
    body = struct.pack(">BBHHH", *(kind or (3, 4)), 0, 0, mtu) + quoted
    return body[:2] + struct.pack(">H", _checksum(body)) + body[4:]


def send_icmp(netns: str, target: str, message: bytes, *, times: int = 1, source: str | None = None) -> None:
    version6 = ":" in target
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if version6 else (socket.AF_INET, socket.IPPROTO_ICMP)

    def send() -> None:
        with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
            if source is not None:
                sock.bind((source, 0))
            for _ in range(times):
                sock.sendto(message, (target, 0))

    in_namespace(f"/run/netns/{netns}", send)
