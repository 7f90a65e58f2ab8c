"""IKE_SA_INIT as responder (RFC 7296 sections 1.2, 2.6, 2.7, 2.23).

A COOKIE is answered without any state. The other refusals leave none behind either: the half-open IKE SA goes as soon
as the error notify is sent, in clear, with a responder SPI of zero. A half-open one lives 100 s. If there are too many,
the network that holds most loses its oldest (half_open.py). Under load, of a request without a COOKIE only the payload
headers are read. No answer is longer than its request, and answers are rate-limited (strangers.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...crypto.prf import IkeKeys
from ...errors import IpsecFastError, NegotiationError, ParseError, RemoteError
from ...iana import ExchangeType, NotifyType, name_of
from ...model import Path
from ..asks import Steps, ask_config, ask_key_pair, ask_shared_secret
from ..core import HALF_OPEN_MAX, Core
from ..header import IkeHeader
from ..strangers import Line
from ..timers import TimerKind
from .candidates import choose
from .collide import Nonces
from .ike_sa import ZERO_SPI, IkeSA, InitOctets
from .init_headers import read_init
from .keymat import IkeKeymat, IkeSuite, check_nonces, first_keys, ike_suite_of
from .message import Message, decode_message, encode_message
from .negotiate import wanted_group
from .outbound import respond
from .payloads import KePayload, NoncePayload, NotifyPayload, Payload, SaPayload
from .reflection import drop_reflected
from .rules import check_payloads
from .sa_init import NONCE_BYTES, detect, fragmentation_payloads, nat_payloads
from .states import State
from .window import digest_of


def receive_request(core: Core, header: IkeHeader, data: bytes, path: Path) -> None:
    """HDR, [N(COOKIE),] SAi1, KEi, Ni, [N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), ...] -->"""
    if not header.initiator or header.message_id != 0:
        core.counters["wrong_state"] += 1
        return
    known = core.half_open.get((path.remote, path.remote_port, header.spi_i))
    if known is not None:
        _repeat(known, data, path)
        return
    core.strangers.note_request(core.now)
    wants_cookie = core.strangers.must_show_address(core.half_open_count, core.now) or _is_short(data)
    if wants_cookie and not _has_cookie(core, header, data, path):
        return
    try:
        message = decode_message(data)
        check_payloads(ExchangeType.IKE_SA_INIT, False, message.payloads, encrypted=False)
    except RemoteError as error:
        core.counters["malformed"] += 1
        if error.notify is not None:
            _refuse(core, header, path, NotifyPayload(error.notify, error.data), len(data))
        return
    core.count_message("", header.exchange, inbound=True, response=False)
    if drop_reflected(core, message, path.remote):
        return
    sa = IkeSA(core, core.new_id("ike"), False, core.new_spi(), path, peer_spi=header.spi_i)
    core.add(sa)
    sa.half_open_key = (path.remote, path.remote_port, header.spi_i)
    core.half_open[sa.half_open_key] = sa
    _make_room(core)
    sa.is_half_open = True
    core.half_open_sas.add(sa, path.remote)
    sa.window.accept(digest_of(data))
    sa.set_timer(TimerKind.HALF_OPEN, core.settings.half_open_s)
    core.run(sa, _answer(sa, message, data, path))


def _make_room(core: Core) -> None:
    while core.half_open_count >= HALF_OPEN_MAX:
        core.counters["half_open_displaced"] += 1
        core.half_open_sas.oldest_of_the_heaviest().close("there are too many half-open IKE SAs", failed=True)


def _repeat(sa: IkeSA, data: bytes, path: Path) -> None:
    """The request again: the stored response, or nothing while it is being worked on, or if it is another one."""
    if not sa.window.last_response or sa.window.last_digest != digest_of(data):
        sa.core.counters["requests_resting"] += 1
    elif sa.core.strangers.may_answer(path.remote, sa.core.now):
        sa.core.counters["requests_repeated"] += 1
        sa.core.send(path, sa.window.last_response)
    else:
        sa.core.counters["answers_left_out"] += 1


def _is_short(data: bytes) -> bool:
    """Whether its nonce is shorter than ours: then only a request with a COOKIE is as long as the response."""
    try:
        return len(read_init(data).ni) < NONCE_BYTES
    except RemoteError:
        return False


def _has_cookie(core: Core, header: IkeHeader, data: bytes, path: Path) -> bool:
    """<-- HDR(A,0), N(COOKIE)"""
    try:
        init = read_init(data)
    except RemoteError:
        core.counters["malformed"] += 1
        return False
    if init.cookie is not None and core.cookies.is_valid(init.cookie, init.ni, path.remote, header.spi_i, core.now):
        return True
    core.count_message("", header.exchange, inbound=True, response=False)
    if core.strangers.may_answer(path.remote, core.now):
        demanded = core.cookies.issue(init.ni, path.remote, header.spi_i, core.now)
        if _send(core, header, path, NotifyPayload(NotifyType.COOKIE, demanded), len(data)):
            core.counters["cookies_sent"] += 1
    else:
        core.counters["answers_left_out"] += 1
    return False


def _refuse(core: Core, header: IkeHeader, path: Path, payload: NotifyPayload, request_bytes: int) -> None:
    """<-- HDR(A,0), N(...)"""
    core.strangers.note_refusal(core.now)
    is_retry = payload.notify == NotifyType.INVALID_KE_PAYLOAD
    may = core.strangers.may_answer if is_retry else core.strangers.may_refuse
    if may(path.remote, core.now):
        _send(core, header, path, payload, request_bytes)
    else:
        core.counters["answers_left_out"] += 1


def _send(core: Core, header: IkeHeader, path: Path, payload: Payload, request_bytes: int) -> bool:
    """Send it unless it is longer than the request, whose source address may be forged."""
    reply = IkeHeader.make(header.spi_i, ZERO_SPI, header.exchange, header.message_id, initiator=False, response=True)
    datagram = encode_message(reply, (payload,))
    if len(datagram) > request_bytes:
        core.counters["answers_left_out"] += 1
        return False
    core.count_message("", header.exchange, inbound=False, response=True)
    core.send(path, (datagram,))
    return True


def _answer(sa: IkeSA, message: Message, data: bytes, path: Path) -> Steps[None]:
    try:
        yield from _accept(sa, message, data, path)
    except IpsecFastError as error:
        notify = (error.notify if isinstance(error, RemoteError) else None) or NotifyType.NO_PROPOSAL_CHOSEN
        is_retry = notify == NotifyType.INVALID_KE_PAYLOAD  # no failure: the peer tries again with that group
        head = f"IKE_SA_INIT from {path.remote} refused with {name_of(NotifyType, notify)}"
        sa.tell_of_stranger(Line.REFUSED, partial("{}: {}".format, head, error), level=1 if is_retry else 0)
        payload = NotifyPayload(notify, error.data if isinstance(error, RemoteError) else b"")
        _refuse(sa.core, message.header, path, payload, len(data))
        sa.close("its IKE_SA_INIT was refused", failed=True)


def _accept(sa: IkeSA, message: Message, data: bytes, path: Path) -> Steps[None]:
    offered, ke, nonce = message.get(SaPayload), message.get(KePayload), message.get(NoncePayload)
    if offered is None or ke is None or nonce is None:
        raise ParseError("an IKE_SA_INIT request without SA, KE or nonce")
    candidates = yield from ask_config(path)
    if not candidates:
        text = f"no connection is configured for {path.local} and {path.remote}"
        raise NegotiationError(text, NotifyType.NO_PROPOSAL_CHOSEN)
    proposal, sa.candidates = choose(candidates, offered.proposals, ke.group)
    group = wanted_group(proposal, ke.group)
    if group is not None:
        # <-- HDR(A,0), N(INVALID_KE_PAYLOAD)
        raise NegotiationError("the KE payload is of another group", NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2))
    sa.nat = detect(sa.spi_i, ZERO_SPI, path, message)
    if not sa.nat.supported:
        sa.candidates = tuple(one for one in sa.candidates if not one.encap)
    sa.nat_fake, announces = _settings(sa)
    if not sa.candidates:
        text = "the peer has no NAT traversal (it sent no NAT_DETECTION notifies), and we encapsulate ESP in UDP"
        raise NegotiationError(text, NotifyType.NO_PROPOSAL_CHOSEN)
    suite = ike_suite_of(proposal)
    nonces = Nonces(nonce.data, sa.core.random(NONCE_BYTES))
    check_nonces(suite.prf, nonces)
    public, keys = yield from _agree(sa, suite, ke, nonces)
    sa.proposal = proposal
    sa.keymat = IkeKeymat(suite, keys, initiator=False, random=sa.core.random)
    is_supported = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.fragments = is_supported and announces
    sa.enter(State.CONNECTING)
    # <-- HDR, SAr1, KEr, Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), [N(IKEV2_FRAGMENTATION_SUPPORTED)]
    payloads = (
        SaPayload((replace(proposal, spi=b""),)),
        KePayload(ke.group, public),
        NoncePayload(nonces.nr),
        *(nat_payloads(sa, path) if sa.nat.supported else ()),
        *fragmentation_payloads(announced=sa.fragments),
    )
    response = respond(sa, ExchangeType.IKE_SA_INIT, payloads, path)
    sa.init = InitOctets(nonces, data, response[0])
    sa.tell_of_stranger(
        Line.INITIATING, lambda: f"{path.remote} is initiating an IKE SA; selected proposal: {proposal}"
    )


def _agree(sa: IkeSA, suite: IkeSuite, ke: KePayload, nonces: Nonces) -> Steps[tuple[bytes, IkeKeys]]:
    """Our public value, and the keys; no secret of the exchange is kept."""
    key_pair = yield from ask_key_pair(ke.group)
    try:
        public = key_pair.public
        shared = yield from ask_shared_secret(key_pair, ke.data)
    finally:
        key_pair.close()
    try:
        return public, first_keys(suite, shared, nonces, sa.spi_i, sa.spi_r)
    finally:
        shared.close()


def _settings(sa: IkeSA) -> tuple[bool, bool]:
    """Whether to encapsulate ESP and to announce IKE fragmentation; the connection is
    known only in IKE_AUTH, which is too late.

    Encapsulation if any candidate that may be meant wants it: without our word the peer would send plain
    ESP to one that must have UDP, while one that can do without takes both. What is announced of
    fragmentation binds nobody to send fragments.
    """
    likely = [one for one in sa.candidates if one.remote_addrs] or sa.candidates
    return any(one.encap for one in likely), any(one.fragmentation.announces for one in likely)
