"""The SA payload with its proposals, transforms and attributes (RFC 7296 section 3.3).

Counts, lengths and the last-substructure octets must agree, or the payload is no payload. What the numbers mean is left
to negotiate.py: unknown transform types and IDs are kept, and an attribute other than one Key Length marks its
transform `unknown`. Used through payloads.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from ...errors import ParseError
from ...iana import PayloadType
from ...model import Proposal, Transform
from ..reader import Reader

MAX_PROPOSALS = 64
MAX_TRANSFORMS = 128
MAX_TRANSFORMS_IN_ALL = 512  # a stranger may send this much to read and to choose from, and no more
MAX_ATTRIBUTES = 16

_LAST, _MORE_PROPOSALS, _MORE_TRANSFORMS = 0, 2, 3
_PROPOSAL_HEAD = Struct("!BBBB")
_TRANSFORM_HEAD = Struct("!BxHBxH")
_ONE_ATTRIBUTE = Struct("!HH")
_KEY_LENGTH = 14
_TYPE_VALUE = 0x8000  # attribute format bit: type/value, without a length of its own


@dataclass(frozen=True, slots=True)
class SaPayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                          <Proposals>                          ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    type: ClassVar[PayloadType] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def decode(cls, body: bytes) -> SaPayload:
        reader = Reader(body, "SA payload")
        proposals: list[Proposal] = []
        more, left = True, MAX_TRANSFORMS_IN_ALL
        while more:
            if len(proposals) == MAX_PROPOSALS:
                raise ParseError(f"SA payload: more than {MAX_PROPOSALS} proposals")
            more, proposal = _decode_proposal(reader, left)
            left -= len(proposal.transforms)
            proposals.append(proposal)
        reader.expect_end()
        return cls(tuple(proposals))

    def encode(self) -> bytes:
        last = len(self.proposals) - 1
        return b"".join(_encode_proposal(p, is_last=i == last) for i, p in enumerate(self.proposals))


def _decode_proposal(outer: Reader, most: int) -> tuple[bool, Proposal]:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Last Substruc |   RESERVED    |         Proposal Length       |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                        SPI (variable)                         ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                        <Transforms>                           ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    more = _is_followed(outer.u8(), _MORE_PROPOSALS, "proposal")
    outer.skip(1)
    reader = outer.sub(outer.u16() - 4, "proposal")
    number, protocol, spi_bytes, count = reader.unpack(_PROPOSAL_HEAD)
    if count > MAX_TRANSFORMS or count > most:
        text = f"at most {MAX_TRANSFORMS} are read, and {MAX_TRANSFORMS_IN_ALL} of all proposals"
        raise ParseError(f"proposal {number}: {count} transforms, {text}")
    spi = reader.take(spi_bytes)
    transforms = tuple(_decode_transform(reader, is_last=left == 1) for left in range(count, 0, -1))
    reader.expect_end()
    return more, Proposal(number, protocol, spi, transforms)


def _decode_transform(outer: Reader, *, is_last: bool) -> Transform:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Last Substruc |   RESERVED    |        Transform Length       |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Transform Type |   RESERVED    |          Transform ID         |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                      Transform Attributes                     ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    last, length, transform_type, transform_id = outer.unpack(_TRANSFORM_HEAD)
    if _is_followed(last, _MORE_TRANSFORMS, "transform") == is_last:
        raise ParseError("proposal: its number of transforms and their chain disagree")
    if length == _TRANSFORM_HEAD.size:
        return Transform(transform_type, transform_id)
    if (
        length == _TRANSFORM_HEAD.size + _ONE_ATTRIBUTE.size
    ):  # the usual case, decoded fast: one datagram may have hundreds
        attribute, value = outer.unpack(_ONE_ATTRIBUTE)
        if attribute == _TYPE_VALUE | _KEY_LENGTH:
            return Transform(transform_type, transform_id, value)
        if attribute & _TYPE_VALUE or not value:
            return Transform(transform_type, transform_id, None, True)
        raise ParseError(f"transform attributes: {value} bytes wanted, 0 left")
    key_bits, unknown = _decode_attributes(outer.sub(length - _TRANSFORM_HEAD.size, "transform attributes"))
    return Transform(transform_type, transform_id, key_bits, unknown)


def _decode_attributes(reader: Reader) -> tuple[int | None, bool]:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |A|       Attribute Type        |    AF=0  Attribute Length     |
    |F|                             |    AF=1  Attribute Value      |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    key_bits: int | None = None
    unknown = False
    left = MAX_ATTRIBUTES
    while reader.remaining:
        if not left:
            raise ParseError(f"transform: more than {MAX_ATTRIBUTES} attributes")
        left -= 1
        attribute, value = reader.u16(), reader.u16()
        if not attribute & _TYPE_VALUE:
            reader.skip(value)
        if attribute == _TYPE_VALUE | _KEY_LENGTH and key_bits is None:
            key_bits = value
        else:
            unknown = True
    return key_bits, unknown


def _is_followed(last: int, more: int, what: str) -> bool:
    """Whether another substructure follows this one, by its last-substructure octet."""
    if last not in (_LAST, more):
        raise ParseError(f"{what}: last-substructure octet {last}, {_LAST} or {more} wanted")
    return last == more


def _encode_proposal(proposal: Proposal, *, is_last: bool) -> bytes:
    count = len(proposal.transforms)
    transforms = b"".join(_encode_transform(t, is_last=i == count - 1) for i, t in enumerate(proposal.transforms))
    length = 8 + len(proposal.spi) + len(transforms)
    head = bytes([_LAST if is_last else _MORE_PROPOSALS, 0]) + length.to_bytes(2, "big")
    return head + bytes([proposal.number, proposal.protocol, len(proposal.spi), count]) + proposal.spi + transforms


def _encode_transform(transform: Transform, *, is_last: bool) -> bytes:
    attributes = b""
    if transform.key_bits is not None:
        attributes = (_TYPE_VALUE | _KEY_LENGTH).to_bytes(2, "big") + transform.key_bits.to_bytes(2, "big")
    head = bytes([_LAST if is_last else _MORE_TRANSFORMS, 0]) + (8 + len(attributes)).to_bytes(2, "big")
    return head + bytes([transform.type, 0]) + transform.id.to_bytes(2, "big") + attributes
