"""What all IKE SAs of an endpoint share: tables, clock, random, timers, what goes out, and the exchanges that rest.

`Endpoint` is the face of it for the shell; `v2/` works with it. Nothing here reads a message.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any

from ..errors import LocalError
from ..model import Path
from .answer_types import check_answer
from .asks import MakeAsk, Steps
from .budget import Budget
from .config import EndpointSettings
from .cookie import CookieIssuer
from .events import Ask, Event, Outer, Outgoing
from .half_open import ByHolder
from .limiter import Limiter
from .records import IkeGone, IkeRecord
from .shown import Shown
from .strangers import Strangers
from .timers import TimerKey, TimerKind, Timers
from .tombstones import REST_S, Tombstone, Tombstones

if TYPE_CHECKING:
    from .v2.ike_sa import IkeSA

log = logging.getLogger("ipsec_fast.ike")

Datagrams = tuple[bytes, ...]
MessageKind = tuple[str, int, bool, bool]  # connection ("": not known yet), exchange, inbound, response
HalfOpenKey = tuple[Any, int, bytes]  # remote address, remote port, SPIi

ASK_DEADLINE_S = 30.0
HALF_OPEN_MAX = 4096
FRAGMENTS_BYTES = 8 << 20  # pieces of messages that are not whole yet, over all IKE SAs
HALF_OPEN_FRAGMENTS_BYTES = (
    2 << 20
)  # and those of peers that are not authenticated, so that they displace nobody else's


_TOMBSTONES = TimerKey(0, TimerKind.TOMBSTONE)


@dataclass(slots=True)
class Resting:
    """Steps that asked, what they asked, and the IKE SA they belong to."""

    sa: IkeSA
    steps: Steps[None]
    ask: Ask


class Core:
    def __init__(
        self,
        settings: EndpointSettings,
        random: Callable[[int], bytes],
        connected: Callable[[], Sequence[IPv4Network | IPv6Network]] = tuple,
    ) -> None:
        self.settings = settings
        self.random = random
        self.connected = connected
        self.now = 0.0
        self.counters: Counter[str] = Counter(internal_errors=0)
        self.messages: Counter[MessageKind] = Counter()
        self.timers = Timers()
        self.hint_limit = Limiter(1.0)  # what we tell an address of SPIs that we do not have
        self.clear_hint_limit = Limiter(1.0)  # what an address may tell us of them in clear
        self.rekey_lines = Limiter(60.0)  # what is logged of a peer that rekeys too often
        self.cookies = CookieIssuer(random)
        self.fragments = Budget(FRAGMENTS_BYTES)
        self.half_open_fragments = Budget(HALF_OPEN_FRAGMENTS_BYTES)
        self.sas: dict[int, IkeSA] = {}
        self.by_spi: dict[bytes, IkeSA] = {}  # by our own SPI
        self.shown = Shown()  # nonces and KE values of our own attempts, which no peer may send us
        self.half_open: dict[HalfOpenKey, IkeSA] = {}  # kept while a copy of the first request may still arrive
        self.half_open_sas: ByHolder[IkeSA] = ByHolder()  # begun by peers and not authenticated yet
        self.strangers = Strangers(settings)
        self.owners: dict[int, IkeSA] = {}  # of each Child SA
        self._peers: dict[tuple[int, bytes], dict[int, IkeSA]] = {}  # authenticated IKE SAs by the peer's identity
        self._anybody: dict[str, set[int]] = {}  # those of connections that take more than one identity
        self.tombstones = Tombstones()
        self._events: deque[Event] = deque()
        self._outbox: list[tuple[int, Outgoing]] = []  # with the IKE SA whose state it needs, or 0
        self._resting: dict[int, Resting] = {}
        self._changed: dict[int, IkeSA] = {}
        self._gone: list[IkeGone] = []
        self._ids: Counter[str] = Counter()

    @property
    def half_open_count(self) -> int:
        return len(self.half_open_sas)

    # --- numbers

    def new_id(self, kind: str) -> int:
        """A number for an IKE SA, a Child SA, a ticket or a tombstone; none is ever used again for its kind."""
        self._ids[kind] += 1
        return self._ids[kind]

    def keep_id(self, kind: str, number: int) -> None:
        """It was handed out before a restart."""
        self._ids[kind] = max(self._ids[kind], number)

    def new_spi(self) -> bytes:
        while True:
            spi = self.random(8)
            if spi != bytes(8) and spi not in self.by_spi and spi not in self.tombstones:
                return spi

    def jittered(self, seconds: float, fraction: float) -> float:
        """`seconds`, up to `fraction` of it earlier."""
        return seconds * (1 - fraction * int.from_bytes(self.random(2), "big") / 65535)

    # --- out

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def send(self, path: Path, datagrams: Datagrams, ike_id: int = 0, outer: Outer = Outer.NEEDED) -> None:
        self._outbox.append((ike_id, Outgoing(path, datagrams, outer)))

    def take_outbox(self) -> list[Outgoing]:
        outbox, self._outbox = self._outbox, []
        return [outgoing for _, outgoing in outbox]

    def withhold(self, ike_ids: Collection[int]) -> None:
        """As good as lost: a request of ours goes out again by its timer, a response when the peer asks again."""
        kept = [entry for entry in self._outbox if entry[0] not in ike_ids]
        self.counters["withheld"] += len(self._outbox) - len(kept)
        self._outbox = kept

    def mark_changed(self, sa: IkeSA) -> None:
        self._changed[sa.ike_id] = sa

    def take_records(self) -> list[IkeRecord | IkeGone]:
        changed, self._changed = self._changed, {}
        gone, self._gone = self._gone, []
        records: list[IkeRecord | IkeGone] = [sa.record() for sa in changed.values() if sa.is_worth_storing]
        return records + list(gone)

    # --- steps that may rest

    def run(self, sa: IkeSA, steps: Steps[None]) -> None:
        """Drive an exchange's steps until they end or ask."""
        self._advance(sa, steps, lambda: next(steps))

    def check_answer(self, ticket: int, answer: object) -> None:
        """UsageError if the answer is not of the type that was asked for."""
        resting = self._resting.get(ticket)
        if resting is not None:
            check_answer(resting.ask, answer)

    def answer(self, ticket: int, answer: object) -> None:
        resting = self._resting.pop(ticket, None)
        if resting is None:  # its IKE SA has vanished, or the deadline has passed
            self.counters["answers_ignored"] += 1
            return
        self.timers.cancel(TimerKey(resting.sa.ike_id, TimerKind.ASK, ticket))
        steps = resting.steps
        if isinstance(answer, Exception):
            error = answer
            self._advance(resting.sa, steps, lambda: steps.throw(error))
        else:
            self._advance(resting.sa, steps, lambda: steps.send(answer))

    def expire_ask(self, ticket: int) -> None:
        self.answer(ticket, LocalError(f"not answered within {ASK_DEADLINE_S:.0f} s"))

    def _advance(self, sa: IkeSA, steps: Steps[None], step: Callable[[], MakeAsk]) -> None:
        try:
            make_ask = step()
        except StopIteration:
            return
        except Exception:
            self.count_internal_error("an exchange")
            sa.close("internal error", failed=True)
            return
        if sa.is_closed:  # the ask comes too late
            steps.close()
            return
        ticket = self.new_id("ticket")
        ask = make_ask(ticket)
        self._resting[ticket] = Resting(sa, steps, ask)
        self.timers.set(TimerKey(sa.ike_id, TimerKind.ASK, ticket), self.now + ASK_DEADLINE_S)
        self.emit(ask)

    def count_message(self, connection: str, exchange: int, *, inbound: bool, response: bool) -> None:
        """One that was sound (its ICV too), or that we made; repetitions are not counted again."""
        self.messages[connection, exchange, inbound, response] += 1

    def count_internal_error(self, where: str) -> None:
        self.counters["internal_errors"] += 1
        log.exception("internal error in %s", where)

    # --- tables

    def add(self, sa: IkeSA) -> None:
        self.sas[sa.ike_id] = sa
        self.by_spi[sa.own_spi] = sa

    def note_peer(self, sa: IkeSA) -> None:
        """Enter an authenticated IKE SA, so that `with_peer` finds it until it is forgotten."""
        if sa.remote_id is not None:
            self._peers.setdefault(sa.remote_id.folded, {})[sa.ike_id] = sa
        if sa.connection is not None and sa.connection.takes_many:
            self._anybody.setdefault(sa.name, set()).add(sa.ike_id)

    def count_anybody(self, connection: str) -> int:
        """Authenticated IKE SAs of a connection that takes more than one identity."""
        return len(self._anybody.get(connection, ()))

    def with_peer(self, sa: IkeSA) -> list[IkeSA]:
        """The IKE SAs among which those with its peer are; without an identity that is all of them."""
        if sa.remote_id is None:
            return list(self.sas.values())
        return list(self._peers.get(sa.remote_id.folded, {}).values())

    def forget(self, sa: IkeSA) -> None:
        """Out of every table; what rests for it is dropped. Its stored response, if any, stays for a while."""
        self.sas.pop(sa.ike_id, None)
        if sa.remote_id is not None and (same := self._peers.get(sa.remote_id.folded)) is not None:
            same.pop(sa.ike_id, None)
            if not same:
                del self._peers[sa.remote_id.folded]
        if sa.name in self._anybody:
            self._anybody[sa.name].discard(sa.ike_id)
        self.shown.forget(sa.ike_id)
        self._changed.pop(sa.ike_id, None)
        if self.by_spi.get(sa.own_spi) is sa:
            del self.by_spi[sa.own_spi]
        if sa.half_open_key is not None:
            self.half_open.pop(sa.half_open_key, None)
        for ticket in [ticket for ticket, resting in self._resting.items() if resting.sa is sa]:
            self._resting.pop(ticket).steps.close()
        self.timers.cancel_owner(sa.ike_id)
        self._gone.append(IkeGone(sa.ike_id))

    def bury(self, sa: IkeSA) -> None:
        """Keep the last response of a deleted IKE SA for a peer that lost its
        copy. A response to IKE_SA_INIT is not kept.
        """
        window = sa.window
        is_init_only = sa.init is not None and window.expected <= 1
        if window.last_response and not is_init_only:
            stone = Tombstone(sa.peer_spi, window.last_digest, window.last_response, self.now + REST_S)
            self.tombstones.add(sa.own_spi, stone, authenticated=sa.established_at is not None)
            self._plan_tombstones()

    def drop_old_tombstones(self) -> None:
        self.tombstones.expire(self.now)
        self._plan_tombstones()

    def _plan_tombstones(self) -> None:
        at = self.tombstones.next_at()
        if at is not None and self.timers.at(_TOMBSTONES) is None:
            self.timers.set(_TOMBSTONES, at)
