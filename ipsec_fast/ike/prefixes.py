"""The networks around an address that one sender may own as a whole, so that limits can count them as one.

IPv4: /16, /24 and the address. IPv6: /48, /56 and /64, since a host may use any address of
its /64. Used by half_open.py and fair.py.
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
