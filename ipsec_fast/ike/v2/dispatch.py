"""Which message may come in which state, as one table to check against RFC 7296 sections 1.2 to 1.5.

(our role in the IKE SA, state, exchange, request or response) -> handler of the request, states it may lead to. What
is not in the table is dropped and counted. A response goes to the exchange that is outstanding, so its rows have no
handler. The responder's IKE_SA_INIT request has no IKE SA yet and is the endpoint's (sa_init.receive_request).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...iana import ExchangeType
from ...model import Path
from ..asks import Steps
from ..header import IkeHeader
from .create_child_answer import answer_create_child
from .exchange import Reply
from .ike_auth import answer_ike_auth
from .ike_sa import IkeSA
from .informational import answer_informational
from .message import Message
from .states import State

Handler = Callable[[IkeSA, Message, Path], Steps[Reply]]
Key = tuple[bool, State, ExchangeType, bool]  # initiator of the IKE SA, state, exchange, is a response

INI, RES = True, False
REQUEST, RESPONSE = False, True
_INIT, _AUTH = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH
_CREATE, _INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL


@dataclass(frozen=True, slots=True)
class Row:
    handler: Handler | None
    next: frozenset[State]


def _row(handler: Handler | None, *states: State) -> Row:
    return Row(handler, frozenset(states))


_S = State
TABLE: dict[Key, Row] = {
    # IKE_SA_INIT and IKE_AUTH: nobody is authenticated, nothing else is listened to
    (INI, _S.CONNECTING, _INIT, RESPONSE): _row(None, _S.CONNECTING, _S.DELETED),
    (RES, _S.CONNECTING, _AUTH, REQUEST): _row(answer_ike_auth, _S.ESTABLISHED, _S.DELETED),
    (INI, _S.CONNECTING, _AUTH, RESPONSE): _row(None, _S.ESTABLISHED, _S.DELETING, _S.DELETED),
    # a repeated IKE_AUTH request, when its response was lost: the window answers it, a new one is dropped
    (RES, _S.ESTABLISHED, _AUTH, REQUEST): _row(None, _S.ESTABLISHED),
    (RES, _S.REKEYING, _AUTH, REQUEST): _row(None, _S.REKEYING),
    (RES, _S.DELETING, _AUTH, REQUEST): _row(None, _S.DELETING),
    # CREATE_CHILD_SA: crossings are settled in collide.py
    (INI, _S.ESTABLISHED, _CREATE, REQUEST): _row(answer_create_child, _S.ESTABLISHED, _S.REKEYED),
    (RES, _S.ESTABLISHED, _CREATE, REQUEST): _row(answer_create_child, _S.ESTABLISHED, _S.REKEYED),
    (INI, _S.REKEYING, _CREATE, REQUEST): _row(answer_create_child, _S.REKEYING),
    (RES, _S.REKEYING, _CREATE, REQUEST): _row(answer_create_child, _S.REKEYING),
    (INI, _S.REKEYED, _CREATE, REQUEST): _row(answer_create_child, _S.REKEYED),
    (RES, _S.REKEYED, _CREATE, REQUEST): _row(answer_create_child, _S.REKEYED),
    (INI, _S.DELETING, _CREATE, REQUEST): _row(answer_create_child, _S.DELETING),
    (RES, _S.DELETING, _CREATE, REQUEST): _row(answer_create_child, _S.DELETING),
    (INI, _S.ESTABLISHED, _CREATE, RESPONSE): _row(None, _S.ESTABLISHED),
    (RES, _S.ESTABLISHED, _CREATE, RESPONSE): _row(None, _S.ESTABLISHED),
    (INI, _S.REKEYING, _CREATE, RESPONSE): _row(None, _S.ESTABLISHED, _S.REKEYED),
    (RES, _S.REKEYING, _CREATE, RESPONSE): _row(None, _S.ESTABLISHED, _S.REKEYED),
    (INI, _S.DELETING, _CREATE, RESPONSE): _row(None, _S.DELETING),
    (RES, _S.DELETING, _CREATE, RESPONSE): _row(None, _S.DELETING),
    # INFORMATIONAL: every request is answered
    (INI, _S.ESTABLISHED, _INFO, REQUEST): _row(answer_informational, _S.ESTABLISHED, _S.DELETED),
    (RES, _S.ESTABLISHED, _INFO, REQUEST): _row(answer_informational, _S.ESTABLISHED, _S.DELETED),
    (INI, _S.REKEYING, _INFO, REQUEST): _row(answer_informational, _S.REKEYING, _S.DELETED),
    (RES, _S.REKEYING, _INFO, REQUEST): _row(answer_informational, _S.REKEYING, _S.DELETED),
    (INI, _S.REKEYED, _INFO, REQUEST): _row(answer_informational, _S.REKEYED, _S.DELETED),
    (RES, _S.REKEYED, _INFO, REQUEST): _row(answer_informational, _S.REKEYED, _S.DELETED),
    (INI, _S.DELETING, _INFO, REQUEST): _row(answer_informational, _S.DELETING, _S.DELETED),
    (RES, _S.DELETING, _INFO, REQUEST): _row(answer_informational, _S.DELETING, _S.DELETED),
    (INI, _S.ESTABLISHED, _INFO, RESPONSE): _row(None, _S.ESTABLISHED),
    (RES, _S.ESTABLISHED, _INFO, RESPONSE): _row(None, _S.ESTABLISHED),
    (INI, _S.REKEYED, _INFO, RESPONSE): _row(None, _S.REKEYED, _S.DELETED),
    (RES, _S.REKEYED, _INFO, RESPONSE): _row(None, _S.REKEYED, _S.DELETED),
    (INI, _S.DELETING, _INFO, RESPONSE): _row(None, _S.DELETED),
    (RES, _S.DELETING, _INFO, RESPONSE): _row(None, _S.DELETED),
}


def find_row(sa: IkeSA, header: IkeHeader) -> Row | None:
    try:
        exchange = ExchangeType(header.exchange)
    except ValueError:
        return None
    return TABLE.get((sa.initiator, sa.state, exchange, header.response))
