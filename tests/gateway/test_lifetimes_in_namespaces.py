"""Lifetimes of two whole gateways under traffic: what ends by packets, by bytes, by time or by silence, and that nothing is lost by it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, site_pair

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

SEND = """
import contextlib, socket, sys, time
local, remote, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((local, 0))
start = time.monotonic()
for number in range(count):
    with contextlib.suppress(PermissionError):  # refused by the route that stands behind a child that is gone
        s.sendto(number.to_bytes(8, "big") + bytes(192), (remote, 7007))
    time.sleep(max(0, start + (number + 1) / rate - time.monotonic()))
"""
RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind((sys.argv[1], 7007))
s.settimeout(3)
seen = set()
print("ready", flush=True)
try:
    while True:
        seen.add(s.recv(2048)[:8])
except TimeoutError:
    print(len(seen))
"""


@pytest.fixture
def pair() -> Iterator[SitePair]:
    directory = Path(tempfile.mkdtemp(prefix="lf-"))
    try:
        with site_pair("life", directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)


def up(pair: SitePair, connection: str = "", child: str = "", **more: str) -> tuple[Gateway, Gateway]:
    """Side a has these lifetimes."""
    two, one = pair.gateway("b"), pair.gateway("a", connection=connection, child=child, **more)
    two.wait_for("listening", limit_s=60)
    one.wait_for("listening", limit_s=60)
    one.command("up", "net")
    assert pair.ping(count=3) == 3
    return one, two


def run(pair: SitePair, side: str, program: str, *words: object) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", pair.netns(side), sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lost(pair: SitePair, seconds: float, rate: int = 1000) -> tuple[int, int]:
    """Of a flow each way: packets that did not arrive, from a and from b."""
    count, found = int(seconds * rate), []
    ends = {"a": ("10.1.0.1", "10.2.0.1", "b"), "b": ("10.2.0.1", "10.1.0.1", "a")}
    receivers = {side: run(pair, peer, RECEIVE, remote) for side, (_, remote, peer) in ends.items()}
    assert all(receiver.stdout.readline() == "ready\n" for receiver in receivers.values())
    senders = [run(pair, side, SEND, local, remote, count, rate) for side, (local, remote, _) in ends.items()]
    assert [sender.wait() for sender in senders] == [0, 0]
    for side in "ab":
        found.append(count - int(receivers[side].communicate()[0]))
    return found[0], found[1]


def the_child(gateway: Gateway) -> tuple[dict, dict]:
    """The IKE SA and its Child SA, when there is one of each."""
    until = time.monotonic() + 10
    while True:
        sas = gateway.sas()
        children = [child for sa in sas for child in sa["child-sas"] if child["state"] == "INSTALLED"]
        if len(sas) == 1 and len(children) == 1:
            return sas[0], children[0]
        assert time.monotonic() < until, sas
        time.sleep(0.1)


def test_rekeys_by_packets_lose_none(pair: SitePair) -> None:
    one, two = up(pair, child='rekey_packets = 400\nlife_packets = 4000\nrand_packets = 100\nrekey_time = "5m"')
    assert lost(pair, 6) == (0, 0)
    the_child(one)
    assert pair.ping(count=3) == 3
    for gateway in (one, two):
        _, child = the_child(gateway)
        assert child["uniqueid"] >= 12, "6000 packets each way on SAs of 400"
        assert child["packets-in"] >= 3
        assert child["bytes-out"] >= 3 * 84
    _, child = the_child(one)
    assert 240 <= child["rekey-time"] <= 300
    assert 320 <= child["life-time"] <= 330
    assert "its lifetime is over" not in one.text() + two.text()


def test_rekeys_by_bytes_lose_none(pair: SitePair) -> None:
    one, _ = up(pair, child='rekey_bytes = "100k"\nlife_bytes = "1m"\nrand_bytes = "20k"')
    assert lost(pair, 6) == (0, 0)
    assert the_child(one)[1]["uniqueid"] >= 10, "1.3 MB each way on SAs of 100 KB"


def test_reauthentications_lose_none(pair: SitePair) -> None:
    one, two = up(pair, connection='reauth_time = "2s"\nover_time = "60s"\nrand_time = 0')
    first, _ = the_child(one)
    assert lost(pair, 8) == (0, 0)
    last, _ = the_child(one)
    assert last["uniqueid"] >= first["uniqueid"] + 3
    assert "rekey-time" not in last
    assert 0 <= last["reauth-time"] <= 2
    until = time.monotonic() + 10
    while the_child(two)[0]["initiator-spi"] != the_child(one)[0]["initiator-spi"]:  # the next one may come in between
        assert time.monotonic() < until


def test_past_its_hard_limit_nothing_is_sent_and_a_new_child_comes(pair: SitePair) -> None:
    one, two = up(pair, child="life_packets = 200")
    lost(pair, 1)
    assert "its lifetime is over" in one.text()
    until = time.monotonic() + 10
    while pair.ping(count=1) != 1:
        assert time.monotonic() < until
    the_child(one)
    the_child(two)


def test_a_child_that_carries_nothing_is_closed_and_stays_closed(pair: SitePair) -> None:
    one, two = up(pair, child='inactivity = "2s"', start="start")
    one.wait_for("nothing passed for 2 s", limit_s=8)
    time.sleep(3)  # the starter would have begun it again by now
    for gateway in (one, two):
        assert [sa["child-sas"] for sa in gateway.sas()] == [[]]
