from typing import Any

def parse(packet: bytes) -> tuple[str, dict[str, Any] | None]:
    """("ok", fields) or (reason, None), by the header parse of the kernels; for tests."""

def checksum(data: bytes) -> bytes:
    """The 16-bit sum, not inverted, as two bytes in memory order."""

def checksum_copy(data: bytes) -> tuple[bytes, bytes]:
    """(the copy, its sum) of the loop that does both."""

def decapsulate(inner: bytes, outer_tos: int) -> bytes | None:
    """The inner packet as RFC 6040 leaves it, None where it must be dropped."""
