from typing import Literal

def clamped(
    packet: bytes, mss: int, *, partial: bool = False
) -> tuple[Literal["kept", "clamped", "odd", "bad"], bytes]:
    """What the worker's MSS clamp says of a packet and how it leaves it, for tests. `partial`: its checksum is not complete yet."""

def too_big_answer(packet: bytes, mtu: int, *, wire_length: int = 0) -> bytes:
    """The ICMP or ICMPv6 answer to a packet above `mtu`, for tests; empty if none may be sent. `wire_length`: a super-packet's segment."""
