"""SK{}: sealing and opening a message's encrypted payload (RFC 7296 section 3.14, RFC 5282 for AEAD ciphers).

The associated data is the message up to and with SK's generic header; for CBC+HMAC the ICV covers these bytes too, so
both kinds have one shape here and the Sealer (crypto/seal) knows the difference. IVs are the caller's, never reused.
Called by the IKE SA. SKF (RFC 7383) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import ParseError, UsageError
from ...iana import PayloadType
from ..header import HEADER_BYTES, IkeHeader
from .message import GENERIC_HEADER_BYTES, MAX_MESSAGE_BYTES, Message, encode_chain, first_type, parse_chain
from .payloads import EncryptedPayload, Payload

if TYPE_CHECKING:  # compiled; only handed through here
    from ...crypto.seal import Sealer


def seal_message(header: IkeHeader, payloads: Sequence[Payload], sealer: Sealer, iv: bytes) -> bytes:
    """HDR, SK {payloads} as one datagram.

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
    plaintext = _pad(encode_chain(payloads), sealer.block_bytes)
    sk_bytes = GENERIC_HEADER_BYTES + sealer.iv_bytes + len(plaintext) + sealer.icv_bytes
    length = HEADER_BYTES + sk_bytes
    if length > MAX_MESSAGE_BYTES:
        raise UsageError(f"an IKE message of {length} bytes does not fit into a datagram of {MAX_MESSAGE_BYTES}")
    generic = bytes([first_type(payloads), 0]) + sk_bytes.to_bytes(2, "big")
    aad = replace(header, next_payload=PayloadType.SK, length=length).encode() + generic
    return aad + sealer.seal(aad, plaintext, iv)


def open_message(data: bytes, message: Message, sealer: Sealer) -> tuple[Payload, ...]:
    """The payloads inside SK{}; `data` is the datagram that `message` was decoded from.

    IntegrityError if it does not verify, ParseError if its inside is no chain. Payloads in clear
    before SK are left alone: nothing that we read stands there.
    """
    encrypted = message.get(EncryptedPayload)
    if encrypted is None:
        raise ParseError("no SK payload in a message that must be protected", notify=None)
    plaintext = sealer.open(bytes(data[: encrypted.aad_length]), encrypted.body)
    return parse_chain(encrypted.next_payload, _strip_padding(plaintext))


def _pad(plaintext: bytes, alignment: int) -> bytes:
    """To whole blocks; an AEAD needs the pad length octet alone (RFC 5282 section 3)."""
    count = -(len(plaintext) + 1) % alignment
    return plaintext + bytes(count) + bytes([count])


def _strip_padding(plaintext: bytes) -> bytes:
    """Padding may hold anything (RFC 7296 section 3.14); only its length can lie, and the ICV was good."""
    if not plaintext or plaintext[-1] + 1 > len(plaintext):
        raise ParseError(f"SK payload: pad length beyond its {len(plaintext)} bytes")
    return plaintext[: len(plaintext) - 1 - plaintext[-1]]
