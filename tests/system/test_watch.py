"""News of links and routes: those of others count, our own do not."""

from __future__ import annotations

import select
import socket
import struct
import subprocess

import pytest

from ipsec_fast.system.routes import PROTOCOL
from ipsec_fast.system.watch import RTM_F_CLONED, RTM_NEWLINK, RTM_NEWROUTE, RouteWatch

pytestmark = pytest.mark.netns


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def news(watch: RouteWatch) -> bool:
    select.select([watch.fd], [], [], 2.0)
    return watch.take()


def test_links_and_routes_of_others_are_news_ours_are_not() -> None:
    ip("link add watch0 type veth peer name watch1")
    try:
        index = socket.if_nametoindex("watch0")
        for name in ("watch0", "watch1"):
            ip(f"link set {name} up")
        watch = RouteWatch(index)
        try:
            assert not watch.take()
            ip("link set watch1 mtu 1400")
            assert news(watch)
            ip("link set watch0 mtu 1400")
            assert not news(watch)
            ip("route add 203.0.113.0/24 dev watch0")
            assert news(watch)
            ip(f"route add 198.51.100.0/24 dev watch0 proto {PROTOCOL}")
            assert not news(watch)
        finally:
            watch.close()
    finally:
        ip("link del watch0")


@pytest.mark.parametrize("body", [b"", b"\0" * 4, b"\0" * 11])
def test_cut_short_messages_are_no_news(body: bytes) -> None:
    watch = RouteWatch(1)
    try:
        assert not watch._counts(RTM_NEWROUTE, body)
        assert not watch._counts(RTM_NEWLINK, body[:4])
        assert not watch._counts(RTM_NEWROUTE, struct.pack("=8BI", *[0] * 8, RTM_F_CLONED))
    finally:
        watch.close()
