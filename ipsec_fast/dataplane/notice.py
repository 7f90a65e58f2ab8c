"""What a worker reports upward: notices through the notify ring, packets that are not ESP through the punt ring."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..model import Address, TrafficSelector


class NoticeKind(IntEnum):
    """Why control should look; each is reported once per cause, not once per packet."""

    FIRST_INBOUND = 1  # the first valid packet of an inbound SA
    REKEY_SOON = 2  # an outbound SA passed a soft limit: 75 % of the sequence numbers, or a lifetime
    GRANT_WANTED = 3  # half of the granted block of an outbound SA is used
    SEQ_EXHAUSTED = 4  # an outbound SA has no number left: nothing leaves any more
    UNKNOWN_SPI = 5  # ESP for an SPI we do not have, at most one a second
    NO_SA = 6  # a protect policy without an SA, at most one a second and policy; `spi` is the policy's tag, with the packet's selectors
    TUN_LOST = 7  # the TUN device was deleted: nothing is read from it until Worker.resume_inner
    LIFE_OVER = 8  # an outbound SA reached a hard limit of its lifetime: nothing leaves any more
    IN_REKEY_SOON = 9  # an inbound SA passed a soft limit
    IN_LIFE_OVER = 10  # an inbound SA reached a hard limit: nothing of it is delivered any more
    TOO_BIG = 11  # ICMP, believed by nobody yet: a packet to `remote` was too big, the MTU there is `size`; `spi` and `number` as quoted
    ECHO_ANSWERED = (
        12  # an echo of ours (dataplane/echo.py) came back on the inbound SA with tag `spi`; `number`: which one
    )
    BIG_SENT = (
        13  # the first packet of more than 512 bytes for a second, not ICMP, left on the outbound SA with tag `spi`
    )
    INNER_DOWN = 14  # the interface of a packet socket is down or gone; told once until frames pass again
    PEER_MOVED = 15  # the newest packet of the inbound SA with tag `spi` came from elsewhere (udp.newest_source, tell_source_again)


@dataclass(frozen=True, slots=True)
class Notice:
    """`spi` as a number in host order (of NO_SA: the `tag` of the policy; of
    TOO_BIG 0 where the ICMP quotes too little).

    `remote`: of UNKNOWN_SPI the sender; of TOO_BIG the destination of our packet; of NO_SA that of the dropped packet.
    `local`, `protocol`, `ports` are of NO_SA's packet: (local, remote) port, of ICMP type << 8 | code twice, None where
    it shows none. `tag`: of what one SA reports (its first packet, limits, grant), the `SA.tag` of it. Identify an SA
    by its tag: the peer chooses an outbound SPI, and two peers may choose the same.
    """

    kind: NoticeKind
    spi: int
    remote: Address | None = None
    number: int = 0
    size: int = 0
    local: Address | None = None
    protocol: int = 0
    ports: tuple[int, int] | None = None
    tag: int = 0

    @property
    def packet(self) -> tuple[TrafficSelector, TrafficSelector] | None:
        """Local and remote selector of NO_SA's packet (RFC 7296 section 2.9); None if the packet does not show them."""
        if self.local is None or self.remote is None:
            return None
        ours, theirs = [(0, 65535)] * 2 if self.ports is None else [(port, port) for port in self.ports]
        return (
            TrafficSelector(self.local, self.local, self.protocol, *ours),
            TrafficSelector(self.remote, self.remote, self.protocol, *theirs),
        )


@dataclass(frozen=True, slots=True)
class Punted:
    """A datagram that is not ESP, its non-ESP marker removed; `local` is None if the kernel did not say."""

    data: bytes
    socket_index: int
    local: Address | None
    local_port: int
    remote: Address
    remote_port: int
