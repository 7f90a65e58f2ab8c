"""What get-counters shows: IKE messages and rekeys, of all and of each connection, under charon's names.

`reset` remembers where the counting stood; the endpoint's own counters only grow. Called by daemon.py and vici's commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from ..iana import ExchangeType
from ..ike.core import MessageKind
from ..ike.events import ChildUp, IkeUp, IkeView, Notice

EXCHANGES = {
    ExchangeType.IKE_SA_INIT: "ike-init",
    ExchangeType.IKE_AUTH: "ike-auth",
    ExchangeType.CREATE_CHILD_SA: "create-child",
    ExchangeType.INFORMATIONAL: "info",
}
INVALID = ("malformed", "wrong_version", "bad_icv", "unprotected")  # counters of the endpoint, of no connection
UNKNOWN_SPI = ("unknown_spi", "wrong_spi")
NAMES = (
    "ike-rekey-init", "ike-rekey-resp", "child-rekey", "invalid", "invalid-spi",
    *(f"{exchange}-{direction}-{kind}" for exchange in EXCHANGES.values() for direction in ("in", "out") for kind in ("req", "resp")),
)  # fmt: skip
Counts = dict[str, int]


class ExchangeCounters:
    """`messages` and `counters` are the endpoint's."""

    def __init__(
        self, messages: Callable[[], Mapping[MessageKind, int]], counters: Callable[[], Mapping[str, int]]
    ) -> None:
        self._messages = messages
        self._counters = counters
        self._rekeys: Counter[tuple[str, str]] = Counter()
        self._base: dict[str, Counter[str]] = {}  # per connection, "" for all: what a reset takes off

    def hear(self, notice: Notice, view: IkeView | None) -> None:
        match notice:
            case IkeUp(replaces=int()) if view is not None:
                role = "init" if view.initiator else "resp"
                self._rekeys[notice.connection, f"ike-rekey-{role}"] += 1
            case ChildUp(replaces=int()):
                self._rekeys[notice.connection, "child-rekey"] += 1

    def connections(self) -> list[str]:
        """Those of which something was counted."""
        return sorted({kind[0] for kind in self._messages()} - {""})

    def read(self, connection: str) -> Counts:
        """All of charon's counters of one connection, or, for "", of all together."""
        now = self._count(connection)
        base = self._base.get(connection, Counter())
        return {name: now[name] - base[name] for name in NAMES}

    def reset(self, connection: str) -> None:
        self._base[connection] = self._count(connection)

    def _count(self, connection: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for (name, exchange, inbound, response), count in self._messages().items():
            if connection in ("", name) and exchange in EXCHANGES:
                direction, kind = "in" if inbound else "out", "resp" if response else "req"
                found[f"{EXCHANGES[ExchangeType(exchange)]}-{direction}-{kind}"] += count
        for (name, rekey), count in self._rekeys.items():
            if connection in ("", name):
                found[rekey] += count
        if not connection:
            counters = self._counters()
            found["invalid"] = sum(counters.get(name, 0) for name in INVALID)
            found["invalid-spi"] = sum(counters.get(name, 0) for name in UNKNOWN_SPI)
        return found
