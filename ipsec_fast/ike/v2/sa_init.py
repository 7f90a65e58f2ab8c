"""IKE_SA_INIT as initiator (RFC 7296 sections 1.2, 2.6, 2.7, 2.23): key exchange, NAT detection, cookie and group retries.

Nothing is authenticated yet: an error in a response is remembered and reported, but ends the attempt only after 5 s
without a better answer (section 2.21.1). AUTH covers the last request that was sent and the response to it. The
responder stands in sa_init_answer.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...errors import IpsecFastError, NegotiationError, RemoteError
from ...iana import ExchangeType, Group, NotifyType, name_of
from ...model import Path, Proposal
from ..asks import Steps, ask_key_pair, ask_shared_secret
from ..nat import NatResult, destination_hash, detect_nat, source_hash
from ..timers import TimerKind
from .child_setup import groups_of
from .collide import Nonces
from .exchange import Payloads
from .group_retry import group_in
from .ike_auth import IkeAuth
from .ike_sa import ZERO_SPI, IkeSA, InitOctets
from .keymat import IkeKeymat, first_keys, ike_suite_of
from .message import Message, decode_message
from .negotiate import check_chosen, numbered
from .outbound import send_request, submit
from .payloads import KePayload, NoncePayload, NotifyPayload, SaPayload
from .reflection import refuse_reflected
from .rules import check_payloads
from .states import State

if TYPE_CHECKING:
    from ...crypto.exchange import KeyPair

NONCE_BYTES = 32  # at least half of the largest PRF key (section 2.10)
RETRIES_MAX = 5
COOKIES_MAX = 2  # with one KE payload: a second one in case the peer's secret has changed
GROUP_RETRIES_MAX = 3
PORT_NAT_T = 4500


@dataclass(slots=True)
class Attempt:
    """The initiator's side of an IKE_SA_INIT, over all its retries."""

    child_names: tuple[str, ...]
    ni: bytes
    proposals: tuple[Proposal, ...]
    key_pair: KeyPair | None = None
    cookie: bytes | None = None
    groups_tried: set[int] = field(default_factory=set)
    retries: int = 0
    group_retries: int = 0
    cookies: int = 0  # that the peer has asked for since the last change of the group
    request: bytes = b""
    error: str = ""
    was_reflected: bool = False  # the log says so already

    def close(self) -> None:
        if self.key_pair is not None:
            self.key_pair.close()
            self.key_pair = None


# --- initiator


def start(sa: IkeSA, child_names: tuple[str, ...]) -> Steps[None]:
    attempt = Attempt(child_names, sa.core.random(NONCE_BYTES), numbered(sa.config.proposals))
    sa.attempt = attempt
    sa.nat_fake = sa.config.encap
    sa.progress(f"initiating IKE SA {sa.label} to {sa.path.remote}", level=0)
    sa.enter(State.CONNECTING)
    yield from _send(sa, attempt, groups_of(attempt.proposals)[0])


def _send(sa: IkeSA, attempt: Attempt, group: int) -> Steps[None]:
    """HDR, [N(COOKIE),] SAi1, KEi, Ni, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP),
    [N(IKEV2_FRAGMENTATION_SUPPORTED)] -->"""
    if attempt.key_pair is None or attempt.key_pair.group != group:
        attempt.groups_tried.add(group)
        try:
            key_pair = yield from ask_key_pair(group)
        except IpsecFastError as error:
            sa.close(str(error), failed=True)
            return
        attempt.close()
        attempt.key_pair = key_pair
    sa.core.shown.add(sa.ike_id, attempt.ni, attempt.key_pair.public)
    cookie = (NotifyPayload(NotifyType.COOKIE, attempt.cookie),) if attempt.cookie is not None else ()
    payloads: Payloads = (
        *cookie,
        SaPayload(attempt.proposals),
        KePayload(attempt.key_pair.group, attempt.key_pair.public),
        NoncePayload(attempt.ni),
        *nat_payloads(sa, sa.path),
        *fragmentation_payloads(announced=sa.config.fragmentation.announces),
    )
    attempt.request = send_request(sa, ExchangeType.IKE_SA_INIT, payloads)[0]


def nat_payloads(sa: IkeSA, path: Path) -> Payloads:
    source = source_hash(sa.spi_i, sa.spi_r, path, encap=sa.nat_fake)
    destination = destination_hash(sa.spi_i, sa.spi_r, path)
    return (
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, source),
        NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, destination),
    )


def fragmentation_payloads(*, announced: bool) -> Payloads:
    """RFC 7383 section 2.3: no protocol, no SPI, no data."""
    return (NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),) if announced else ()


def receive_response(sa: IkeSA, data: bytes, path: Path) -> None:
    """Anybody may have sent this."""
    attempt, own = sa.attempt, sa.window.outstanding
    if attempt is None or own is None:
        return
    try:
        message = decode_message(data)
        check_payloads(ExchangeType.IKE_SA_INIT, True, message.payloads, encrypted=False)
    except RemoteError as error:
        _remember(sa, attempt, f"an IKE_SA_INIT response that cannot be used: {error}")
        return
    sa.core.count_message(sa.name, ExchangeType.IKE_SA_INIT, inbound=True, response=True)
    own.answered = True  # further copies are dropped while this one is worked on
    sa.core.run(sa, _take_response(sa, attempt, message, data, path))


def _take_response(sa: IkeSA, attempt: Attempt, message: Message, data: bytes, path: Path) -> Steps[None]:
    own = sa.window.outstanding
    try:
        cookie, error = message.notify(NotifyType.COOKIE), message.error
        if cookie is not None:
            yield from _retry_with_cookie(sa, attempt, cookie.data)
        elif error is not None and error.notify == NotifyType.INVALID_KE_PAYLOAD:
            yield from _retry_with_group(sa, attempt, error.data)
        elif error is not None:
            offered = ", ".join(map(str, attempt.proposals))
            what = name_of(NotifyType, error.notify)
            _remember(sa, attempt, f"{sa.path.remote} answered IKE_SA_INIT with {what}; we offered {offered}")
        else:
            yield from _complete(sa, attempt, message, data, path)
    except IpsecFastError as problem:
        _remember(sa, attempt, str(problem))
    finally:
        if own is not None and sa.window.outstanding is own:
            own.answered = False


def _remember(sa: IkeSA, attempt: Attempt, text: str) -> None:
    """Reported at once, believed later."""
    if attempt.error != text:
        sa.progress(f"{text}; waiting for a better answer")
    if not attempt.error:
        sa.set_timer(TimerKind.UNPROTECTED_ERROR, sa.core.settings.unprotected_error_s)
    attempt.error = text


def end_by_error(sa: IkeSA) -> None:
    """The 5 s are over."""
    if sa.state is State.CONNECTING and sa.attempt is not None and sa.attempt.error:
        sa.close(sa.attempt.error, failed=True)


def _count_retry(attempt: Attempt) -> None:
    attempt.retries += 1
    if attempt.retries > RETRIES_MAX:
        raise NegotiationError(f"IKE_SA_INIT was to be sent again more than {RETRIES_MAX} times")


def _retry_with_cookie(sa: IkeSA, attempt: Attempt, cookie: bytes) -> Steps[None]:
    """<-- HDR(A,0), N(COOKIE)"""
    if cookie == attempt.cookie:
        return  # the answer to an earlier send of the same request
    if not 1 <= len(cookie) <= 64:
        raise NegotiationError(f"a COOKIE of {len(cookie)} bytes, 1 to 64 wanted")
    attempt.cookies += 1
    if attempt.cookies > COOKIES_MAX:
        raise NegotiationError(f"{sa.path.remote} asked for another COOKIE more than {COOKIES_MAX} times")
    _count_retry(attempt)
    if attempt.key_pair is None:
        return
    attempt.cookie = cookie
    yield from _send(sa, attempt, attempt.key_pair.group)


def _retry_with_group(sa: IkeSA, attempt: Attempt, data: bytes) -> Steps[None]:
    """<-- HDR(A,0), N(INVALID_KE_PAYLOAD): the same proposals again, with the KE payload of another group of ours."""
    group = group_in(data)
    if attempt.key_pair is not None and group == attempt.key_pair.group:
        return  # an earlier send's answer, once more
    name = name_of(Group, group)
    if group not in groups_of(attempt.proposals):
        raise NegotiationError(f"{sa.path.remote} wants group {name}, which we did not offer")
    if group in attempt.groups_tried:
        raise NegotiationError(f"{sa.path.remote} wants group {name} again, which it refused before")
    attempt.group_retries, attempt.cookies = attempt.group_retries + 1, 0
    if attempt.group_retries > GROUP_RETRIES_MAX:
        raise NegotiationError(f"{sa.path.remote} asked for another group more than {GROUP_RETRIES_MAX} times")
    _count_retry(attempt)
    sa.progress(f"{sa.path.remote} wants group {name}, sending IKE_SA_INIT again")
    yield from _send(sa, attempt, group)


def _complete(sa: IkeSA, attempt: Attempt, message: Message, data: bytes, path: Path) -> Steps[None]:
    """<-- HDR, SAr1, KEr, Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), [N(IKEV2_FRAGMENTATION_SUPPORTED)]"""
    answer, ke, nonce = message.get(SaPayload), message.get(KePayload), message.get(NoncePayload)
    if answer is None or ke is None or nonce is None or attempt.key_pair is None:
        raise NegotiationError("an IKE_SA_INIT response without SA, KE or nonce")
    spi_r = message.header.spi_r
    if spi_r == ZERO_SPI:
        raise NegotiationError("an IKE_SA_INIT response with a responder SPI of zero")
    refuse_reflected(sa.core, message)
    proposal = check_chosen(attempt.proposals, answer.proposals)
    suite = ike_suite_of(proposal)
    if suite.group != ke.group or ke.group != attempt.key_pair.group:
        raise NegotiationError(f"the response's KE payload is of {name_of(Group, ke.group)}, not of the chosen group")
    nat = detect(sa.spi_i, spi_r, path, message)
    if sa.nat_fake and not nat.supported:
        raise NegotiationError(
            f"{sa.path.remote} has no NAT traversal (it sent no NAT_DETECTION notifies), and we encapsulate ESP in UDP"
        )
    shared = yield from ask_shared_secret(attempt.key_pair, ke.data)
    nonces = Nonces(attempt.ni, nonce.data)
    try:
        keys = first_keys(suite, shared, nonces, sa.spi_i, spi_r)
    finally:
        shared.close()
    sa.peer_spi = spi_r
    sa.proposal, sa.nat = proposal, nat
    is_supported = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.fragments = sa.config.fragmentation.announces and is_supported
    sa.keymat = IkeKeymat(suite, keys, initiator=True, random=sa.core.random)
    sa.init = InitOctets(nonces, attempt.request, data)
    attempt.close()
    sa.attempt = None
    sa.set_timer(TimerKind.UNPROTECTED_ERROR, None)
    sa.set_timer(TimerKind.RETRANSMIT, None)
    sa.progress(f"selected proposal: {proposal}", group="cfg")
    if nat.supported and not sa.path.marker:  # section 2.23: both sides sent NAT detection
        sa.path = replace(sa.path, local_port=PORT_NAT_T, remote_port=PORT_NAT_T, marker=True)
    sa.window.close_request()
    submit(sa, IkeAuth(attempt.child_names))


def detect(spi_i: bytes, spi_r: bytes, path: Path, message: Message) -> NatResult:
    """What the NAT_DETECTION notifies of an IKE_SA_INIT message tell about the path on which it came."""
    sources = (n.data for n in message.notifies(NotifyType.NAT_DETECTION_SOURCE_IP))
    destinations = (n.data for n in message.notifies(NotifyType.NAT_DETECTION_DESTINATION_IP))
    return detect_nat(spi_i, spi_r, path, sources, destinations)
