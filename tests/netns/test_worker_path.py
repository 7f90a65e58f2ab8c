"""The worker and the path's MTU: ICMP of the error queue told, never spun on, no packet lost to it; echoes through an SA and back."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from hand_pair import INNER, OUTER, Gateway, Pair
from icmp_forge import quoted_esp, quoted_udp, send_icmp, too_big
from test_worker import iperf, ping, wait_for

pytestmark = pytest.mark.netns
SPI = 0x1001  # of what a sends


def told(gateway: Gateway, kind: str, seconds: float = 5.0) -> list[list[Any]]:
    found: list[list[Any]] = []

    def look() -> bool:
        found.extend(news for news in gateway.do("news") if news[0] == kind)
        return bool(found)

    wait_for(look, seconds)
    return found


def esp(spi: int, seq: int) -> bytes:
    return struct.pack(">II", spi, seq) + bytes(24)


@pytest.mark.parametrize("outer", [4, 6])
def test_icmp_is_told_with_what_it_quotes(outer: int) -> None:
    with Pair(outer) as pair:
        here, there = OUTER[outer]["a"], OUTER[outer]["b"]
        send_icmp(pair.names["b"], here, too_big(1300, quoted_udp(here, there, esp(SPI, 77))))
        assert told(pair.a, "TOO_BIG") == [["TOO_BIG", SPI, there, 77, 1300]]
        assert pair.a.counters()["icmp_too_big"] == 1
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 3 -i 0.05 -w 3")  # the pending error costs no packet


def test_icmp_that_quotes_the_udp_header_alone_is_told_without_spi() -> None:
    with Pair(4) as pair:
        here, there = OUTER[4]["a"], OUTER[4]["b"]
        for payload in (b"", esp(SPI, 1)[:7]):
            send_icmp(pair.names["b"], here, too_big(1300, quoted_udp(here, there, payload)))
            assert told(pair.a, "TOO_BIG") == [["TOO_BIG", 0, there, 0, 1300]]


def test_other_icmp_is_counted_and_not_told() -> None:
    with Pair(4) as pair:
        here, there = OUTER[4]["a"], OUTER[4]["b"]
        quoted = quoted_udp(here, there, esp(SPI, 1))
        for kind in ((3, 3), (3, 1), (11, 0), (12, 0)):
            send_icmp(pair.names["b"], here, too_big(0, quoted, kind=kind))
        wait_for(lambda: pair.a.counters()["icmp_other"] == 4)
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 3 -i 0.05 -w 3")
        assert not [n for n in pair.a.do("news") if n[0] == "TOO_BIG"]


@pytest.mark.parametrize("outer", [4, 6])
def test_icmp_about_esp_without_udp(outer: int) -> None:
    with Pair(outer, raw=50) as pair:
        here, there = OUTER[outer]["a"], OUTER[outer]["b"]
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1")
        send_icmp(pair.names["b"], here, too_big(1300, quoted_esp(here, there, esp(SPI, 5))))
        assert told(pair.a, "TOO_BIG") == [["TOO_BIG", SPI, there, 5, 1300]]
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 3 -i 0.05 -w 3")


def test_a_flood_of_errors_costs_no_packet_and_no_cpu_afterwards() -> None:
    with Pair(4) as pair:
        here, there = OUTER[4]["a"], OUTER[4]["b"]
        message = too_big(1300, quoted_udp(here, there, esp(SPI, 1)))
        before = pair.a.counters()["packets_out"]
        pinging = pair.a.popen("ping -n -q -c 100 -i 0.002 -w 10 10.2.0.1")
        while pinging.poll() is None:
            send_icmp(pair.names["b"], here, message, times=200)
        pinging.communicate()
        assert pair.a.counters()["packets_out"] - before >= 100
        wait_for(lambda: pair.b.counters()["packets_in"] == pair.a.counters()["packets_out"])
        counters = pair.a.counters()
        assert counters["icmp_too_big"] >= 200
        assert counters["udp_too_big"] == counters["drop_send_failed"] == 0
        wait_for(lambda: polls_rest(pair.a))


def polls_rest(gateway: Gateway) -> bool:
    before = gateway.counters()["polls"]
    time.sleep(0.2)
    return gateway.counters()["polls"] - before < 20


def test_forged_icmp_does_not_move_what_the_kernel_lets_us_send() -> None:
    with Pair(4) as pair:
        here, there = OUTER[4]["a"], OUTER[4]["b"]
        send_icmp(pair.names["b"], here, too_big(600, quoted_udp(here, there, esp(SPI, 1))))
        told(pair.a, "TOO_BIG")
        assert " 0% packet loss" in ping(pair.a, "10.2.0.1", "-c 3 -i 0.05 -w 3 -s 1300 -M do")
        assert pair.a.counters()["udp_messages_out"] == pair.a.counters()["packets_out"]


# --- echoes


@pytest.mark.parametrize("version", [0, 1], ids=["inner4", "inner6"])
def test_an_echo_comes_back_and_is_told_whatever_max_inner_says(version: int) -> None:
    with Pair(4, a={"max_inner": 700}) as pair:
        ends = [INNER["a"][version], INNER["b"][version]]
        pair.a.do("echo", ends=ends, echoes=[[0xABCD0001, 100], [0xABCD0002, 1400]])
        found = []
        while len(found) < 2:
            found += told(pair.a, "ECHO_ANSWERED")
        assert [(n[1], n[3], n[4]) for n in found] == [(7, 0xABCD0001, 100), (7, 0xABCD0002, 1400)]
        counters = pair.a.counters()
        assert (counters["probes_sent"], counters["probes_answered"], counters["probes_unsent"]) == (2, 2, 0)
        assert pair.a.do("counters")["last"] == [None, None]  # probes are no traffic


def test_the_first_fragment_of_an_answer_is_enough() -> None:
    with Pair(4, b={"mtu": 1280}) as pair:
        pair.a.do("echo", ends=["10.1.0.1", "10.2.0.1"], echoes=[[9, 1400]])
        assert [n[3] for n in told(pair.a, "ECHO_ANSWERED")] == [9]


def test_an_echo_larger_than_the_interface_is_lost_and_nothing_else() -> None:
    with Pair(4) as pair:
        pair.a.do("echo", ends=["10.1.0.1", "10.2.0.1"], echoes=[[1, 1480], [2, 100]])
        assert [n[3] for n in told(pair.a, "ECHO_ANSWERED")] == [2]
        assert pair.a.counters()["udp_too_big"] == 1


def test_an_echo_for_an_sa_that_is_not_there_is_counted() -> None:
    with Pair(4) as pair:
        pair.a.do("echo", ends=["10.1.0.1", "10.2.0.1"], echoes=[[1, 100]], tag=8)
        wait_for(lambda: pair.a.counters()["probes_unsent"] == 1)


def test_the_first_big_packet_after_a_while_is_told() -> None:
    with Pair(4) as pair:
        for more in ("", " -s 1000"):  # ICMP is none, or answers to probes would cause probes
            ping(pair.a, "10.2.0.1", "-c 3 -i 0.05 -w 3" + more)
        assert not [n for n in pair.a.do("news") if n[0] == "BIG_SENT"]
        assert iperf(pair, "-C cubic -t 1")["sum_received"]["bytes"] > 0
        assert [n[:2] for n in told(pair.a, "BIG_SENT")] == [["BIG_SENT", 7]]
