"""Messages that come in SKF fragments (RFC 7383 section 2.6): each is authenticated before it is kept, and everything has a bound.

Of one IKE SA at most two messages are being put together, the peer's next request and the response that we wait for, because both
windows are 1. Pieces stay over the peer's retransmissions, for HELD_S after the last new one. The rules, in their order, and the counter
of what each refuses: docs/fragments.md. What comes out is parsed by the rules and limits of any message. Called by inbound.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ...errors import RemoteError
from ...iana import PayloadType
from ..header import IkeHeader
from ..timers import TimerKind
from .fragments import MAX_FRAGMENTS
from .message import MAX_MESSAGE_BYTES, Message, parse_chain
from .payloads import FragmentPayload
from .window import digest_of

if TYPE_CHECKING:
    from .ike_sa import IkeSA

HALF_OPEN_BYTES = 32768  # of one message of a peer that is not authenticated yet: certificates and their chain are less
PIECE_OVERHEAD_BYTES = 256  # what a kept piece costs beside its content
HELD_S = 30.0


@dataclass(slots=True)
class Reassembly:
    """The pieces of one message so far. `longest` is the largest datagram, `digest` that of fragment 1."""

    message_id: int
    exchange: int
    total: int
    parts: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0
    first: int = PayloadType.NONE
    digest: bytes = b""
    longest: int = 0
    kept_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Joined:
    """A message out of its fragments: opened, or the error that the ICVs vouch for."""

    opened: Message | RemoteError
    digest: bytes
    longest: int


def refusal(sa: IkeSA, header: IkeHeader, fragment: FragmentPayload) -> str | None:
    """The counter of the rule that a fragment breaks, before anything is spent on its ICV; None: it may be opened."""
    number, total = fragment.number, fragment.total
    if not sa.fragments:
        return "fragments_not_negotiated"
    if not 1 <= number <= total or (number > 1 and fragment.next_payload != PayloadType.NONE):
        return "fragments_malformed"
    if total > MAX_FRAGMENTS:
        return "fragments_too_many"
    held = sa.reassemblies.get(header.response)
    if held is None or held.message_id != header.message_id:
        return "fragments_too_long" if len(fragment.body) > _most_bytes(sa) else None
    if total < held.total:
        return "fragments_smaller_total"
    if held.exchange != header.exchange:
        return "fragments_malformed"
    if total == held.total and number in held.parts:
        return "fragments_duplicate"
    before = held.held_bytes if total == held.total else 0
    return "fragments_too_long" if before + len(fragment.body) > _most_bytes(sa) else None


def keep(sa: IkeSA, header: IkeHeader, fragment: FragmentPayload, content: bytes, data: bytes) -> Joined | None:
    """One that `refusal` let through and whose ICV is good; the message when it was the last one missing."""
    held = sa.reassemblies.get(header.response)
    if held is not None and held.message_id == header.message_id and fragment.total > held.total:
        sa.core.counters["fragments_restarted"] += 1  # section 2.5.2: the peer has cut it smaller
        held = None
    if held is None or held.message_id != header.message_id:
        drop(sa, response=header.response)
        held = Reassembly(header.message_id, header.exchange, fragment.total)
        sa.reassemblies[header.response] = held
    sa.core.counters["fragments_received"] += 1
    held.parts[fragment.number] = content
    held.held_bytes += len(content)
    held.longest = max(held.longest, len(data))
    held.kept_at = sa.core.now
    if fragment.number == 1:
        held.first, held.digest = fragment.next_payload, digest_of(data)
    if len(held.parts) < held.total:
        _charge(sa, header.response, len(content))
        return None
    drop(sa, response=header.response)
    sa.core.counters["fragments_reassembled"] += 1
    return Joined(_parse(header, held), held.digest, held.longest)


def drop(sa: IkeSA, *, response: bool) -> bool:
    """Forget the pieces of a request or response; whether there were any."""
    for budget in (sa.core.half_open_fragments, sa.core.fragments):
        budget.release((sa.ike_id, response))
    return sa.reassemblies.pop(response, None) is not None


def expire(sa: IkeSA) -> None:
    """The timer: what got nothing new for HELD_S goes."""
    for response, held in tuple(sa.reassemblies.items()):
        if sa.core.now >= held.kept_at + HELD_S:
            drop(sa, response=response)
            sa.core.counters["fragments_expired"] += 1
    _watch(sa)


def _watch(sa: IkeSA) -> None:
    if sa.reassemblies:
        first = min(held.kept_at for held in sa.reassemblies.values())
        sa.set_timer(TimerKind.FRAGMENTS, first + HELD_S - sa.core.now)


def _charge(sa: IkeSA, response: bool, count: int) -> None:
    budget = sa.core.fragments if sa.is_authenticated else sa.core.half_open_fragments
    evicted = budget.charge((sa.ike_id, response), count + PIECE_OVERHEAD_BYTES, partial(_forget, sa, response))
    sa.core.counters["fragments_evicted"] += evicted
    _watch(sa)


def _forget(sa: IkeSA, response: bool) -> None:
    sa.reassemblies.pop(response, None)


def _most_bytes(sa: IkeSA) -> int:
    return MAX_MESSAGE_BYTES if sa.is_authenticated else HALF_OPEN_BYTES


def _parse(header: IkeHeader, held: Reassembly) -> Message | RemoteError:
    chain = b"".join(held.parts[number] for number in range(1, held.total + 1))
    try:
        return Message(header, parse_chain(held.first, chain))
    except RemoteError as error:
        return error
