"""Traffic Selector payloads (RFC 7296 section 3.13). One bad selector makes the whole payload bad; one of a type that
we do not know is left out, since narrowing may do that (section 2.9).

Ports 65535-0 are OPAQUE (RFC 4301 section 4.4.1.1), any other range runs upwards. Used through payloads.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from ...errors import ParseError, UsageError
from ...iana import PayloadType, TSType
from ...model import Address, TrafficSelector
from ..reader import Reader

SELECTORS_MAX = 255  # the count is one byte
_SELECTOR_HEAD, _PORTS = Struct("!BBH"), Struct("!HH")
_ADDRESS_BYTES = {TSType.IPV4_ADDR_RANGE: 4, TSType.IPV6_ADDR_RANGE: 16}


@dataclass(frozen=True, slots=True)
class TsPayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Number of TSs |                 RESERVED                      |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                       <Traffic Selectors>                     ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    type_: PayloadType  # TSI or TSR
    selectors: tuple[TrafficSelector, ...]
    unread: tuple[bytes, ...] = ()  # selectors of unknown types, as received

    @property
    def type(self) -> PayloadType:
        return self.type_

    @property
    def unread_text(self) -> str:
        """`2 TSi selectors of type 9, 10`."""
        types = ", ".join(map(str, sorted({raw[0] for raw in self.unread})))
        return f"{len(self.unread)} {self.type_.name} selectors of type {types}"

    @classmethod
    def decode(cls, body: bytes, type_: PayloadType = PayloadType.TSI) -> TsPayload:
        reader = Reader(body, f"{type_.name} payload")
        count = reader.u8()
        if not count:
            raise ParseError(f"{type_.name} payload: no selector in it")
        reader.skip(3)
        found = [_decode_selector(reader) for _ in range(count)]
        reader.expect_end()
        selectors = tuple(one for one in found if isinstance(one, TrafficSelector))
        return cls(type_, selectors, tuple(one for one in found if isinstance(one, bytes)))

    def encode(self) -> bytes:
        count = len(self.selectors) + len(self.unread)
        if not 1 <= count <= SELECTORS_MAX:
            raise UsageError(f"{self.type_.name} payload: {count} selectors, 1 to {SELECTORS_MAX} fit in")
        return bytes([count, 0, 0, 0]) + b"".join((*map(_encode_selector, self.selectors), *self.unread))


def _decode_selector(outer: Reader) -> TrafficSelector | bytes:
    """A selector, or its bytes if its type is unknown.

    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |   TS Type     |IP Protocol ID |       Selector Length         |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |           Start Port          |           End Port            |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                         Starting Address                      ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                         Ending Address                        ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    ts_type, protocol, length = outer.unpack(_SELECTOR_HEAD)
    address_bytes = _ADDRESS_BYTES.get(ts_type)
    if address_bytes is None:
        return _SELECTOR_HEAD.pack(ts_type, protocol, length) + outer.take(length - _SELECTOR_HEAD.size)
    if length != _SELECTOR_HEAD.size + _PORTS.size + 2 * address_bytes:
        raise ParseError(f"{outer.what}: a selector of type {ts_type} with {length} bytes")
    start_port, end_port = outer.unpack(_PORTS)
    start, end = outer.take(address_bytes), outer.take(address_bytes)
    try:
        return TrafficSelector(_address(start), _address(end), protocol, start_port, end_port)
    except UsageError as error:
        raise ParseError(f"{outer.what}: {error}") from None


def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _encode_selector(ts: TrafficSelector) -> bytes:
    addresses = ts.start.packed + ts.end.packed
    head = bytes([ts.type, ts.protocol]) + (8 + len(addresses)).to_bytes(2, "big")
    return head + ts.start_port.to_bytes(2, "big") + ts.end_port.to_bytes(2, "big") + addresses
