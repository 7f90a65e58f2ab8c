"""The audit lines of a gateway: which Child SA met bad ICVs, replays or fragments, and with which headers (RFC 4303 section 3.4).

Looked for once a second, not made per packet: the first of a kind is told within that second, what follows on the same SA as a sum once
a minute. An unknown SPI leaves no SA; the worker tells of one a second, and of those one line in ten seconds is left.
Called by the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..dataplane.audit import Audit, AuditEvent
from ..model import Address
from .children import Children, InstalledChild

Key = tuple[int, str, str]  # child, direction, verdict

LOOK_EVERY_S = 1.0
AGAIN_S = 60.0
STRANGERS_S = 10.0


class AuditLog:
    def __init__(self, children: Children, log: Callable[[str], None]) -> None:
        self._children = children
        self._log = log
        self._audit = Audit()
        self._next = 0.0
        self._told_at: dict[Key, float] = {}
        self._untold: dict[Key, AuditEvent] = {}
        self._stranger_at = -STRANGERS_S

    def get_timer(self) -> float | None:
        return self._next if self._children.all() else None

    def handle_timer(self, now: float) -> None:
        if now < self._next:
            return
        self._next = now + LOOK_EVERY_S
        children = {child.child_id: child for child in self._children.all()}
        for seen in (self._told_at, self._untold):
            for gone in [key for key in seen if key[0] not in children]:
                del seen[gone]
        for child in children.values():
            for event in self._audit.events((child.sa_in, child.sa_out)):
                key = (child.child_id, event.direction, event.verdict)
                if key in self._untold:
                    event = replace(event, count=event.count + self._untold[key].count)
                self._untold[key] = event
        for key in [key for key in self._untold if now - self._told_at.get(key, now - AGAIN_S) >= AGAIN_S]:
            self._told_at[key] = now
            self._log(_line(children[key[0]], self._untold.pop(key)))

    def note_unknown_spi(self, spi: int, remote: Address, now: float) -> None:
        """From the worker's notice."""
        if now - self._stranger_at < STRANGERS_S:
            return
        self._stranger_at = now
        self._log(f"audit: unknown_spi: SPI 0x{spi:08x} from {remote}; no more of these for {STRANGERS_S:.0f} s")


def _line(child: InstalledChild, event: AuditEvent) -> str:
    where = "" if event.source else f", path {child.path}"
    return f"audit: {child.connection} {child.name}: {event}{where}"
