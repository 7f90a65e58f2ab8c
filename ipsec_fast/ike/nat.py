"""NAT detection (RFC 7296 section 2.23): the hashes both sides send in IKE_SA_INIT, and what they tell.

Every hash covers the SPIs, an address and a port as their owner sees them; where the receiver sees others, a NAT stands
between. `fake_source_hash` is the `encap = true` of a connection: no sender has address 0.0.0.0 and port 0, so it never
matches and the peer must encapsulate. Moving to port 4500 is the state machine's business.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from ..model import Address, Path

NAT_HASH_BYTES = 20


@dataclass(frozen=True, slots=True)
class NatResult:
    """`supported`: the peer sent both kinds of notify. `local`, `remote`: that side is behind a NAT, or says so."""

    supported: bool
    local: bool
    remote: bool


def nat_hash(spi_i: bytes, spi_r: bytes, address: Address, port: int) -> bytes:
    """SHA-1(SPIi | SPIr | IP address | port); SPIr is zero in the IKE_SA_INIT request."""
    data = spi_i + spi_r + address.packed + port.to_bytes(2, "big")
    return hashlib.sha1(data, usedforsecurity=False).digest()


def fake_source_hash(spi_i: bytes, spi_r: bytes) -> bytes:
    """A NAT_DETECTION_SOURCE_IP that matches no path."""
    return nat_hash(spi_i, spi_r, ipaddress.IPv4Address(0), 0)


def source_hash(spi_i: bytes, spi_r: bytes, path: Path, *, encap: bool) -> bytes:
    """The NAT_DETECTION_SOURCE_IP of a message that leaves on `path`."""
    if encap:
        return fake_source_hash(spi_i, spi_r)
    return nat_hash(spi_i, spi_r, path.local, path.local_port)


def destination_hash(spi_i: bytes, spi_r: bytes, path: Path) -> bytes:
    """The NAT_DETECTION_DESTINATION_IP of a message that leaves on `path`."""
    return nat_hash(spi_i, spi_r, path.remote, path.remote_port)


def detect_nat(
    spi_i: bytes, spi_r: bytes, path: Path, sources: Iterable[bytes], destinations: Iterable[bytes]
) -> NatResult:
    """Compare the peer's notifies with the path its message came on; a peer with many addresses sends many sources."""
    sources, destinations = tuple(sources), tuple(destinations)
    if not sources or not destinations:
        return NatResult(False, False, False)
    seen_source = nat_hash(spi_i, spi_r, path.remote, path.remote_port)
    seen_destination = nat_hash(spi_i, spi_r, path.local, path.local_port)
    return NatResult(True, local=seen_destination not in destinations, remote=seen_source not in sources)
