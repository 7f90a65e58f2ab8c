"""IPv6 packets of up to 1280 bytes that do not fit the path: sealed whole, cut outside; all else goes its usual way. Refusals first."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address

import pytest
from hand_pair import INNER, Pair
from test_worker import iperf, wait_for
from test_worker_raw import captured, meet

from ipsec_fast.dataplane.outside import Outside
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.udp import set_endpoint, set_raw_endpoint
from ipsec_fast.errors import UsageError

pytestmark = pytest.mark.netns
PATH, LARGEST = 1280, {4: {0: 1218, 50: 1226}, 6: {0: 1198, 50: 1206}}  # aes128gcm16; by outer version, raw
LOCAL, REMOTE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


@pytest.mark.parametrize(
    "outside",
    [Outside(1, ip_address("::1"), 4500, 1280), Outside(1, LOCAL, 0, 1280), Outside(1, LOCAL, 65536, 1280),
     Outside(1, LOCAL, 4500, 67), Outside(1, LOCAL, 4500, 65536)],
)  # fmt: skip
def test_what_cannot_be_cut_outside_is_refused(outside: Outside) -> None:
    with pytest.raises(UsageError, match="a local address of the version"):
        set_endpoint(SA("out", 0x1001, key=bytes(20)), 0, LOCAL, REMOTE, 4500, outside)


@pytest.mark.parametrize("mtu", [1, 67, -1, 65536])
def test_raw_endpoint_of_an_impossible_mtu_is_refused(mtu: int) -> None:
    with pytest.raises(UsageError, match=f"MTU {mtu}"):
        set_raw_endpoint(SA("out", 0x1001, key=bytes(20), src=LOCAL, dst=REMOTE), 0, 0, mtu)


def ping(pair: Pair, address: str, length: int, *more: str) -> str:
    """Three, of IP packets of this length."""
    head = 48 if ":" in address else 28
    words = f"ping -n -c 3 -i 0.05 -w 3 -M do -s {length - head} {' '.join(more)} {address}"
    return pair.a.sh(words, check=False)


def test_without_a_raw_socket_they_are_dropped_and_counted() -> None:
    with Pair(6, max_inner=1198) as pair:
        meet(pair, 6)
        assert "100% packet loss" in ping(pair, INNER["b"][1], 1280)
        counters = pair.a.counters()
        assert counters["too_big_unanswered"] == counters["drop_pmtu_exceeded"] >= 3
        assert " 0% packet loss" in ping(pair, INNER["b"][1], 1198)


@pytest.mark.parametrize("raw", [0, 50], ids=["UDP", "ESP"])
@pytest.mark.parametrize("outer", [4, 6])
def test_they_pass_in_outer_fragments_and_nothing_else_does(outer: int, raw: int) -> None:
    largest = LARGEST[outer][raw]
    protocol = raw or 17
    with Pair(outer, raw=raw, max_inner=largest, outside_mtu=PATH) as pair:
        meet(pair, outer)
        with captured(pair) as seen:
            assert " 0% packet loss" in ping(pair, INNER["b"][1], largest)
            assert " 0% packet loss" in ping(pair, INNER["b"][0], largest)
        assert [(kind, length) for found, kind, length in seen if found == protocol] == [("whole", PATH)] * 12
        with captured(pair) as seen:
            for length in (largest + 1, 1279, 1280):
                assert " 0% packet loss" in ping(pair, INNER["b"][1], length)
        cut = [length for found, kind, length in seen if (found, kind) == (protocol, "fragment")]
        assert len(cut) == 2 * 18
        assert max(cut) <= PATH
        assert not [kind for found, kind, _ in seen if found == protocol and kind == "whole"]
        sent = pair.a.counters()
        assert sent["outer_fragments"] == 2 * 9
        assert sent["drop_pmtu_exceeded"] == 0
        # above 1280 the sender is told 1280, with IPv4 the exact size
        assert "mtu=1280" in ping(pair, INNER["b"][1], 1281).replace(" ", "")
        assert f"mtu={largest}" in ping(pair, INNER["b"][0], largest + 1).replace(" ", "")
        assert pair.a.counters()["outer_fragments"] == 2 * 9
        received = pair.b.counters()
        assert {name for name, n in received.items() if name.startswith("drop_") and n} <= {"drop_policy_discard"}


@pytest.mark.parametrize("outer", [4, 6])
def test_tcp_over_ipv6_goes_on_where_no_mss_was_clamped(outer: int) -> None:
    with Pair(outer, mtu=1400, max_inner=LARGEST[outer][0], outside_mtu=PATH) as pair:
        meet(pair, outer)
        assert iperf(pair, "-C cubic -t 1", INNER["b"][1])["sum_received"]["bytes"] >= 500_000
        sent = pair.a.counters()
        assert sent["too_big_answered"] > 0
        assert sent["outer_fragments"] > 100
        # IPv4 learns the size, and leaves whole
        assert iperf(pair, "-C cubic -t 1", INNER["b"][0])["sum_received"]["bytes"] >= 500_000
        assert pair.a.counters()["outer_fragments"] == sent["outer_fragments"]


@pytest.mark.parametrize("address", INNER["b"])
def test_clamp_follows_a_path_that_changes(address: str) -> None:
    """Each new connection gets the MSS of that moment, up as well as down."""
    head = 60 if ":" in address else 40
    with Pair(4, mtu=1400, a={"max_inner": 1360, "mss": 1320}) as pair:
        for max_inner in (1360, 1290, 1340):
            pair.a.do("set mtu", max_inner=max_inner, mss=max_inner - 40)
            before = pair.a.counters()
            assert iperf(pair, "-C cubic -n 2M", address)["sum_received"]["bytes"] >= 100_000
            assert mss_of(pair, address) == max_inner - head
            after = pair.a.counters()
            assert after["mss_clamped"] - before["mss_clamped"] == 6  # SYN and SYN-ACK of three
            assert after["too_big_answered"] == before["too_big_answered"]


FLOOD = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 3)  # DF, whatever the kernel has learned
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
for _ in range(int(sys.argv[1])):
    s.sendto(bytes(1350), ("10.2.0.1", 9))
"""


def test_answers_are_limited_and_what_is_not_answered_is_counted() -> None:
    with Pair(4, a={"max_inner": 1300}) as pair:
        subprocess.run(
            ["ip", "netns", "exec", pair.names["a"], sys.executable, "-c", FLOOD, "400"], check=True, timeout=10
        )
        wait_for(lambda: pair.a.counters()["drop_pmtu_exceeded"] == 400)
        counters = pair.a.counters()
        assert counters["too_big_answered"] + counters["too_big_unanswered"] == 400
        assert 50 <= counters["too_big_answered"] < 400  # 50 at once, then 100 a second
        assert counters["packets_out"] == 0


LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 5998), family=family)
print("ready", flush=True)
server.accept()[0].recv(1)
"""
ASK = """
import socket, sys
print(socket.create_connection((sys.argv[1], 5998), 3).getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""


def mss_of(pair: Pair, address: str) -> int:
    """What a new connection of gateway a may send at once: the peer's MSS less what timestamps take."""
    words = ["ip", "netns", "exec", pair.names["b"], sys.executable, "-c", LISTEN, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        words = ["ip", "netns", "exec", pair.names["a"], sys.executable, "-c", ASK, address]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    return int(done.stdout) + 12
