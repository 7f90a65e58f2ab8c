def clamped(packet: bytes, mss: int) -> bytes:
    """The packet as the worker's MSS clamp leaves it, for tests."""

def too_big_answer(packet: bytes, mtu: int) -> bytes:
    """The ICMP or ICMPv6 answer to a packet above `mtu`, for tests; empty if none may be sent."""
