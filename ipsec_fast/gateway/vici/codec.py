"""vici's bytes: packets (type, name, message) and messages (sections, lists, values), encoded and decoded with every length checked.

The format is strongSwan's (src/libcharon/plugins/vici/README.md): a segment is a 32-bit length and a packet; a message
is a run of elements. A decoded value is `bytes`, since vici carries any; `text` and `number` read them. Called by
server.py and client.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ...errors import ParseError

MAX_SEGMENT_BYTES = 512 * 1024
MAX_NAME_BYTES = 255
MAX_VALUE_BYTES = 0xFFFF
MAX_DEPTH = 32

Decoded = dict[str, Any]  # values: bytes, list[bytes] or Decoded
Encodable = Mapping[str, Any]  # values: str, int, float, bool, bytes, None (left out), list, tuple or Encodable


class ViciError(ParseError):
    """Bytes that are no vici; the connection that sent them is closed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)


class PacketType(IntEnum):
    CMD_REQUEST = 0
    CMD_RESPONSE = 1
    CMD_UNKNOWN = 2
    EVENT_REGISTER = 3
    EVENT_UNREGISTER = 4
    EVENT_CONFIRM = 5
    EVENT_UNKNOWN = 6
    EVENT = 7


NAMED = frozenset({PacketType.CMD_REQUEST, PacketType.EVENT_REGISTER, PacketType.EVENT_UNREGISTER, PacketType.EVENT})


class Element(IntEnum):
    SECTION_START = 1
    SECTION_END = 2
    KEY_VALUE = 3
    LIST_START = 4
    LIST_ITEM = 5
    LIST_END = 6


@dataclass(frozen=True, slots=True)
class Packet:
    type: PacketType
    name: str = ""
    body: bytes | bytearray = b""


def encode_segment(packet: Packet) -> bytes:
    """A packet with its length before it, as it goes on the socket."""
    name = _encode_name(packet.name) if packet.type in NAMED else b""
    size = 1 + len(name) + len(packet.body)
    if size > MAX_SEGMENT_BYTES:
        raise ViciError(f"a packet of {size} bytes is longer than the {MAX_SEGMENT_BYTES} that vici allows")
    return struct.pack("!IB", size, packet.type) + name + packet.body


def segment_length(header: bytes) -> int:
    """The length that the 4 bytes before a packet announce."""
    (length,) = struct.unpack("!I", header)
    if not 1 <= length <= MAX_SEGMENT_BYTES:
        raise ViciError(f"a segment announces {length} bytes; 1 to {MAX_SEGMENT_BYTES} are allowed")
    return int(length)


def decode_packet(data: bytes | bytearray) -> Packet:
    if not data:
        raise ViciError("an empty packet")
    try:
        kind = PacketType(data[0])
    except ValueError:
        raise ViciError(f"packet type {data[0]} is none of 0 to 7") from None
    if kind not in NAMED:
        return Packet(kind, "", data[1:])
    name, position = _take_name(data, 1)
    return Packet(kind, name, data[position:])


def encode_message(message: Encodable) -> bytes:
    """A message; None is left out, booleans become yes and no, numbers decimal."""
    out = bytearray()
    _encode_section(out, message, 0)
    return bytes(out)


def decode_message(data: bytes | bytearray) -> Decoded:
    root: Decoded = {}
    open_sections = [root]
    items: list[bytes] | None = None  # the list that is open
    position = 0
    while position < len(data):
        element = data[position]
        position += 1
        if items is not None:
            if element == Element.LIST_ITEM:
                value, position = _take_value(data, position)
                items.append(value)
            elif element == Element.LIST_END:
                items = None
            else:
                raise ViciError(f"element {element} inside a list; only items and its end may stand there")
            continue
        if element == Element.SECTION_END:
            if len(open_sections) == 1:
                raise ViciError("a section ends that never began")
            open_sections.pop()
            continue
        if element not in (Element.SECTION_START, Element.KEY_VALUE, Element.LIST_START):
            raise ViciError(f"element {element} where a section, a value or a list may begin")
        name, position = _take_name(data, position)
        section = open_sections[-1]
        if name in section:
            raise ViciError(f"key {name!r} stands twice in one section")
        if element == Element.KEY_VALUE:
            section[name], position = _take_value(data, position)
        elif element == Element.LIST_START:
            section[name] = items = []
        else:
            if len(open_sections) > MAX_DEPTH:
                raise ViciError(f"sections nest deeper than {MAX_DEPTH}")
            inner: Decoded = {}
            section[name] = inner
            open_sections.append(inner)
    if items is not None or len(open_sections) > 1:
        raise ViciError("the message ends inside a list or a section")
    return root


def text(message: Mapping[str, Any], key: str) -> str | None:
    """A value as text, None where it is absent; ViciError where it is a list or a section."""
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise ViciError(f"{key} must be a single value")
    return value.decode("utf-8", "replace")


def text_list(message: Mapping[str, Any], key: str) -> list[str]:
    """A list's items as text, empty where it is absent; ViciError where it is anything else."""
    value = message.get(key, [])
    if not isinstance(value, list):
        raise ViciError(f"{key} must be a list")
    return [item.decode("utf-8", "replace") for item in value]


def number(message: Mapping[str, Any], key: str) -> int | None:
    value = text(message, key)
    if value is None or value == "":
        return None
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise ViciError(f"{key} must be a number, not {value[:40]!r}")
    return int(value)


def flag(message: Mapping[str, Any], key: str) -> bool:
    return (text(message, key) or "no").strip().lower() in ("yes", "true", "enabled", "1")


def to_text(value: Any) -> Any:
    """A decoded message with `str` for `bytes`, for printing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [to_text(item) for item in value]
    return {key: to_text(item) for key, item in value.items()}


def _take_name(data: bytes | bytearray, position: int) -> tuple[str, int]:
    if position >= len(data):
        raise ViciError("the data ends before a name")
    end = position + 1 + data[position]
    if end > len(data):
        raise ViciError(f"a name announces {data[position]} bytes and {len(data) - position - 1} are left")
    try:
        return data[position + 1 : end].decode(), end
    except UnicodeDecodeError:
        raise ViciError("a name is not UTF-8") from None


def _take_value(data: bytes | bytearray, position: int) -> tuple[bytes, int]:
    if position + 2 > len(data):
        raise ViciError("the data ends before a value")
    end = position + 2 + int.from_bytes(data[position : position + 2])
    if end > len(data):
        raise ViciError(f"a value announces {end - position - 2} bytes and {len(data) - position - 2} are left")
    return bytes(data[position + 2 : end]), end


def _encode_section(out: bytearray, section: Encodable, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ViciError(f"sections nest deeper than {MAX_DEPTH}")
    for name, value in section.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            out.append(Element.SECTION_START)
            out += _encode_name(name)
            _encode_section(out, value, depth + 1)
            out.append(Element.SECTION_END)
        elif isinstance(value, list | tuple):
            out.append(Element.LIST_START)
            out += _encode_name(name)
            for item in value:
                out.append(Element.LIST_ITEM)
                out += _encode_value(item)
            out.append(Element.LIST_END)
        else:
            out.append(Element.KEY_VALUE)
            out += _encode_name(name)
            out += _encode_value(value)


def _encode_name(name: str) -> bytes:
    data = name.encode()
    if len(data) > MAX_NAME_BYTES:
        raise ViciError(f"a name of {len(data)} bytes is longer than {MAX_NAME_BYTES}")
    return bytes((len(data),)) + data


def _encode_value(value: object) -> bytes:
    if isinstance(value, bool):
        data = b"yes" if value else b"no"
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, float):
        data = str(int(value)).encode()
    else:
        data = str(value).encode("utf-8", "backslashreplace")
    if len(data) > MAX_VALUE_BYTES:
        raise ViciError(f"a value of {len(data)} bytes is longer than {MAX_VALUE_BYTES}")
    return struct.pack("!H", len(data)) + data
