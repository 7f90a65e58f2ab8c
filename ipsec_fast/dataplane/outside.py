"""How packets are cut outside whose SA sends by a UDP socket: those that do not fit the path and whose senders may not be told so.

IPv6 packets of up to 1280 bytes must pass every link (RFC 8200 section 5). Called by control.children; udp.set_endpoint takes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model import Address


@dataclass(frozen=True, slots=True)
class Outside:
    """By which raw socket, from which address and port, in fragments of at most `mtu` bytes."""

    socket_index: int
    local: Address
    local_port: int
    mtu: int
