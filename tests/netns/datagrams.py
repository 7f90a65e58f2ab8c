"""UDP in namespaces, for tests of segmentation: senders of super-packets (UDP_SEGMENT), and receivers that do not know of them."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from ipsec_fast.demo.namespaces import in_namespace

UDP_SEGMENT, UDP_GRO = 103, 104
PORT = 7001


def udp_socket(namespace: str, version: int, address: str | None = None, *, joined: bool = False) -> socket.socket:
    """`address`: bound to it, on PORT. `joined`: it takes several datagrams at once."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    made = in_namespace(f"/run/netns/{namespace}", lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.settimeout(5)
    if joined:
        made.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    if address is not None:
        made.bind((address, PORT))
    return made


def send_super(sender: socket.socket, to: str, data: bytes, size: int) -> None:
    """One send: the kernel makes datagrams of `size` bytes of it, the last may be shorter."""
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    sender.sendto(data, (to, PORT))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def received(receiver: socket.socket, count: int) -> list[bytes]:
    """`count` datagrams, each with its own recv."""
    return [receiver.recv(70000) for _ in range(count)]


def received_joined(receiver: socket.socket) -> tuple[bytes, int]:
    """What one recv gives an application with UDP_GRO, and the size of the datagrams in it."""
    data, control, _, _ = receiver.recvmsg(70000, 64)
    wanted = (socket.IPPROTO_UDP, UDP_GRO)
    sizes = [struct.unpack("i", value[:4])[0] for level, kind, value in control if (level, kind) == wanted]
    return data, sizes[0] if sizes else len(data)


def header_bytes(address: str) -> int:
    """IP and UDP header."""
    return 28 if ip_address(address).version == 4 else 48
