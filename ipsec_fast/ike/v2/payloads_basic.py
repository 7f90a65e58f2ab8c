"""Payloads of one flat structure: KE, Nonce, IDi/IDr, AUTH, Vendor ID, and those whose body nobody here reads.

RFC 7296 sections 3.4, 3.5, 3.8, 3.9, 3.12. Bodies are without the generic payload header. CERT, CERTREQ, CP and EAP are
kept as UnknownPayload until something reads them. Used through payloads.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import ParseError
from ...iana import IdType, PayloadType
from ...model import Identity
from ..reader import Reader

NONCE_MIN_BYTES, NONCE_MAX_BYTES = 16, 256  # RFC 7296 section 3.9
_ADDRESS_BYTES = {IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16}


@dataclass(frozen=True, slots=True)
class KePayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |   Diffie-Hellman Group Num    |           RESERVED            |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                       Key Exchange Data                       ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    type: ClassVar[PayloadType] = PayloadType.KE
    group: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> KePayload:
        reader = Reader(body, "KE payload")
        group = reader.u16()
        reader.skip(2)
        return cls(group, reader.rest())

    def encode(self) -> bytes:
        return self.group.to_bytes(2, "big") + bytes(2) + self.data


@dataclass(frozen=True, slots=True)
class NoncePayload:
    """16 to 256 bytes of nonce, nothing else."""

    type: ClassVar[PayloadType] = PayloadType.NONCE
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> NoncePayload:
        if not NONCE_MIN_BYTES <= len(body) <= NONCE_MAX_BYTES:
            raise ParseError(f"Nonce payload: {NONCE_MIN_BYTES}..{NONCE_MAX_BYTES} bytes wanted, it holds {len(body)}")
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class IdPayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |   ID Type     |                 RESERVED                      |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                   Identification Data                         ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

    RESERVED is kept as received: AUTH covers it (RFC 7296 section 2.15).
    """

    type_: PayloadType  # IDI or IDR
    identity: Identity
    reserved: bytes = bytes(3)

    @property
    def type(self) -> PayloadType:
        return self.type_

    @property
    def body(self) -> bytes:
        """What AUTH covers of this payload."""
        return bytes([self.identity.type]) + self.reserved + self.identity.data

    @classmethod
    def decode(cls, body: bytes, type_: PayloadType = PayloadType.IDI) -> IdPayload:
        reader = Reader(body, f"{type_.name} payload")
        id_type, reserved, data = reader.u8(), reader.take(3), reader.rest()
        wanted = _ADDRESS_BYTES.get(id_type)  # type: ignore[call-overload]
        if wanted is not None and len(data) != wanted:
            raise ParseError(f"{type_.name} payload: an address of {wanted} bytes wanted, it holds {len(data)}")
        return cls(type_, Identity(id_type, data), reserved)

    def encode(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class AuthPayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Auth Method   |                RESERVED                       |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                      Authentication Data                      ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    type: ClassVar[PayloadType] = PayloadType.AUTH
    method: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> AuthPayload:
        reader = Reader(body, "AUTH payload")
        method = reader.u8()
        reader.skip(3)
        return cls(method, reader.rest())

    def encode(self) -> bytes:
        return bytes([self.method, 0, 0, 0]) + self.data


@dataclass(frozen=True, slots=True)
class VendorPayload:
    """A Vendor ID: opaque."""

    type: ClassVar[PayloadType] = PayloadType.VENDOR
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> VendorPayload:
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload that we do not read, with its critical bit; v2/rules.py decides what the bit means."""

    type_: int
    critical: bool
    body: bytes

    @property
    def type(self) -> int:
        return self.type_

    def encode(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class EncryptedPayload:
    """SK{} as it stands in the datagram: `body` is IV | ciphertext | ICV, `data[:aad_length]` is what stands before it.

    `next_payload` is the type of the first payload inside (RFC 7296 section 3.14). Opened by v2/protect.py.
    """

    type: ClassVar[PayloadType] = PayloadType.SK
    next_payload: int
    body: bytes
    aad_length: int

    def encode(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class FragmentPayload:
    """SKF, one fragment of a message, as it stands in the datagram (RFC 7383 section 2.5); opened by v2/protect.py.

    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |        Fragment Number        |        Total Fragments        |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~        Initialization Vector, Encrypted content, ICV          ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

    `body` is IV | ciphertext | ICV, `data[:aad_length]` what stands before it, both numbers included. `next_payload` is the type of
    the message's first payload in fragment 1. Whether the numbers make sense is for v2/reassembly.py to judge.
    """

    type: ClassVar[PayloadType] = PayloadType.SKF
    next_payload: int
    number: int
    total: int
    body: bytes
    aad_length: int

    @classmethod
    def decode(cls, body: bytes, next_payload: int, position: int) -> FragmentPayload:
        """`position`: where `body` begins in the datagram."""
        reader = Reader(body, "SKF payload")
        number, total = reader.u16(), reader.u16()
        aad_length = position + reader.position
        return cls(next_payload, number, total, reader.rest(), aad_length)

    def encode(self) -> bytes:
        return self.number.to_bytes(2, "big") + self.total.to_bytes(2, "big") + self.body
