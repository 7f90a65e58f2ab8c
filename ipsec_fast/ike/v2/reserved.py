"""Networks that no peer may pick out of a wide remote_ts: reserved ones, and those connected to this host.

The SPD is the administrator's (RFC 4301 section 4.4.1). Loopback, link-local, multicast and broadcast addresses, and
the networks that are connected to this host, are cut out of what a peer proposes. They stay if the configuration names
them: by a selector that lies inside such a network, or by one that the peer takes as a whole (0.0.0.0/0 for 0.0.0.0/0).
The peer's own outer address is always allowed (host to host). Called by child_setup, for both roles.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from ...errors import NegotiationError
from ...iana import NotifyType
from ...model import Address, TrafficSelector, selectors_text

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NOBODYS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    )
)
PIECES_MAX = 128  # after the cuts a Child SA gets the first ones; narrowing further is allowed


def without_reserved(
    proposed: Sequence[TrafficSelector],
    configured: Sequence[TrafficSelector],
    connected: Iterable[Network],
    outer: Address,
) -> tuple[TrafficSelector, ...]:
    """The selectors without reserved and connected networks; NegotiationError (TS_UNACCEPTABLE) if none is left."""
    kept = list(proposed)
    for network in (*NOBODYS, *connected):
        if not _names(configured, network):
            kept = [piece for ts in kept for piece in _cut(ts, network, configured)]
    if kept != list(proposed):
        own = TrafficSelector.host(outer)
        lost = (ts.intersect(own) for ts in proposed)
        kept += [ts for ts in lost if ts is not None and not any(one.contains(ts) for one in kept)]
    if not kept:
        text = (
            f"{selectors_text(proposed[:8])}: loopback, link-local, multicast and broadcast addresses and networks connected here "
            "are not taken from a peer; name them in remote_ts if they are meant"
        )
        raise NegotiationError(text, NotifyType.TS_UNACCEPTABLE)
    return tuple(kept[:PIECES_MAX])


def _names(configured: Iterable[TrafficSelector], network: Network) -> bool:
    """Whether the configuration names this network: by a selector that equals it or lies in it."""
    first, last = int(network[0]), int(network[-1])
    return any(ts.version == network.version and first <= int(ts.start) and int(ts.end) <= last for ts in configured)


def _cut(ts: TrafficSelector, network: Network, configured: Iterable[TrafficSelector]) -> list[TrafficSelector]:
    """The selector without this network: up to two pieces."""
    first, last = int(network[0]), int(network[-1])
    if ts.version != network.version or int(ts.end) < first or last < int(ts.start):
        return [ts]
    if any((one.start, one.end) == (ts.start, ts.end) for one in configured):
        return [ts]  # the administrator's own words, not the peer's
    pieces = []
    if int(ts.start) < first:
        pieces.append(_part(ts, int(ts.start), first - 1))
    if last < int(ts.end):
        pieces.append(_part(ts, last + 1, int(ts.end)))
    return pieces


def _part(ts: TrafficSelector, start: int, end: int) -> TrafficSelector:
    kind = type(ts.start)
    return TrafficSelector(kind(start), kind(end), ts.protocol, ts.start_port, ts.end_port)
