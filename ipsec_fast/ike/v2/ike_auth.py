"""IKE_AUTH with a pre-shared key (RFC 7296 sections 1.2, 2.4, 2.15, 2.16, 2.21.2), and the first Child SA.

An IKE SA is ESTABLISHED only after a verified AUTH of the configured identity. If the Child SA is refused, the IKE SA
exists all the same: our initiator deletes it, our responder keeps it for a while. Left out: certificates and EAP.

A PSK proves that the peer knows it, not which of its holders the peer is. So a peer must not have our own
identity (our own message could have been reflected), and an initiator without an expected identity accepts
only the secret with which it authenticated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import IpsecFastError, LocalError, NegotiationError, ParseError, RemoteError, SecretError
from ...iana import ExchangeType, NotifyType, PayloadType, name_of
from ...model import Identity, Path
from ..asks import Steps, ask_connection, ask_credential, ask_spi
from ..config import ConnectionConfig
from ..events import ChildFailed
from ..strangers import Line
from ..timers import TimerKind
from .auth import check_auth, make_auth
from .child_sa import FALLBACK, ORDINARY
from .child_setup import (
    ChildOffer,
    answer_payloads,
    check_answer,
    choose_child,
    establish_child,
    make_offer,
    offered_text,
    place_child,
)
from .collide import Nonces
from .create_child import CreateChild
from .create_resource import carry_resources
from .exchange import Exchange, Payloads, Reply
from .ike_sa import IkeSA
from .informational import DeleteChild, DeleteIke
from .message import Message
from .outbound import submit
from .payloads import AuthPayload, IdPayload, NotifyPayload, Payload, SaPayload
from .reauth import FinishReauth, is_carried, note_successor
from .resources import info, speaks
from .states import State
from .unique import admit, is_first_contact, same_peer, settle

if TYPE_CHECKING:
    from ...crypto.secret import Secret


def own_identity(config: ConnectionConfig, path: Path) -> Identity:
    return config.local_id or Identity.of_address(path.local)


# --- initiator


class IkeAuth(Exchange):
    name: ClassVar[str] = "IKE_AUTH"
    type: ClassVar[ExchangeType] = ExchangeType.IKE_AUTH

    def __init__(self, child_names: tuple[str, ...]) -> None:
        self._child_names = child_names
        self._psk: Secret | None = None  # the secret with which we have authenticated
        self._offer: ChildOffer | None = None
        self._wanted = ORDINARY

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {IDi, [N(INITIAL_CONTACT),] [IDr,] AUTH, [N(SA_RESOURCE_INFO),] SAi2, TSi, TSr} -->"""
        config = sa.config
        sa.local_id = own_identity(config, sa.path)
        sa.remote_id = config.remote_id
        wanted = config.remote_id or Identity.of_address(sa.path.remote)
        if wanted.is_pattern:
            sa.remote_id = None  # several may match; known after the peer's ID payload
        idi = IdPayload(PayloadType.IDI, sa.local_id)
        self._psk = yield from ask_credential(config.name, sa.local_id, wanted)
        auth = make_auth(sa, self._psk, idi)
        child = config.child(self._child_names[0])
        if child is None:
            raise LocalError(f"connection {config.name} has no child {self._child_names[0]}")
        self._offer = yield from make_offer(sa, child, with_ke=False, packet=sa.packets.get(child.name))
        payloads: list[Payload] = [idi]
        if sa.reauthenticates is None and is_first_contact(sa):
            sa.displaces = frozenset(other.ike_id for other in same_peer(sa))
            payloads.append(NotifyPayload(NotifyType.INITIAL_CONTACT))
        if sa.remote_id is not None:
            payloads.append(IdPayload(PayloadType.IDR, sa.remote_id))
        self._wanted = FALLBACK if speaks(sa, child) else ORDINARY
        payloads += [auth, *([info(None)] if self._wanted.in_group else []), self._offer.sa_payload]
        payloads += self._offer.ts_payloads
        sa.progress(f"authentication of {sa.local_id} (myself) with pre-shared key")
        return tuple(payloads)

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {IDr, AUTH, SAr2, TSi, TSr}, or with N(error) in place of the Child, or N(AUTHENTICATION_FAILED)"""
        peer_id, auth, error = message.get(IdPayload, PayloadType.IDR), message.get(AuthPayload), message.error
        if peer_id is None or auth is None:
            what = name_of(NotifyType, error.notify) if error else "no AUTH payload"
            wanted = sa.config.remote_id or "any identity"
            text = f"{sa.path.remote} refused IKE_AUTH of {sa.local_id}, which wants {wanted}: {what}"
            if error is not None and error.notify == NotifyType.AUTHENTICATION_FAILED:
                text += "; do both sides have the same secret and these identities? the peer's log says which differs"
            sa.close(text, failed=True)
            return
        try:
            yield from self._authenticate(sa, peer_id, auth)
        except IpsecFastError as problem:
            self._reject(sa, str(problem))
            return
        nonces = sa.init_octets.nonces
        sa.establish()
        settle(sa, initial_contact=message.notify(NotifyType.INITIAL_CONTACT) is not None)
        yield from self._take_child(sa, message, nonces)
        for child in (sa.config.child(name) for name in self._child_names[1:]):
            if child is not None:
                submit(sa, CreateChild(child, sa.packets.get(child.name)))
        sa.packets = {}
        if sa.reauthenticates is not None:
            for more in carry_resources(sa):
                submit(sa, more)
            submit(sa, FinishReauth())

    def _authenticate(self, sa: IkeSA, peer_id: IdPayload, auth: AuthPayload) -> Steps[None]:
        wanted = sa.config.remote_id
        if wanted is not None and not wanted.covers(peer_id.identity):
            types = peer_id.identity.types_beside(wanted)
            text = f"the peer says it is {peer_id.identity}, the configuration wants {wanted} {types}"
            raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
        if sa.local_id is None or self._psk is None:
            raise AssertionError("IKE_AUTH without an identity of ours")
        _refuse_own(sa, sa.local_id, peer_id.identity)
        psk = yield from ask_credential(sa.name, sa.local_id, peer_id.identity)
        check_auth(sa, psk, sa.local_id, peer_id, auth)
        if sa.config.takes_many and psk is not self._psk:
            # any other peer of ours could have answered with a secret of its own
            check_auth(sa, self._psk, sa.local_id, peer_id, auth)
        sa.remote_id = peer_id.identity
        sa.progress(f"authentication of {peer_id.identity} with pre-shared key successful")

    def _reject(self, sa: IkeSA, reason: str) -> None:
        """The responder believes in this IKE SA already, so it is told (section 2.21.2)."""
        sa.progress(f"authentication failed: {reason}", level=0)
        sa.core.emit(ChildFailed(sa.ike_id, sa.name, self._child_names[0], reason))
        sa.enter(State.DELETING)
        submit(sa, DeleteIke(reason, failed=True, notify=NotifyType.AUTHENTICATION_FAILED))

    def _take_child(self, sa: IkeSA, message: Message, nonces: Nonces) -> Steps[None]:
        offer = self._offer
        if offer is None:
            raise AssertionError("IKE_AUTH was answered before it was sent")
        try:
            error = message.error
            if error is not None:
                what = name_of(NotifyType, error.notify)
                text = f"the peer refused the Child SA with {what}; we offered {offered_text(offer)}"
                raise NegotiationError(text)
            choice = check_answer(offer, message)
            place = self._wanted if message.notify(NotifyType.SA_RESOURCE_INFO) is not None else ORDINARY
            yield from establish_child(
                sa, choice, spi_in=offer.spi, nonces=nonces, shared=None, initiator=True, place=place
            )
        except IpsecFastError as problem:
            sa.core.emit(ChildFailed(sa.ike_id, sa.name, offer.config.name, str(problem)))
            sa.progress(f"CHILD SA {offer.config.name} failed: {problem}", group="chd")
            if message.get(SaPayload) is not None and message.error is None:
                submit(sa, DeleteChild(None, str(problem), spi_in=offer.spi))  # the peer has it
            if not sa.children and len(self._child_names) == 1:
                submit(sa, DeleteIke(f"its only Child SA, {offer.config.name}, failed", failed=True))
            elif not sa.children:  # others may follow; if none comes up, it goes
                sa.set_timer(TimerKind.CHILDLESS, sa.core.settings.childless_s)

    def broken(self, sa: IkeSA, reason: str) -> None:
        self._reject(sa, f"the response to IKE_AUTH breaks the protocol: {reason}")

    def failed(self, sa: IkeSA, reason: str) -> None:
        name = self._child_names[0]
        sa.core.emit(ChildFailed(sa.ike_id, sa.name, name, reason))
        if not sa.is_closed:
            sa.close(reason, failed=True)


def _refuse_own(sa: IkeSA, own: Identity, claimed: Identity) -> None:
    """Nobody is us, and nobody is a wildcard: the configuration's own words would match it."""
    if claimed.is_pattern:
        raise NegotiationError(f"the peer says it is {claimed}, a wildcard", NotifyType.AUTHENTICATION_FAILED)
    if own.matches(claimed):
        sa.core.counters["own_identity_claimed"] += 1
        text = f"the peer says it is {claimed}, which is our own identity: both have one id, or our messages come back to us"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)


# --- responder


def answer_ike_auth(sa: IkeSA, message: Message, path: Path) -> Steps[Reply]:
    """HDR, SK {IDi, [N(INITIAL_CONTACT),] [IDr,] AUTH, SAi2, TSi, TSr} -->"""
    peer_id, auth = message.get(IdPayload, PayloadType.IDI), message.get(AuthPayload)
    own = message.get(IdPayload, PayloadType.IDR)
    if peer_id is None:
        raise ParseError("an IKE_AUTH request without IDi")
    if auth is None:
        text = f"{peer_id.identity} wants EAP (section 2.16: it sent no AUTH payload); here a pre-shared key is wanted"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
    initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
    sa.path = path = _settled(sa, path)
    try:
        own_auth = yield from _authenticate(sa, peer_id, own, auth)
        admit(sa, initial_contact=initial_contact)
    except IpsecFastError as error:
        # whatever the reason is, the peer learns nothing but this; the operator sees it
        reason = f"authentication of {peer_id.identity} failed: {error}"
        sa.tell_of_stranger(Line.AUTHENTICATION, lambda: reason)
        # <-- HDR, SK {N(AUTHENTICATION_FAILED)}
        return Reply(
            (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),),
            lambda: sa.close(reason, failed=True),
        )
    nonces = sa.init_octets.nonces
    sa.establish()
    settle(sa, initial_contact=initial_contact)
    if not initial_contact:
        note_successor(sa)
    child = yield from _answer_child(sa, message, nonces)
    # <-- HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
    return Reply((IdPayload(PayloadType.IDR, own_identity(sa.config, path)), own_auth, *child))


def _settled(sa: IkeSA, path: Path) -> Path:
    """The path from now on: the port may have changed from 500 to 4500, or behind a NAT to any other.

    A peer that is not behind a NAT stays at its address, so a request that somebody
    else sends from elsewhere changes nothing.
    """
    if sa.nat.remote or path.remote == sa.path.remote:
        return path
    return replace(path, remote=sa.path.remote, remote_port=path.local_port)


def _authenticate(sa: IkeSA, peer_id: IdPayload, own: IdPayload | None, auth: AuthPayload) -> Steps[AuthPayload]:
    own_id = own.identity if own else None
    config = yield from ask_connection(sa.path, sa.candidates, peer_id.identity, own_id)
    if config.remote_id is not None and not config.remote_id.covers(peer_id.identity):
        wanted, said = config.remote_id, peer_id.identity
        text = f"connection {config.name} wants the peer to be {wanted}, it says {said} {said.types_beside(wanted)}"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
    local_id = own_identity(config, sa.path)
    if own_id is not None and config.local_id is not None and not config.local_id.matches(own_id):
        types = own_id.types_beside(config.local_id)
        text = f"connection {config.name} is {config.local_id}, the peer wants to talk to {own_id} {types}"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
    _refuse_own(sa, local_id, peer_id.identity)
    psk = yield from ask_credential(config.name, local_id, peer_id.identity)
    check_auth(sa, psk, local_id, peer_id, auth)
    if config.remote_id is None and config.remote_addrs and not config.any_identity:
        yield from _check_address(sa, config, psk, local_id, peer_id, auth)
    sa.connection, sa.local_id, sa.remote_id = config, local_id, peer_id.identity
    sa.progress(f"authentication of {peer_id.identity} with pre-shared key successful")
    return make_auth(sa, psk, IdPayload(PayloadType.IDR, local_id))


def _check_address(
    sa: IkeSA, config: ConnectionConfig, psk: Secret, local_id: Identity, peer_id: IdPayload, auth: AuthPayload
) -> Steps[None]:
    """A peer that is known by its address alone must use the secret of that address,
    not one that we share with another peer.
    """
    try:
        expected = yield from ask_credential(config.name, local_id, Identity.of_address(sa.path.remote))
    except SecretError:
        return  # there is none for the address, so the identity's secret is accepted
    if expected is not psk:
        check_auth(sa, expected, local_id, peer_id, auth)


def _answer_child(sa: IkeSA, message: Message, nonces: Nonces) -> Steps[Payloads]:
    """[N(SA_RESOURCE_INFO),] SAr2, TSi, TSr, or the error notify in their place: then the IKE SA stays for a while without a Child."""
    try:
        choice = choose_child(sa, message, sa.config.children, with_ke=False)
        choice, place = place_child(sa, message, choice, with_ke=False)
        spi = yield from ask_spi()
        yield from establish_child(
            sa,
            choice,
            spi_in=spi,
            nonces=nonces,
            shared=None,
            initiator=False,
            outbound_deferred=is_carried(sa, choice),
            place=place,
        )
    except IpsecFastError as error:
        notify = (error.notify if isinstance(error, RemoteError) else None) or NotifyType.NO_PROPOSAL_CHOSEN
        reason = f"refused with {name_of(NotifyType, notify)}: {error}"
        sa.progress(f"CHILD SA {reason}", group="chd")
        sa.core.emit(ChildFailed(sa.ike_id, sa.name, "", reason))
        sa.set_timer(TimerKind.CHILDLESS, sa.core.settings.childless_s)
        return (NotifyPayload(notify, error.data if isinstance(error, RemoteError) else b""),)
    answer, ts = answer_payloads(choice, spi)
    return (*((info(None),) if place.in_group else ()), answer, *ts)
