"""Two workers with hand-made SAs in two namespaces: traffic of every kind, every off switch, everything that must be dropped or punted."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from datagrams import PORT, received, udp_socket
from hand_pair import Gateway, Pair

from ipsec_fast.bench.load import Sender
from ipsec_fast.demo.namespaces import in_namespace

pytestmark = pytest.mark.netns
MARKER = "00000000"


def wait_for(question: Callable[[], Any], seconds: float = 5.0) -> Any:
    """The first true answer; traffic needs real time, but never a fixed amount of it."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
    return answer


def iperf(pair: Pair, arguments: str, address: str = "10.2.0.1") -> dict[str, Any]:
    server = subprocess.Popen(
        f"ip netns exec {pair.names['b']} iperf3 -s -1 -p 5999 --forceflush".split(), stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        pass
    found = json.loads(pair.a.sh(f"iperf3 -J -c {address} -p 5999 {arguments}", check=False, seconds=20))
    server.communicate(timeout=10)
    assert "error" not in found, found["error"]
    return found["end"]


def assert_datagrams_pass(pair: Pair, address: str, count: int) -> None:
    """Every one arrives, and what leaves one gateway is what reaches the other's TUN. As many at a time as any socket's buffer holds,
    the next when those are there: a slow machine only takes longer."""
    version = ip_address(address).version
    with udp_socket(pair.names["a"], version) as sender, udp_socket(pair.names["b"], version, address) as receiver:
        for start in range(0, count, 32):
            datagrams = [number.to_bytes(4, "big") * 325 for number in range(start, start + 32)]
            for datagram in datagrams:
                sender.sendto(datagram, (address, PORT))
            assert sorted(received(receiver, 32)) == datagrams
    assert wait_for(lambda: pair.b.counters()["packets_in"] == pair.a.counters()["packets_out"])
    assert pair.b.counters()["tun_write_failed"] == 0


def ping(gateway: Gateway, address: str, arguments: str = "-c 1 -w 3") -> str:
    return gateway.sh(f"ping -n {arguments} {address}", check=False)


@pytest.mark.parametrize("outer", [4, 6])
def test_ping_tcp_and_udp_over_every_mix_of_versions(outer: int) -> None:
    with Pair(outer) as pair:
        for address in ("10.2.0.1", "fd02::1"):
            assert " 0% packet loss" in ping(pair.a, address, "-c 2 -i 0.1 -w 3")
            assert iperf(pair, "-C cubic -t 1", address)["sum_received"]["bytes"] >= 500_000
            assert_datagrams_pass(pair, address, 800)
        sent, received = pair.a.counters(), pair.b.counters()
        assert sent["packets_out"] > sent["udp_messages_out"]
        assert received["merged"] > 0
        for gateway in (pair.a, pair.b):
            assert {k for k, v in gateway.counters().items() if k.startswith("drop_") and v} <= {"drop_policy_discard"}
            assert len([n for n in gateway.do("notices") if n[0] == "FIRST_INBOUND"]) == 1
            assert all(gateway.do("counters")["last"])


@pytest.mark.parametrize(
    "off", ["tso", "uso", "udp_segment", "udp_gro", "coalesce", "tso uso udp_segment udp_gro coalesce"]
)
def test_traffic_passes_with_an_offload_switched_off(off: str) -> None:
    with Pair(4, offload=dict.fromkeys(off.split(), False)) as pair:
        for address in ("10.2.0.1", "fd02::1"):
            assert iperf(pair, "-C cubic -t 1", address)["sum_received"]["bytes"] >= 500_000
            assert_datagrams_pass(pair, address, 384)
        features = pair.a.do("counters")["features"]
        assert not any(features[name] for name in off.split())


def test_wildcard_socket_sends_from_the_address_of_the_endpoint() -> None:
    with Pair(4, wildcard=True) as pair:
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")


def test_path_without_udp_segmentation_falls_back_or_is_split_by_the_kernel() -> None:
    with Pair(4) as pair:
        pair.a.sh("ip link set v0 mtu 1500")
        pair.a.sh("ethtool -K v0 tx off", check=False)
        assert iperf(pair, "-C cubic -t 1")["sum_received"]["bytes"] >= 500_000


def test_inner_packet_outside_the_selectors_is_dropped_and_counted() -> None:
    wide = {"policies": [["10.1.0.0/16", "10.2.0.0/16"]], "routes": ["10.2.0.0/16"]}
    with Pair(4, a=wide) as pair:
        ping(pair.a, "10.2.0.99", "-c 2 -i 0.1 -W 0.2")
        assert wait_for(lambda: pair.b.counters()["drop_selector_mismatch"]) == 2
        assert pair.b.do("counters")["in"]["selector_mismatch"] == 2
        assert pair.b.counters()["packets_in"] == 0


def test_outbound_policies_discard_bypass_and_trap() -> None:
    more = {"routes": ["10.2.0.0/16"], "traps": [["10.1.0.1", "10.2.0.2"]], "bypass": [["10.1.0.1", "10.2.0.3"]]}
    with Pair(4, a=more) as pair:
        before = pair.a.counters()
        for last in (2, 3, 4):
            ping(pair.a, f"10.2.0.{last}", "-c 2 -i 0.1 -W 0.2")
        after = pair.a.counters()
        for name in ("drop_policy_no_sa", "bypass_not_routable", "drop_policy_discard"):
            assert after[name] - before[name] >= 2
        assert after["packets_out"] == 0
        assert pair.a.do("notices") == [["NO_SA", 77]]


def test_a_packet_that_wants_an_sa_is_told_of_with_its_selectors() -> None:
    """RFC 7296 section 2.9: addresses, protocol and ports; type and code of
    ICMP on both sides; one a second and policy.
    """
    traps = [["10.1.0.1", f"10.2.0.{last}"] for last in range(2, 8)]
    more = {"routes": ["10.2.0.0/16"], "traps": traps}
    code = (
        "import socket;"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('10.1.0.1',4000));s.sendto(b'x',('10.2.0.3',53));"
        "t=socket.socket();t.bind(('10.1.0.1',4001));t.setblocking(False);t.connect_ex(('10.2.0.4',443));"
        "r=socket.socket(socket.AF_INET,socket.SOCK_RAW,47);r.bind(('10.1.0.1',0));r.sendto(bytes(4),('10.2.0.5',0));"
    )
    with Pair(4, a=more) as pair:
        ping(pair.a, "10.2.0.2", "-c 2 -i 0.1 -W 0.2")
        told: list[list[str]] = []
        for _ in range(2):
            subprocess.run(["ip", "netns", "exec", pair.names["a"], sys.executable, "-c", code], check=True)
        wait_for(lambda: told.extend(pair.a.do("packets")) or len(told) >= 4)
        assert told[:4] == [
            ["10.1.0.1/32[icmp/2048]", "10.2.0.2/32[icmp/2048]"],
            ["10.1.0.1/32[udp/4000]", "10.2.0.3/32[udp/53]"],
            ["10.1.0.1/32[tcp/4001]", "10.2.0.4/32[tcp/443]"],
            ["10.1.0.1/32[gre]", "10.2.0.5/32[gre]"],
        ]
        assert pair.a.counters()["drop_policy_no_sa"] >= 8, "dropped all the same"


def raw_sender(pair: Pair, datagrams: list[bytes], segment: int = 0, times: int = 1) -> None:
    """From namespace a, port 4501, to gateway b; `segment`: all in one UDP_SEGMENT send, which arrives joined."""
    code = (
        "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('192.0.2.1',4501));"
        f"d={[d.hex() for d in datagrams]!r};p=[bytes.fromhex(x) for x in d];seg={segment};"
        "s.setsockopt(17,103,seg) if seg else None;"
        f"[s.sendto(x,('192.0.2.2',4500)) for _ in range({times}) for x in ([b''.join(p)] if seg else p)]"
    )
    subprocess.run([*f"ip netns exec {pair.names['a']}".split(), sys.executable, "-c", code], check=True)


def test_marker_goes_up_keepalive_is_eaten_unknown_spi_is_told_once() -> None:
    with Pair(4) as pair:
        pair.a.do("sendto", data=MARKER + "aa" * 40)
        pair.a.do("sendto", data="ff")
        raw_sender(pair, [bytes.fromhex("deadbeef") + bytes(40)] * 3 + [b"\1\2\3", bytes(4) + b"IKE", b""])
        wait_for(lambda: pair.b.counters()["udp_empty"] and pair.b.counters()["drop_unknown_spi"] == 3)
        counters = pair.b.counters()
        assert [counters[k] for k in ("punted", "keepalives_in", "held", "drop_runt", "udp_empty")] == [1, 1, 3, 2, 1]
        assert pair.b.do("punted") == [["aa" * 40, "192.0.2.2", 4500, "192.0.2.1", 4500]]
        assert pair.b.do("notices") == [["UNKNOWN_SPI", 0xDEADBEEF]]


def test_joined_datagrams_are_split_before_they_are_classified() -> None:
    with Pair(4) as pair:
        ike = [bytes(4) + bytes([n]) * 96 for n in range(1, 6)]
        esp = bytes.fromhex("deadbeef") + bytes(96)
        raw_sender(pair, [ike[0], esp, ike[1], ike[2], esp, ike[3], ike[4][:60]], segment=100)
        assert wait_for(lambda: pair.b.counters()["punted"] == 5)
        counters = pair.b.counters()
        assert counters["udp_messages_in"] == 1
        assert counters["held"] == 2
        assert [p[0] for p in pair.b.do("punted")] == [d[4:].hex() for d in [*ike[:4], ike[4][:60]]]


def test_what_comes_before_its_sa_is_opened_when_the_sa_comes() -> None:
    with Pair(4) as pair:
        command = [*f"ip netns exec {pair.names['a']} ping -n -q -c 60 -i 0.005 -W 2 10.2.0.1".split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinging:
            wait_for(lambda: pair.b.counters()["packets_in"] >= 5)
            pair.b.do("come late", pause_s=0.1)
            assert " 0% packet loss" in pinging.communicate(timeout=10)[0]
        counters = pair.b.counters()
        assert counters["held"] == counters["held_opened"] > 0
        assert counters["drop_unknown_spi"] == counters["drop_replay_old"] == counters["drop_replay_seen"] == 0


def test_what_waits_too_long_for_its_sa_is_dropped_and_what_comes_after_it_is_not() -> None:
    with Pair(4) as pair:
        ping(pair.a, "10.2.0.1", "-c 1 -w 3")
        command = [*f"ip netns exec {pair.names['a']} ping -n -q -c 100 -i 0.01 -W 2 10.2.0.1".split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pinging:
            wait_for(lambda: pair.b.counters()["packets_in"] >= 5)
            pair.b.do("come late", pause_s=0.5)
            pinging.communicate(timeout=10)
        counters = pair.b.counters()
        assert counters["drop_unknown_spi"] > 0
        assert counters["held_opened"] > 0
        assert counters["held"] == counters["held_opened"] + counters["drop_unknown_spi"]
        assert counters["packets_in"] == 101 - counters["drop_unknown_spi"]


def test_a_flood_of_strangers_fills_the_room_for_them_and_nothing_else() -> None:
    with Pair(4) as pair:
        raw_sender(pair, [bytes.fromhex("deadbeef") + bytes(1396)] * 40, segment=1400, times=20)  # twice the room
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")
        arrived = wait_for(lambda: pair.b.counters()["udp_bytes_in"]) // 1400
        wait_for(lambda: pair.b.counters()["drop_unknown_spi"] >= min(arrived, 800) - 1)
        held = pair.b.counters()["held"]
        assert 0 < held < 800
        assert pair.b.do("notices")[0] == ["UNKNOWN_SPI", 0xDEADBEEF]
        raw_sender(pair, [bytes.fromhex("deadbeef") + bytes(40)])
        wait_for(lambda: pair.b.counters()["held"] == held + 1)  # there is room again
        raw_sender(pair, [bytes.fromhex("deadbeef") + bytes(4)] * 2000)
        wait_for(lambda: pair.b.counters()["drop_unknown_spi"] > 900 + held)
        assert pair.b.counters()["held"] <= held + 1 + 1024 * 2  # small ones count too


def test_punt_ring_overflows_without_stopping_traffic() -> None:
    with Pair(4) as pair:
        raw_sender(pair, [bytes(4) + bytes([1]) * 1396] * 46, segment=1400, times=20)
        wait_for(lambda: pair.b.counters()["punt_overflow"])
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")
        assert len(pair.b.do("punted")) == pair.b.counters()["punted"]


def test_bad_icv_and_replay_are_dropped() -> None:
    with Pair(4) as pair:
        raw_sender(pair, [struct.pack("!II", 0x1001, n) + bytes(100) for n in (1, 2)])
        wait_for(lambda: pair.b.counters()["drop_bad_icv"] == 2)
        assert pair.b.do("counters")["in"]["bad_icv"] == 2
        assert pair.b.counters()["packets_in"] == 0


def test_publish_and_endpoint_changes_under_traffic_lose_nothing() -> None:
    with Pair(4) as pair:
        client = subprocess.Popen(
            f"ip netns exec {pair.names['a']} ping -n -q -c 400 -i 0.002 10.2.0.1".split(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(40):
            for gateway in (pair.a, pair.b):
                gateway.do("publish", times=25)
        assert " 0% packet loss" in client.communicate(timeout=20)[0]
        assert pair.a.do("counters")["retired"] == pair.b.do("counters")["retired"] == 0


def test_what_is_told_of_an_sa_carries_its_tag() -> None:
    """Not only its SPI: that of an outbound SA is the peer's choice, and may be another peer's too."""
    with Pair(4, a={"grant": 20}) as pair:
        ping(pair.a, "10.2.0.1", "-c 15 -i 0.02 -w 2")
        assert sorted(pair.a.do("tags")) == [["FIRST_INBOUND", 7], ["GRANT_WANTED", 7]]


def test_grant_is_asked_for_at_half_and_its_end_stops_traffic() -> None:
    with Pair(4, a={"grant": 20}) as pair:
        ping(pair.a, "10.2.0.1", "-c 9 -i 0.02 -w 2")
        assert not [n for n in pair.a.do("notices") if n[0] == "GRANT_WANTED"]
        ping(pair.a, "10.2.0.1", "-c 30 -i 0.02 -W 0.2")
        assert [n for n in pair.a.do("notices") if n[0] == "GRANT_WANTED"] == [["GRANT_WANTED", 0x1001]]
        counters = pair.a.counters()
        assert counters["packets_out"] == 20
        assert counters["drop_no_grant"] == 19
        pair.a.do("grant", granted=1000)
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")


def test_what_cannot_be_sent_does_not_count_as_sent() -> None:
    with Pair(4, a={"grant": 1, "max_inner": 500}) as pair:
        ping(pair.a, "10.2.0.1", "-c 2 -i 0.02 -W 0.2 -M do -s 600")
        assert pair.a.do("counters")["last"][0] is None
        ping(pair.a, "10.2.0.1", "-c 1 -W 0.2")
        last = pair.a.do("counters")["last"][0]
        assert last is not None
        ping(pair.a, "10.2.0.1", "-c 2 -i 0.02 -W 0.2")
        assert pair.a.do("counters")["last"][0] == last


def test_mss_of_both_directions_is_clamped() -> None:
    with Pair(4, a={"mss": 1000}) as pair:
        assert iperf(pair, "-C cubic -t 1")["sum_received"]["bytes"] >= 500_000
        assert pair.a.counters()["mss_clamped"] >= 4  # two connections, SYN and SYN-ACK of each
        sent = pair.a.counters()
        assert sent["bytes_out"] / sent["packets_out"] <= 65535
        assert pair.b.counters()["bytes_in"] / pair.b.counters()["packets_in"] <= 1040


def test_too_big_packets_with_df_are_answered_and_the_sender_learns() -> None:
    with Pair(4, a={"max_inner": 1300}) as pair:
        assert "mtu = 1300" in ping(pair.a, "10.2.0.1", "-c 2 -i 0.2 -W 0.5 -M do -s 1350")
        assert "MTU: 1300" in ping(pair.a, "fd02::1", "-c 2 -i 0.2 -W 0.5 -M do -s 1340").replace(
            "mtu=", "MTU: "
        ).replace("mtu = ", "MTU: ")
        assert pair.a.counters()["too_big_answered"] >= 2
        assert iperf(pair, "-C cubic -t 1")["sum_received"]["bytes"] >= 500_000
        assert iperf(pair, "-C cubic -t 1", "fd02::1")["sum_received"]["bytes"] >= 500_000


def test_too_big_packets_without_df_are_fragmented_before_esp() -> None:
    with Pair(4, a={"max_inner": 1000}) as pair:
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 2 -i 0.1 -w 3 -M dont -s 1372")
        assert pair.a.counters()["fragmented"] == 2
        assert pair.b.counters()["packets_in"] == 4


def test_congestion_mark_of_the_outer_header_reaches_the_inner() -> None:
    with Pair(4) as pair:
        pair.a.sh("nft add table ip t")
        pair.a.sh("nft add chain ip t c { type route hook output priority 0 ; }")
        pair.a.sh("nft add rule ip t c udp dport 4500 ip ecn set ce")
        ping(pair.a, "10.2.0.1", "-c 2 -i 0.1 -W 0.3")
        assert wait_for(lambda: pair.b.counters()["drop_bad_ecn"]) == 2
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 2 -i 0.1 -w 2 -Q 2")


@pytest.mark.parametrize("algorithm", ["aes256gcm16", "aes128-sha256", "aes256-sha256"])
def test_every_kind_of_cipher_fits_the_slots(algorithm: str) -> None:
    with Pair(4, algorithm=algorithm) as pair:
        assert iperf(pair, "-C cubic -t 1")["sum_received"]["bytes"] >= 500_000


def test_no_route_is_counted_and_the_worker_goes_on() -> None:
    with Pair(4) as pair:
        pair.a.sh("ip route add unreachable 192.0.2.2/32")
        ping(pair.a, "10.2.0.1", "-c 2 -i 0.1 -W 0.2")
        assert pair.a.counters()["udp_no_route"] == 2
        pair.a.sh("ip route del unreachable 192.0.2.2/32")
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")


def test_worker_survives_the_loss_of_its_tun() -> None:
    with Pair(4) as pair:
        pair.a.sh("ip link del ipsec0")
        assert wait_for(lambda: pair.a.do("notices")) == [["TUN_LOST", 0]]
        polls = [pair.a.counters()["polls"] for _ in range(2)]
        assert polls[1] - polls[0] < 100


def test_worker_stops_within_a_tenth_of_a_second() -> None:
    with Pair(4) as pair:
        client = subprocess.Popen(
            f"ip netns exec {pair.names['a']} ping -n -q -c 1000 -i 0.002 10.2.0.1".split(), stdout=subprocess.DEVNULL
        )
        wait_for(lambda: pair.a.counters()["packets_out"] > 20)
        assert pair.a.do("stop") < 0.1
        assert pair.b.do("stop") < 0.1
        client.terminate()
        client.wait()


def test_no_packet_is_lost_while_the_outbound_sa_changes_under_it() -> None:
    """A packet keeps the SA that it was matched with, in whatever batch it lies when the tables change."""
    with Pair(4, spares=300) as pair, in_namespace_socket(pair.names["b"]) as into:
        into.bind(("10.2.0.1", 7007))
        with in_namespace_socket(pair.names["a"]) as out:
            out.connect(("10.2.0.1", 7007))
            sender = Sender(out, run=1, packets_per_s=20_000, size_bytes=500, limit=1 << 20)
            sender.start()
            pair.a.do("switch", pause_s=0.003)
            assert sender.stop() > 5000
        leaving = wait_for(lambda: (c := pair.a.counters())["packets_out"] >= sender.sent and c)
        arriving = wait_for(lambda: (c := pair.b.counters())["packets_in"] >= leaving["packets_out"] and c)
        assert arriving["packets_in"] == leaving["packets_out"]
        for counters in (leaving, arriving):
            assert {k for k, v in counters.items() if k.startswith("drop_") and v} <= {"drop_policy_discard"}
        # each of the SAs that were in use carried something, and they are gone
        assert len([n for n in pair.b.do("notices") if n[0] == "FIRST_INBOUND"]) > 200
        assert pair.a.do("counters")["retired"] == 0


@contextmanager
def in_namespace_socket(name: str) -> Iterator[socket.socket]:
    made = in_namespace(f"/run/netns/{name}", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with made:
        yield made


def test_the_worker_comes_before_the_thread_that_negotiates() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    may = subprocess.run(["nice", "-n", "-5", "nice"], capture_output=True, text=True).stdout.strip() == str(own - 5)
    with Pair(4) as pair:
        tasks = Path(f"/proc/{pair.a.process.pid}/task").iterdir()
        nices = [int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in tasks]
        assert max(nices) - min(nices) == (5 if may else 0)
