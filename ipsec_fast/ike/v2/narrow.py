"""Narrowing traffic selectors (RFC 7296 section 2.9): the intersection over all pairs of both lists. Pure functions.

The responder narrows; the initiator checks that it got no more than it offered. The selectors of one Child SA are
bounded here: one byte counts the selectors of a payload, and the shell limits pairs and prefixes. Called by the
exchanges that make a Child SA, through negotiate.py and child_setup.py, and by the check of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

from ...errors import NegotiationError
from ...iana import NotifyType
from ...model import TrafficSelector, selectors_text

MAX_SELECTORS = 64  # of one side, unless our configuration has more; narrowing further is allowed
PAYLOAD_SELECTORS = 255  # a TS payload counts them in one byte
FOUND_MAX = 255  # intersections that are looked at; one Child SA gets fewer
_SHOWN = 12

Selectors = tuple[TrafficSelector, ...]
Span = tuple[int, int, int, TrafficSelector]  # IP version, first and last address, of which selector


@dataclass(frozen=True, slots=True)
class Common:
    """What both sides allow. `left_out`: the number of selectors above the limits of one Child SA.

    `holds_first`: it contains the first TSi and the first TSr of the offer.
    `share`: the part of the offer in it, 0 to 1.
    """

    local: Selectors
    remote: Selectors
    left_out: int
    holds_first: bool
    share: float


# --- the responder


def narrow(
    offered: Sequence[TrafficSelector], configured: Sequence[TrafficSelector], *, side: str = "traffic selectors"
) -> tuple[TrafficSelector, ...]:
    """What both lists allow, in the order offered, without what another one covers.

    NegotiationError (TS_UNACCEPTABLE) where that is nothing; `side` (`TSi`, `TSr`) names it there.
    """
    return _cut(_intersect(offered, configured, side)[0], _room(configured), offered[0])


def _room(configured: Sequence[TrafficSelector]) -> int:
    """A peer gets MAX_SELECTORS out of a wide selector; all configured selectors fit if there are more."""
    return min(PAYLOAD_SELECTORS, max(MAX_SELECTORS, len(configured)))


def narrow_both(
    tsi: Sequence[TrafficSelector],
    tsr: Sequence[TrafficSelector],
    local: Sequence[TrafficSelector],
    remote: Sequence[TrafficSelector],
    *,
    policies: int = 0,
    routes: int = 0,
) -> Common:
    """Both sides of an offer against one child of the responder's configuration. NegotiationError as `narrow`.

    `policies`: how many pairs may come out; `routes`: how many prefixes of the peer's side. 0: any number. A selector
    without a counterpart of its IP version and protocol on the other side is left out: no packet could match it.
    """
    remote_ts, remote_share = _intersect(tsi, remote, "TSi")
    local_ts, local_share = _intersect(tsr, local, "TSr")
    local_ts, remote_ts = drop_unpaired(local_ts, remote_ts)
    if not local_ts:
        text = f"no packet could match TSi {shown(tsi)} and TSr {shown(tsr)} where we allow"
        raise NegotiationError(f"{text} {shown(remote)} and {shown(local)}", NotifyType.TS_UNACCEPTABLE)
    most_local, most_remote = _within_policies(
        min(len(local_ts), _room(local)),
        _within_routes(remote_ts, min(len(remote_ts), _room(remote)), routes),
        policies,
    )
    fitting_local, fitting_remote = _cut(local_ts, most_local, tsr[0]), _cut(remote_ts, most_remote, tsi[0])
    left_out = len(local_ts) + len(remote_ts) - len(fitting_local) - len(fitting_remote)
    holds_first = covers(fitting_remote, tsi[0]) and covers(fitting_local, tsr[0])
    return Common(fitting_local, fitting_remote, left_out, holds_first, local_share * remote_share)


def drop_unpaired(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """Both sides without selectors that have no counterpart of their IP version and protocol on the other side."""
    kinds_local, kinds_remote = ({(ts.version, ts.protocol) for ts in side} for side in (local, remote))
    return (
        tuple(ts for ts in local if _has_partner(ts, kinds_remote)),
        tuple(ts for ts in remote if _has_partner(ts, kinds_local)),
    )


def _has_partner(ts: TrafficSelector, kinds: set[tuple[int, int]]) -> bool:
    return any(v == ts.version and (p == ts.protocol or not p or not ts.protocol) for v, p in kinds)


def _intersect(
    offered: Sequence[TrafficSelector], configured: Sequence[TrafficSelector], side: str
) -> tuple[tuple[TrafficSelector, ...], float]:
    """The intersections, and the part of the offer in them: the mean over the offered selectors, 0 to 1 each."""
    found: list[Span] = []
    whole: set[int] = set()  # ids of our selectors that are taken wholly: no further intersection adds to them
    total, ours = 0.0, _spans_of(configured)
    for theirs in offered:
        held = 0
        for one in _near(theirs, ours):
            if id(one) in whole:
                held += min(_volume(one), _volume(theirs))
            elif _holds(theirs, one):
                held += _volume(one)
                whole.add(id(one))
                _add(found, one)
            elif (both := theirs.intersect(one)) is not None:
                held += _volume(both)
                _add(found, both)
        total += min(1.0, held / _volume(theirs))
        if len(found) > FOUND_MAX:
            break
    if not found:
        text = f"no common {side}: they offered {shown(offered)}, we allow {shown(configured)}"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    return tuple(ts for *_, ts in found), total / len(offered)


def _add(found: list[Span], new: TrafficSelector) -> None:
    """Add it unless another one contains it; remove those that it contains."""
    version, start, end = new.version, int(new.start), int(new.end)
    if any(v == version and a <= start and end <= b and _holds_ports(ts, new) for v, a, b, ts in found):
        return
    found[:] = [
        (v, a, b, ts)
        for v, a, b, ts in found
        if not (v == version and start <= a and b <= end and _holds_ports(new, ts))
    ]
    found.append((version, start, end, new))


def reduced(offered: Sequence[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """Without selectors that another one contains; the first one stays the first."""
    rest: list[Span] = []
    for ts in dict.fromkeys(offered[1:]):
        _add(rest, ts)
    return (*offered[:1], *(ts for *_, ts in rest if not _holds(offered[0], ts)))


def _cut(found: Selectors, most: int, first: TrafficSelector) -> Selectors:
    """The first ones, always including those that hold the first selector of the offer."""
    kept = found[:most]
    if any(_near(first, _spans_of(kept))):
        return kept
    holding = next(_near(first, _spans_of(found)), None)
    return (*kept[:-1], holding) if holding is not None else kept


def _within_policies(local: int, remote: int, most: int) -> tuple[int, int]:
    """How many of each side to keep; a short side stays whole."""
    if not most or local * remote <= most:
        return local, remote
    half = isqrt(most)
    if local <= half:
        return local, most // local
    if remote <= half:
        return most // remote, remote
    return half, half


def _within_routes(remote: Selectors, count: int, most: int) -> int:
    """How many of the first `count`; of one that needs more by itself, nothing can be left out."""
    routes = 0
    for i, ts in enumerate(remote[:count] if most else ()):
        routes += len(ts.networks())
        if routes > most:
            return max(i, 1)
    return count


# --- the initiator


def check_narrowed(
    offered: Sequence[TrafficSelector], returned: Sequence[TrafficSelector], *, side: str = "traffic selectors"
) -> tuple[TrafficSelector, ...]:
    """The responder's selectors, checked: each lies inside one that we offered. NegotiationError otherwise."""
    most = max(MAX_SELECTORS, len(offered))
    if len(returned) > most:
        text = f"the responder returned {len(returned)} selectors for our {side}, at most {most} are taken"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    outside = next((ts for ts in returned if not any(_holds(ours, ts) for ours in offered)), None)
    if outside is not None:
        text = f"the responder widened our {side}: it returned {outside}, we offered {shown(offered)}"
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    return tuple(returned)


def lead_with(
    packet: tuple[TrafficSelector, TrafficSelector] | None,
    local: Sequence[TrafficSelector],
    remote: Sequence[TrafficSelector],
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """What to offer: first the selectors of the packet that triggered the Child SA
    (section 2.9), if the others contain them.

    Lists that are too long for a payload are folded, or leave the packet out.
    """
    local, remote = foldable(local), foldable(remote)
    if packet is None or not covers(local, packet[0]) or not covers(remote, packet[1]):
        return tuple(local), tuple(remote)
    local_first, remote_first = (
        (first, *(ts for ts in foldable(side, PAYLOAD_SELECTORS - 1) if ts != first))
        for first, side in zip(packet, (local, remote), strict=True)
    )
    if max(len(local_first), len(remote_first)) > PAYLOAD_SELECTORS:
        return tuple(local), tuple(remote)
    return local_first, remote_first


# --- both


def covers(selectors: Iterable[TrafficSelector], one: TrafficSelector) -> bool:
    """Whether the others cover `one`: one alone, or several that adjoin along addresses or along ports."""
    return _covers(_spans_of(selectors), one)


def _covers(spans: Iterable[Span], one: TrafficSelector) -> bool:
    near = list(_near(one, spans))
    if any(_holds(ts, one) for ts in near):
        return True
    same_ports = [ts for ts in near if _holds_ports(ts, one)]
    if _spans(((int(ts.start), int(ts.end)) for ts in same_ports), int(one.start), int(one.end)):
        return True
    same_addresses = [ts for ts in near if _holds_addresses(ts, one) and _holds_protocol(ts, one) and not ts.is_opaque]
    is_range = not one.is_opaque
    return is_range and _spans(((ts.start_port, ts.end_port) for ts in same_addresses), one.start_port, one.end_port)


def not_covered(asked: Iterable[TrafficSelector], got: Sequence[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """Those of `asked` that `got` does not cover."""
    spans = _spans_of(got)
    return tuple(ts for ts in asked if not _covers(spans, ts))


def fold(selectors: Sequence[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """The same traffic in fewer selectors: adjacent and overlapping ranges become one. Sorted by first address."""
    kinds: dict[tuple[int, int, int, int], list[TrafficSelector]] = {}
    for ts in selectors:
        kinds.setdefault((ts.version, ts.protocol, ts.start_port, ts.end_port), []).append(ts)
    found: list[Span] = []
    for same in kinds.values():
        for joined in _join(sorted(same, key=lambda ts: int(ts.start))):
            _add(found, joined)
    return tuple(ts for *_, ts in found)


def foldable(selectors: Sequence[TrafficSelector], most: int = PAYLOAD_SELECTORS) -> tuple[TrafficSelector, ...]:
    """Unchanged, or folded if there are more than `most`."""
    return tuple(selectors) if len(selectors) <= most else fold(selectors)


def volume(selectors: Iterable[TrafficSelector]) -> int:
    """The amount of traffic that they name, for comparisons."""
    return sum(map(_volume, selectors))


def _join(rising: Sequence[TrafficSelector]) -> list[TrafficSelector]:
    joined: list[TrafficSelector] = []
    for ts in rising:
        last = joined[-1] if joined else None
        if last is None or int(ts.start) > int(last.end) + 1:
            joined.append(ts)
        elif int(ts.end) > int(last.end):
            joined[-1] = TrafficSelector(last.start, ts.end, ts.protocol, ts.start_port, ts.end_port)
    return joined


def _spans(parts: Iterable[tuple[int, int]], first: int, last: int) -> bool:
    """Whether the ranges cover first to last without a gap."""
    for start, end in sorted(parts):
        if start > first:
            return False
        first = max(first, end + 1)
        if first > last:
            return True
    return False


def _spans_of(selectors: Iterable[TrafficSelector]) -> list[Span]:
    """Address ranges as numbers for `_near`, which discards most pairs of two long lists quickly."""
    return [(ts.version, int(ts.start), int(ts.end), ts) for ts in selectors]


def _near(one: TrafficSelector, spans: Iterable[Span]) -> Iterator[TrafficSelector]:
    """Those that share an address with it."""
    version, start, end = one.version, int(one.start), int(one.end)
    return (ts for v, first, last, ts in spans if v == version and start <= last and first <= end)


def _holds(one: TrafficSelector, other: TrafficSelector) -> bool:
    """As TrafficSelector.contains, without making a selector."""
    return one.version == other.version and _holds_addresses(one, other) and _holds_ports(one, other)


def _holds_addresses(one: TrafficSelector, other: TrafficSelector) -> bool:
    return int(one.start) <= int(other.start) and int(other.end) <= int(one.end)


def _holds_ports(one: TrafficSelector, other: TrafficSelector) -> bool:
    """Protocol and ports; any port holds OPAQUE."""
    if not _holds_protocol(one, other):
        return False
    if one.is_opaque or other.is_opaque:
        return other.is_opaque and (one.is_opaque or one.is_any_port)
    return one.start_port <= other.start_port and other.end_port <= one.end_port


def _holds_protocol(one: TrafficSelector, other: TrafficSelector) -> bool:
    return one.protocol in (0, other.protocol)


def _volume(ts: TrafficSelector) -> int:
    ports = 1 if ts.is_opaque else ts.end_port - ts.start_port + 1
    return (int(ts.end) - int(ts.start) + 1) * ports * (1 if ts.protocol else 256)


def shown(selectors: Sequence[TrafficSelector]) -> str:
    """For a log line; cut, because a peer chooses its length."""
    left = len(selectors) - _SHOWN
    return (selectors_text(selectors[:_SHOWN]) or "nothing") + (f" and {left} more" if left > 0 else "")
