"""Auditable events: what RFC 4303 and RFC 4302 (section 3.4 of both) and RFC 4301 section 5.2 want an audit log to be able to record.

The kernels count and keep the last offending headers (SA.counters, SA.last_drop); whoever wants a log looks at its own pace, so that no
flood of bad packets becomes a flood of lines. Leaves out: an SPI that no SA has, which leaves no SA to look at; there the verdicts of the
batch, or the gateway's notice, tell. Called by control/audit.py and by embedders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from weakref import WeakKeyDictionary

from ..model import Address
from .sad import SA

# RFC 4303: 3.3.3 overflow, 3.4.1 fragments, 3.4.3 replays, 3.4.4 integrity; RFC 4301: 5.2 selectors
AUDITABLE = ("seq_exhausted", "outer_fragment", "replay_old", "replay_seen", "bad_icv", "selector_mismatch")


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """`count` packets met `verdict` since the last look. What follows is of the newest packet that its SA dropped, and None where that
    one met another verdict; the addresses and the flow label (IPv6) besides where no IP header came with it (ESP in UDP, by a socket).

    For `selector_mismatch` they are those of the inner packet. `at_s` is CLOCK_MONOTONIC.
    """

    verdict: str
    protocol: str  # "esp" or "ah"
    direction: str
    spi: int
    count: int
    seq: int | None = None
    at_s: float | None = None
    source: Address | None = None
    destination: Address | None = None
    flow_label: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.verdict}: {self.protocol} {self.direction} SPI 0x{self.spi:08x}"]
        if self.seq is not None:
            parts.append(f"sequence number {self.seq}")
        if self.source is not None:
            parts.append(f"from {self.source} to {self.destination}")
        if self.flow_label:
            parts.append(f"flow label 0x{self.flow_label:05x}")
        parts.append(f"{self.count} packet{'s' * (self.count != 1)}")
        return ", ".join(parts)


class Audit:
    """Looks at SAs, and tells what happened to each since it looked at it last; it keeps none alive."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[SA, dict[str, int]] = WeakKeyDictionary()

    def events(self, sas: Iterable[SA]) -> list[AuditEvent]:
        """Those of each SA in the order of AUDITABLE; an SA that dropped nothing costs one look. Any thread, while packets flow."""
        found: list[AuditEvent] = []
        for sa in sas:
            if (last := sa.last_drop) is None:
                continue
            counters = sa.counters()
            before = self._seen.get(sa, {})
            now = {verdict: counters[verdict] for verdict in AUDITABLE if counters.get(verdict)}
            self._seen[sa] = now
            for verdict, count in now.items():
                if count == before.get(verdict, 0):
                    continue
                event = AuditEvent(verdict, sa.protocol, sa.direction, sa.spi, count - before.get(verdict, 0))
                if last.verdict == verdict:
                    source, destination, flow_label = _addresses(last.header, sa.spi)
                    event = replace(
                        event,
                        seq=last.seq,
                        at_s=last.at_s,
                        source=source,
                        destination=destination,
                        flow_label=flow_label,
                    )
                found.append(event)
        return found


def _addresses(header: bytes, spi: int) -> tuple[Address | None, Address | None, int | None]:
    if header[:4] == spi.to_bytes(4, "big"):  # an ESP header alone
        return None, None, None
    if header[:1] and header[0] >> 4 == 4 and len(header) >= 20:
        return IPv4Address(header[12:16]), IPv4Address(header[16:20]), None
    if header[:1] and header[0] >> 4 == 6 and len(header) >= 40:
        return IPv6Address(header[8:24]), IPv6Address(header[24:40]), int.from_bytes(header[1:4], "big") & 0xFFFFF
    return None, None, None
