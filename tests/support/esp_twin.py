"""A slow ESP written from the RFCs, to hold the kernels against: every algorithm, mode, header rule and verdict, one packet at a time.

4303 (packet, padding, windows, modes), 4301 5.1.2 and 6040 (outer headers), 3948 (UDP, checksums behind a NAT), BEET as in
draft-nikander-esp-beet-mode-09.
Nothing here is fast, and nothing is shared with the kernels but the names of algorithms and verdicts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from twin_crypto import TwinCipher
from twin_ip import Head, head_of, ipv4_header, ipv6_header, ones_sum, split_of, upper_checksum, with_length

from ipsec_fast.algorithms import Mode
from ipsec_fast.model import OuterHeader

# RFC 6040 figure 4, inner then outer
ECN_IN = {
    0: {0: 0, 1: 0, 2: 0, 3: None},
    1: {0: 1, 1: 1, 2: 1, 3: 3},
    2: {0: 2, 1: 1, 2: 2, 3: 3},
    3: {0: 3, 1: 3, 2: 3, 3: 3},
}


@dataclass
class Twin:
    """One SA, of either direction; arguments as those of `ipsec_fast.SA`."""

    algorithm: str
    key: bytes
    spi: int = 0x1001
    mode: str = "tunnel"
    src: str | None = None
    dst: str | None = None
    encap: tuple[int, int] | None = None
    esn: bool = False
    window: int = 1024
    seq: int = 0
    inner: tuple[str, str] | None = None
    original: Any = None
    header: OuterHeader = field(default_factory=OuterHeader)
    tfc: int = 0
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cipher = TwinCipher(self.algorithm, self.key)
        self.row = self.cipher.suite.encryption
        self.first = self.seq  # everything up to here counts as seen
        self.ident = self.spi & 0xFFFF

    # --- out ------------------------------------------------------------------------------------------------------------------

    def seal(self, packet: bytes, random_iv: bytes = b"") -> tuple[str, bytes]:
        """(verdict, sealed packet). `random_iv`: what a CBC packet drew."""
        taken = self._take_off(packet)
        if isinstance(taken, str):
            return taken, b""
        outer, payload, next_header = taken
        payload = payload.ljust(self.tfc, b"\0")
        pad = -(len(payload) + 2) % self.row.block_bytes
        plain = payload + bytes(range(1, pad + 1)) + bytes([pad, next_header])
        self.seq += 1
        wire = struct.pack("!II", self.spi, self.seq & 0xFFFFFFFF)
        iv = (
            random_iv
            if self.row.mode is Mode.CBC
            else b""
            if self.row.mode is Mode.NULL
            else self.seq.to_bytes(8, "big")
        )
        body, icv = self.cipher.seal(wire, self.seq, self.esn, iv, plain)
        return "ok", self._put_on(outer, packet, wire + body + icv)

    def _take_off(self, packet: bytes) -> str | tuple[bytes, bytes, int]:
        """What stays outside (transport: the header), what is sealed, its next header."""
        head = head_of(packet)
        if self.mode == "tunnel":
            return self._tunnel_inner(packet)
        if head is None:
            return "bad_inner"
        whole = packet[: head.total]
        if not head.is_fragment and self._next_header(whole, head) == 59:  # it would be a dummy
            return "bad_inner"
        if self.mode == "beet":
            assert self.inner is not None
            if head.version != ip_address(self.inner[0]).version:
                return "bad_inner"
            if head.is_fragment:
                return "outer_fragment"
            if (str(head.src), str(head.dst)) != tuple(str(ip_address(one)) for one in self.inner):
                return "bad_inner"
            if head.version == 6:
                return whole[:40], whole[40:], whole[6]
            options = whole[20 : head.length]
            if not options:
                return whole[:20], whole[20:], whole[9]
            filler = -(4 + len(options)) % 8
            size = 4 + filler + len(options)
            pseudo = bytes([whole[9], size // 8 - 1, filler, 0]) + b"\1" * filler + options
            return whole[: head.length], pseudo + whole[head.length :], 94
        if head.is_fragment:
            return "outer_fragment"
        at, named = split_of(whole, head)
        return whole[:at], whole[at:], whole[named]

    def _next_header(self, packet: bytes, head: Head) -> int:
        if self.mode == "transport":
            return packet[split_of(packet, head)[1]]
        return packet[9] if head.version == 4 else packet[6]

    def _tunnel_inner(self, packet: bytes) -> str | tuple[bytes, bytes, int]:
        """The inner packet tells its own length; what stands behind it is TFC padding."""
        is_v4 = len(packet) >= 20 and packet[0] >> 4 == 4 and packet[0] & 15 >= 5
        if is_v4 and 20 <= struct.unpack("!H", packet[2:4])[0] <= len(packet):
            return b"", packet, 4
        if len(packet) >= 40 and packet[0] >> 4 == 6 and 40 + struct.unpack("!H", packet[4:6])[0] <= len(packet):
            return b"", packet, 41
        return "bad_inner"

    def _put_on(self, outer: bytes, packet: bytes, esp: bytes) -> bytes:
        udp = b""
        if self.encap:
            udp = struct.pack("!HHHH", *self.encap, 8 + len(esp), 0)
        if self.mode == "transport":
            head = head_of(packet)
            assert head is not None
            _, named = split_of(packet, head)
            kept = bytearray(outer)
            kept[named] = 17 if self.encap else 50
            ip = with_length(bytes(kept), len(udp) + len(esp))
        elif self.src is None:
            return esp
        else:
            ip = self._outer_header(packet, len(udp) + len(esp))
        if udp and ip[0] >> 4 == 6:
            src, dst = ip_address(ip[8:24]), ip_address(ip[24:40])
            udp = udp[:6] + struct.pack("!H", upper_checksum(src, dst, 17, udp + esp))
        return ip + udp + esp

    def _outer_header(self, packet: bytes, payload: int) -> bytes:
        head, rules = inner_of(packet), self.header
        if self.mode == "beet":
            rules = OuterHeader(df="copy", ttl="copy", flow_label="copy")
        dscp = head.tos >> 2 if rules.dscp == "copy" else int(rules.dscp)
        tos = dscp << 2 | (head.tos & 3 if rules.ecn else 0)
        ttl = head.ttl or 64 if rules.ttl == "copy" else int(rules.ttl)
        protocol = 17 if self.encap else 50
        if ip_address(self.src).version == 6:
            label = head.label if rules.flow_label == "copy" else int(rules.flow_label)
            return ipv6_header(self.src, self.dst, protocol, tos=tos, label=label, ttl=ttl, payload=payload)
        self.ident = self.ident + 1 & 0xFFFF
        df = {"set": True, "clear": False, "copy": head.dont_fragment}[rules.df]
        return ipv4_header(self.src, self.dst, protocol, tos=tos, ident=self.ident, df=df, ttl=ttl, payload=payload)

    # --- in -------------------------------------------------------------------------------------------------------------------

    def open(self, packet: bytes) -> tuple[str, bytes]:
        outer, esp = None, packet
        if self.mode == "transport" or self.src is not None:
            outer = head_of(packet)
            if outer is None or (self.src is not None and outer.version != ip_address(self.src).version):
                return "bad_outer", b""
            if outer.is_fragment:
                return "outer_fragment", b""
            found = self._find_esp(packet[outer.length : outer.total], outer.protocol)
            if found is None:
                return "bad_outer", b""
            esp = found
        icv_bytes = self.cipher.suite.icv_bytes
        around = 8 + self.row.iv_bytes + icv_bytes
        if len(esp) < around + 2:
            return "runt", b""
        if (len(esp) - around) % self.row.block_bytes:
            return "bad_length", b""
        spi, low = struct.unpack("!II", esp[:8])
        if spi != self.spi:
            return "wrong_spi", b""
        seq = self._whole_number(low)
        replay = self._replay(seq)
        if replay:
            return replay, b""
        plain = self.cipher.open(esp[:8], seq, self.esn, esp[8:-icv_bytes], esp[-icv_bytes:])
        if plain is None:
            return "bad_icv", b""
        self.seen.add(seq)
        self.seq = max(self.seq, seq)
        pad, next_header = plain[-2], plain[-1]
        if pad > len(plain) - 2 or plain[-2 - pad : -2] != bytes(range(1, pad + 1)):
            return "bad_padding", b""
        if next_header == 59:
            return "dummy", b""
        return self._restore(outer, packet, plain[: -2 - pad], next_header)

    def _find_esp(self, upper: bytes, protocol: int) -> bytes | None:
        if not self.encap:
            return upper if protocol == 50 else None
        if protocol != 17 or len(upper) < 8:
            return None
        _, port, length, _ = struct.unpack("!HHHH", upper[:8])
        return upper[8:length] if port == self.encap[1] and 8 <= length <= len(upper) else None

    def _whole_number(self, low: int) -> int:
        """Of all numbers with this low half the one nearest above the window's bottom (RFC 4303 A2.2); 0 where there is none."""
        if not self.esn:
            return low
        bottom = self.seq - self.window + 1
        number = bottom + (low - bottom) % (1 << 32)
        return number if 0 <= number < 1 << 64 else 0

    def _replay(self, seq: int) -> str:
        if seq == 0 or seq <= self.seq - self.window:
            return "replay_old"
        return "replay_seen" if seq <= self.first or seq in self.seen else ""

    def _restore(self, outer: Head | None, packet: bytes, payload: bytes, next_header: int) -> tuple[str, bytes]:
        if self.mode == "tunnel":
            return self._restore_tunnel(outer, payload, next_header)
        assert outer is not None
        if self.mode == "beet":
            return self._restore_beet(outer, payload, next_header)
        kept = bytearray(packet[: outer.length])
        kept[outer.field] = next_header
        header = with_length(bytes(kept), len(payload))
        return "ok", header + self._mend(outer, payload, next_header)

    def _restore_tunnel(self, outer: Head | None, payload: bytes, next_header: int) -> tuple[str, bytes]:
        if next_header not in (4, 41):
            return "bad_next_header", b""
        taken = self._tunnel_inner(payload)
        if isinstance(taken, str) or taken[2] != next_header:
            return "bad_inner", b""
        total = struct.unpack("!H", payload[2:4])[0] if next_header == 4 else 40 + struct.unpack("!H", payload[4:6])[0]
        if next_header == 4 and total < (payload[0] & 15) * 4:
            return "bad_inner", b""
        inner = payload[:total]
        if outer is None:
            return "ok", inner
        tos = inner_of(inner).tos
        ecn = ECN_IN[tos & 3][outer.tos & 3]
        if ecn is None:
            return "bad_ecn", b""
        dscp = outer.tos >> 2 if self.header.dscp_in == "copy" else tos >> 2
        return "ok", with_tos(inner, dscp << 2 | ecn)

    def _restore_beet(self, outer: Head, payload: bytes, next_header: int) -> tuple[str, bytes]:
        assert self.inner is not None
        src, dst = self.inner
        if ip_address(src).version == 6:
            header = ipv6_header(
                src, dst, next_header, tos=outer.tos, label=outer.label, ttl=outer.ttl, payload=len(payload)
            )
            return "ok", header + payload
        options = b""
        if next_header == 94:
            if len(payload) < 8:
                return "bad_inner", b""
            next_header, size, filler = payload[0], (payload[1] + 1) * 8, payload[2]
            if size > len(payload) or filler % 4 or not 0 <= size - 4 - filler <= 40:
                return "bad_inner", b""
            options, payload = payload[4 + filler : size], payload[size:]
        header = ipv4_header(
            src, dst, next_header, tos=outer.tos, ident=self.received_ident, df=outer.dont_fragment, ttl=outer.ttl,
            options=options, payload=len(payload),
        )  # fmt: skip
        return "ok", header + payload

    received_ident = 0  # of the outer IPv4 header; the test sets it

    def _mend(self, outer: Head, payload: bytes, protocol: int) -> bytes:
        """RFC 3948 section 3.1.2: the checksum over the addresses that are in the header now."""
        at = {6: 16, 17: 6}.get(protocol)
        if self.original is None or at is None or len(payload) < {6: 20, 17: 8}[protocol]:
            return payload
        old = struct.unpack("!H", payload[at : at + 2])[0]
        if protocol == 17 and old == 0 and outer.version == 4:
            return payload
        zeroed = payload[:at] + b"\0\0" + payload[at + 2 :]
        new = upper_checksum(outer.src, outer.dst, protocol, zeroed)
        if self.original != "recompute":
            before = b"".join(ip_address(one).packed for one in self.original)
            total = (old ^ 0xFFFF) + (ones_sum(before) ^ 0xFFFF) + ones_sum(outer.src.packed + outer.dst.packed)
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            new = total ^ 0xFFFF
            if protocol == 17 and new == 0:
                new = 0xFFFF
        return payload[:at] + struct.pack("!H", new) + payload[at + 2 :]


def inner_of(packet: bytes) -> Head:
    """Of an inner packet only its own header counts; what it carries may be anything."""
    if packet[0] >> 4 == 4:
        return Head(4, 20, 0, 9, packet[9], packet[1], packet[8], bool(packet[6] & 0x40), 0, *NOWHERE, False, [])
    first = struct.unpack("!I", packet[:4])[0]
    return Head(6, 40, 0, 6, packet[6], first >> 20 & 255, packet[7], True, first & 0xFFFFF, *NOWHERE, False, [])


NOWHERE = (ip_address("0.0.0.0"), ip_address("0.0.0.0"))


def with_tos(packet: bytes, tos: int) -> bytes:
    """The packet with another TOS; an IPv4 checksum is adjusted, not computed (RFC 1624), so a wrong one stays wrong."""
    if packet[0] >> 4 == 6:
        first = struct.unpack("!I", packet[:4])[0] & ~(0xFF << 20) | tos << 20
        return struct.pack("!I", first) + packet[4:]
    if packet[1] == tos:
        return packet
    check = struct.unpack("!H", packet[10:12])[0]
    total = (check ^ 0xFFFF) + (struct.unpack("!H", packet[:2])[0] ^ 0xFFFF) + (packet[0] << 8 | tos)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:1] + bytes([tos]) + packet[2:10] + struct.pack("!H", total ^ 0xFFFF) + packet[12:]
