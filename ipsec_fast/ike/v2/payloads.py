"""All IKEv2 payloads by their type (RFC 7296 section 3.2), and the one function that decodes a body.

A type that nobody here reads becomes an UnknownPayload with its critical bit; v2/rules.py judges it. The classes are in
payloads_basic, payloads_notify, payloads_sa, payloads_ts; everybody imports them from here. Called by v2/message.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...iana import PayloadType
from .payloads_basic import (
    AuthPayload,
    EncryptedPayload,
    FragmentPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    UnknownPayload,
    VendorPayload,
)
from .payloads_notify import DeletePayload, NotifyPayload
from .payloads_sa import SaPayload
from .payloads_ts import TsPayload

__all__ = [
    "AuthPayload",
    "DeletePayload",
    "EncryptedPayload",
    "FragmentPayload",
    "IdPayload",
    "KePayload",
    "NoncePayload",
    "NotifyPayload",
    "Payload",
    "SaPayload",
    "TsPayload",
    "UnknownPayload",
    "VendorPayload",
    "decode_payload",
]

Payload = (
    SaPayload
    | KePayload
    | IdPayload
    | AuthPayload
    | NoncePayload
    | NotifyPayload
    | DeletePayload
    | VendorPayload
    | TsPayload
    | EncryptedPayload
    | FragmentPayload
    | UnknownPayload
)

_DECODERS: dict[int, Callable[[bytes], Payload]] = {
    PayloadType.SA: SaPayload.decode,
    PayloadType.KE: KePayload.decode,
    PayloadType.IDI: partial(IdPayload.decode, type_=PayloadType.IDI),
    PayloadType.IDR: partial(IdPayload.decode, type_=PayloadType.IDR),
    PayloadType.AUTH: AuthPayload.decode,
    PayloadType.NONCE: NoncePayload.decode,
    PayloadType.NOTIFY: NotifyPayload.decode,
    PayloadType.DELETE: DeletePayload.decode,
    PayloadType.VENDOR: VendorPayload.decode,
    PayloadType.TSI: partial(TsPayload.decode, type_=PayloadType.TSI),
    PayloadType.TSR: partial(TsPayload.decode, type_=PayloadType.TSR),
}


def decode_payload(payload_type: int, critical: bool, body: bytes) -> Payload:
    """The payload of a body; the critical bit means nothing on a type that we read (RFC 7296 section 2.5)."""
    decode = _DECODERS.get(payload_type)
    return decode(body) if decode else UnknownPayload(payload_type, critical, body)
