"""How messages of an IKE SA leave: requests one at a time (window 1, deletes first), responses, retransmission.

RFC 7296 sections 2.1 to 2.3. A response goes to where its request came from, a request to the IKE SA's path. Datagrams
only reach the outbox of Core; the shell sends them once the records are stored.

Where the path may lose what is large (RFC 7383 section 2.5.2): a request that stays unanswered for SENDS_PER_SIZE sends goes out again
in fragments of the next smaller size (fragments.py), a response when it was asked for as often again, or at once when the peer asks in
smaller fragments. What cannot be fragmented then leaves without DF. The size that was answered is kept for the IKE SA.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import IpsecFastError
from ...iana import ExchangeType
from ...model import Path
from ..asks import Steps
from ..events import NO_ANSWER, Outer
from ..header import IkeHeader
from ..timers import TimerKind
from .exchange import Exchange
from .fragments import LEAST_BYTES, cut, cut_smaller, least_bytes, longest, may_fragment, next_step, room_in, size_of
from .ike_sa import IkeSA
from .liveness import expect_answer
from .message import encode_chain, encode_message, first_type
from .payloads import Payload
from .states import AUTHENTICATED, State
from .window import Datagrams, Outstanding, retransmit_wait

QUEUE_MAX = 1024  # exchanges that wait for one peer, over all its IKE SAs: more than all its children need
QUEUE_COUNTED = 64  # a shorter queue is never full, so it is not counted
SENDS_PER_ADDRESS = 4  # of IKE_SA_INIT, if the peer has more than one address
TOLD_SENDS = 3  # sends without an answer from which on the log says so
SENDS_PER_SIZE = 2  # of one request or response, until it is tried smaller

# --- the queue


def submit(sa: IkeSA, exchange: Exchange) -> None:
    """Queue it after those of its priority; it is sent at once if no request of ours is outstanding.

    It is not queued if an equal one waits already, and fails if the queue is full,
    because a peer may leave requests unanswered.
    """
    if sa.is_closed or is_queued(sa, exchange.twin):
        return
    if exchange.priority <= 0 and _is_full(sa):  # deletes need no limit: there are as many as children
        sa.core.counters["queue_full"] += 1
        exchange.failed(sa, f"{QUEUE_MAX} exchanges wait for {sa.remote_id or sa.path.remote} already")
        return
    place = next((i for i, queued in enumerate(sa.queue) if queued.priority < exchange.priority), len(sa.queue))
    sa.queue.insert(place, exchange)
    start_next(sa)


def is_queued(sa: IkeSA, twin: object) -> bool:
    return twin is not None and any(queued.twin == twin for queued in sa.queue)


def _is_full(sa: IkeSA) -> bool:
    """Whether its queue is full, alone or together with the other IKE SAs of its peer."""
    if len(sa.queue) < QUEUE_COUNTED:
        return False
    return len(sa.queue) + sum(len(one.queue) for one in sa.core.with_peer(sa) if one is not sa) >= QUEUE_MAX


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
    if sa.is_closed:
        return
    if exchange.probe_sizes:
        _send_probe(sa, exchange, payloads)
    else:
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
    datagrams = _encode(sa, header, payloads, size_of(sa), sa.path)
    if sa.window.outstanding is None:
        sa.window.open_request(exchange, datagrams)
    else:
        sa.window.replace_request(datagrams)
    sa.core.mark_changed(sa)
    sa.core.send(sa.path, datagrams, sa.ike_id)
    _arm(sa, 1)
    expect_answer(sa)
    return datagrams


def _send_probe(sa: IkeSA, exchange: Exchange, payloads: Sequence[Payload]) -> None:
    """Whole, whatever its size is; each of its other sizes gets one send."""
    header = _header(sa, exchange.type, sa.window.next_own, response=False)
    datagrams = cut(header, first_type(payloads), encode_chain(payloads), sa.keys, None)
    sa.window.open_request(exchange.type, datagrams)
    own = sa.window.outstanding
    if own is not None:
        own.sizes, own.wait_s, own.probe = exchange.probe_sizes[1:], exchange.probe_wait_s, datagrams
    sa.core.mark_changed(sa)
    sa.core.send(sa.path, datagrams, sa.ike_id, Outer.NEVER)
    sa.set_timer(TimerKind.RETRANSMIT, exchange.probe_wait_s)
    expect_answer(sa)


def retransmit(sa: IkeSA, *, as_it_is: bool = False) -> None:
    """The timer has run out: the same bytes again, the same message in smaller fragments, or the peer is given up.

    `as_it_is`: not the timer, but a smaller size that was asked for. Such a send brings the peer's end no nearer, since what asked for
    it may be an ICMP message that somebody made up.
    """
    own = sa.window.outstanding
    if own is None or own.answered:
        return
    own.unasked += as_it_is
    if own.sends >= _most_sends(sa) + own.unasked:
        sa.core.counters["given_up"] += 1
        what = ExchangeType(own.exchange).name
        sa.progress(f"giving up: no answer to {own.sends} sends of {what} from {sa.path.remote}")
        if sa.state is State.CONNECTING:
            reason = f"{_unanswered(sa, own)} It does not answer {what} and is given up"
        else:
            reason = f"{sa.path.remote} does not answer ({own.sends} sends of {what})"
        sa.close(reason, failed=sa.state is not State.DELETING and sa.state is not State.REKEYED)
        return
    if own.probe:
        _probe_again(sa, own, as_it_is=as_it_is)
        return
    if not as_it_is:
        _fit_again(sa, own)
    _count_send(sa, own)
    sa.core.send(sa.path, own.datagrams, sa.ike_id, _outer(sa, own.datagrams, own.sends))
    _arm(sa, own.sends - own.unasked)


def _most_sends(sa: IkeSA) -> int:
    """A first request has few sends if the peer has several addresses, so that the next one is tried soon."""
    most = sa.core.settings.retransmit_sends
    return min(most, SENDS_PER_ADDRESS) if sa.attempt is not None and len(sa.config.remote_addrs) > 1 else most


def _count_send(sa: IkeSA, own: Outstanding) -> None:
    own.sends += 1
    sa.core.counters["retransmits"] += 1
    parts = f" in {len(own.datagrams)} fragments" if len(own.datagrams) > 1 else ""
    sa.progress(f"retransmit {own.sends - 1} of request with message ID {own.message_id}{parts}", group="net")
    if sa.state is State.CONNECTING and own.sends >= TOLD_SENDS:
        # the first one is logged, later ones are for a command that waits
        sa.progress(_unanswered(sa, own), group="net", level=2 if sa.told_unanswered else 0)
        sa.told_unanswered = True


def _unanswered(sa: IkeSA, own: Outstanding) -> str:
    """What the operator should check if a new IKE SA gets no answer."""
    waited_s = max(1, round(sa.core.now - sa.asked_at))
    begun = own.exchange == ExchangeType.IKE_SA_INIT
    where = "UDP 500 and 4500" if begun else f"UDP {sa.path.remote_port} (IKE_SA_INIT was answered)"
    text = f"{NO_ANSWER}{sa.path.remote} to {own.sends} requests in {waited_s} s"
    return f"{text}; is it up, does a firewall drop {where}?"


def _probe_again(sa: IkeSA, own: Outstanding, *, as_it_is: bool) -> None:
    """The next of its sizes. Behind the last one it must be answered in whatever form, or the IKE SA could send nothing more.

    Then it leaves without DF too, the very bytes of the first send: not everybody takes an INFORMATIONAL in SKF (charon, where it was
    built with its mediation extension, does not).
    """
    while not as_it_is and own.sizes and not refragment(sa, own.sizes[0]):
        own.sizes = own.sizes[1:]
    is_next = own.since > own.sends
    _count_send(sa, own)
    if len(own.datagrams) > 1:
        sa.core.send(sa.path, own.datagrams, sa.ike_id, Outer.NEVER)
    if is_next:
        sa.set_timer(TimerKind.RETRANSMIT, own.wait_s)
        return
    own.tried_all = True
    sa.core.send(sa.path, own.probe, sa.ike_id, Outer.CUT)
    _arm(sa, own.sends - own.since)


def _fit_again(sa: IkeSA, own: Outstanding) -> None:
    """The next size, where this one has had its sends."""
    if own.sends - own.since + 1 < SENDS_PER_SIZE or not may_fragment(sa):
        return
    step = next_step(longest(own.datagrams, sa.path), sa.path)
    if step is not None and refragment(sa, step):
        sa.core.counters["fragments_for_silence"] += 1
        sa.progress(
            f"no answer: message ID {own.message_id} goes out in datagrams of at most {step} bytes", group="net"
        )


def refragment(sa: IkeSA, size: int) -> bool:
    """From its next send on the outstanding request leaves in IP datagrams of at most `size`; whether it had longer ones."""
    own = sa.window.outstanding
    smaller = None if own is None else cut_smaller(own.datagrams, sa.keys, room_in(size, sa.path))
    if own is None or smaller is None:
        return False
    own.refit(smaller)
    own.sizes = tuple(later for later in own.sizes if later < size)
    sa.core.counters["fragments_sent"] += len(smaller)
    sa.core.mark_changed(sa)  # for its IVs
    return True


def note_size(sa: IkeSA, own: Outstanding) -> None:
    """Its response has come: what had to be made smaller for it is what the path carries. A probe's finding is the shell's to judge."""
    if own.since > 1 and not own.probe:
        sa.fragment_bytes = max(longest(own.datagrams, sa.path), least_bytes(sa.path))


def _outer(sa: IkeSA, datagrams: Datagrams, sends: int) -> Outer:
    """What has not come through with DF in its smallest form is left to the routers."""
    is_lost = sends > SENDS_PER_SIZE and longest(datagrams, sa.path) > LEAST_BYTES
    is_smallest = not may_fragment(sa) or datagrams[0][18] == ExchangeType.IKE_SA_INIT
    return Outer.CUT if is_lost and is_smallest else Outer.NEEDED


def _arm(sa: IkeSA, sends: int) -> None:
    sa.set_timer(TimerKind.RETRANSMIT, retransmit_wait(sa.core.settings, sends, sa.core.random))


# --- responses


def respond(sa: IkeSA, exchange: int, payloads: Sequence[Payload], path: Path) -> Datagrams:
    """The response to the request that is being worked on, stored for its repetitions."""
    header = _header(sa, exchange, sa.window.expected, response=True)
    size = min(size_of(sa), sa.reply_bytes) if sa.reply_bytes else size_of(sa)
    datagrams = _encode(sa, header, payloads, size, path)
    sa.reply_bytes = 0
    sa.window.store_response(datagrams)
    sa.core.mark_changed(sa)
    sa.core.send(path, datagrams, sa.ike_id)
    return datagrams


def repeat_response(sa: IkeSA, path: Path, asked_bytes: int | None = None) -> None:
    """The stored response again. `asked_bytes`: the request came again in another form, in datagrams of that size."""
    window = sa.window
    sa.core.counters["requests_repeated"] += 1
    window.repeats += 1
    size = longest(window.last_response, path)
    wanted = next_step(size, path) if window.repeats % SENDS_PER_SIZE == 0 else None
    if asked_bytes is not None and asked_bytes < size:
        wanted = max(asked_bytes, least_bytes(path))
    if wanted is not None and may_fragment(sa):
        smaller = cut_smaller(window.last_response, sa.keys, room_in(wanted, path))
        if smaller is not None:
            window.last_response = smaller
            sa.core.counters["fragments_sent"] += len(smaller)
            sa.core.mark_changed(sa)
    sa.core.send(path, window.last_response, sa.ike_id, _outer(sa, window.last_response, window.repeats + 1))


def _header(sa: IkeSA, exchange: int, message_id: int, *, response: bool) -> IkeHeader:
    sa.core.count_message(sa.name, exchange, inbound=False, response=response)
    return IkeHeader.make(sa.spi_i, sa.spi_r, exchange, message_id, initiator=sa.initiator, response=response)


def _encode(sa: IkeSA, header: IkeHeader, payloads: Sequence[Payload], size: int, path: Path) -> Datagrams:
    if header.exchange == ExchangeType.IKE_SA_INIT:
        return (encode_message(header, payloads),)
    room = room_in(size, path) if may_fragment(sa) else None
    datagrams = cut(header, first_type(payloads), encode_chain(payloads), sa.keys, room)
    if len(datagrams) > 1:
        sa.core.counters["fragments_sent"] += len(datagrams)
    return datagrams
