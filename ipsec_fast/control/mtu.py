"""Overhead, largest inner packet and MSS of an SA, by arithmetic alone (design.md decision 10; RFC 4303 section 2, RFC 3948 section 2.1).

    outer IP (20 or 40) | UDP (8, if encapsulated) | SPI, sequence number (8) | IV | inner packet, padding, pad length, next header | ICV

The encrypted part is a multiple of the cipher's block (at least 4 bytes), and needs 2 bytes behind the inner packet.
Called by control.manager, the status views, and the `mtu` command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..algorithms import EspSuite, esp_suite

ESP_HEADER_BYTES = 8
ESP_TRAILER_BYTES = 2  # pad length and next header
UDP_HEADER_BYTES = 8
IP_HEADER_BYTES = {4: 20, 6: 40}
TCP_HEADER_BYTES = 20
IPV6_MIN_MTU = 1280
MAX_TUN_MTU = 65535

DEAREST = esp_suite("aes256-sha512")  # the longest IV, block and ICV

Mss = int | Literal["auto", "off"]


@dataclass(frozen=True, slots=True)
class TunnelMtu:
    """What fits through one SA. `overhead_bytes` is what the largest inner packet grows by; an MSS of 0 means: leave it alone."""

    overhead_bytes: int
    max_inner_bytes: int
    mss_ipv4: int
    mss_ipv6: int


def tunnel_mtu(suite: EspSuite, path_mtu: int, outer_version: int, encap: bool, mss: Mss = "auto") -> TunnelMtu:
    """The figures of one SA on a path of `path_mtu` bytes; 0 bytes inside where not even an empty packet fits."""
    fixed = IP_HEADER_BYTES[outer_version] + (UDP_HEADER_BYTES if encap else 0) + ESP_HEADER_BYTES
    fixed += suite.encryption.iv_bytes + suite.icv_bytes
    block = max(4, suite.encryption.block_bytes)
    inner = max(0, (path_mtu - fixed) // block * block - ESP_TRAILER_BYTES)
    return TunnelMtu(path_mtu - inner, inner, _mss(mss, inner, 4), _mss(mss, inner, 6))


def tun_mtu(inner: list[int], path_mtu: int) -> int:
    """The MTU of a TUN that carries SAs with these largest inner packets; without an SA as if it had the dearest suite.

    Never below 1280, or the kernel takes IPv6 from the device; the worker answers too-big for what then still does not fit.
    """
    least = min(inner) if inner else tunnel_mtu(DEAREST, path_mtu, 6, True).max_inner_bytes
    return min(max(least, IPV6_MIN_MTU), MAX_TUN_MTU)


def _mss(wanted: Mss, inner: int, version: int) -> int:
    if wanted == "off":
        return 0
    fits = max(0, inner - IP_HEADER_BYTES[version] - TCP_HEADER_BYTES)
    return fits if wanted == "auto" else min(wanted, fits)
