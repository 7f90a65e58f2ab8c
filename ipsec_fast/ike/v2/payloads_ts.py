"""Traffic Selector payloads (RFC 7296 section 3.13). One bad selector makes the whole payload bad.

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

_SELECTOR_HEAD = Struct("!BBHHH")
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

    @property
    def type(self) -> PayloadType:
        return self.type_

    @classmethod
    def decode(cls, body: bytes, type_: PayloadType = PayloadType.TSI) -> TsPayload:
        reader = Reader(body, f"{type_.name} payload")
        count = reader.u8()
        if not count:
            raise ParseError(f"{type_.name} payload: no selector in it")
        reader.skip(3)
        selectors = tuple(_decode_selector(reader) for _ in range(count))
        reader.expect_end()
        return cls(type_, selectors)

    def encode(self) -> bytes:
        return bytes([len(self.selectors), 0, 0, 0]) + b"".join(_encode_selector(ts) for ts in self.selectors)


def _decode_selector(outer: Reader) -> TrafficSelector:
    """
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
    ts_type, protocol, length, start_port, end_port = outer.unpack(_SELECTOR_HEAD)
    address_bytes = _ADDRESS_BYTES.get(ts_type)
    if address_bytes is None:
        raise ParseError(f"{outer.what}: selector type {ts_type}, 7 (IPv4 range) or 8 (IPv6 range) wanted")
    if length != _SELECTOR_HEAD.size + 2 * address_bytes:
        raise ParseError(f"{outer.what}: a selector of type {ts_type} with {length} bytes")
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
