"""The rekey of an IKE SA, both roles, and its crossing (RFC 7296 sections 1.3.2, 2.8, 2.8.2, 2.18, 2.25.2).

Whoever rekeys is the initiator of the new IKE SA. The children and the waiting requests move to it; its creator deletes
the old one. Where both sides rekeyed, the SA of the exchange with the lowest nonce is closed by its creator; until that
is known the peer's new IKE SA stands aside (`IkeSA.peer_rekey`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import IpsecFastError, NegotiationError, ParseError
from ...iana import ExchangeType, NotifyType, TransformType, name_of
from ...model import Proposal
from ..asks import Steps, ask_key_pair, ask_shared_secret
from ..events import ChildMoved
from ..timers import TimerKind
from .child_setup import choose_with_group, groups_of
from .collide import Nonces, own_is_redundant, refuse_ike_rekey
from .exchange import Exchange, Payloads, Reply
from .group_retry import GroupRetry
from .ike_sa import REPLACED_S, IkeSA
from .informational import DeleteIke
from .keymat import IkeKeymat, ike_suite_of, rekeyed_keys
from .lifetime import stop_child_timers
from .message import Message
from .moves import inherit
from .negotiate import check_chosen, numbered, wanted_group
from .outbound import submit
from .payloads import KePayload, NoncePayload, NotifyPayload, SaPayload
from .states import ChildState, State

if TYPE_CHECKING:
    from ...crypto.exchange import KeyPair
    from ...crypto.secret import Secret

NONCE_BYTES = 32
SPI_BYTES = 8
REPLACED_MAX = 8  # a peer that rekeys again and again and closes nothing gets no further
CROSSED_CLOSE_S = 0.5
REASON = "replaced by a rekey"


@dataclass(frozen=True, slots=True)
class PeerIkeRekey:
    """The new IKE SA that the peer's rekey made while ours is under way."""

    new: IkeSA
    nonces: Nonces

    def adopt(self, old: IkeSA) -> None:
        old.peer_rekey = None
        _adopt(old, self.new)


class RekeyIke(Exchange):
    name: ClassVar[str] = "IKE_REKEY"
    type: ClassVar[ExchangeType] = ExchangeType.CREATE_CHILD_SA

    def __init__(self) -> None:
        self._retry = GroupRetry()
        self._proposals: tuple[Proposal, ...] = ()
        self._key_pair: KeyPair | None = None
        self._spi = b""
        self._ni = b""

    @property
    def twin(self) -> object:
        return self.name

    def is_wanted(self, sa: IkeSA) -> bool:
        return sa.own_rekey is self or (sa.state is State.ESTABLISHED and not sa.is_being_reauthenticated)

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {SA, Ni, KEi} -->"""
        sa.enter(State.REKEYING)
        sa.own_rekey = self
        sa.progress(f"rekeying IKE SA {sa.label}")
        self._spi = sa.core.new_spi()
        self._proposals = numbered(_keep_prf(sa), self._spi)
        self._ni = sa.core.random(NONCE_BYTES)
        group = self._retry.first(self._groups(sa))
        self._key_pair = yield from ask_key_pair(group)
        return (SaPayload(self._proposals), NoncePayload(self._ni), KePayload(group, self._key_pair.public))

    def _groups(self, sa: IkeSA) -> tuple[int, ...]:
        """The group in use first: the peer takes it without asking again."""
        groups = groups_of(self._proposals)
        used = sa.keys.suite.group
        return (used, *(group for group in groups if group != used)) if used in groups else groups

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {SA, Nr, KEr}, or N(error)"""
        error = message.error
        if error is not None and error.notify == NotifyType.INVALID_KE_PAYLOAD:
            self._retry.next(error, groups_of(self._proposals))
            self.close()
            sa.queue.insert(0, self)
            return
        if error is not None:
            raise NegotiationError(f"the peer refused with {name_of(NotifyType, error.notify)}")
        try:
            yield from self._complete(sa, message)
        except IpsecFastError as problem:
            # the peer has moved the children to an IKE SA that we cannot use: delete the old one, negotiate from scratch
            if sa.peer_rekey is None and not sa.is_closed:
                submit(sa, DeleteIke(f"the answer to its rekey cannot be used: {problem}", failed=True))
            raise

    def _complete(self, sa: IkeSA, message: Message) -> Steps[None]:
        answer, nonce, ke = message.get(SaPayload), message.get(NoncePayload), message.get(KePayload)
        if answer is None or nonce is None or ke is None or self._key_pair is None:
            raise ParseError("a response to an IKE rekey without SA, nonce or KE")
        proposal = check_chosen(self._proposals, answer.proposals, spi_bytes=SPI_BYTES)
        if wanted_group(proposal, ke.group) is not None or ke.group != self._key_pair.group:
            raise NegotiationError("the response's KE payload is not of our group")
        shared = yield from ask_shared_secret(self._key_pair, ke.data)
        nonces = Nonces(self._ni, nonce.data)
        new = _make(sa, proposal, shared, nonces, own_spi=self._spi, initiator=True)
        self.close()
        sa.own_rekey = None
        self._settle(sa, new, nonces)

    def _settle(self, sa: IkeSA, new: IkeSA, nonces: Nonces) -> None:
        peers = sa.peer_rekey
        if peers is None or peers.new.is_closed or not own_is_redundant(nonces, peers.nonces):
            sa.peer_rekey = None
            if peers is not None and not peers.new.is_closed:
                peers.new.set_timer(TimerKind.EXPIRE, REPLACED_S)  # its creator, the peer, closes it
            _adopt(sa, new)
            if peers is None:
                submit(sa, DeleteIke(REASON))
            else:  # not before the peer has read our response to its own rekey: it would take the DELETE for "no crossing"
                sa.set_timer(TimerKind.EXPIRE, CROSSED_CLOSE_S)
            return
        sa.progress("crossing rekeys of the IKE SA: ours is redundant")
        submit(new, DeleteIke("redundant after crossing rekeys"))
        peers.adopt(sa)

    def close(self) -> None:
        if self._key_pair is not None:
            self._key_pair.close()
            self._key_pair = None

    def failed(self, sa: IkeSA, reason: str) -> None:
        self.close()
        sa.own_rekey = None
        if sa.is_closed:
            return
        peers, sa.peer_rekey = sa.peer_rekey, None
        if peers is not None and not peers.new.is_closed:  # the peer's own rekey went well
            peers.adopt(sa)
            return
        if sa.state is State.REKEYING:
            sa.enter(State.ESTABLISHED)
        wait_s = sa.core.jittered(min(5.0 * 2.0**sa.rekey_failures, 60.0), 0.5)
        sa.rekey_failures += 1
        sa.progress(f"rekey of IKE SA {sa.label} failed: {reason}; again in {wait_s:.0f} s")
        sa.set_timer(TimerKind.REKEY, wait_s)


def answer_ike_rekey(sa: IkeSA, message: Message) -> Steps[Reply]:
    """HDR, SK {SA, Ni, KEi} -->"""
    half_made = any(child.state is ChildState.INSTALLING for child in sa.children.values())
    refusal = refuse_ike_rekey(sa.doing, half_made)
    if refusal is None and len(_still_open(sa)) >= REPLACED_MAX:
        sa.progress(f"rekey refused: the peer has left {REPLACED_MAX} replaced IKE SAs open")
        refusal = NotifyType.TEMPORARY_FAILURE
    if refusal is None and not sa.lets_peer_rekey():
        refusal = NotifyType.TEMPORARY_FAILURE
    if refusal is not None:
        return Reply((NotifyPayload(refusal),))
    offered, nonce, ke = message.get(SaPayload), message.get(NoncePayload), message.get(KePayload)
    if offered is None or nonce is None or ke is None:
        raise ParseError("a rekey of the IKE SA without SA, nonce or KE")
    try:
        proposal = choose_with_group(offered.proposals, _keep_prf(sa), ke.group, spi_bytes=SPI_BYTES)
    except NegotiationError:  # the peer wants another PRF, and the RFC lets it
        proposal = choose_with_group(offered.proposals, sa.config.proposals, ke.group, spi_bytes=SPI_BYTES)
    group = wanted_group(proposal, ke.group)
    if group is not None:
        text = f"the KE payload is of group {ke.group}, the proposal wants {group}"
        raise NegotiationError(text, NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))
    key_pair = yield from ask_key_pair(ke.group)
    try:
        public = key_pair.public
        shared = yield from ask_shared_secret(key_pair, ke.data)
    finally:
        key_pair.close()
    nonces = Nonces(nonce.data, sa.core.random(NONCE_BYTES))
    new = _make(sa, proposal, shared, nonces, own_spi=sa.core.new_spi(), initiator=False)
    # <-- HDR, SK {SA, Nr, KEr}
    answer = SaPayload((replace(proposal, spi=new.own_spi),))
    payloads = (answer, NoncePayload(nonces.nr), KePayload(ke.group, public))
    return Reply(payloads, lambda: _note_peer_rekey(sa, PeerIkeRekey(new, nonces)))


def _keep_prf(sa: IkeSA) -> tuple[Proposal, ...]:
    """Our proposals with the PRF in use alone; all where the configuration does not have it (any more).

    With another PRF the two sides may get different keys: section 2.18 has the old PRF make SKEYSEED and the new one the rest,
    strongSwan (to 6.0 at least) uses the old one for both. Nothing is lost by keeping it.
    """
    in_use = sa.keys.suite.prf.id
    kept = [
        replace(one, transforms=tuple(t for t in one.transforms if t.type != TransformType.PRF or t.id == in_use))
        for one in sa.config.proposals
        if any(t.id == in_use for t in one.of(TransformType.PRF))
    ]
    return tuple(kept) or sa.config.proposals


def _still_open(sa: IkeSA) -> tuple[IkeSA, ...]:
    return tuple(one for one in sa.replaced if not one.is_closed)


def _note_peer_rekey(sa: IkeSA, peers: PeerIkeRekey) -> None:
    if sa.own_rekey is not None:  # crossing: settled when our response comes
        sa.peer_rekey = peers
    else:
        _adopt(sa, peers.new)


def _make(old: IkeSA, proposal: Proposal, shared: Secret, nonces: Nonces, *, own_spi: bytes, initiator: bool) -> IkeSA:
    """The new IKE SA, its keys of the old one's SK_d; it serves nothing until `_adopt`."""
    core = old.core
    suite = ike_suite_of(proposal)
    spi_i, spi_r = (own_spi, proposal.spi) if initiator else (proposal.spi, own_spi)
    try:
        keys = rekeyed_keys(suite, old.keys, shared, nonces, spi_i, spi_r)
    finally:
        shared.close()
    new = IkeSA(core, core.new_id("ike"), initiator, own_spi, old.path, peer_spi=proposal.spi)
    new.connection, new.proposal = old.connection, replace(proposal, spi=b"")
    new.local_id, new.remote_id = old.local_id, old.remote_id
    new.nat, new.nat_fake = old.nat, old.nat_fake
    new.fragments = old.fragments  # RFC 7383 section 2.3: negotiated once, for all that rekeys make
    new.peers_rekeys = old.peers_rekeys
    new.replaced = (*_still_open(old), old)
    old.kin[:] = [*(one for one in old.kin if one is not old and not one.is_closed), old, new]
    new.kin = old.kin
    new.keymat = IkeKeymat(suite, keys, initiator=initiator, random=core.random)
    new.enter(State.ESTABLISHED)
    new.last_inbound_at = core.now
    core.add(new)
    return new


def _adopt(old: IkeSA, new: IkeSA) -> None:
    """The new one takes the old one's place: children, waiting requests, timers."""
    if new.is_closed or old.is_closed:
        return
    core = old.core
    new.establish(replaces=old)
    inherit(new, old)
    for child in old.children.values():
        try_again_at = core.timers.at(child.rekey_timer(old.ike_id))
        stop_child_timers(old, child)
        new.children[child.child_id] = child
        core.owners[child.child_id] = new
        core.emit(ChildMoved(child.child_id, old.ike_id, new.ike_id))
        child.set_timers(new, try_again_at)
        if child.state is ChildState.REKEYED or child.is_redundant:
            new.set_timer(TimerKind.CHILD_EXPIRE, REPLACED_S, child.child_id)
    old.children = {}
    moving = [exchange for exchange in (*old.queue, *old.put_off) if not isinstance(exchange, RekeyIke)]
    old.queue, old.put_off = [], []
    for kind in (
        TimerKind.REKEY,
        TimerKind.REAUTH,
        TimerKind.LIFE,
        TimerKind.LIVENESS,
        TimerKind.CHILDLESS,
        TimerKind.RETRY,
    ):
        old.set_timer(kind, None)
    if old.state is not State.DELETING:
        old.enter(State.REKEYED)
    old.set_timer(TimerKind.EXPIRE, REPLACED_S)
    for exchange in moving:
        submit(new, exchange)
