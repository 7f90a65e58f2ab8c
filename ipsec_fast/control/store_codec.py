"""Records to parts and back, by the types of their dataclass fields: whoever adds a field writes no codec.

A field is None, bool, int, float, str, bytes, an address, a Secret, IkeKeys, an Enum, a tuple of these or a frozen dataclass of these.
Nothing says in the stream what comes next; `schema` is a digest of all names and types, and whoever stores a stream stores that beside
it, so a version with other fields refuses the whole. Reading is strict: one StateError for every length, range or value that writing
would not have made. Secrets stay in the arena on both ways. Leaves out: sealing (crypto/rest). Called by store_directory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
import types
import typing
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ..crypto.prf import IkeKeys
from ..crypto.rest import OpenedRecord
from ..crypto.secret import Secret
from ..errors import IpsecFastError, StateError, UsageError

Part = bytes | Secret
KEY_NAMES = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")
LONGEST_INT = 32
LENGTH = struct.Struct("!I")
FLOAT = struct.Struct("!d")


def encode(value: object, kind: Any) -> list[Part]:
    """UsageError names the type where the value is not of its kind."""
    parts: list[Part] = []
    _coder(kind).write(value, parts)
    return _joined(parts)


def decode(source: OpenedRecord, kind: Any) -> Any:
    """StateError unless `source` holds one value of this kind and nothing behind it."""
    value = _coder(kind).read(source)
    if source.left:
        raise StateError(f"{source.left} bytes too many behind a {_coder(kind).text.split('(')[0]}")
    return value


def schema(kind: Any) -> bytes:
    """32 bytes that change with any name or type below `kind`."""
    return hashlib.sha256(_coder(kind).text.encode()).digest()


@dataclasses.dataclass(frozen=True, slots=True)
class _Coder:
    """`text` describes the kind completely; `fits` tells the members of a union apart."""

    text: str
    fits: Callable[[object], bool]
    put: Callable[[Any, list[Part]], None]
    read: Callable[[OpenedRecord], Any]

    def write(self, value: object, parts: list[Part]) -> None:
        if not self.fits(value):
            raise UsageError(f"a {type(value).__name__} where a record holds {self.text.split('(')[0]}")
        self.put(value, parts)


@functools.cache
def _coder(kind: Any) -> _Coder:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union or origin is types.UnionType:
        return _union(arguments)
    if origin is tuple:
        return _sequence(arguments[0]) if arguments[1:] == (Ellipsis,) else _fixed(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    raise UsageError(f"a record cannot hold {kind!r}")


# --- composed kinds


def _dataclass(kind: type) -> _Coder:
    # records name crypto's classes for the type checker alone
    hints = typing.get_type_hints(kind, localns={"IkeKeys": IkeKeys, "Secret": Secret})
    fields = [(field.name, _coder(hints[field.name])) for field in dataclasses.fields(kind)]

    def put(value: object, parts: list[Part]) -> None:
        name = ""
        try:
            for name, coder in fields:
                coder.write(getattr(value, name), parts)
        except UsageError as error:
            raise UsageError(f"{kind.__name__}.{name}: {error}") from None

    def read(source: OpenedRecord) -> object:
        values = [coder.read(source) for _, coder in fields]
        try:
            return kind(*values)
        except (IpsecFastError, ValueError) as error:
            raise StateError(f"no {kind.__name__}: {error}") from None

    text = f"{kind.__name__}({', '.join(f'{name}: {coder.text}' for name, coder in fields)})"
    return _Coder(text, lambda value: type(value) is kind, put, read)


def _union(kinds: tuple[Any, ...]) -> _Coder:
    """One byte says which: an index into the sorted members, since Python takes `A | B` and `B | A` for the same cached type."""
    coders = sorted((_coder(kind) for kind in kinds), key=lambda coder: (coder.text == "float", coder.text))

    def put(value: object, parts: list[Part]) -> None:
        for index, coder in enumerate(coders):
            if coder.fits(value):
                parts.append(bytes([index]))
                coder.put(value, parts)
                return

    def read(source: OpenedRecord) -> object:
        index = source.take(1)[0]
        if index >= len(coders):
            raise StateError(f"member {index} of {len(coders)}")
        return coders[index].read(source)

    text = " | ".join(coder.text for coder in coders)
    return _Coder(text, lambda value: any(coder.fits(value) for coder in coders), put, read)


def _sequence(kind: Any) -> _Coder:
    coder = _coder(kind)

    def put(value: tuple[object, ...], parts: list[Part]) -> None:
        parts.append(LENGTH.pack(len(value)))
        for item in value:
            coder.write(item, parts)

    def read(source: OpenedRecord) -> tuple[object, ...]:
        count = _read_length(source)  # an item is at least a byte, so a lying count ends at the end of the record
        return tuple(coder.read(source) for _ in range(count))

    return _Coder(f"tuple({coder.text}, ...)", lambda value: isinstance(value, tuple), put, read)


def _fixed(kinds: tuple[Any, ...]) -> _Coder:
    coders = [_coder(kind) for kind in kinds]

    def put(value: tuple[object, ...], parts: list[Part]) -> None:
        for item, coder in zip(value, coders, strict=True):
            coder.write(item, parts)

    def fits(value: object) -> bool:
        return isinstance(value, tuple) and len(value) == len(coders)

    text = f"tuple({', '.join(coder.text for coder in coders)})"
    return _Coder(text, fits, put, lambda source: tuple(coder.read(source) for coder in coders))


def _enum(kind: type[Enum]) -> _Coder:
    # the members belong to the meaning, but a number that IANA added does not make an old record unreadable
    plain: Any = type(next(iter(kind)).value)
    held = _coder(plain)

    def read(source: OpenedRecord) -> Enum:
        value = held.read(source)
        try:
            return kind(value)
        except ValueError:
            raise StateError(f"{value!r} is no {kind.__name__}") from None

    text = f"{kind.__name__}({held.text})"
    return _Coder(text, lambda value: isinstance(value, kind), lambda value, parts: held.put(value.value, parts), read)


# --- plain kinds


def _put_int(value: int, parts: list[Part]) -> None:
    number = int(value)
    size = number.bit_length() // 8 + 1
    if size > LONGEST_INT:
        raise UsageError(f"a number of {size} bytes")
    parts.append(bytes([size]) + number.to_bytes(size, "big", signed=True))


def _read_int(source: OpenedRecord) -> int:
    size = source.take(1)[0]
    if not 1 <= size <= LONGEST_INT:
        raise StateError(f"a number of {size} bytes")
    number = int.from_bytes(source.take(size), "big", signed=True)
    if number.bit_length() // 8 + 1 != size:
        raise StateError("a number that is longer than it need be")
    return number


def _read_bool(source: OpenedRecord) -> bool:
    byte = source.take(1)
    if byte not in (b"\0", b"\1"):
        raise StateError(f"{byte!r} where yes or no stands")
    return byte == b"\1"


def _read_float(source: OpenedRecord) -> float:
    (number,) = FLOAT.unpack(source.take(FLOAT.size))
    return float(number)


def _put_bytes(value: bytes, parts: list[Part]) -> None:
    parts += [LENGTH.pack(len(value)), value]


def _read_length(source: OpenedRecord) -> int:
    (length,) = LENGTH.unpack(source.take(LENGTH.size))
    if length > source.left:
        raise StateError(f"a length of {length} where {source.left} bytes are left")
    return int(length)


def _read_str(source: OpenedRecord) -> str:
    try:
        return source.take(_read_length(source)).decode()
    except UnicodeDecodeError:
        raise StateError("text that is not UTF-8") from None


def _put_secret(value: Secret, parts: list[Part]) -> None:
    parts += [LENGTH.pack(len(value)), value]


def _read_secret(source: OpenedRecord) -> Secret:
    return source.take_secret(_read_length(source))


def _put_keys(value: IkeKeys, parts: list[Part]) -> None:
    for name in KEY_NAMES:
        _put_secret(getattr(value, name), parts)


def _read_keys(source: OpenedRecord) -> IkeKeys:
    return IkeKeys(*[_read_secret(source) for _ in KEY_NAMES])


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _put_packed(value: IPv4Address | IPv6Address, parts: list[Part]) -> None:
    if isinstance(value, IPv6Address) and value.scope_id is not None:
        raise UsageError(f"an address with a zone ({value})")
    parts.append(value.packed)


_PLAIN: dict[Any, _Coder] = {
    type(None): _Coder("None", lambda value: value is None, lambda value, parts: None, lambda source: None),
    bool: _Coder(
        "bool",
        lambda value: isinstance(value, bool),
        lambda value, parts: parts.append(b"\1" if value else b"\0"),
        _read_bool,
    ),
    int: _Coder("int", _is_number, _put_int, _read_int),
    float: _Coder(
        "float",
        lambda value: isinstance(value, float) or _is_number(value),
        lambda value, parts: parts.append(FLOAT.pack(value)),
        _read_float,
    ),
    str: _Coder(
        "str",
        lambda value: isinstance(value, str),
        lambda value, parts: _put_bytes(value.encode(), parts),
        _read_str,
    ),
    bytes: _Coder(
        "bytes", lambda value: isinstance(value, bytes), _put_bytes, lambda source: source.take(_read_length(source))
    ),
    IPv4Address: _Coder(
        "IPv4Address",
        lambda value: isinstance(value, IPv4Address),
        _put_packed,
        lambda source: IPv4Address(source.take(4)),
    ),
    IPv6Address: _Coder(
        "IPv6Address",
        lambda value: isinstance(value, IPv6Address),
        _put_packed,
        lambda source: IPv6Address(source.take(16)),
    ),
    Secret: _Coder("Secret", lambda value: isinstance(value, Secret), _put_secret, _read_secret),
    IkeKeys: _Coder("IkeKeys", lambda value: isinstance(value, IkeKeys), _put_keys, _read_keys),
}


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours that are bytes as one part."""
    joined: list[Part] = []
    run: list[bytes] = []
    for part in parts:
        if isinstance(part, bytes):
            run.append(part)
            continue
        joined += [b"".join(run), part]
        run = []
    return [*joined, b"".join(run)]
