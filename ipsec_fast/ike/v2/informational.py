"""INFORMATIONAL (RFC 7296 sections 1.4, 1.4.1, 2.4): delete, liveness, and the AUTHENTICATION_FAILED of an initiator.

Every request is answered, an empty one by an empty response. Unknown status notifies mean nothing.
"""

from __future__ import annotations

from typing import ClassVar

from ...iana import ExchangeType, NotifyType, ProtocolId
from ...model import Path
from ..asks import Steps
from .child_sa import ChildSA, close_child, switch_outbound
from .exchange import Exchange, Payloads, Reply
from .hints import take_invalid_spi
from .ike_sa import IkeSA
from .lifetime import stop_child_timers
from .message import Message
from .payloads import DeletePayload, NotifyPayload
from .states import ChildState, State

_FATAL = (NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX)


class DeleteIke(Exchange):
    """The end of an IKE SA and of its children, asked for by us."""

    name: ClassVar[str] = "IKE_DELETE"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL
    priority: ClassVar[int] = 2

    def __init__(self, reason: str = "deleted by us", *, failed: bool = False, notify: int | None = None) -> None:
        self.reason = reason
        self._failed = failed
        self._notify = notify

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {D} -->, or HDR, SK {N(AUTHENTICATION_FAILED)} --> from an initiator that rejects the peer's AUTH."""
        sa.enter(State.DELETING)
        sa.progress(f"deleting IKE SA {sa.label}: {self.reason}")
        if self._notify is not None:
            return (NotifyPayload(self._notify),)
        return (DeletePayload(ProtocolId.IKE),)
        yield  # asks nothing

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {}"""
        sa.active = None
        sa.close(self.reason, failed=self._failed)
        return
        yield

    def failed(self, sa: IkeSA, reason: str) -> None:
        if not sa.is_closed:  # refused, of all things
            sa.active = None
            sa.close(self.reason, failed=self._failed)


class DeleteChild(Exchange):
    """The end of one Child SA, or of an SPI that the peer holds for one that we never installed."""

    name: ClassVar[str] = "CHILD_DELETE"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL
    priority: ClassVar[int] = 1

    def __init__(self, child: ChildSA | None, reason: str, *, spi_in: int = 0, grace_s: float = 0.0) -> None:
        self.child = child
        self._reason = reason
        self._spi_in = child.spi_in if child else spi_in
        self._grace_s = grace_s

    @property
    def twin(self) -> object:
        return None if self.child is None else (self.name, self.child.child_id)

    def is_wanted(self, sa: IkeSA) -> bool:
        if sa.is_closed:
            return False
        return self.child is None or self.child.child_id in sa.children

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {D} -->, naming the SPI on which we receive"""
        if self.child is not None:
            self.child.enter(ChildState.DELETING)
            stop_child_timers(sa, self.child)
        return (DeletePayload(ProtocolId.ESP, (self._spi_in.to_bytes(4, "big"),)),)
        yield

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {D}; without D the deletes have crossed. Either way it is gone."""
        self.failed(sa, self._reason)
        return
        yield

    def failed(self, sa: IkeSA, reason: str) -> None:
        if self.child is not None:
            close_child(sa, self.child, self._reason, grace_s=self._grace_s)


class DeleteIdleChild(DeleteChild):
    """The end of a Child SA that carries nothing; nobody brings it up again but a packet or the operator."""

    def __init__(self, child: ChildSA, idle_s: float) -> None:
        super().__init__(child, f"nothing passed for {idle_s:g} s")
        self._idle = child

    def failed(self, sa: IkeSA, reason: str) -> None:
        close_child(sa, self._idle, self._reason, idle=True)


class Liveness(Exchange):
    """An empty request; a peer that answers lives (section 2.4). Silence ends the IKE SA by the retransmissions' end."""

    name: ClassVar[str] = "IKE_DPD"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL

    @property
    def twin(self) -> object:
        return self.name

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {} -->"""
        return ()
        yield

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {}"""
        return
        yield


# --- the peer's requests


def answer_informational(sa: IkeSA, message: Message, path: Path) -> Steps[Reply]:
    """HDR, SK {[N,] [D,] ...} -->"""
    deletes = message.all(DeletePayload)
    if any(delete.protocol == ProtocolId.IKE for delete in deletes):
        return Reply((), lambda: _closed_by_peer(sa))
    fatal = message.error
    if fatal is not None and fatal.notify in _FATAL:
        reason = f"{sa.remote_id} answered with {NotifyType(fatal.notify).name}"
        return Reply((), lambda: sa.close(reason, failed=True))
    take_invalid_spi(sa, message)
    spis = {spi for delete in deletes if delete.protocol == ProtocolId.ESP for spi in delete.spis}
    # a peer that uses an IKE SA which stands aside here has the children in it already
    answered = _delete_children(sa.replaced[-1] if sa.stands_aside and sa.replaced else sa, spis)
    # <-- HDR, SK {D}, naming the SPIs on which we received
    if answered:
        return Reply((DeletePayload(ProtocolId.ESP, tuple(spi.to_bytes(4, "big") for spi in answered)),))
    return Reply()
    yield


def _closed_by_peer(sa: IkeSA) -> None:
    """A DELETE of the IKE SA, also of one that a rekey has replaced, or that we are about to delete ourselves."""
    if sa.state is State.REKEYED:
        sa.close("replaced by a rekey", failed=False)
        return
    if sa.peer_rekey is not None:
        # crossing IKE rekeys, and the peer deletes the old one: it has seen that its own new one wins (section 2.8.2)
        sa.peer_rekey.adopt(sa)
        sa.close("replaced by a rekey", failed=False)
        return
    sa.close("deleted by the peer", failed=False, by_peer=sa.state is not State.DELETING)


def _delete_children(sa: IkeSA, spis: set[bytes]) -> list[int]:
    """Our SPIs of the pairs that went, in the order of their making. One pass over what we have, however many the peer names."""
    named = [child for child in sa.children.values() if child.spi_out.to_bytes(4, "big") in spis]
    unknown = spis - {child.spi_out.to_bytes(4, "big") for child in named}
    sa.core.counters["deletes_of_unknown_children"] += len(unknown)
    if sa.active is not None:
        sa.active.note_deleted(unknown)
    return [own for child in named if (own := _delete_child(sa, child)) is not None]


def _delete_child(sa: IkeSA, child: ChildSA) -> int | None:
    """Our SPI of the pair, None where we delete it too (section 1.4.1)."""
    was_deleting = child.state is ChildState.DELETING
    successor = sa.children.get(child.replaced_by or 0)
    if successor is None and child.peer_rekey is not None:
        successor = child.peer_rekey.child  # crossing rekeys: the peer has settled it, our response is on its way
        child.replaced_by = successor.child_id
    if successor is not None:
        switch_outbound(sa, successor)
    # of a per-resource one the fallback goes on carrying the traffic, and packets on their way are still welcome
    is_carried_on = successor is not None or child.is_redundant or child.resource is not None
    grace_s = sa.core.settings.old_inbound_s if is_carried_on else 0.0
    reason = "replaced by a rekey" if successor is not None else "deleted by the peer"
    if child.is_redundant:
        reason = "redundant after crossing rekeys"
    by_peer = successor is None and not was_deleting and not child.is_redundant
    close_child(sa, child, reason, grace_s=grace_s, by_peer=by_peer)
    return None if was_deleting else child.spi_in
