"""IKE_SA_INIT as responder (RFC 7296 sections 1.2, 2.6, 2.7, 2.23).

A COOKIE is answered without any state. The other refusals leave none behind either: the half-open IKE SA goes as soon
as the error notify is sent, in clear, with a responder SPI of zero. A half-open one lives 100 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import IpsecFastError, NegotiationError, ParseError, RemoteError
from ...iana import ExchangeType, NotifyType, name_of
from ...model import Path, Proposal
from ..asks import Steps, ask_config, ask_key_pair, ask_shared_secret
from ..config import ConnectionConfig
from ..core import HALF_OPEN_MAX, Core
from ..header import IkeHeader
from ..timers import TimerKind
from .child_setup import choose_with_group
from .collide import Nonces
from .ike_sa import ZERO_SPI, IkeSA, InitOctets
from .keymat import IkeKeymat, check_nonces, first_keys, ike_suite_of
from .message import Message, decode_message, encode_message
from .negotiate import wanted_group
from .outbound import respond
from .payloads import KePayload, NoncePayload, NotifyPayload, Payload, SaPayload
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
    try:
        message = decode_message(data)
        check_payloads(ExchangeType.IKE_SA_INIT, False, message.payloads, encrypted=False)
    except RemoteError as error:
        core.counters["malformed"] += 1
        if error.notify is not None:
            _refuse(core, header, path, NotifyPayload(error.notify, error.data))
        return
    core.count_message("", header.exchange, inbound=True, response=False)
    wants_cookie = core.settings.cookie_always or core.half_open_count >= core.settings.cookie_from_half_open
    if wants_cookie and not _has_cookie(core, message, path):
        return
    if core.half_open_count >= HALF_OPEN_MAX:
        core.counters["half_open_full"] += 1
        return
    sa = IkeSA(core, core.new_id("ike"), False, core.new_spi(), path, peer_spi=header.spi_i)
    core.add(sa)
    sa.half_open_key = (path.remote, path.remote_port, header.spi_i)
    core.half_open[sa.half_open_key] = sa
    sa.is_half_open = True
    core.half_open_count += 1
    sa.window.accept(digest_of(data))
    sa.set_timer(TimerKind.HALF_OPEN, core.settings.half_open_s)
    core.run(sa, _answer(sa, message, data, path))


def _repeat(sa: IkeSA, data: bytes, path: Path) -> None:
    """The request again: the stored response, or nothing while it is being worked on, or if it is another one."""
    if sa.window.last_response and sa.window.last_digest == digest_of(data):
        sa.core.counters["requests_repeated"] += 1
        sa.core.send(path, sa.window.last_response)
    else:
        sa.core.counters["requests_resting"] += 1


def _has_cookie(core: Core, message: Message, path: Path) -> bool:
    """<-- HDR(A,0), N(COOKIE)"""
    nonce, cookie = message.get(NoncePayload), message.notify(NotifyType.COOKIE)
    ni = nonce.data if nonce else b""
    spi_i = message.header.spi_i
    if cookie is not None and core.cookies.is_valid(cookie.data, ni, path.remote, spi_i, core.now):
        return True
    core.counters["cookies_sent"] += 1
    demanded = core.cookies.issue(ni, path.remote, spi_i, core.now)
    _refuse(core, message.header, path, NotifyPayload(NotifyType.COOKIE, demanded))
    return False


def _refuse(core: Core, header: IkeHeader, path: Path, payload: Payload) -> None:
    """<-- HDR(A,0), N(...)"""
    reply = IkeHeader.make(header.spi_i, ZERO_SPI, header.exchange, header.message_id, initiator=False, response=True)
    core.count_message("", header.exchange, inbound=False, response=True)
    core.send(path, (encode_message(reply, (payload,)),))


def _answer(sa: IkeSA, message: Message, data: bytes, path: Path) -> Steps[None]:
    try:
        yield from _accept(sa, message, data, path)
    except IpsecFastError as error:
        notify = (error.notify if isinstance(error, RemoteError) else None) or NotifyType.NO_PROPOSAL_CHOSEN
        level = 1 if notify == NotifyType.INVALID_KE_PAYLOAD else 0  # that one is no failure, the peer tries again
        sa.progress(f"IKE_SA_INIT from {path.remote} refused with {name_of(NotifyType, notify)}: {error}", level=level)
        payload = NotifyPayload(notify, error.data if isinstance(error, RemoteError) else b"")
        _refuse(sa.core, message.header, path, payload)
        sa.close(str(error), failed=True)


def _accept(sa: IkeSA, message: Message, data: bytes, path: Path) -> Steps[None]:
    offered, ke, nonce = message.get(SaPayload), message.get(KePayload), message.get(NoncePayload)
    if offered is None or ke is None or nonce is None:
        raise ParseError("an IKE_SA_INIT request without SA, KE or nonce")
    candidates = yield from ask_config(path)
    proposal = _choose(candidates, offered, ke.group, path)
    group = wanted_group(proposal, ke.group)
    if group is not None:
        # <-- HDR(A,0), N(INVALID_KE_PAYLOAD)
        raise NegotiationError("the KE payload is of another group", NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2))
    sa.candidates = tuple(c for c in candidates if _allows(c, proposal))
    sa.nat = detect(sa.spi_i, ZERO_SPI, path, message)
    sa.nat_fake = sa.candidates[0].encap
    if sa.nat_fake and not sa.nat.supported:
        text = "the peer has no NAT traversal (it sent no NAT_DETECTION notifies), and we encapsulate ESP in UDP"
        raise NegotiationError(text, NotifyType.NO_PROPOSAL_CHOSEN)
    suite = ike_suite_of(proposal)
    nr = sa.core.random(NONCE_BYTES)
    check_nonces(suite.prf, Nonces(nonce.data, nr))
    key_pair = yield from ask_key_pair(ke.group)
    try:
        public = key_pair.public
        shared = yield from ask_shared_secret(key_pair, ke.data)
    finally:
        key_pair.close()
    nonces = Nonces(nonce.data, nr)
    try:
        keys = first_keys(suite, shared, nonces, sa.spi_i, sa.spi_r)
    finally:
        shared.close()
    sa.proposal = proposal
    sa.keymat = IkeKeymat(suite, keys, initiator=False, random=sa.core.random)
    is_supported = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.fragments = is_supported and sa.candidates[0].fragmentation.announces
    sa.enter(State.CONNECTING)
    # <-- HDR, SAr1, KEr, Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), [N(IKEV2_FRAGMENTATION_SUPPORTED)]
    payloads = (
        SaPayload((replace(proposal, spi=b""),)),
        KePayload(ke.group, public),
        NoncePayload(nr),
        *nat_payloads(sa, path),
        *fragmentation_payloads(announced=sa.fragments),
    )
    response = respond(sa, ExchangeType.IKE_SA_INIT, payloads, path)
    sa.init = InitOctets(nonces, data, response[0])
    sa.progress(f"{path.remote} is initiating an IKE SA; selected proposal: {proposal}", level=0)


def _choose(candidates: Sequence[ConnectionConfig], offered: SaPayload, ke_group: int, path: Path) -> Proposal:
    """By the first candidate that has something in common with the offer."""
    if not candidates:
        text = f"no connection is configured for {path.local} and {path.remote}"
        raise NegotiationError(text, NotifyType.NO_PROPOSAL_CHOSEN)
    refusal: NegotiationError | None = None
    for candidate in candidates:
        try:
            return choose_with_group(offered.proposals, candidate.proposals, ke_group)
        except NegotiationError as error:
            refusal = refusal or error
    raise refusal or NegotiationError("no common proposal", NotifyType.NO_PROPOSAL_CHOSEN)


def _allows(candidate: ConnectionConfig, proposal: Proposal) -> bool:
    """Whether this candidate, too, can live with the choice: its identities are only known in IKE_AUTH."""
    try:
        choose_with_group((proposal,), candidate.proposals, None)
    except NegotiationError:
        return False
    return True
