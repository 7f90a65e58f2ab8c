"""The IKE header (RFC 7296 section 3.1), the same for both versions; the endpoint dispatches by `major`.

Decoding accepts versions 1 and 2 and any exchange type; what a v2 message may be is v2/message.py's and v2/rules.py's
business. The non-ESP marker of port 4500 is already off.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import ParseError, RemoteError
from ..iana import NotifyType

HEADER_BYTES = 28
FLAG_INITIATOR = 0x08
FLAG_VERSION = 0x10
FLAG_RESPONSE = 0x20

_LAYOUT = struct.Struct("!8s8sBBBBII")


@dataclass(frozen=True, slots=True)
class IkeHeader:
    """
                         1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                       IKE SA Initiator's SPI                  |
    |                                                               |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                       IKE SA Responder's SPI                  |
    |                                                               |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                          Message ID                           |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                            Length                             |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    major: int
    minor: int
    exchange: int
    flags: int
    message_id: int
    length: int

    @classmethod
    def make(
        cls, spi_i: bytes, spi_r: bytes, exchange: int, message_id: int, *, initiator: bool, response: bool
    ) -> IkeHeader:
        """A v2 header to send; `initiator`: we are the IKE SA's original initiator. The encoder fills in the rest."""
        flags = (FLAG_INITIATOR if initiator else 0) | (FLAG_RESPONSE if response else 0)
        return cls(spi_i, spi_r, 0, 2, 0, exchange, flags, message_id, 0)

    @classmethod
    def decode(cls, data: bytes) -> IkeHeader:
        """ParseError for what is no IKE message, INVALID_MAJOR_VERSION for a version above 2 (RFC 7296 section 2.5)."""
        if len(data) < HEADER_BYTES:
            raise ParseError(f"IKE header: {HEADER_BYTES} bytes wanted, {len(data)} received", notify=None)
        spi_i, spi_r, next_payload, version, exchange, flags, message_id, length = _LAYOUT.unpack_from(data)
        header = cls(spi_i, spi_r, next_payload, version >> 4, version & 15, exchange, flags, message_id, length)
        if spi_i == bytes(8):
            raise ParseError("IKE header: the initiator's SPI is zero", notify=None)
        if header.major > 2:
            raise RemoteError(
                f"IKE version {header.major}.{header.minor}, we speak 2.0", NotifyType.INVALID_MAJOR_VERSION
            )
        if header.major == 0:
            raise ParseError(f"IKE version 0.{header.minor}, we speak 2.0", notify=None)
        if length != len(data):
            raise ParseError(f"IKE header: its length says {length}, {len(data)} bytes received")
        return header

    def encode(self) -> bytes:
        version = self.major << 4 | self.minor
        return _LAYOUT.pack(
            self.spi_i, self.spi_r, self.next_payload, version, self.exchange, self.flags, self.message_id, self.length
        )

    @property
    def initiator(self) -> bool:
        """Sent by the IKE SA's original initiator (I flag)."""
        return bool(self.flags & FLAG_INITIATOR)

    @property
    def response(self) -> bool:
        """A response (R flag)."""
        return bool(self.flags & FLAG_RESPONSE)

    @property
    def version(self) -> bool:
        """The sender can speak a higher major version (V flag)."""
        return bool(self.flags & FLAG_VERSION)
