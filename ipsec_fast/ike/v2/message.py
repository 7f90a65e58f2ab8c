"""An IKEv2 message as header and payloads, and the chain of generic payload headers (RFC 7296 sections 3.1, 3.2).

SK{} ends the clear part: it stays closed here (EncryptedPayload), v2/protect.py opens it and gives its inside to
`parse_chain`. SKF (RFC 7383) ends it too; v2/reassembly.py judges it and puts the message together. Nothing here
judges which payloads an exchange may hold (v2/rules.py). Any input gives a value, ParseError or INVALID_MAJOR_VERSION.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ...errors import ParseError, UsageError
from ...iana import ExchangeType, PayloadType
from ..header import HEADER_BYTES, IkeHeader
from ..reader import Reader
from .payloads import EncryptedPayload, FragmentPayload, NotifyPayload, Payload, UnknownPayload, decode_payload

GENERIC_HEADER_BYTES = 4
MAX_PAYLOADS = 64
MAX_MESSAGE_BYTES = 65507  # what one UDP datagram over IPv4 carries
MAX_INIT_BYTES = 8192  # of an IKE_SA_INIT, which anybody may send: room for a few hundred transforms and a long KE
MAX_CLEAR_BYTES = (
    1024  # of any other message that does not begin with SK or SKF: anybody may send it, and it says next to nothing
)
_CRITICAL = 0x80

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Message:
    """A message; `payloads` are those in clear, or those that were inside SK{} once it is opened."""

    header: IkeHeader
    payloads: tuple[Payload, ...]

    def get(self, cls: type[P], type_: int | None = None) -> P | None:
        """The first payload of a class, of one type where the class has two (IDi, IDr; TSi, TSr)."""
        return next((p for p in self.payloads if isinstance(p, cls) and type_ in (None, p.type)), None)

    def all(self, cls: type[P], type_: int | None = None) -> tuple[P, ...]:
        return tuple(p for p in self.payloads if isinstance(p, cls) and type_ in (None, p.type))

    def notify(self, notify: int) -> NotifyPayload | None:
        """The first notify of that type."""
        return next(iter(self.notifies(notify)), None)

    def notifies(self, notify: int) -> tuple[NotifyPayload, ...]:
        return tuple(p for p in self.all(NotifyPayload) if p.notify == notify)

    @property
    def error(self) -> NotifyPayload | None:
        """The first error notify."""
        return next((p for p in self.all(NotifyPayload) if p.is_error), None)


def decode_message(data: bytes) -> Message:
    """The header and the clear payloads of a datagram (non-ESP marker stripped)."""
    data = bytes(data)
    header = IkeHeader.decode(data)
    if header.major != 2:
        raise ParseError(f"IKE version {header.major}.{header.minor} in the IKEv2 decoder", notify=None)
    if header.exchange == ExchangeType.IKE_SA_INIT and len(data) > MAX_INIT_BYTES:
        raise ParseError(f"an IKE_SA_INIT of {len(data)} bytes, at most {MAX_INIT_BYTES} are read", notify=None)
    is_sealed = header.next_payload in (PayloadType.SK, PayloadType.SKF)
    if header.exchange != ExchangeType.IKE_SA_INIT and not is_sealed and len(data) > MAX_CLEAR_BYTES:
        text = f"a message of {len(data)} bytes that begins with a payload in clear, at most {MAX_CLEAR_BYTES} are read"
        raise ParseError(text, notify=None)
    return Message(header, _decode_chain(header.next_payload, data, HEADER_BYTES, is_clear=True))


def parse_chain(next_payload: int, data: bytes) -> tuple[Payload, ...]:
    """The payloads inside SK{}, its padding already off."""
    return _decode_chain(next_payload, data, 0, is_clear=False)


def encode_message(header: IkeHeader, payloads: Sequence[Payload]) -> bytes:
    """A whole message in clear; next payload and length of the header are filled in."""
    chain = encode_chain(payloads)
    length = HEADER_BYTES + len(chain)
    if length > MAX_MESSAGE_BYTES:
        raise UsageError(f"an IKE message of {length} bytes does not fit into a datagram of {MAX_MESSAGE_BYTES}")
    return replace(header, next_payload=first_type(payloads), length=length).encode() + chain


def encode_chain(payloads: Sequence[Payload]) -> bytes:
    """Generic header and body of each payload, in order.

    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Next Payload  |C|  RESERVED   |         Payload Length        |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    parts: list[bytes] = []
    for payload, following in zip(payloads, _types_after(payloads), strict=True):
        body = payload.encode()
        flags = _CRITICAL if isinstance(payload, UnknownPayload) and payload.critical else 0
        length = GENERIC_HEADER_BYTES + len(body)
        if length > 0xFFFF:
            raise UsageError(f"a payload of {length} bytes does not fit into its length field")
        parts.append(bytes([following, flags]) + length.to_bytes(2, "big") + body)
    return b"".join(parts)


def first_type(payloads: Sequence[Payload]) -> int:
    return payloads[0].type if payloads else PayloadType.NONE


def _types_after(payloads: Sequence[Payload]) -> Iterable[int]:
    for payload in payloads[1:]:
        yield payload.type
    if payloads:
        last = payloads[-1]
        yield last.next_payload if isinstance(last, EncryptedPayload | FragmentPayload) else PayloadType.NONE


def _decode_chain(next_payload: int, data: bytes, start: int, *, is_clear: bool) -> tuple[Payload, ...]:
    reader = Reader(data, "payload", start)
    payloads: list[Payload] = []
    while next_payload != PayloadType.NONE:
        if len(payloads) == MAX_PAYLOADS:
            raise ParseError(f"more than {MAX_PAYLOADS} payloads in one message")
        payload_type = next_payload
        next_payload, flags, length = reader.u8(), reader.u8(), reader.u16()
        position = reader.position
        body = reader.take(length - GENERIC_HEADER_BYTES)
        if payload_type not in (PayloadType.SK, PayloadType.SKF):
            payloads.append(decode_payload(payload_type, bool(flags & _CRITICAL), body))
            continue
        if not is_clear:
            raise ParseError(f"{PayloadType(payload_type).name} payload inside SK")
        if payload_type == PayloadType.SK:
            payloads.append(EncryptedPayload(next_payload, body, position))
        else:
            payloads.append(FragmentPayload.decode(body, next_payload, position))
        break  # what follows in the chain is inside; the end of the datagram is checked below
    reader.expect_end()
    return tuple(payloads)
