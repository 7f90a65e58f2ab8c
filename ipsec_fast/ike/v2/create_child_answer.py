"""CREATE_CHILD_SA as responder (RFC 7296 sections 1.3.1, 1.3.3, 2.8, 2.25): sorts the peer's requests, makes its Child SAs.

A rekey's new inbound SA is installed before the response leaves; we go on sending on the old one until the new one's
first packet or the old one's DELETE. The rekey of the IKE SA is handed to rekey_ike.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import LocalError, NegotiationError, ParseError, RemoteError
from ...iana import NotifyType, ProtocolId
from ...model import Path
from ..asks import Steps, ask_key_pair, ask_shared_secret, ask_spi
from ..timers import TimerKind
from .child_sa import ORDINARY, ChildSA, PeerChildRekey
from .child_setup import (
    ChildChoice,
    answer_payloads,
    check_rekey_room,
    check_room,
    choose_child,
    establish_child,
    groups_of,
    place_child,
)
from .collide import ChildDoing, Nonces, refuse_child_rekey, refuse_new_child
from .exchange import Payloads, Reply
from .ike_sa import PEERS_REKEYS_PER_S, REPLACED_S, IkeSA
from .keymat import check_nonces
from .message import Message
from .negotiate import wanted_group
from .payloads import KePayload, NoncePayload, NotifyPayload, SaPayload
from .reauth import is_carried
from .rekey_ike import answer_ike_rekey
from .resources import info
from .states import ChildState

if TYPE_CHECKING:
    from ...crypto.secret import Secret

NONCE_BYTES = 32


def answer_create_child(sa: IkeSA, message: Message, path: Path) -> Steps[Reply]:
    """A rekey of the IKE SA, a rekey of a Child SA, or a new Child SA."""
    offered = message.get(SaPayload)
    if offered is None:
        raise ParseError("a CREATE_CHILD_SA request without SA payload")
    if sa.stands_aside:  # until our own rekey of the old IKE SA is settled, which takes a round trip
        return Reply((NotifyPayload(NotifyType.TEMPORARY_FAILURE),))
    if offered.proposals[0].protocol == ProtocolId.IKE:
        return (yield from answer_ike_rekey(sa, message))
    rekey = message.notify(NotifyType.REKEY_SA)
    if rekey is None:
        return (yield from _answer_new_child(sa, message))
    return (yield from _answer_child_rekey(sa, message, rekey))


def _answer_new_child(sa: IkeSA, message: Message) -> Steps[Reply]:
    """HDR, SK {[N(SA_RESOURCE_INFO),] SA, Ni, [KEi,] TSi, TSr} -->"""
    refusal = refuse_new_child(sa.doing)
    if refusal is not None:
        return Reply((NotifyPayload(refusal),))
    _, _, payloads = yield from _make_child(sa, message, None)
    sa.set_timer(TimerKind.CHILDLESS, None)
    return Reply(payloads)


def _answer_child_rekey(sa: IkeSA, message: Message, rekey: NotifyPayload) -> Steps[Reply]:
    """HDR, SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr} -->, naming the SPI on which the peer receives"""
    old = sa.child_by_spi_out(rekey.spi) if rekey.protocol == ProtocolId.ESP and len(rekey.spi) == 4 else None
    doing = old.doing if old else ChildDoing.GONE
    refusal = refuse_child_rekey(sa.doing, doing)
    if old is None and sa.active is not None and sa.active.makes_child:
        refusal = NotifyType.TEMPORARY_FAILURE  # it may be the one whose response is still on its way to us
    if refusal is None and not sa.lets_peer_rekey():
        return Reply((NotifyPayload(NotifyType.TEMPORARY_FAILURE),))
    if refusal is not None or old is None:
        notify = refusal or NotifyType.CHILD_SA_NOT_FOUND
        sa.progress(f"rekey of the CHILD SA with SPI {rekey.spi.hex()} refused with {NotifyType(notify).name}")
        return Reply((NotifyPayload(notify, b"", rekey.protocol, rekey.spi),))
    child, nonces, payloads = yield from _make_child(sa, message, old)
    if old.child_id in sa.children:
        _note_peer_rekey(sa, old, PeerChildRekey(child, nonces))
    return Reply(payloads)


def _note_peer_rekey(sa: IkeSA, old: ChildSA, peers: PeerChildRekey) -> None:
    old.peer_rekey = peers
    if old.state is ChildState.INSTALLED:  # no crossing: the new one has its place, the peer deletes the old one
        old.enter(ChildState.REKEYED)
        old.replaced_by = peers.child.child_id
        sa.set_timer(TimerKind.CHILD_REKEY, None, old.child_id)
        sa.set_timer(TimerKind.CHILD_EXPIRE, REPLACED_S, old.child_id)


def _make_child(sa: IkeSA, message: Message, old: ChildSA | None) -> Steps[tuple[ChildSA, Nonces, Payloads]]:
    """<-- HDR, SK {[N(SA_RESOURCE_INFO),] SA, Nr, [KEr,] TSi, TSr}: installed before the response leaves, an error notify if that fails"""
    nonce, ke = message.get(NoncePayload), message.get(KePayload)
    if nonce is None:
        raise ParseError("a CREATE_CHILD_SA request without a nonce")
    candidates = (old.config,) if old else sa.config.children
    ke_group = ke.group if ke else None
    choice = choose_child(sa, message, candidates, with_ke=True, ke_group=ke_group, replaced=old)
    place = old.place if old else ORDINARY
    if old is None:
        choice, place = place_child(sa, message, choice, with_ke=True, ke_group=ke_group)
        check_room(sa, place)
    else:
        check_rekey_room(sa, old)
    if old is None and place.resource is not None:
        _let_one_more(sa)
    group = wanted_group(choice.proposal, ke_group)
    if group is not None:
        text = f"the KE payload is of group {ke_group}, the proposal wants {group}"
        raise NegotiationError(text, NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))
    nonces = Nonces(nonce.data, sa.core.random(NONCE_BYTES))
    check_nonces(sa.keys.suite.prf, nonces)
    shared, ke_answer = yield from _share_secret(choice, ke)
    try:
        spi = yield from ask_spi(place.resource, old.spi_in if old else None)
        child = yield from establish_child(
            sa,
            choice,
            spi_in=spi,
            nonces=nonces,
            shared=shared,
            initiator=False,
            replaces=old,
            outbound_deferred=old is not None or place.resource is not None or is_carried(sa, choice),
            place=place,
        )
    except LocalError as error:
        raise RemoteError(str(error), NotifyType.TEMPORARY_FAILURE) from error
    finally:
        if shared is not None:
            shared.close()
    answer, ts = answer_payloads(choice, spi)
    notify: Payloads = (info(place.resource),) if place.in_group and old is None else ()
    return child, nonces, (*notify, answer, NoncePayload(nonces.nr), *ke_answer, *ts)


def _let_one_more(sa: IkeSA) -> None:
    """One that the peer deletes again is received for some seconds, as after a rekey: a loop of both must not pile them up."""
    if not sa.peers_rekeys.take(sa.core.now):
        sa.core.counters["resource_children_refused"] += 1
        text = f"{sa.remote_id} makes and rekeys Child SAs more than {PEERS_REKEYS_PER_S:g} times a second"
        raise NegotiationError(text, NotifyType.TEMPORARY_FAILURE)


def _share_secret(choice: ChildChoice, ke: KePayload | None) -> Steps[tuple[Secret | None, Payloads]]:
    if ke is None or not groups_of((choice.proposal,)):
        return None, ()
    key_pair = yield from ask_key_pair(ke.group)
    try:
        shared = yield from ask_shared_secret(key_pair, ke.data)
        return shared, (KePayload(ke.group, key_pair.public),)
    finally:
        key_pair.close()
