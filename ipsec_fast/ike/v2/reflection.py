"""Reflection attacks: our own messages sent back to us (RFC 7296 section 2.15 with a PSK, which both sides have).

An attacker on the path may send an initiator's messages back to it. With one PSK for both identities each AUTH
would verify, so a peer is refused if it sends a nonce or a KE value of an attempt of ours that is still open.
The values of an attempt are forgotten when it ends. Used by sa_init and sa_init_answer; that a peer may not
claim our own identity is ike_auth's own rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import NegotiationError
from ...iana import NotifyType
from .payloads import KePayload, NoncePayload

if TYPE_CHECKING:
    from ..core import Core
    from .ike_sa import IkeSA
    from .message import Message


def reflected(core: Core, message: Message) -> IkeSA | None:
    """The attempt of ours whose nonce or KE value an IKE_SA_INIT message holds."""
    nonce, ke = message.get(NoncePayload), message.get(KePayload)
    for value in (nonce.data if nonce else b"", ke.data if ke else b""):
        owner = core.shown.owner(value)
        if owner is not None:
            return core.sas.get(owner)
    return None


def refuse_reflected(core: Core, message: Message) -> None:
    """NegotiationError if a response holds what we have sent ourselves."""
    if reflected(core, message) is not None:
        core.counters["reflected"] += 1
        text = "the IKE_SA_INIT response holds a nonce or KE value of our own: something sends our messages back to us"
        raise NegotiationError(text, NotifyType.INVALID_SYNTAX)


def drop_reflected(core: Core, message: Message, remote: object) -> bool:
    """Whether a request is a reflected one of ours. It gets no answer, because
    the attempt would take that for its peer's.
    """
    sa = reflected(core, message)
    if sa is None:
        return False
    core.counters["reflected"] += 1
    if sa.attempt is not None and not sa.attempt.was_reflected:
        sa.attempt.was_reflected = True
        sa.progress(f"our own IKE_SA_INIT came back from {remote}: something sends our messages back to us", level=0)
    return True
