"""Which ICMP is believed that says a packet of ours was too big (RFC 4301 section 8.2.1; RFC 5927 section 4); time is an argument.

Anybody can send it. It is believed if what it quotes is ESP of an outbound SA that sends to just that address, with a sequence number
that was used within the last 10 s, and if it names an MTU that is smaller than the one in use and not below 576 (IPv4) or 1280 (IPv6).
A router need quote no more than 8 bytes behind the IP header, which for ESP in UDP is the UDP header: then there is nothing to check, and
it is not believed; probes find out. Every refusal has a name that becomes a counter. Called by control.paths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..model import Address
from .path_mtu import MIN_MTU

RECENT_S = 10.0
SAMPLE_EVERY_S = 1.0
REFUSALS = (
    "quotes_too_little",
    "unknown_spi",
    "other_destination",
    "old_sequence_number",
    "below_minimum",
    "not_smaller",
)


@dataclass(frozen=True, slots=True)
class TooBig:
    """What the worker read of a socket's error queue. `spi`, `seq`: None where the ICMP quotes too little."""

    remote: Address
    mtu: int
    spi: int | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class Outbound:
    """An outbound SA as far as it matters here; `seq` is its last number."""

    child_id: int
    remote: Address
    seq: int
    esn: bool
    mtu: int


class SequenceWatch:
    """Which numbers each SA has used lately: `sample` once a second."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, int]]] = {}

    def sample(self, numbers: Mapping[int, int], now: float) -> None:
        """`numbers`: the last number used, by child; others are forgotten."""
        for gone in [child_id for child_id in self._samples if child_id not in numbers]:
            del self._samples[gone]
        for child_id, seq in numbers.items():
            samples = self._samples.setdefault(child_id, deque())
            samples.append((now, seq))
            while len(samples) > 1 and samples[1][0] <= now - RECENT_S:
                samples.popleft()

    def is_recent(self, child_id: int, seq: int, last: int, now: float) -> bool:
        old = (number for at, number in self._samples.get(child_id, ()) if at <= now - RECENT_S)
        return max(old, default=0) < seq <= last


def judge(news: TooBig, known: Iterable[Outbound], watch: SequenceWatch, now: float) -> tuple[Outbound | None, str]:
    """The SA whose path has this MTU; or None, and why it is not believed. `known`: the SAs that send with the quoted SPI."""
    if news.spi is None or news.seq is None:
        return None, "quotes_too_little"
    found = tuple(known)
    if not found:
        return None, "unknown_spi"
    here = [one for one in found if one.remote == news.remote]
    if not here:
        return None, "other_destination"
    recent = [
        one for one in here if watch.is_recent(one.child_id, whole_number(news.seq, one.seq, one.esn), one.seq, now)
    ]
    if not recent:
        return None, "old_sequence_number"
    if news.mtu < MIN_MTU[news.remote.version]:
        return None, "below_minimum"
    if news.mtu >= recent[0].mtu:
        return None, "not_smaller"
    return recent[0], ""


def whole_number(quoted: int, last: int, esn: bool) -> int:
    """The number whose lower half is quoted, at or below the last one used; 0 where there is none."""
    if not esn:
        return quoted
    number = (last & ~0xFFFFFFFF) | quoted
    return number if number <= last else max(0, number - (1 << 32))
