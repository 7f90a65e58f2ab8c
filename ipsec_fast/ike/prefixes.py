"""The networks around an address that one sender may own as a whole, so that limits can count them as one.

IPv4: /8, /16, /24 and the address. IPv6: /32, /48, /56 and /64, since a host has a /64 to choose from. Used by half_open.py for all
four, and by fair.py for the narrower three: what has a rate of its own is never as wide as a provider.
"""

from __future__ import annotations

from ..model import Address

Prefix = tuple[int, int]  # version and length in one number, and the bits
LEVELS = 4
_SHIFTS = {4: (24, 16, 8, 0), 6: (96, 80, 72, 64)}


def prefixes_of(address: Address) -> tuple[Prefix, ...]:
    """From the widest to the narrowest."""
    number, version = int(address), address.version
    return tuple((version << 8 | shift, number >> shift) for shift in _SHIFTS[version])
