"""What the kernels shall reach, as ratios to the bare engine of the same run (docs/performance.md). Called by esp_face.py."""

from __future__ import annotations

LARGE_BYTES, SMALL_BYTES = 1400, 64
SMALL_NS, SMALL_RATIO = 40.0, 1.7
OPENSSL, OTHERS, GMAC, OPENING = 1.12, 1.20, 1.60, 1.25


def ratio_target(
    algorithm: str, engine: str, direction: str, packet_bytes: int, raw_ns_per_packet: float
) -> float | None:
    """The largest ratio that is good; None where nothing was aimed at."""
    is_plain = algorithm == "aes128gcm16"
    if packet_bytes == SMALL_BYTES and is_plain and direction == "out" and engine != "openssl":
        return max(SMALL_RATIO, SMALL_NS / raw_ns_per_packet)
    if packet_bytes != LARGE_BYTES:
        return None
    if engine == "openssl":
        return OPENSSL
    if "gmac" in algorithm:
        return GMAC
    return OPENING if is_plain and direction == "in" else OTHERS
