"""Reassembly written from the RFCs, slowly: dicts and bytes, no bound on memory. Shares no line with ext/include/ip_fragment.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

EXTENSIONS = {0, 43, 51, 60, 139, 140}
TRANSPORT = {6: 20, 1: 8, 17: 8, 50: 8, 136: 8, 33: 12, 51: 12, 132: 12, 58: 4, 59: 0}


def ones(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass
class Datagram:
    since: float
    pieces: dict[int, tuple[bytes, bool]] = field(default_factory=dict)
    ecn: set[int] = field(default_factory=set)
    head: tuple[bytes, int, int] | None = None  # header, place of the next-header number, its value
    dead: str = ""


class SlowReassembler:
    def __init__(self, timeout: float = 30.0) -> None:
        self.timeout = timeout
        self.under_way: dict[tuple, Datagram] = {}

    def push(self, packet: bytes, now: float) -> tuple[str, bytes | None]:
        """("ok", whole packet), ("held", None) or (name of the verdict, None)."""
        self.under_way = {k: d for k, d in self.under_way.items() if now - d.since < self.timeout}
        return self._push_v4(packet, now) if packet[0] >> 4 == 4 else self._push_v6(packet, now)

    def _push_v4(self, packet: bytes, now: float) -> tuple[str, bytes | None]:
        total, ident, flags = struct.unpack_from("!HHH", packet, 2)
        if not flags & 0x3FFF:
            return "ok", packet
        size = (packet[0] & 15) * 4
        header, data = packet[:size], packet[size:total]
        offset, more, protocol = (flags & 0x1FFF) * 8, bool(flags & 0x2000), packet[9]
        need = TRANSPORT.get(protocol, 1)
        if offset == 0 and protocol == 6 and len(data) >= 20:
            need = max(20, (data[12] >> 4) * 4)
        if (offset == 0 and 0 < len(data) < need) or 0 < offset < TRANSPORT.get(protocol, 1):
            return "fragment_tiny", None
        if offset + len(data) + 20 > 65535 and data and not (more and len(data) % 8):
            return "fragment_too_long", None
        key = (4, packet[12:20], ident, protocol)
        return self._add(key, (header, 9, protocol), offset, more, data, packet[1] & 3, now)

    def _push_v6(self, packet: bytes, now: float) -> tuple[str, bytes | None]:
        at, link = 40, 6
        while packet[link] in EXTENSIONS:
            link, at = at, at + ((packet[at + 1] + 2) * 4 if packet[link] == 51 else (packet[at + 1] + 1) * 8)
        if packet[link] != 44:
            return "ok", packet
        found, header = (link, packet[at]), packet[:at]
        word, ident = struct.unpack_from("!HI", packet, at + 2)
        data, offset, more = packet[at + 8 :], word & 0xFFF8, bool(word & 1)
        short = "" if offset else self._cut_off(data, packet[at], 256 - (at + 8 - 40))
        if short and (more or short != "transport"):
            return ("fragment_tiny" if more and short != "too long" else "bad_outer"), None
        if offset == 0 and not more:
            return "ok", self._build(header, found, data)
        if offset + len(data) > 65535 and data and not (more and len(data) % 8):
            return "fragment_too_long", None
        key = (6, packet[8:40], ident)
        return self._add(key, (header, *found), offset, more, data, packet[1] >> 4 & 3, now)

    @staticmethod
    def _cut_off(data: bytes, kind: int, room: int) -> str:
        """Whether the first piece ends in the chain of headers, in the transport header, or behind both. A chain has 256 bytes at most."""
        while kind in EXTENSIONS:
            if len(data) < 8:
                return "chain"
            size = (data[1] + 2) * 4 if kind == 51 else (data[1] + 1) * 8
            if size > room:
                return "too long"
            if len(data) < size:
                return "chain"
            kind, data, room = data[0], data[size:], room - size
        need = TRANSPORT.get(kind, 1)
        if kind == 6 and len(data) >= 20:
            need = max(20, (data[12] >> 4) * 4)
        return "transport" if len(data) < need else ""

    def _add(
        self, key: tuple, head: tuple[bytes, int, int], offset: int, more: bool, data: bytes, ecn: int, now: float
    ) -> tuple[str, bytes | None]:
        if not data or (more and len(data) % 8):
            return "fragment_length", None
        datagram = self.under_way.setdefault(key, Datagram(now))
        if datagram.dead:
            return datagram.dead, None
        if datagram.pieces.get(offset) == (data, more):
            return "fragment_duplicate", None
        end = offset + len(data)
        ends = [at + len(d) for at, (d, m) in datagram.pieces.items() if not m]
        overlaps = any(offset < at + len(d) and at < end for at, (d, _) in datagram.pieces.items())
        beyond = not more and any(at + len(d) > end for at, (d, _) in datagram.pieces.items())
        if overlaps or beyond or (ends and (not more or end >= ends[0])):
            return self._kill(datagram, "fragment_overlap")
        datagram.pieces[offset] = (data, more)
        datagram.ecn.add(ecn)
        if offset == 0:
            datagram.head = head
        return self._join(key, datagram)

    @staticmethod
    def _kill(datagram: Datagram, why: str) -> tuple[str, bytes | None]:
        datagram.dead, datagram.pieces = why, {}
        return why, None

    def _join(self, key: tuple, datagram: Datagram) -> tuple[str, bytes | None]:
        at, payload, more = 0, b"", True
        while more:
            if at not in datagram.pieces:
                return "held", None
            data, more = datagram.pieces[at]
            payload, at = payload + data, at + len(data)
        assert datagram.head is not None
        header, link, kind = datagram.head
        if len(header) + len(payload) > (65535 if key[0] == 4 else 65575):
            return self._kill(datagram, "fragment_too_long")
        if {0, 3} <= datagram.ecn:
            return self._kill(datagram, "bad_ecn")
        if 3 in datagram.ecn:
            marked = bytearray(header)
            marked[1] |= 3 if key[0] == 4 else 0x30
            header = bytes(marked)
        del self.under_way[key]
        return "ok", self._build(header, (link, kind), payload)

    @staticmethod
    def _build(header: bytes, found: tuple[int, int], payload: bytes) -> bytes:
        made = bytearray(header)
        made[found[0]] = found[1]
        if header[0] >> 4 == 6:
            struct.pack_into("!H", made, 4, len(header) + len(payload) - 40)
            return bytes(made) + payload
        struct.pack_into("!HHHHH", made, 2, len(header) + len(payload), *struct.unpack_from("!H", header, 4), 0, 0, 0)
        made[6], made[7], made[8:10] = header[6] & 0xC0, 0, header[8:10]
        made[10:12] = ones(bytes(made)).to_bytes(2, "big")
        return bytes(made) + payload
