"""The nonce and the COOKIE of an IKE_SA_INIT request, found by its payload headers alone (RFC 7296 section 2.6).

Nothing else of the message is decoded, so that a request without a valid COOKIE
costs little. Called by sa_init_answer.py.
"""

from __future__ import annotations

from typing import NamedTuple

from ...errors import ParseError
from ...iana import NotifyType, PayloadType
from ..header import HEADER_BYTES
from .message import GENERIC_HEADER_BYTES, MAX_INIT_BYTES, MAX_PAYLOADS
from .payloads_basic import NONCE_MAX_BYTES, NONCE_MIN_BYTES

_COOKIE = NotifyType.COOKIE.to_bytes(2, "big")


class InitHeaders(NamedTuple):
    ni: bytes
    cookie: bytes | None


def read_init(data: bytes) -> InitHeaders:
    """ParseError for a broken chain, or without exactly one nonce of 16 to 256 bytes."""
    if len(data) > MAX_INIT_BYTES:
        raise ParseError(f"an IKE_SA_INIT of {len(data)} bytes, at most {MAX_INIT_BYTES} are read", notify=None)
    ni: bytes | None = None
    cookie: bytes | None = None
    kind, at = data[16], HEADER_BYTES
    for _ in range(MAX_PAYLOADS):
        if kind == PayloadType.NONE:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + length
        if length < GENERIC_HEADER_BYTES or end > len(data):
            raise ParseError("IKE_SA_INIT: a payload is longer than the message")
        body = data[at + GENERIC_HEADER_BYTES : end] if kind in (PayloadType.NONCE, PayloadType.NOTIFY) else b""
        if kind == PayloadType.NONCE:
            if ni is not None:
                raise ParseError("IKE_SA_INIT: two nonces")
            ni = body
        elif kind == PayloadType.NOTIFY and cookie is None and body[2:4] == _COOKIE:
            cookie = body[4 + body[1] :]
        kind, at = data[at], end
    if at != len(data) or kind != PayloadType.NONE:
        raise ParseError("IKE_SA_INIT: its payloads and its length disagree")
    if ni is None or not NONCE_MIN_BYTES <= len(ni) <= NONCE_MAX_BYTES:
        raise ParseError(f"IKE_SA_INIT: no nonce of {NONCE_MIN_BYTES} to {NONCE_MAX_BYTES} bytes")
    return InitHeaders(ni, cookie)
