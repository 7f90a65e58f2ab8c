"""What may be seen of a Child SA's dataplane half, in the shapes that gateway.vici.control fixes. Called by gateway.operations."""

from __future__ import annotations

from typing import Any

from ..dataplane.spd import last_received_s, last_sent_s
from .children import InstalledChild


def child_counters(child: InstalledChild | None, now: float) -> dict[str, Any]:
    """Packets and bytes of inner traffic, threads that may help with its ciphers, seconds since the last packet of a direction."""
    if child is None:
        return {}
    inbound, outbound = child.sa_in.counters(), child.sa_out.counters()
    found: dict[str, Any] = {
        "bytes_in": inbound.get("bytes", 0),
        "packets_in": inbound.get("packets", 0),
        "bytes_out": outbound.get("bytes", 0),
        "packets_out": outbound.get("packets", 0),
        "crew": child.sa_out.crew,
    }
    for key, at in (("use_in_s", last_received_s(child.sa_in)), ("use_out_s", last_sent_s(child.sa_out))):
        if at is not None:
            found[key] = max(0.0, now - at)
    return found


def child_mtu(child: InstalledChild | None) -> dict[str, int] | None:
    if child is None:
        return None
    return {"mtu": child.mtu.max_inner_bytes, "mss_ipv4": child.mtu.mss_ipv4, "mss_ipv6": child.mtu.mss_ipv6}


def child_path(child: InstalledChild | None) -> dict[str, Any] | None:
    """How it wraps its packets, what that gives, and what was found out about its path."""
    if child is None:
        return None
    return {
        "path_mtu": child.path_mtu,
        "inner_version": child.wraps.inner_version,
        "outer_version": child.wraps.outer_version,
        "max_inner_bytes": child.mtu.max_inner_bytes,
        "mss_ipv4": child.mtu.mss_ipv4,
        "mss_ipv6": child.mtu.mss_ipv6,
        "copy_df": child.whole,
        "cuts": child.cuts,
        "findings": {name: {"path_mtu": one.path_mtu, "at": one.at} for name, one in child.findings.items()},
    }
