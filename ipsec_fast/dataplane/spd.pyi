from collections.abc import Sequence
from typing import Literal

from ..model import TrafficSelector
from .sad import SA

class Policy:
    """One entry of the SPD (RFC 4301 section 4.4.1) for packets that leave: the first match counts, none: discard.

    `protect` without `outbound` drops (`policy_no_sa`) and reports `tag` (NoticeKind.NO_SA). What says `bypass` cannot
    leave through a TUN: dropped, counted as `bypass_not_routable`. `owner` is the worker that sends on `outbound`; the
    others hand their packets to it. None: whichever worker has the tables; of several workers one must be named.
    """

    action: str
    local: TrafficSelector
    remote: TrafficSelector
    outbound: SA | None
    tag: int
    owner: int | None
    def __init__(
        self,
        action: Literal["protect", "bypass", "discard"],
        local: TrafficSelector,
        remote: TrafficSelector,
        outbound: SA | None = None,
        tag: int = 0,
        owner: int | None = None,
    ) -> None: ...

class Tables:
    """An immutable snapshot: inbound SAs by SPI, policies in order. It keeps its SAs alive; `Worker.publish` swaps it in.

    Raises UsageError: an SA of the wrong direction or with outer addresses, an SPI twice, an inbound SA without selectors,
    an outbound one without endpoint.
    """

    inbound: tuple[SA, ...]
    policies: tuple[Policy, ...]
    def __init__(self, inbound: Sequence[SA], policies: Sequence[Policy]) -> None: ...
    def find(self, packet: bytes) -> Policy | None:
        """The policy for a packet that leaves; None: none matches (it is discarded), or it is no IP packet."""

def set_selectors(sa: SA, local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]) -> None:
    """What an inbound SA may carry: destination in `local`, source in `remote`. May be called while workers use the SA."""

def accepts(sa: SA, packet: bytes) -> bool:
    """Whether the selectors of an inbound SA let this inner packet in."""

def last_sent_s(sa: SA) -> float | None:
    """Monotonic seconds of the last datagram sent on this SA, None if there was none."""

def last_big_s(sa: SA) -> float | None:
    """Monotonic seconds of the last inner packet of more than 512 bytes, not ICMP, that left on this SA, None if there was none."""

def last_received_s(sa: SA) -> float | None:
    """Monotonic seconds of the last valid packet received on this SA, None if there was none."""
