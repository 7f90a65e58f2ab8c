"""What shall be reached, by ratios within one run (docs/performance.md): of kernels to the bare engine, of gateways to others.

Called by esp_face.py and gateway_face.py.
"""

from __future__ import annotations

from collections.abc import Mapping

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


RSS_MBYTES = 96.0
# of each figure: (whose, by what it is multiplied); on OpenSSL alone one TCP stream has another goal
GATEWAY: Mapping[str, tuple[tuple[str, float], ...]] = {
    "tcp1_gbit_per_s": (("wireguard-go", 2.7), ("charon", 9.0), ("null", 0.85)),
    "tcp1_no_tso_gbit_per_s": (("wireguard-go", 1.5),),
    "udp64_kpps": (("wireguard-go", 1.6),),
    "rtt_ms_median": (("wireguard-go", 0.8),),
    "cpu_s_per_gbyte": (("wireguard-go", 0.4),),
}
GATEWAY_OPENSSL: tuple[tuple[str, float], ...] = (("wireguard-go", 2.0),)
LESS_IS_BETTER = ("rtt_ms_median", "cpu_s_per_gbyte")


def gateway_target(figure: str, engine: str | None, others: Mapping[str, float]) -> float | None:
    """What our gateway shall reach beside these others of the same run (path -> the same figure): the hardest goal; None without one."""
    if figure == "rss_mbytes":
        return RSS_MBYTES
    goals = GATEWAY_OPENSSL if (figure, engine) == ("tcp1_gbit_per_s", "openssl") else GATEWAY.get(figure, ())
    found = [others[path] * factor for path, factor in goals if path in others]
    if not found:
        return None
    return min(found) if figure in LESS_IS_BETTER else max(found)
