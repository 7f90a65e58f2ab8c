"""A slow AH written from RFC 4302 (mutable fields as in its appendix A), 4543 and erratum 3643, to hold the kernels against."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from esp_twin import ECN_IN, inner_of, with_tos
from twin_crypto import mac
from twin_ip import Head, head_of, ipv4_header, ipv6_header, split_of, with_length

from ipsec_fast.algorithms import ah_suite, integrity_by_id
from ipsec_fast.model import OuterHeader

FIXED_OPTIONS = {130, 133, 134, 148, 149}
SOURCE_ROUTES = {131, 137}


def options_as_seen(options: bytes) -> tuple[bytes, bytes] | None:
    """(options with the mutable ones zeroed, last address of a source route); None where they do not fit."""
    out, route, at = b"", b"", 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            return out + options[at:], route
        if kind == 1:
            out, at = out + b"\1", at + 1
            continue
        if at + 2 > len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            return None
        one = options[at : at + options[at + 1]]
        if kind in SOURCE_ROUTES:
            if len(one) < 7:
                return None
            if one[2] + 3 <= len(one):  # the pointer is not behind the last address
                route = one[-4:]
        out += one if kind in FIXED_OPTIONS else bytes(len(one))
        at += len(one)
    return out, route


def header_as_seen(packet: bytes, end: int, sending: bool) -> bytes | None:
    """The header of `end` bytes with what changes on the way zeroed (section 3.3.3.1); None where it cannot be told."""
    if packet[0] >> 4 == 4:
        seen = options_as_seen(packet[20:end])
        if seen is None:
            return None
        options, route = seen
        destination = route if route and sending else packet[16:20]
        return (
            packet[:1]
            + b"\0"
            + packet[2:6]
            + b"\0\0\0"
            + packet[9:10]
            + b"\0\0"
            + packet[12:16]
            + destination
            + options
        )
    base = bytearray(b"\x60\0\0\0" + packet[4:7] + b"\0" + packet[8:40])
    chain, at, kind = b"", 40, packet[6]
    while at < end:
        size = 8 if kind == 44 else (packet[at + 1] + 1) * 8
        header = bytearray(packet[at : at + size])
        if kind in (0, 60):
            inside = 2
            while inside < size:
                if header[inside] == 0:
                    inside += 1
                    continue
                if inside + 2 > size or inside + 2 + header[inside + 1] > size:
                    return None
                if header[inside] & 0x20:
                    header[inside + 2 : inside + 2 + header[inside + 1]] = bytes(header[inside + 1])
                inside += 2 + header[inside + 1]
        if kind == 43:
            if header[2] == 0:
                return None
            if header[3]:
                if header[2] != 2 or size != 24 or header[3] != 1:
                    return None
                home, header[8:24] = header[8:24], base[24:40]
                base[24:40] = home
                header[3] = 0
        chain += bytes(header)
        kind, at = packet[at], at + size
    return bytes(base) + chain


@dataclass
class AhTwin:
    algorithm: str
    key: bytes
    spi: int = 0x1001
    mode: str = "tunnel"
    src: str | None = None
    dst: str | None = None
    esn: bool = False
    window: int = 1024
    seq: int = 0
    header: OuterHeader = field(default_factory=OuterHeader)
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.suite = ah_suite(self.algorithm)
        self.first = self.seq
        self.ident = self.spi & 0xFFFF

    def length(self, version: int) -> int:
        unit = 4 if version == 4 else 8
        return -(-(12 + self.suite.iv_bytes + self.suite.icv_bytes) // unit) * unit

    def icv(self, covered: bytes, seq: int, iv: bytes) -> bytes:
        covered += (seq >> 32).to_bytes(4, "big") if self.esn else b""
        if iv:
            machine = Cipher(algorithms.AES(self.key[:-4]), modes.GCM(self.key[-4:] + iv)).encryptor()
            machine.authenticate_additional_data(covered)
            machine.finalize()
            return machine.tag
        row = integrity_by_id(self.suite.id)
        assert row is not None
        return mac(row.digest, self.key, covered)[: row.icv_bytes]

    def seal(self, packet: bytes) -> tuple[str, bytes]:
        head = head_of(packet)
        if self.mode == "tunnel":
            inner = whole_inner(packet)
            if inner is None:
                return "bad_inner", b""
            length = self.length(ip_address(self.src).version)
            outer = self._outer_header(inner, length + len(inner))
            rest, next_header = inner, 4 if inner[0] >> 4 == 4 else 41
        else:
            if head is None:
                return "bad_inner", b""
            if head.is_fragment:
                return "outer_fragment", b""
            at, named = split_of(packet, head)
            length, rest, next_header = self.length(head.version), packet[at : head.total], packet[named]
            kept = bytearray(packet[:at])
            kept[named] = 51
            outer = with_length(bytes(kept), length + len(rest))
        seq = self.seq + 1
        iv = seq.to_bytes(8, "big")[: self.suite.iv_bytes]
        fixed = struct.pack("!BBHII", next_header, length // 4 - 2, 0, self.spi, seq & 0xFFFFFFFF)
        as_seen = header_as_seen(outer, len(outer), True)
        if as_seen is None:
            return "bad_inner", b""
        self.seq = seq
        icv = self.icv(as_seen + (fixed + iv).ljust(length, b"\0") + rest, seq, iv)
        return "ok", outer + (fixed + iv + icv).ljust(length, b"\0") + rest

    def _outer_header(self, inner: bytes, payload: int) -> bytes:
        head, rules = inner_of(inner), self.header
        tos = (head.tos >> 2 if rules.dscp == "copy" else int(rules.dscp)) << 2 | (head.tos & 3 if rules.ecn else 0)
        ttl = head.ttl or 64 if rules.ttl == "copy" else int(rules.ttl)
        if ip_address(self.src).version == 6:
            label = head.label if rules.flow_label == "copy" else int(rules.flow_label)
            return ipv6_header(self.src, self.dst, 51, tos=tos, label=label, ttl=ttl, payload=payload)
        self.ident = self.ident + 1 & 0xFFFF
        df = {"set": True, "clear": False, "copy": head.dont_fragment}[rules.df]
        return ipv4_header(self.src, self.dst, 51, tos=tos, ident=self.ident, df=df, ttl=ttl, payload=payload)

    def open(self, packet: bytes) -> tuple[str, bytes]:
        head = head_of(packet)
        if head is None or (self.src is not None and head.version != ip_address(self.src).version):
            return "bad_outer", b""
        if head.is_fragment:
            return "outer_fragment", b""
        found = ah_place(packet, head)
        if found is None:
            return "bad_outer", b""
        at, named = found
        length = self.length(head.version)
        if head.total - at < length:
            return "runt", b""
        next_header, size, _, spi, low = struct.unpack("!BBHII", packet[at : at + 12])
        if (size + 2) * 4 != length:
            return "bad_length", b""
        if spi != self.spi:
            return "wrong_spi", b""
        as_seen = header_as_seen(packet, at, False)
        if as_seen is None:
            return "bad_outer", b""
        seq = self._whole_number(low)
        if seq == 0 or seq <= self.seq - self.window:
            return "replay_old", b""
        if seq <= self.first or seq in self.seen:
            return "replay_seen", b""
        end = at + 12 + self.suite.iv_bytes + self.suite.icv_bytes
        iv, icv = packet[at + 12 : at + 12 + self.suite.iv_bytes], packet[at + 12 + self.suite.iv_bytes : end]
        covered = as_seen + packet[at : at + 12] + iv + bytes(len(icv)) + packet[end : head.total]
        if self.icv(covered, seq, iv) != icv:
            return "bad_icv", b""
        self.seen.add(seq)
        self.seq = max(self.seq, seq)
        rest = packet[at + length : head.total]
        if self.mode == "transport":
            kept = bytearray(packet[:at])
            kept[named] = next_header
            return "ok", with_length(bytes(kept), len(rest)) + rest
        return self._restore_tunnel(head, rest, next_header)

    def _restore_tunnel(self, outer: Head, rest: bytes, next_header: int) -> tuple[str, bytes]:
        if next_header not in (4, 41):
            return "bad_next_header", b""
        inner = whole_inner(rest)
        if inner is None or {4: 4, 41: 6}[next_header] != inner[0] >> 4:
            return "bad_inner", b""
        tos = inner_of(inner).tos
        ecn = ECN_IN[tos & 3][outer.tos & 3]
        if ecn is None:
            return "bad_ecn", b""
        return "ok", with_tos(inner, (outer.tos if self.header.dscp_in == "copy" else tos) & 0xFC | ecn)

    def _whole_number(self, low: int) -> int:
        if not self.esn:
            return low
        bottom = self.seq - self.window + 1
        number = bottom + (low - bottom) % (1 << 32)
        return number if 0 <= number < 1 << 64 else 0


def whole_inner(packet: bytes) -> bytes | None:
    """The packet by its own length; None where that does not fit."""
    if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[0] & 15 >= 5:
        total = struct.unpack("!H", packet[2:4])[0]
        return packet[:total] if (packet[0] & 15) * 4 <= total <= len(packet) else None
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        total = 40 + struct.unpack("!H", packet[4:6])[0]
        return packet[:total] if total <= len(packet) else None
    return None


def ah_place(packet: bytes, head: Head) -> tuple[int, int] | None:
    """Offset of AH, and of the byte that names it."""
    if head.version == 4:
        return (head.length, 9) if head.protocol == 51 else None
    named = 6
    for kind, at, _ in head.chain:
        if kind == 51:
            return at, named
        named = at
    return None
