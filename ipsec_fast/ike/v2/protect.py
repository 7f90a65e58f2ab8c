"""SK{}: sealing and opening a message's encrypted payload (RFC 7296 section 3.14, RFC 5282 for AEAD ciphers).

The associated data is the message up to and with SK's generic header; for CBC+HMAC the ICV covers these bytes too, so
both kinds have one shape here and the Sealer (crypto/seal) knows the difference. IVs are the caller's, never reused.
SKF, one fragment of a message (RFC 7383 section 2.5), is sealed and opened here too; how a message is cut stands in
v2/fragments.py, how one is put together in v2/reassembly.py. Called by these and by the IKE SA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import ParseError, UsageError
from ...iana import PayloadType
from ..header import HEADER_BYTES, IkeHeader
from .message import GENERIC_HEADER_BYTES, MAX_MESSAGE_BYTES, Message, encode_chain, first_type, parse_chain
from .payloads import EncryptedPayload, FragmentPayload, Payload

if TYPE_CHECKING:  # compiled; only handed through here
    from ...crypto.seal import Sealer


def seal_message(header: IkeHeader, payloads: Sequence[Payload], sealer: Sealer, iv: bytes) -> bytes:
    """HDR, SK {payloads} as one datagram."""
    return seal_chain(header, first_type(payloads), encode_chain(payloads), sealer, iv)


def seal_chain(header: IkeHeader, first: int, chain: bytes, sealer: Sealer, iv: bytes) -> bytes:
    """HDR, SK {chain}, where `first` is the type of the chain's first payload.

    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    | Next Payload  |C|  RESERVED   |         Payload Length        |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                     Initialization Vector                     ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                    Encrypted IKE Payloads                     ~
    +               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |               |             Padding (0-255 octets)            |
    +-+-+-+-+-+-+-+-+                               +-+-+-+-+-+-+-+-+
    |                                               |  Pad Length   |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ~                    Integrity Checksum Data                    ~
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    """
    return _seal(replace(header, next_payload=PayloadType.SK), first, b"", chain, sealer, iv)


def seal_fragment(
    header: IkeHeader, first: int, number: int, total: int, part: bytes, sealer: Sealer, iv: bytes
) -> bytes:
    """HDR, SKF {part}: fragment `number` of `total` as one datagram; only fragment 1 names the type of the first payload."""
    numbers = number.to_bytes(2, "big") + total.to_bytes(2, "big")
    named = first if number == 1 else PayloadType.NONE
    return _seal(replace(header, next_payload=PayloadType.SKF), named, numbers, part, sealer, iv)


def _seal(header: IkeHeader, first: int, numbers: bytes, content: bytes, sealer: Sealer, iv: bytes) -> bytes:
    plaintext = _pad(content, sealer.block_bytes)
    payload_bytes = GENERIC_HEADER_BYTES + len(numbers) + sealer.iv_bytes + len(plaintext) + sealer.icv_bytes
    length = HEADER_BYTES + payload_bytes
    if length > MAX_MESSAGE_BYTES:
        raise UsageError(f"an IKE message of {length} bytes does not fit into a datagram of {MAX_MESSAGE_BYTES}")
    generic = bytes([first, 0]) + payload_bytes.to_bytes(2, "big")
    aad = replace(header, length=length).encode() + generic + numbers
    return aad + sealer.seal(aad, plaintext, iv)


def open_message(data: bytes, message: Message, sealer: Sealer) -> tuple[Payload, ...]:
    """The payloads inside SK{}; `data` is the datagram that `message` was decoded from.

    IntegrityError if it does not verify, ParseError if its inside is no chain. Payloads in clear
    before SK are left alone: nothing that we read stands there.
    """
    encrypted = message.get(EncryptedPayload)
    if encrypted is None:
        raise ParseError("no SK payload in a message that must be protected", notify=None)
    return parse_chain(encrypted.next_payload, open_content(data, encrypted, sealer))


def open_content(data: bytes, payload: EncryptedPayload | FragmentPayload, sealer: Sealer) -> bytes:
    """What SK or SKF holds, without padding: a chain of payloads, or a part of one. IntegrityError, ParseError as `open_message`."""
    return _strip_padding(sealer.open(bytes(data[: payload.aad_length]), payload.body))


def _pad(plaintext: bytes, alignment: int) -> bytes:
    """To whole blocks; an AEAD needs the pad length octet alone (RFC 5282 section 3)."""
    count = -(len(plaintext) + 1) % alignment
    return plaintext + bytes(count) + bytes([count])


def _strip_padding(plaintext: bytes) -> bytes:
    """Padding may hold anything (RFC 7296 section 3.14); only its length can lie, and the ICV was good."""
    if not plaintext or plaintext[-1] + 1 > len(plaintext):
        raise ParseError(f"SK payload: pad length beyond its {len(plaintext)} bytes")
    return plaintext[: len(plaintext) - 1 - plaintext[-1]]
