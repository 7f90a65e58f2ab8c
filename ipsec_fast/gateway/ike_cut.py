"""IKE datagrams in IP fragments of our own making, small enough for every path (docs/mtu.md).

The last resort for a message that was not answered and cannot be fragmented by IKE itself (RFC 7383). The kernel would
fragment at the interface's MTU only; further down a narrower path, nobody may fragment again. Uses raw sockets with our
SO_MARK, opened when they are needed; they need CAP_NET_RAW, otherwise HostError. Called by ike_io.
"""

from __future__ import annotations

import socket
import struct

from ..dataplane.fragment import fragment_packet
from ..dataplane.ip import checksum
from ..dataplane.sad import next_identification
from ..errors import HostError
from ..model import Address, Path
from ..system.routes import MARK

CUT_BYTES = {4: 576, 6: 1280}  # what every host takes: RFC 791, RFC 8200
MOST_BYTES = {4: 65535 - 20 - 8, 6: 65535 - 8}  # of a UDP datagram; the length of an IPv4 packet counts its header too
_SO_MARK = 36
_UDP, _TTL = socket.IPPROTO_UDP, 64


class CutSender:
    """At most one raw socket for each version."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def send(self, payload: bytes, path: Path) -> None:
        """One UDP datagram in IP fragments; OSError with the kernel's reason, HostError where there can be no raw socket."""
        if path.local.is_unspecified:
            raise HostError("the source address of IP fragments is not known")
        most = MOST_BYTES[path.remote.version]
        if len(payload) > most:
            raise HostError(
                f"a UDP datagram over IPv{path.remote.version} has at most {most} bytes, not {len(payload)}"
            )
        raw = self._socket_for(path.remote.version)
        for fragment in fragment_packet(packet_of(payload, path), CUT_BYTES[path.remote.version]):
            raw.sendto(fragment, (str(path.remote), 0))

    def _socket_for(self, version: int) -> socket.socket:
        if version not in self._sockets:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            try:
                one = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            except OSError as error:
                raise HostError(f"no raw socket for IP fragments: {error.strerror}") from None
            try:
                one.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
            except OSError as error:  # without the mark what it sends could be routed into the tunnel
                one.close()
                raise HostError(f"no mark for IP fragments: {error.strerror}") from None
            self._sockets[version] = one
        return self._sockets[version]

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()


def packet_of(payload: bytes, path: Path) -> bytes:
    """The whole IP packet of a UDP datagram, without DF."""
    udp = struct.pack("!HHHH", path.local_port, path.remote_port, 8 + len(payload), 0) + payload
    udp = udp[:6] + _udp_checksum(udp, path.local, path.remote) + udp[8:]
    if path.remote.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(udp), _UDP, _TTL) + path.local.packed + path.remote.packed + udp
    ident = next_identification(path.local, path.remote, _UDP)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), ident, 0, _TTL, _UDP, 0)
    head += path.local.packed + path.remote.packed
    return head[:10] + _inverted(checksum(head)) + head[12:] + udp


def _udp_checksum(udp: bytes, source: Address, destination: Address) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!IHBB", len(udp), 0, 0, _UDP)
    found = _inverted(checksum(pseudo + udp))
    return found if any(found) else b"\xff\xff"  # zero says that there is none


def _inverted(sixteen_bits: bytes) -> bytes:
    return bytes(255 - octet for octet in sixteen_bits)
