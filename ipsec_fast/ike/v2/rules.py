"""Which payloads a message may hold, as a table to check against RFC 7296 sections 1.2 to 1.4 and appendix C.

`check_payloads` judges a decoded message before any handler sees it: an unknown payload with its critical bit gives
UNSUPPORTED_CRITICAL_PAYLOAD, a missing or doubled payload INVALID_SYNTAX, and so does an identity that is empty or too
long. Unknown payloads without the bit, known ones that the message has no use for, Vendor IDs, and unknown notifies are
let through and mean nothing: no handler reads them. What a payload says is for the exchanges to judge. Called by the
IKE SA for requests and responses alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import ParseError, RemoteError
from ...iana import ExchangeType, NotifyType, PayloadType, ProtocolId, name_of
from ...model import IDENTITY_MAX_BYTES
from .message import MAX_PAYLOADS
from .payloads import EncryptedPayload, IdPayload, NotifyPayload, Payload, SaPayload, UnknownPayload

_SA, _KE, _NONCE = PayloadType.SA, PayloadType.KE, PayloadType.NONCE
_IDI, _IDR, _AUTH = PayloadType.IDI, PayloadType.IDR, PayloadType.AUTH
_TSI, _TSR = PayloadType.TSI, PayloadType.TSR
_DELETE = PayloadType.DELETE

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """`counts` (least, most) by type. `encrypted`: stands inside SK{}."""

    encrypted: bool
    counts: Mapping[int, Range]


def _rule(encrypted: bool, counts: dict[int, Range]) -> Rule:
    return Rule(encrypted, MappingProxyType(counts))


_ONE, _MAYBE, _ANY = (1, 1), (0, 1), (0, MAX_PAYLOADS)

# Notifies and Vendor IDs may be in every message. Every other type is accepted too, and ignored.
RULES: dict[tuple[int, bool], Rule] = {  # (exchange, is a response)
    # HDR, SAi1, KEi, Ni -->                                  <-- HDR, SAr1, KEr, Nr
    (ExchangeType.IKE_SA_INIT, False): _rule(False, {_SA: _ONE, _KE: _ONE, _NONCE: _ONE}),
    (ExchangeType.IKE_SA_INIT, True): _rule(False, {_SA: _ONE, _KE: _ONE, _NONCE: _ONE}),
    # HDR, SK {IDi, [IDr,] AUTH, SAi2, TSi, TSr} -->          <-- HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
    (ExchangeType.IKE_AUTH, False): _rule(
        True, {_IDI: _ONE, _IDR: _MAYBE, _AUTH: _ONE, _SA: _ONE, _TSI: _ONE, _TSR: _ONE}
    ),
    (ExchangeType.IKE_AUTH, True): _rule(True, {_IDR: _ONE, _AUTH: _ONE, _SA: _ONE, _TSI: _ONE, _TSR: _ONE}),
    # Child:  HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr} -->     <-- HDR, SK {SA, Nr, [KEr,] TSi, TSr}
    (ExchangeType.CREATE_CHILD_SA, False): _rule(True, {_SA: _ONE, _NONCE: _ONE, _KE: _MAYBE, _TSI: _ONE, _TSR: _ONE}),
    (ExchangeType.CREATE_CHILD_SA, True): _rule(True, {_SA: _ONE, _NONCE: _ONE, _KE: _MAYBE, _TSI: _ONE, _TSR: _ONE}),
    # HDR, SK {[N,] [D,] ...} -->                             <-- HDR, SK {[N,] [D,] ...}
    (ExchangeType.INFORMATIONAL, False): _rule(True, {_DELETE: _ANY}),
    (ExchangeType.INFORMATIONAL, True): _rule(True, {_DELETE: _ANY}),
}
# an initiator that wants EAP, whose first request has no AUTH (section 2.16):  HDR, SK {IDi, [IDr,] SAi2, TSi, TSr} -->
EAP_WANTED = _rule(True, {_IDI: _ONE, _IDR: _MAYBE, _SA: _MAYBE, _TSI: _MAYBE, _TSR: _MAYBE})
# rekey of the IKE SA:  HDR, SK {SA, Ni, KEi} -->             <-- HDR, SK {SA, Nr, KEr}
IKE_REKEY = _rule(True, {_SA: _ONE, _NONCE: _ONE, _KE: _ONE})

# The shape of a response that refuses, or wants the request again: it holds what its table row holds, or less.
_RETRY_NOTIFIES = frozenset({NotifyType.COOKIE})
_FIRST_KNOWN, _LAST_KNOWN = PayloadType.SA, PayloadType.EAP  # RFC 7296's own; on these the critical bit means nothing


def check_payloads(exchange: int, response: bool, payloads: Sequence[Payload], *, encrypted: bool = True) -> None:
    """RemoteError with the notify that answers it, for payloads that this message may not hold (see above).

    `encrypted`: these payloads were inside SK{}. An exchange type that we do not know is INVALID_SYNTAX, after the
    critical bits; SKF and an SK{} or a clear message where the other belongs are answered by nothing.
    """
    _check_shape(exchange, payloads, encrypted)
    _check_critical(payloads, response)
    _check_identities(payloads)
    rule = _rule_for(exchange, response, payloads)
    counts: Counter[int] = Counter(p.type for p in payloads if not isinstance(p, UnknownPayload))
    title = f"{name_of(ExchangeType, exchange)} {'response' if response else 'request'}"
    for payload_type, count in counts.items():
        most = rule.counts.get(payload_type, _ANY)[1]
        if count > most:
            raise ParseError(f"{title}: {count} {_name(payload_type)} payloads, at most {most} may stand there")
    if response and _refuses(payloads):
        return
    missing = [_name(t) for t, (least, _) in rule.counts.items() if counts.get(t, 0) < least]
    if missing:
        raise ParseError(f"{title}: no {', '.join(missing)} payload in it")


def _check_shape(exchange: int, payloads: Sequence[Payload], encrypted: bool) -> None:
    name = name_of(ExchangeType, exchange)
    if any(p.type == PayloadType.SKF for p in payloads):
        raise RemoteError(
            f"{name}: an SKF payload (RFC 7383), whose place is behind the header of a message in fragments"
        )
    wants_clear = exchange == ExchangeType.IKE_SA_INIT
    if encrypted == wants_clear or any(isinstance(p, EncryptedPayload) for p in payloads):
        where = "in clear" if wants_clear else "inside SK"
        raise RemoteError(f"{name}: its payloads must stand {where}")


def _check_critical(payloads: Sequence[Payload], response: bool) -> None:
    for payload in payloads:
        if not isinstance(payload, UnknownPayload) or not payload.critical:
            continue
        if not _FIRST_KNOWN <= payload.type_ <= _LAST_KNOWN:
            notify = None if response else NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD  # a response is not answered
            raise RemoteError(
                f"payload type {payload.type_} is marked critical and unknown to us", notify, bytes([payload.type_])
            )


def _check_identities(payloads: Sequence[Payload]) -> None:
    """An empty identity names nobody; a very long one would fill our memory, our log and every list of SAs."""
    for payload in payloads:
        if isinstance(payload, IdPayload) and not 1 <= len(payload.identity.data) <= IDENTITY_MAX_BYTES:
            has = f"an identity of {len(payload.identity.data)} bytes"
            raise ParseError(f"{_name(payload.type)} payload: {has}, 1 to {IDENTITY_MAX_BYTES} are taken")


def _rule_for(exchange: int, response: bool, payloads: Sequence[Payload]) -> Rule:
    rule = RULES.get((exchange, response))
    if rule is None:
        raise ParseError(f"exchange type {exchange} is not one of ours")
    if exchange == ExchangeType.IKE_AUTH and not response and not any(p.type == _AUTH for p in payloads):
        return EAP_WANTED
    if exchange != ExchangeType.CREATE_CHILD_SA:
        return rule
    sa = next((p for p in payloads if isinstance(p, SaPayload)), None)
    is_rekey = sa is not None and sa.proposals[0].protocol == ProtocolId.IKE
    return IKE_REKEY if is_rekey else rule


def _refuses(payloads: Sequence[Payload]) -> bool:
    notifies = (p for p in payloads if isinstance(p, NotifyPayload))
    return any(n.is_error or n.notify in _RETRY_NOTIFIES for n in notifies)


def _name(payload_type: int) -> str:
    return name_of(PayloadType, payload_type)
