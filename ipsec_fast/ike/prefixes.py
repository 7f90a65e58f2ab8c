"""Who belongs together: the address of a datagram, and the networks around it of which one stranger may well have all addresses.

IPv4: /16, /24 and the address. IPv6: /48, /56 and /64, since a host has a /64 to choose from. Used by half_open.py and fair.py.
"""

from __future__ import annotations

from ..model import Address

Prefix = tuple[int, int]  # version and length in one number, and the bits
LEVELS = 3
_SHIFTS = {4: (16, 8, 0), 6: (80, 72, 64)}


def prefixes_of(address: Address) -> tuple[Prefix, Prefix, Prefix]:
    """From the widest to the narrowest."""
    number, version = int(address), address.version
    wide, middle, narrow = _SHIFTS[version]
    return (
        (version << 8 | wide, number >> wide),
        (version << 8 | middle, number >> middle),
        (version << 8 | narrow, number >> narrow),
    )
