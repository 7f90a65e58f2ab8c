"""CREATE_CHILD_SA as initiator: a new Child SA (RFC 7296 sections 1.3.1, 2.7). rekey_child.py is built on it.

The responder stands in create_child_answer.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from ...errors import IpsecFastError, NegotiationError, ParseError
from ...iana import ExchangeType, NotifyType, ProtocolId, name_of
from ..asks import Steps, ask_key_pair, ask_shared_secret
from ..config import ChildConfig
from ..events import ChildFailed
from ..timers import TimerKind
from .child_sa import FALLBACK, ORDINARY, ChildGoneError, ChildSA, Place
from .child_setup import (
    ChildChoice,
    ChildOffer,
    Packet,
    Selectors,
    check_answer,
    establish_child,
    groups_of,
    make_offer,
    offered_text,
)
from .collide import Nonces
from .exchange import Exchange, Payloads
from .group_retry import GroupRetry
from .ike_sa import IkeSA
from .informational import DeleteChild
from .message import Message
from .negotiate import wanted_group
from .outbound import submit
from .payloads import KePayload, NoncePayload, NotifyPayload, SaPayload
from .resources import has_fallback, info, speaks

if TYPE_CHECKING:
    from ...crypto.exchange import KeyPair
    from ...crypto.secret import Secret

NONCE_BYTES = 32
DELETED_EARLY_MAX = 64
PUT_OFFS_MAX = 3
PUT_OFF_FIRST_S = 2.0


class CreateChild(Exchange):
    """A new Child SA, asked for by us."""

    name: ClassVar[str] = "CHILD_CREATE"
    type: ClassVar[ExchangeType] = ExchangeType.CREATE_CHILD_SA
    makes_child: ClassVar[bool] = True

    def __init__(self, config: ChildConfig, packet: Packet | None = None) -> None:
        """`packet`: the packet that triggered it; its selectors are offered first."""
        self.config = config
        self._packet = packet
        self._retry = GroupRetry()
        self._groups: tuple[int, ...] = ()
        self._offer: ChildOffer | None = None
        self._key_pair: KeyPair | None = None
        self._wanted = ORDINARY
        self._ni = b""
        self._put_offs = 0
        self._deleted_early: set[bytes] = set()

    # what a rekey does otherwise

    def _rekeys(self) -> ChildSA | None:
        return None

    def _selectors(self, sa: IkeSA) -> tuple[Selectors, Selectors] | None:
        return None

    def _place(self, sa: IkeSA) -> Place:
        """In a group of RFC 9611: its fallback, unless this child has one already."""
        return FALLBACK if speaks(sa, self.config) and not has_fallback(sa, self.config) else ORDINARY

    def _proposed(self) -> ChildConfig:
        return self.config

    def _check(self, message: Message, choice: ChildChoice) -> None:
        pass

    def _established(self, sa: IkeSA, child: ChildSA) -> None:
        sa.set_timer(TimerKind.CHILDLESS, None)

    def _is_redundant(self, sa: IkeSA, nonces: Nonces) -> bool:
        return False

    # the exchange

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {[N(REKEY_SA),] [N(SA_RESOURCE_INFO),] SA, Ni, [KEi,] TSi, TSr} -->"""
        old = self._rekeys()
        self._wanted = old.place if old is not None else self._place(sa)
        self._offer = yield from make_offer(
            sa,
            self._proposed(),
            with_ke=True,
            selectors=self._selectors(sa),
            resource=self._wanted.resource,
            replaces=old.spi_in if old is not None else None,
            packet=self._packet,
        )
        self._groups = groups_of(self._offer.proposals)
        self._ni = sa.core.random(NONCE_BYTES)
        group = self._retry.first(self._groups)
        ke: Payloads = ()
        if group:
            self._key_pair = yield from ask_key_pair(group)
            ke = (KePayload(group, self._key_pair.public),)
        notify: Payloads = ()
        if old is not None:
            spi = old.spi_in.to_bytes(4, "big")
            notify = (NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, spi),)
        elif self._wanted.in_group:
            notify = (info(self._wanted.resource),)
        return (*notify, self._offer.sa_payload, NoncePayload(self._ni), *ke, *self._offer.ts_payloads)

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {[N(SA_RESOURCE_INFO),] SA, Nr, [KEr,] TSi, TSr}, or N(error)"""
        error = message.error
        if error is not None and error.notify == NotifyType.INVALID_KE_PAYLOAD:
            self._retry.next(error, self._groups)
            self._close_key_pair()
            self._send_again(sa)
            return
        if error is not None:
            self._refused(sa, error)
            return
        try:
            child = yield from self._complete(sa, message)
        except ChildGoneError:
            raise
        except IpsecFastError as problem:
            if self._offer is not None and message.get(SaPayload) is not None:
                submit(sa, DeleteChild(None, str(problem), spi_in=self._offer.spi))  # the peer has it already
            raise
        finally:
            self._close_key_pair()
        self._established(sa, child)

    def note_deleted(self, spis: Collection[bytes]) -> None:
        """The DELETE of what the peer has made for us may overtake its response; the one SPI we shall learn is among few."""
        room = DELETED_EARLY_MAX - len(self._deleted_early)
        self._deleted_early.update(islice(spis, max(room, 0)))

    def _send_again(self, sa: IkeSA) -> None:
        sa.queue.insert(0, self)

    def _refused(self, sa: IkeSA, error: NotifyPayload) -> None:
        offered = offered_text(self._offer) if self._offer else "nothing"
        name = name_of(NotifyType, error.notify)
        if error.notify == NotifyType.TEMPORARY_FAILURE and self._put_off(sa):
            return
        raise NegotiationError(f"the peer refused CHILD SA {self.config.name} with {name}; we offered {offered}")

    def _put_off(self, sa: IkeSA) -> bool:
        """Section 2.25: the peer rekeys the IKE SA, or cannot just now; whether it is worth another try."""
        if self._put_offs >= PUT_OFFS_MAX or sa.reauthenticates is not None:
            return False
        self._close_key_pair()
        wait_s = sa.core.jittered(PUT_OFF_FIRST_S * 2.0**self._put_offs, 0.5)
        self._put_offs += 1
        sa.progress(
            f"CHILD SA {self.config.name} put off by the peer with TEMPORARY_FAILURE; again in {wait_s:.0f} s",
            group="chd",
        )
        sa.put_off.append(self)
        sa.set_timer(TimerKind.RETRY, wait_s)
        return True

    def _complete(self, sa: IkeSA, message: Message) -> Steps[ChildSA]:
        nonce, ke, offer = message.get(NoncePayload), message.get(KePayload), self._offer
        if offer is None or nonce is None:
            raise ParseError("a CREATE_CHILD_SA response without a nonce")
        choice = check_answer(replace(offer, config=self.config), message)
        self._check(message, choice)
        if choice.proposal.spi in self._deleted_early:
            raise ChildGoneError(f"{sa.remote_id} has deleted it before its response came")
        nonces = Nonces(self._ni, nonce.data)
        shared: Secret | None = None
        if groups_of((choice.proposal,)):
            if ke is None or self._key_pair is None or wanted_group(choice.proposal, ke.group) is not None:
                raise NegotiationError("the response's KE payload is not of the group that it chose")
            if ke.group != self._key_pair.group:
                raise NegotiationError("the response's KE payload is of another group than ours")
            shared = yield from ask_shared_secret(self._key_pair, ke.data)
        try:
            redundant = self._is_redundant(sa, nonces)
            child = yield from establish_child(
                sa,
                choice,
                spi_in=offer.spi,
                nonces=nonces,
                shared=shared,
                initiator=True,
                replaces=self._rekeys(),
                outbound_deferred=redundant,
                place=self._agreed(message),
            )
        finally:
            if shared is not None:
                shared.close()
        child.is_redundant = redundant
        return child

    def _agreed(self, message: Message) -> Place:
        """A rekey inherits its place; a new one has what we wanted if the peer speaks RFC 9611 too."""
        is_known = self._rekeys() is not None or message.notify(NotifyType.SA_RESOURCE_INFO) is not None
        return self._wanted if is_known else ORDINARY

    def _close_key_pair(self) -> None:
        if self._key_pair is not None:
            self._key_pair.close()
            self._key_pair = None

    def failed(self, sa: IkeSA, reason: str) -> None:
        self._close_key_pair()
        sa.core.emit(ChildFailed(sa.ike_id, sa.name, self.config.name, reason))
        if not sa.is_closed:
            sa.progress(f"CHILD SA {self.config.name} failed: {reason}", group="chd")
