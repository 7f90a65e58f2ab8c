"""How a message for a known IKE SA comes in: window, ICV, payload rules, handler (RFC 7296 sections 2.1, 2.2, 2.21).

One in fragments (RFC 7383) passes the same window, fragment by fragment, and the rules when it is whole (reassembly.py).
Nothing that is not protected changes an IKE SA's state; a bad ICV is counted and never deletes one. The peer has been heard when a whole
message with a new message ID came, never by a piece of one: pieces that were forgotten can be replayed. Called by the endpoint, which has
found the SA by its SPIs and has one guard around all of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ...errors import IntegrityError, IpsecFastError, LocalError, ParseError, RemoteError
from ...iana import ExchangeType, NotifyType, name_of
from ...model import Path
from ..asks import Steps
from ..header import IkeHeader
from ..strangers import Line
from ..timers import TimerKind
from . import sa_init
from .dispatch import Handler, find_row
from .exchange import Exchange, Reply
from .fragments import least_bytes, overhead
from .hints import is_hint
from .ike_sa import IkeSA
from .informational import DeleteIke
from .liveness import note_heard, take_hint
from .message import Message, decode_message
from .message_ids import watch
from .moves import note_message
from .outbound import end_active, note_size, repeat_response, respond, start_next, submit
from .payloads import EncryptedPayload, FragmentPayload, NotifyPayload
from .protect import open_content, open_message
from .reassembly import drop, keep, refusal
from .rules import check_payloads
from .states import State
from .window import Arrival, digest_of

BAD_ICVS_HALF_OPEN = 3
DEAF_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Opened:
    """`what`: the message with its inner payloads, or an error that the ICV vouches for. `digest`: of it, or of its first fragment.

    `longest`: its largest fragment, 0 where it came whole.
    """

    what: Message | RemoteError
    digest: bytes
    longest: int = 0


def receive(sa: IkeSA, header: IkeHeader, data: bytes, path: Path) -> None:
    row = find_row(sa, header)
    if row is None:
        sa.core.counters["wrong_state"] += 1
        return
    if header.exchange == ExchangeType.IKE_SA_INIT:
        _receive_init(sa, header, data, path)
    elif header.response:
        _receive_response(sa, header, data, path)
    else:
        _receive_request(sa, header, data, path, row.handler)


def _receive_init(sa: IkeSA, header: IkeHeader, data: bytes, path: Path) -> None:
    if sa.window.awaits(header.message_id, header.exchange):
        sa_init.receive_response(sa, data, path)
    else:
        sa.core.counters["wrong_message_id"] += 1


# --- requests of the peer


def _receive_request(sa: IkeSA, header: IkeHeader, data: bytes, path: Path, handler: Handler | None) -> None:
    digest = digest_of(data)
    arrival = sa.window.classify(header.message_id, digest)
    if arrival is Arrival.REPEATED:
        repeat_response(sa, path)
        return
    if arrival is Arrival.WRONG and sa.window.is_last(header.message_id):
        _receive_last_again(sa, header, data, path)
        return
    if arrival is not Arrival.NEW or handler is None:
        sa.core.counters["wrong_message_id" if arrival is Arrival.WRONG else "requests_resting"] += 1
        return
    opened = _open(sa, header, data)
    if opened is None:
        return
    note_heard(sa, sa.core.now)
    sa.core.count_message(sa.name, header.exchange, inbound=True, response=False)
    sa.window.accept(opened.digest)
    note_message(sa, path)
    # the answer takes the peer's size: who cuts a request small has a reason
    sa.reply_bytes = max(opened.longest + overhead(path), least_bytes(path)) if opened.longest else 0
    sa.core.run(sa, _answer(sa, header.exchange, opened.what, path, handler))


def _receive_last_again(sa: IkeSA, header: IkeHeader, data: bytes, path: Path) -> None:
    """The last request in other bytes: by RFC 7383 section 2.6.1 its first fragment asks for the response again, and no other does.

    The very bytes of the first fragment before were known by their digest; those of another set, or of the message whole after it was
    tried in fragments (probe.py), must show their ICV. None is a sign of life: whoever has seen it on the wire can send it for ever.
    """
    sealed = _sealed_in(data)
    reason = "wrong_message_id" if sealed is None or not sa.fragments else None
    if isinstance(sealed, FragmentPayload):
        is_old = sa.fragments and sealed.number > 1
        reason = "fragments_old" if is_old else refusal(sa, header, sealed)
    if reason is None and sa.core.now < sa.deaf_until:
        reason = "deaf"
    if reason is not None or sealed is None:
        sa.core.counters[reason or "wrong_message_id"] += 1
    elif _unseal(sa, lambda: open_content(data, sealed, sa.keys.inbound)) is not None:
        asked_bytes = len(data) + overhead(path) if isinstance(sealed, FragmentPayload) else None
        repeat_response(sa, path, asked_bytes)


def _sealed_in(data: bytes) -> FragmentPayload | EncryptedPayload | None:
    try:
        message = decode_message(data)
    except RemoteError:
        return None
    return message.get(FragmentPayload) or message.get(EncryptedPayload)


def _answer(sa: IkeSA, exchange: int, opened: Message | RemoteError, path: Path, handler: Handler) -> Steps[None]:
    sa.passive = name_of(ExchangeType, exchange)
    try:
        if isinstance(opened, RemoteError):
            raise opened
        check_payloads(exchange, False, opened.payloads)
        reply = yield from handler(sa, opened, path)
    except IpsecFastError as error:
        reply = _refuse(sa, error)
    sa.passive = ""
    if sa.is_closed:
        return
    respond(sa, exchange, reply.payloads, path)
    if reply.after is not None:
        reply.after()
    start_next(sa)
    watch(sa)


def _refuse(sa: IkeSA, error: IpsecFastError) -> Reply:
    """An error notify; INVALID_SYNTAX behind a good ICV ends the IKE SA on both sides (section 2.21.3)."""
    if isinstance(error, LocalError):
        sa.progress(f"cannot do what the peer wants: {error}")
        return Reply((NotifyPayload(NotifyType.TEMPORARY_FAILURE),))
    notify = getattr(error, "notify", None) or NotifyType.INVALID_SYNTAX
    level = 1 if notify == NotifyType.INVALID_KE_PAYLOAD else 0  # that one is no failure, the peer tries again
    text = f"refused with {name_of(NotifyType, notify)}: {error}"
    if sa.is_half_open:
        sa.tell_of_stranger(Line.AUTHENTICATION, lambda: f"{sa.path.remote}: {text}", level=level)
    else:
        sa.progress(text, level=level)
    payloads = (NotifyPayload(notify, getattr(error, "data", b"")),)
    is_fatal = notify == NotifyType.INVALID_SYNTAX or not sa.is_authenticated
    reason = str(error)
    return Reply(payloads, (lambda: sa.close(reason, failed=True)) if is_fatal else None)


# --- responses to ours


def _receive_response(sa: IkeSA, header: IkeHeader, data: bytes, path: Path) -> None:
    own, exchange = sa.window.outstanding, sa.active
    if own is None or exchange is None or not sa.window.awaits(header.message_id, header.exchange):
        sa.core.counters["wrong_message_id"] += 1
        return
    opened = _open(sa, header, data)
    if opened is None:
        return
    note_heard(sa, sa.core.now)
    sa.core.count_message(sa.name, header.exchange, inbound=True, response=True)
    note_size(sa, own)
    own.answered = True
    sa.set_timer(TimerKind.RETRANSMIT, None)
    sa.set_timer(TimerKind.SILENT, None)
    note_message(sa, path)
    sa.core.run(sa, _take(sa, exchange, opened.what))


def _take(sa: IkeSA, exchange: Exchange, opened: Message | RemoteError) -> Steps[None]:
    is_broken = False
    try:
        try:
            if isinstance(opened, RemoteError):
                raise opened
            check_payloads(exchange.type, True, opened.payloads)
        except RemoteError:
            is_broken = True
            raise
        yield from exchange.response(sa, opened)
    except IpsecFastError as error:
        if not sa.is_closed:
            (exchange.broken if is_broken else exchange.failed)(sa, str(error))
    if sa.is_closed:
        return
    if is_broken:
        _give_up(sa, exchange)
    else:
        end_active(sa)
    watch(sa)


def _give_up(sa: IkeSA, exchange: Exchange) -> None:
    """Section 2.21.2: the peer believes that its response was accepted, so it must be told of the end."""
    sa.progress(f"the response to {exchange.name} breaks the protocol, the IKE SA is given up")
    is_told = sa.state is State.DELETING
    end_active(sa)
    if not is_told:
        submit(sa, DeleteIke("a broken response", failed=True))
    elif sa.active is None:
        sa.close("a broken response", failed=True)


# --- SK{} and SKF{}


def _open(sa: IkeSA, header: IkeHeader, data: bytes) -> _Opened | None:
    """A whole message, or the one that this fragment completes; None for what must be dropped or waits for the rest."""
    core = sa.core
    if core.now < sa.deaf_until:
        core.counters["deaf"] += 1
        return None
    try:
        message = decode_message(data)
    except RemoteError:
        core.counters["malformed"] += 1
        return None
    fragment = message.get(FragmentPayload)
    if fragment is not None:
        return _open_fragment(sa, header, fragment, data)
    if message.get(EncryptedPayload) is None:
        core.counters["unprotected"] += 1
        if is_hint(message):
            take_hint(sa)
        return None
    payloads = _unseal(sa, lambda: open_message(data, message, sa.keys.inbound))
    if payloads is None:
        return None
    if drop(sa, response=header.response):  # it came whole after all
        core.counters["fragments_superseded"] += 1
    what = payloads if isinstance(payloads, RemoteError) else Message(message.header, payloads)
    return _Opened(what, digest_of(data))


def _open_fragment(sa: IkeSA, header: IkeHeader, fragment: FragmentPayload, data: bytes) -> _Opened | None:
    reason = refusal(sa, header, fragment)
    if reason is not None:
        sa.core.counters[reason] += 1
        return None
    content = _unseal(sa, lambda: open_content(data, fragment, sa.keys.inbound))
    if content is None:
        return None
    if isinstance(content, RemoteError):  # its padding lies
        sa.core.counters["fragments_malformed"] += 1
        return None
    joined = keep(sa, header, fragment, content, data)
    return None if joined is None else _Opened(joined.opened, joined.digest, joined.longest)


def _unseal(sa: IkeSA, open_it: Callable[[], T]) -> T | RemoteError | None:
    """None where the ICV is bad; an error where what is behind a good one is no message."""
    try:
        opened: T | RemoteError = open_it()
    except IntegrityError:
        _count_bad_icv(sa)
        return None
    except ParseError as error:
        opened = error
    sa.bad_icvs = 0
    return opened


def _count_bad_icv(sa: IkeSA) -> None:
    """A half-open IKE SA stops listening for a second after three forged messages, so that junk costs little."""
    sa.core.counters["bad_icv"] += 1
    sa.bad_icvs += 1
    if not sa.is_authenticated and sa.bad_icvs >= BAD_ICVS_HALF_OPEN:
        sa.bad_icvs = 0
        sa.deaf_until = sa.core.now + DEAF_S
