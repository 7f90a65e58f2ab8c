"""Fragments through two workers whose policies name ports: later ones follow their first (RFC 4301 section 7.3), strangers do not pass."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hand_pair import INNER, Pair

pytestmark = pytest.mark.netns
V4, V6 = 0, 1
# IP_MTU_DISCOVER 10 and IPV6_MTU_DISCOVER 23: the kernel may cut what is sent
SEND = """
import socket, sys
family = int(sys.argv[1])
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.setsockopt(*((0, 10, 0) if family == socket.AF_INET else (41, 23, 0)))
for _ in range(3):
    sender.sendto(bytes(3000), (sys.argv[2], int(sys.argv[3])))
"""
TAKE = """
import socket, sys
taker = socket.socket(int(sys.argv[1]), socket.SOCK_DGRAM)
taker.bind((sys.argv[2], int(sys.argv[3])))
taker.settimeout(8)
print("ready", flush=True)
print(sum(len(taker.recv(9000)) for _ in range(3)))
"""


def ports(side: str, number: int) -> list[list[str]]:
    other = "b" if side == "a" else "a"
    where = f"[udp/{number}]"
    widths = ("/32", "/128")
    return [
        [
            f"{INNER[side][v]}{widths[v]}{where if side == 'b' else ''}",
            f"{INNER[other][v]}{widths[v]}{where if side == 'a' else ''}",
        ]
        for v in (V4, V6)
    ]


def send(pair: Pair, version: int, port: int) -> None:
    family = "2" if version == V4 else "10"
    subprocess.run(
        [
            *f"ip netns exec {pair.names['a']}".split(),
            sys.executable,
            "-c",
            SEND,
            family,
            INNER["b"][version],
            str(port),
        ],
        check=True,
    )


@pytest.mark.parametrize("version", [V4, V6])
def test_datagrams_in_fragments_pass_where_the_policy_names_their_port(version: int) -> None:
    with Pair(4, a={"policies": ports("a", 5000)}, b={"policies": ports("b", 5000)}) as pair:
        family = "2" if version == V4 else "10"
        command = [
            *f"ip netns exec {pair.names['b']}".split(),
            sys.executable,
            "-c",
            TAKE,
            family,
            INNER["b"][version],
            "5000",
        ]
        taker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
        send(pair, version, 5000)
        assert taker.communicate(timeout=10)[0] == "9000\n"
        sent, received = pair.a.counters(), pair.b.counters()
        assert sent["packets_out"] == received["packets_in"] == 9
        assert sent["drop_fragment_unmatched"] == received["drop_fragment_unmatched"] == 0


def test_datagrams_in_fragments_of_another_port_are_dropped_whole() -> None:
    with Pair(4, a={"policies": ports("a", 5000)}, b={"policies": ports("b", 5000)}) as pair:
        send(pair, V4, 5001)
        assert pair.a.counters()["drop_policy_discard"] >= 9
        assert pair.a.counters()["packets_out"] == 0


def test_receiver_lets_no_fragment_in_whose_first_it_refused() -> None:
    wide = [[f"{INNER['a'][V4]}/32", f"{INNER['b'][V4]}/32"]]
    with Pair(4, a={"policies": wide}, b={"policies": ports("b", 5000)}) as pair:
        send(pair, V4, 5001)
        end = time.monotonic() + 5
        while (found := pair.b.counters())["udp_messages_in"] < 9 and time.monotonic() < end:
            time.sleep(0.01)
        assert (found["drop_selector_mismatch"], found["drop_fragment_unmatched"], found["packets_in"]) == (3, 6, 0)
