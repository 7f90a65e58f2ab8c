"""IKE messages out of the captures: pcap and pcapng over Ethernet, raw IP or null, IPv4 and UDP only. Tests alone use it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from third_party import FOLDER

_LINK_BYTES = {0: 4, 1: 14, 12: 0, 101: 0, 113: 16}


@dataclass(frozen=True)
class Frame:
    """One IKEv2 message, what the dissector said of it, and the keys of its capture."""

    capture: str
    number: int
    data: bytes
    expected: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.capture}/{self.number}"


def ikev2_frames() -> list[Frame]:
    """Every IKEv2 message of every capture; none where the folder is absent."""
    return [frame for frame in ike_frames() if frame.expected["version"] == "2.0"]


def ike_frames() -> list[Frame]:
    found = []
    for path in sorted((FOLDER / "pcaps").glob("*.expected.json")):
        name = path.name.removesuffix(".expected.json")
        packets = list(_packets((FOLDER / "pcaps" / name).read_bytes()))
        for expected in json.loads(path.read_text())["frames"]:
            if expected["kind"] not in ("ike", "ike4500") or expected["captured"] != expected["length"]:
                continue
            udp = _udp(*packets[expected["frame"] - 1])
            data = udp[4:] if expected["kind"] == "ike4500" else udp
            found.append(Frame(name, expected["frame"], data, expected))
    return found


def keys_of(frame: Frame) -> dict[str, str] | None:
    """The keys of the message's IKE SA."""
    entries = json.loads((FOLDER / "pcap_keys.json").read_text()).get(frame.capture, {}).get("ikev2", [])
    return next((e for e in entries if e["spi_i"] == frame.expected["spi_i"]), None)


def _udp(link: int, packet: bytes) -> bytes:
    ip = packet[_LINK_BYTES[link] :]
    header_bytes = (ip[0] & 15) * 4
    udp = ip[header_bytes : int.from_bytes(ip[2:4], "big")]
    return udp[8 : int.from_bytes(udp[4:6], "big")]


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        yield from _pcapng(data)
        return
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    (link,) = struct.unpack_from(f"{order}I", data, 20)
    place = 24
    while place < len(data):
        (captured,) = struct.unpack_from(f"{order}8xI", data, place)
        yield link & 0xFFFF, data[place + 16 : place + 16 + captured]
        place += 16 + captured


def _pcapng(data: bytes) -> Iterator[tuple[int, bytes]]:
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    place, links = 0, []
    while place < len(data):
        block, length = struct.unpack_from(f"{order}II", data, place)
        if block == 1:
            links.append(struct.unpack_from(f"{order}H", data, place + 8)[0])
        elif block == 6:
            interface, captured = struct.unpack_from(f"{order}I8xI", data, place + 8)
            yield links[interface], data[place + 28 : place + 28 + captured]
        place += length
