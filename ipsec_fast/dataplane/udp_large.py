"""UDP datagrams that the kernel must send in IP fragments, although the port's socket sends with DF.

Whether packets carry DF is an option of a whole socket. The sockets of a worker send ESP at any moment, in another
thread, so the option must never change there. A second UDP socket on the port would receive a part of what is meant for
the first one. So such a datagram leaves by a raw socket for UDP, which sends without DF, receives nothing, and is
opened at its first use. Left out: smaller fragments than the interface's (gateway/ike_cut). Called by udp.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from ..errors import HostError
from ..model import Address
from .ip import checksum

MOST_BYTES = {4: 65535 - 20 - 8, 6: 65535 - 8}  # of a UDP datagram; the length of an IPv4 packet counts its header too
_SO_MARK, _SO_ATTACH_FILTER = 36, 26
_IP_PKTINFO, _IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 8, 10, 23, 0
_BPF_RETURN = 0x06


class LargeSender:
    """One raw socket of an IP version. HostError without CAP_NET_RAW."""

    def __init__(self, version: int, mark: int | None) -> None:
        self._version = version
        try:
            self._socket = socket.socket(
                socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP
            )
        except PermissionError:
            raise HostError(
                "a datagram longer than the interface's MTU needs a raw socket (CAP_NET_RAW is missing): "
                "run as root, or let IKE fragment its messages"
            ) from None
        try:
            self._set_options(mark)
        except OSError:
            self._socket.close()
            raise

    def _set_options(self, mark: int | None) -> None:
        # a raw socket gets a copy of each datagram that arrives: this one takes none of them (classic BPF, "return 0")
        code = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RETURN, 0, 0, 0), 8)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(code)))
        if self._version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        if mark is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)

    def send(self, data: bytes, local: Address | None, local_port: int, remote: Address, port: int) -> None:
        """OSError with the kernel's reason."""
        if len(data) > MOST_BYTES[self._version]:
            raise HostError(
                f"cannot send {len(data)} bytes to {remote}[{port}]: "
                f"a UDP datagram over IPv{self._version} has at most {MOST_BYTES[self._version]} bytes"
            )
        source = self._source_for(remote) if local is None or local.is_unspecified else local.packed
        header = struct.pack("!HHH", local_port, port, 8 + len(data))
        pseudo = source + remote.packed + struct.pack("!IHBB", 8 + len(data), 0, 0, socket.IPPROTO_UDP)
        sum_ = _inverted(checksum(pseudo + header + bytes(2) + bytes(data)))
        self._socket.sendmsg([header + sum_, data], [self._control(source)], 0, (str(remote), 0))

    def _source_for(self, remote: Address) -> bytes:
        """The source address that the kernel would choose, since the checksum covers it."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as one:
            if mark := self._socket.getsockopt(socket.SOL_SOCKET, _SO_MARK):
                one.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            one.connect((str(remote), 9))
            return socket.inet_pton(one.family, one.getsockname()[0].partition("%")[0])

    def _control(self, source: bytes) -> tuple[int, int, bytes]:
        if self._version == 4:
            return (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4x", 0, source))
        return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("16si", source, 0))

    def close(self) -> None:
        self._socket.close()


def _inverted(sixteen_bits: bytes) -> bytes:
    found = bytes(255 - octet for octet in sixteen_bits)
    return found if any(found) else b"\xff\xff"  # zero would mean that there is no checksum
