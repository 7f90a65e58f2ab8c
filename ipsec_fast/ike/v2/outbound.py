"""How messages of an IKE SA leave: requests one at a time (window 1, deletes first), responses, retransmission.

RFC 7296 sections 2.1 to 2.3. A response goes to where its request came from, a request to the IKE SA's path. Datagrams
only reach the outbox of Core; the shell sends them once the records are stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import IpsecFastError
from ...iana import ExchangeType
from ...model import Path
from ..asks import Steps
from ..header import IkeHeader
from ..timers import TimerKind
from .exchange import Exchange
from .ike_sa import IkeSA
from .liveness import expect_answer
from .message import encode_message
from .payloads import Payload
from .protect import seal_message
from .states import AUTHENTICATED, State
from .window import Datagrams, retransmit_wait

# --- the queue


def submit(sa: IkeSA, exchange: Exchange) -> None:
    """Into the queue, behind those of its own priority; it leaves at once if nothing of ours is outstanding."""
    if sa.is_closed:
        return
    place = next((i for i, queued in enumerate(sa.queue) if queued.priority < exchange.priority), len(sa.queue))
    sa.queue.insert(place, exchange)
    start_next(sa)


def submit_put_off(sa: IkeSA) -> None:
    put_off, sa.put_off = sa.put_off, []
    for exchange in put_off:
        submit(sa, exchange)


def start_next(sa: IkeSA) -> None:
    """The next exchange of the queue that is still wanted, if the window is free and the state allows one."""
    while sa.active is None and sa.queue and _may_start(sa, sa.queue[0]):
        exchange = sa.queue.pop(0)
        if exchange.is_wanted(sa):
            sa.active = exchange
            sa.core.run(sa, _start(sa, exchange))


def _may_start(sa: IkeSA, exchange: Exchange) -> bool:
    if exchange.type == ExchangeType.IKE_AUTH:
        return sa.state is State.CONNECTING
    if sa.state is State.REKEYED or sa.stands_aside:
        return exchange.type == ExchangeType.INFORMATIONAL
    return sa.state in AUTHENTICATED


def _start(sa: IkeSA, exchange: Exchange) -> Steps[None]:
    try:
        payloads = yield from exchange.request(sa)
    except IpsecFastError as error:
        sa.active = None
        exchange.failed(sa, str(error))
        start_next(sa)
        return
    if not sa.is_closed:
        send_request(sa, exchange.type, payloads)


def end_active(sa: IkeSA) -> None:
    """The outstanding exchange is over; the next one may go."""
    sa.active = None
    sa.window.close_request()
    sa.core.mark_changed(sa)
    sa.set_timer(TimerKind.RETRANSMIT, None)
    sa.set_timer(TimerKind.SILENT, None)
    start_next(sa)


# --- requests


def send_request(sa: IkeSA, exchange: ExchangeType, payloads: Sequence[Payload]) -> Datagrams:
    header = _header(sa, exchange, sa.window.next_own, response=False)
    datagrams = _encode(sa, header, payloads)
    if sa.window.outstanding is None:
        sa.window.open_request(exchange, datagrams)
    else:
        sa.window.replace_request(datagrams)
    sa.core.mark_changed(sa)
    sa.core.send(sa.path, datagrams, sa.ike_id)
    _arm(sa, 1)
    expect_answer(sa)
    return datagrams


def retransmit(sa: IkeSA) -> None:
    """The timer has run out: the same bytes again, or the peer is given up."""
    own = sa.window.outstanding
    if own is None or own.answered:
        return
    if own.sends >= sa.core.settings.retransmit_sends:
        sa.core.counters["given_up"] += 1
        what = ExchangeType(own.exchange).name
        sa.progress(f"giving up: no answer to {own.sends} sends of {what} from {sa.path.remote}")
        reason = f"{sa.path.remote} does not answer ({own.sends} sends of {what})"
        sa.close(reason, failed=sa.state is not State.DELETING and sa.state is not State.REKEYED)
        return
    own.sends += 1
    sa.core.counters["retransmits"] += 1
    sa.progress(f"retransmit {own.sends - 1} of request with message ID {own.message_id}", group="net")
    sa.core.send(sa.path, own.datagrams, sa.ike_id)
    _arm(sa, own.sends)


def _arm(sa: IkeSA, sends: int) -> None:
    sa.set_timer(TimerKind.RETRANSMIT, retransmit_wait(sa.core.settings, sends, sa.core.random))


# --- responses


def respond(sa: IkeSA, exchange: int, payloads: Sequence[Payload], path: Path) -> Datagrams:
    """The response to the request that is being worked on, stored for its repetitions."""
    header = _header(sa, exchange, sa.window.expected, response=True)
    datagrams = _encode(sa, header, payloads)
    sa.window.store_response(datagrams)
    sa.core.mark_changed(sa)
    sa.core.send(path, datagrams, sa.ike_id)
    return datagrams


def _header(sa: IkeSA, exchange: int, message_id: int, *, response: bool) -> IkeHeader:
    sa.core.count_message(sa.name, exchange, inbound=False, response=response)
    return IkeHeader.make(sa.spi_i, sa.spi_r, exchange, message_id, initiator=sa.initiator, response=response)


def _encode(sa: IkeSA, header: IkeHeader, payloads: Sequence[Payload]) -> Datagrams:
    if header.exchange == ExchangeType.IKE_SA_INIT:
        return (encode_message(header, payloads),)
    return (seal_message(header, payloads, sa.keys.outbound, sa.keys.next_iv()),)
