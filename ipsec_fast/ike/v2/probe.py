"""A padded request that asks whether the path carries a size: the INFORMATIONAL exchange as a probe (in the spirit of RFC 8899).

The padding is a notify of the private range that means nothing: RFC 7296 section 3.10.1 has everybody ignore a status notify that it
does not know, and section 1.4 has every INFORMATIONAL request answered; the answer is small. SK{}'s own padding ends at 255 bytes. It
leaves whole and with DF. A message ID cannot carry another message, so what is not answered in time goes out again under its ID, in
fragments of the next smaller size (RFC 7383 section 2.5.2); behind the last size, by the ordinary retransmissions, also whole and
without DF: charon, where it was built with its mediation extension, takes no INFORMATIONAL in SKF.
When to probe, and what follows from it, is the shell's. Called by the endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from ...errors import StateError, UsageError
from ...iana import ExchangeType
from ..asks import Steps
from ..events import ProbeAnswered, ProbeFailed
from .exchange import Exchange, Payloads
from .fragments import MOST_BYTES, least_bytes, longest, may_fragment, overhead, padding_for, room_in, sealed_bytes
from .ike_sa import IkeSA
from .message import GENERIC_HEADER_BYTES, Message
from .payloads import NotifyPayload
from .states import State

PADDING_NOTIFY = 59392  # "private use", status types
_NOTIFY_BYTES = GENERIC_HEADER_BYTES + 4
_LEAST_WAIT_S = 0.001


class Probe(Exchange):
    name: ClassVar[str] = "IKE_PROBE"
    type: ClassVar[ExchangeType] = ExchangeType.INFORMATIONAL

    def __init__(self, sa: IkeSA, sizes: Sequence[int], wait_s: float) -> None:
        chain_bytes = padding_for(room_in(sizes[0], sa.path), sa.keys)
        self.probe_sizes, self.probe_wait_s = tuple(sizes), wait_s
        self._data = bytes(chain_bytes - _NOTIFY_BYTES)
        self._asked_at = 0.0
        self.bytes = overhead(sa.path) + sealed_bytes(
            chain_bytes, sa.keys
        )  # what its datagram has: whole blocks for CBC

    def request(self, sa: IkeSA) -> Steps[Payloads]:
        """HDR, SK {N(private)} -->"""
        self._asked_at = sa.core.now
        return (NotifyPayload(PADDING_NOTIFY, self._data),)
        yield  # asks nothing

    def response(self, sa: IkeSA, message: Message) -> Steps[None]:
        """<-- HDR, SK {}, or whatever else comes from the peer under this ID"""
        own = sa.window.outstanding
        if own is None:
            raise AssertionError("a probe was answered that is not outstanding")
        size = 0 if own.tried_all else longest(own.datagrams, sa.path)
        waited_s = sa.core.now - self._asked_at
        sa.core.emit(ProbeAnswered(sa.ike_id, self.bytes, size, size == self.bytes, waited_s))
        return
        yield

    def failed(self, sa: IkeSA, reason: str) -> None:
        sa.core.emit(ProbeFailed(sa.ike_id, self.bytes, reason))


def check_probe(sa: IkeSA, sizes: Sequence[int], wait_s: float) -> None:
    """StateError where this IKE SA cannot be asked now, UsageError for sizes that no probe can have."""
    if sa.state is not State.ESTABLISHED or sa.established_at is None:
        raise StateError(f"IKE SA {sa.label} is {sa.state.value}; an ESTABLISHED one is probed")
    if len(sizes) > 1 and not may_fragment(sa):
        raise StateError(
            f"IKE SA {sa.label} has no IKE fragmentation: its probes have one size, and leave without DF if it is lost"
        )
    if sa.active is not None or sa.queue:
        raise StateError(f"IKE SA {sa.label} has another request outstanding; probe when it is answered")
    least = least_bytes(sa.path)
    if not sizes or sizes[0] > MOST_BYTES or any(size < least for size in sizes):
        raise UsageError(f"probe sizes are IP datagrams of {least} to {MOST_BYTES} bytes, not {list(sizes)}")
    if any(later >= earlier for earlier, later in pairwise(sizes)):
        raise UsageError(f"probe sizes must fall, {list(sizes)} do not")
    if not wait_s >= _LEAST_WAIT_S:
        raise UsageError(f"a probe waits for at least {_LEAST_WAIT_S} s, not {wait_s}")
