"""INVALID_IKE_SPI and INVALID_SPI (RFC 7296 sections 1.5 and 2.21.4): who has lost its state is told so, at most once a second.

What we send: an unprotected INVALID_IKE_SPI in answer to a request for SPIs that nobody has here, never to a response; INVALID_SPI
for ESP only inside an IKE SA with that address. What we receive in clear is a hint that anybody may have forged: it makes us ask the
peer, and nothing else. INVALID_SPI inside an IKE SA is the peer's own word: the Child SA is rekeyed, which ends it where the peer
does not have it. Called by the endpoint and informational.
"""

from __future__ import annotations

from typing import ClassVar

from ...errors import RemoteError
from ...iana import ExchangeType, NotifyType, PayloadType
from ...model import Address, Path
from ..asks import Steps
from ..core import Core
from ..header import IkeHeader
from ..timers import TimerKind
from .exchange import Exchange, Payloads, rekey_twin
from .ike_sa import ZERO_SPI, IkeSA
from .message import Message, decode_message, encode_message
from .outbound import is_queued, submit
from .payloads import EncryptedPayload, NotifyPayload
from .states import ChildState, State

REPLY_BYTES = 36  # never more than what it answers
SPI_BYTES = 4
SETTLED_S = 10.0  # a Child SA that young may be unknown to the peer for good reasons
_STANDING = (State.ESTABLISHED, State.REKEYING)


def answer_unknown_spi(core: Core, header: IkeHeader, data: bytes, path: Path) -> None:
    """<-- HDR, N(INVALID_IKE_SPI), with the SPIs and the message ID of the request"""
    if header.response or header.spi_r == ZERO_SPI or header.next_payload not in (PayloadType.SK, PayloadType.SKF):
        return
    if header.spi_i in core.by_spi or header.spi_r in core.by_spi:  # one of ours, with the wrong I flag
        return
    if len(data) < REPLY_BYTES or not core.hint_limit.allows(path.remote, core.now):
        return
    core.counters["invalid_ike_spi_sent"] += 1
    reply = IkeHeader.make(
        header.spi_i, header.spi_r, header.exchange, header.message_id, initiator=not header.initiator, response=True
    )
    core.send(path, (encode_message(reply, (NotifyPayload(NotifyType.INVALID_IKE_SPI),)),))


def is_hint(message: Message) -> bool:
    """An unprotected response that says INVALID_IKE_SPI."""
    return message.header.response and message.notify(NotifyType.INVALID_IKE_SPI) is not None


def find_hinted(core: Core, header: IkeHeader, data: bytes, path: Path) -> tuple[bool, IkeSA | None]:
    """HDR, N(INVALID_SPI) --> in clear, outside of every IKE SA: whether it is one, and which IKE SA it may mean."""
    if header.response or header.exchange != ExchangeType.INFORMATIONAL or header.next_payload != PayloadType.NOTIFY:
        return False, None
    try:
        message = decode_message(data)
    except RemoteError:
        return False, None
    notify = message.notify(NotifyType.INVALID_SPI)
    if notify is None or message.get(EncryptedPayload) is not None:
        return False, None
    if len(notify.data) != SPI_BYTES or not core.clear_hint_limit.allows(path.remote, core.now):
        return True, None
    owners = (sa for sa in core.sas.values() if sa.state in _STANDING and sa.path.remote == path.remote)
    return True, next((sa for sa in owners if sa.child_by_spi_out(notify.data) is not None), None)


class InvalidSpi(Exchange):
    """The peer sends ESP for an SPI that we do not have."""

    name: ClassVar[str] = "IKE_INVALID_SPI"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL

    def __init__(self, spi: int) -> None:
        self._spi = spi

    @property
    def twin(self) -> object:
        return self.name, self._spi

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {N(INVALID_SPI)} -->"""
        return (NotifyPayload(NotifyType.INVALID_SPI, self._spi.to_bytes(SPI_BYTES, "big")),)
        yield  # asks nothing

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {}"""
        return
        yield


def tell_unknown_spi(core: Core, spi: int, remote: Address) -> None:
    """Inside the newest IKE SA with that address, if there is one that has nothing else to say."""
    owners = [sa for sa in core.sas.values() if sa.state in _STANDING and sa.path.remote == remote]
    if not owners or owners[-1].active is not None or not core.hint_limit.allows(remote, core.now):
        return
    core.counters["invalid_spi_sent"] += 1
    submit(owners[-1], InvalidSpi(spi))


def take_invalid_spi(sa: IkeSA, message: Message) -> None:
    """The authenticated peer's word; late packets of a Child SA that has just been replaced are no reason for anything."""
    for notify in message.notifies(NotifyType.INVALID_SPI):
        child = sa.child_by_spi_out(notify.data) if len(notify.data) == SPI_BYTES else None
        if child is None or child.state is not ChildState.INSTALLED or child.is_redundant:
            continue
        if (
            is_queued(sa, rekey_twin(child.child_id)) or child.rekey_failures
        ):  # it waits for its turn, or for its next try
            continue
        if sa.core.now - child.installed_at >= SETTLED_S and sa.state is State.ESTABLISHED:
            sa.progress(f"the peer does not know CHILD SA {child.name}{{{child.child_id}}}: it is rekeyed", group="chd")
            sa.set_timer(TimerKind.CHILD_REKEY, 0.0, child.child_id)
