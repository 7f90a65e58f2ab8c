"""Paths of datagrams, over real sockets of the loopback device in a namespace of its own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ipsec_fast.errors import HostError
from ipsec_fast.gateway.ike_io import IkeSockets, listening_addresses, source_for
from ipsec_fast.ike.events import Outer
from ipsec_fast.model import Path

pytestmark = pytest.mark.netns
A, B = ip_address("192.0.2.1"), ip_address("192.0.2.9")


@pytest.fixture
def _net() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(0x40000000) == 0
    try:
        lines = ["link set lo up", *(f"addr add {a}/32 dev lo" for a in ("192.0.2.1", "192.0.2.9"))]
        for line in [*lines, "addr add 2001:db8::1/128 dev lo nodad"]:
            subprocess.run(["ip", *line.split()], check=True)
        yield
    finally:
        libc.setns(home, 0x40000000)
        os.close(home)


async def exchange(sockets: IkeSockets, got: list, local: str, family: int) -> tuple[Path, tuple]:
    """A datagram from a plain socket to `local`, and our answer to it as that socket sees its source."""
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.settimeout(2)
        peer.bind((local, 0))
        peer.sendto(b"hello", (local, 500))
        for _ in range(100):
            if got:
                break
            await asyncio.sleep(0.01)
        data, path = got.pop()
        assert data == b"hello"
        sockets.send(b"back", path)
        data, sender = peer.recvfrom(100)
        assert data == b"back"
        return path, sender


@pytest.mark.parametrize("listen_on", [["192.0.2.1", "192.0.2.9", "2001:db8::1"], ["0.0.0.0", "::"]])
async def test_an_answer_leaves_from_where_the_question_came_to(_net, listen_on):  # noqa: PT019
    got: list = []
    sockets = IkeSockets(lambda data, path: got.append((data, path)))
    sockets.open(ip_address(one) for one in listen_on)
    sockets.start(asyncio.get_running_loop())
    try:
        for local, family in (
            ("192.0.2.9", socket.AF_INET),
            ("192.0.2.1", socket.AF_INET),
            ("2001:db8::1", socket.AF_INET6),
        ):
            path, sender = await exchange(sockets, got, local, family)
            assert (str(path.local), path.local_port, path.marker) == (local, 500, False)
            assert sender[:2] == (local, 500)
    finally:
        sockets.close()


@pytest.mark.parametrize(("local", "family"), [("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6)])
def test_what_the_interface_does_not_take_leaves_in_ip_fragments_but_a_probe_is_refused(_net, local, family):  # noqa: PT019
    """Without IKE fragmentation a large message must leave all the same; a probe that was cut would lie about the path."""
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1400"], check=True)
    sockets = IkeSockets(lambda data, path: None)
    sockets.open([ip_address(local)])
    payload = os.urandom(3000)
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.settimeout(2)
        peer.bind((local, 0))
        path = Path(ip_address(local), 500, ip_address(local), peer.getsockname()[1])
        try:
            with pytest.raises(OSError, match="too long"):
                sockets.send(payload, path, Outer.NEVER)
            for _ in range(2):  # and again: DF is back after it
                sockets.send(payload, path)
                assert peer.recv(4000) == payload
            with pytest.raises(OSError, match="too long"):
                sockets.send(payload, path, Outer.NEVER)
            sockets.send(payload[:1300], path, Outer.NEVER)
            assert peer.recv(4000) == payload[:1300]
        finally:
            sockets.close()


async def test_a_port_in_use_is_one_clear_error(_net):  # noqa: PT019
    first, second = IkeSockets(print), IkeSockets(print)  # type: ignore[arg-type]
    first.open([A])
    with pytest.raises(HostError, match=r"cannot listen on 192\.0\.2\.1 port 500: another program has it"):
        second.open([A])
    second.close()
    first.close()


async def test_an_address_that_is_not_ours_is_one_clear_error(_net):  # noqa: PT019
    sockets = IkeSockets(print)  # type: ignore[arg-type]
    with pytest.raises(HostError, match=r"cannot listen on 192\.0\.2\.77 port 500: this host has no such address"):
        sockets.open([ip_address("192.0.2.77")])
    sockets.close()


def test_no_route_to_a_peer_is_one_clear_error(_net):  # noqa: PT019
    with pytest.raises(HostError, match=r"no way to 203\.0\.113\.1: Network is unreachable"):
        source_for(ip_address("203.0.113.1"))
    assert source_for(A) == A


def test_one_connection_without_an_address_means_the_wildcards():
    assert listening_addresses([(A,), (A, B)]) == [A, B]
    assert ip_address("0.0.0.0") in listening_addresses([(A,), ()])
    assert A not in listening_addresses([(A,), ()])
