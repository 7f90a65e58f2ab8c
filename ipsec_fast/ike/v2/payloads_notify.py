"""Notify and Delete (RFC 7296 sections 3.10, 3.11). Types, protocols and data that we do not know are kept as they are.

What a notify's data must be is for its reader to check. Used through payloads.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import ParseError
from ...iana import NotifyType, PayloadType, name_of
from ..reader import Reader

FIRST_STATUS_NOTIFY = 16384
_DELETE_SPI_BYTES = (0, 4, 8)


@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |  Protocol ID  |   SPI Size    |      Notify Message Type      |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                Security Parameter Index (SPI)                 ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                       Notification Data                       ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """

    type: ClassVar[PayloadType] = PayloadType.NOTIFY
    notify: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        return self.notify < FIRST_STATUS_NOTIFY

    @classmethod
    def decode(cls, body: bytes) -> NotifyPayload:
        reader = Reader(body, "Notify payload")
        protocol, spi_bytes, notify = reader.u8(), reader.u8(), reader.u16()
        spi = reader.take(spi_bytes)
        return cls(notify, reader.rest(), protocol, spi)

    def encode(self) -> bytes:
        head = bytes([self.protocol, len(self.spi)]) + self.notify.to_bytes(2, "big")
        return head + self.spi + self.data

    def __str__(self) -> str:
        return f"N({name_of(NotifyType, self.notify)})"


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Protocol ID   |   SPI Size    |          Num of SPIs          |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~               Security Parameter Index(es) (SPI)              ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

    For the IKE SA itself: protocol 1 and no SPIs.
    """

    type: ClassVar[PayloadType] = PayloadType.DELETE
    protocol: int
    spis: tuple[bytes, ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> DeletePayload:
        reader = Reader(body, "Delete payload")
        protocol, spi_bytes, count = reader.u8(), reader.u8(), reader.u16()
        if spi_bytes not in _DELETE_SPI_BYTES or (count and not spi_bytes):
            raise ParseError(f"Delete payload: {count} SPIs of {spi_bytes} bytes; an SPI has 4 bytes, or 8 for IKE")
        spis = reader.take(count * spi_bytes)
        reader.expect_end()
        return cls(protocol, tuple(spis[i : i + spi_bytes] for i in range(0, len(spis), spi_bytes or 1)))

    def encode(self) -> bytes:
        spi_bytes = len(self.spis[0]) if self.spis else 0
        head = bytes([self.protocol, spi_bytes]) + len(self.spis).to_bytes(2, "big")
        return head + b"".join(self.spis)
