"""UDP sockets: what the host refuses is said with address and port, every offload has its switch."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.udp import UdpSocket
from ipsec_fast.errors import HostError, UsageError

LOOPBACK = ip_address("127.0.0.1")


def test_port_in_use_names_address_and_port() -> None:
    first = UdpSocket(LOOPBACK, 0)
    with pytest.raises(HostError, match=rf"127\.0\.0\.1\[{first.port}\].*another program"):
        UdpSocket(LOOPBACK, first.port)
    first.close()


def test_address_that_the_host_lacks() -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.77\[0\].*no such address"):
        UdpSocket(ip_address("192.0.2.77"), 0)


@pytest.mark.parametrize(("version", "port"), [(5, 4500), (4, 65536), (4, -1)])
def test_version_and_port_are_checked(version: int, port: int) -> None:
    with pytest.raises(UsageError, match="version 4 or 6"):
        UdpSocket(None, port, version=version)


def test_closed_socket_closes_twice() -> None:
    sock = UdpSocket(LOOPBACK, 0)
    sock.close()
    sock.close()
    assert sock.fd == -1


def test_each_offload_has_its_switch() -> None:
    sock = UdpSocket(LOOPBACK, 0, offload=Offload(udp_segment=False, udp_gro=False))
    assert sock.features == {"udp_segment": False, "udp_gro": False}
    sock.close()


@pytest.mark.parametrize("text", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("wildcard", [False, True])
def test_sendto_adds_nothing_and_takes_the_source_address_asked_for(text: str, wildcard: bool) -> None:
    address = ip_address(text)
    receiver = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.bind((text, 0))
    receiver.settimeout(5)
    sender = UdpSocket(None if wildcard else address, 0, version=address.version)
    sender.sendto(b"\xff", address, receiver.getsockname()[1], address)
    data, name = receiver.recvfrom(100)
    assert (data, name[:2]) == (b"\xff", (text, sender.port))
    sender.close()
    receiver.close()


def test_send_that_the_kernel_refuses_says_why() -> None:
    sock = UdpSocket(LOOPBACK, 0)
    with pytest.raises(HostError, match=r"cannot send 3 bytes to 255\.255\.255\.255\[9\]"):
        sock.sendto(b"abc", ip_address("255.255.255.255"), 9)
    sock.close()
