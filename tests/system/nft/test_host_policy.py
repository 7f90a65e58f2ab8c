"""The life of the table: loads and unloads in joined transactions, refusals, crashes, what others remove, an orderly stop."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from nft_lab import ip_of, sh
from policy_twin import packet_of

from ipsec_fast.errors import HostError, UsageError
from ipsec_fast.system.nft.host_policy import REST_S, HostPolicy, release
from ipsec_fast.system.nft.marks import Marks
from ipsec_fast.system.nft.policies import Action

pytestmark = pytest.mark.netns
TO_SITE = packet_of("10.1.0.10 10.2.0.9 udp 1 7")
TO_OTHER = packet_of("10.1.0.10 10.3.0.9 udp 1 7")
SITE = "site/net", "10.1.0.0/24", "10.2.0.0/24"
OTHER = "other/net", "10.1.0.0/24", "10.3.0.0/24"


def committed(host: HostPolicy) -> list[int]:
    """Filled with the number of messages of each transaction from now on."""
    seen: list[int] = []
    inner = host._netlink.commit

    def commit(requests):
        seen.append(len(requests))
        inner(requests)

    host._netlink.commit = commit  # type: ignore[method-assign]
    return seen


def left(table: str = "ipsec_fast") -> str:
    return sh(
        f"nft list tables | grep {table} || :; for f in -4 -6; do ip $f rule | grep 'proto 73' || :;"
        "ip $f route show table all | grep 'proto 73' || :; done"
    )


def test_loads_are_joined_and_due_at_most_once_per_rest(net, opened, policy):
    host = opened(policy(*SITE))
    seen = committed(host)
    assert host.get_timer() is None
    for number in range(50):
        host.load([policy(f"c{number}/net", "10.1.0.0/24", f"10.4.{number}.0/24")], now=100.0)
    assert host.get_timer() == 100.0
    assert host.flush(100.0) == {}
    assert len(seen) == 1
    host.unload(["c1/net"], now=100.001)
    assert host.get_timer() == 100.0 + REST_S
    host.load([policy("c1/net", "10.1.0.0/24", "10.4.1.0/24")], now=100.002)
    assert host.get_timer() == 100.0 + REST_S
    assert host.flush(100.0 + REST_S) == {}
    assert len(seen) == 2
    assert net.where("lan", packet_of("10.1.0.10 10.4.1.9 udp 1 7")) == "tun"


def test_a_narrow_child_under_a_wide_one_comes_and_goes_without_a_gap(net, opened, policy):
    host = opened(policy("wide/net", "10.1.0.0/24", "10.0.0.0/8"))
    with steady(net, TO_SITE) as seen:
        for turn in range(6):
            host.load([policy(*SITE), policy("in/drop", "10.1.0.0/24", "10.2.0.7/32", Action.DROP)], float(turn))
            assert host.flush(float(turn)) == {}
            host.unload(["site/net", "in/drop"], float(turn))
            assert host.flush(float(turn)) == {}
    assert seen["wan"] == 0
    assert seen["tun"] == seen["sent"] > 0


class steady:  # noqa: N801
    """A packet again and again while the block runs; how many came out where."""

    def __init__(self, net, packet) -> None:
        self.net, self.frame = net, ip_of(packet, b"steady")
        self.seen = {"sent": 0, "wan": 0, "tun": 0, "lan": 0}
        self._end = threading.Event()

    def __enter__(self):
        self.net.drain()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        while not self.seen["sent"]:
            time.sleep(0.001)
        return self.seen

    def _send(self) -> None:
        while not self._end.is_set():
            self.net.send("lan", self.frame)
            self.seen["sent"] += 1
            for where, data in self.net._read(0):
                self.seen[where] += data[12:20] == self.frame[12:20]
            time.sleep(0.0005)

    def __exit__(self, *error) -> None:
        self._end.set()
        self._thread.join()
        until = time.monotonic() + 1
        while time.monotonic() < until and self.seen["sent"] > self.seen["tun"] + self.seen["wan"]:
            for where, data in self.net._read(0.05):
                self.seen[where] += data[12:20] == self.frame[12:20]


def test_after_a_kill_nothing_leaves_in_clear_and_the_next_start_adopts_without_a_gap(net, opened, policy):
    killed = opened(policy(*SITE))
    killed.load([policy("vici/net", "10.1.0.0/24", "10.3.0.0/24", priority=3)], 0.0)
    assert killed.flush(0.0) == {}
    with steady(net, TO_SITE) as seen:
        net.tun.close()
        next_ = HostPolicy("ipsec0")
        tun = net.open_tun()
        assert next_.open([policy(*SITE)], tun.index) == ["vici/net"]
    assert seen["wan"] == 0
    assert seen["tun"] > 0
    assert net.where("lan", TO_OTHER) == "tun"
    assert next_.left_behind == {"vici/net"}
    assert [(one.name, one.priority) for one in next_.entries()] == [("vici/net", 3), ("site/net", 0)]
    next_.load([policy("vici/net", "10.1.0.0/24", "10.5.0.0/24")], 1.0)
    assert next_.flush(1.0) == {}
    assert next_.left_behind == frozenset()
    assert net.where("lan", TO_OTHER) == "wan"
    assert net.where("lan", packet_of("10.1.0.10 10.5.0.9 udp 1 7")) == "tun"
    next_.close("open")
    assert left() == ""


@pytest.mark.parametrize("on_stop", ["closed", "open"])
def test_an_orderly_stop_leaves_closed_or_nothing(net, opened, policy, on_stop):
    host = opened(policy(*SITE))
    host.close(on_stop)
    net.tun.close()
    assert net.where("lan", TO_SITE) == (None if on_stop == "closed" else "wan")
    assert (left() == "") == (on_stop == "open")
    assert release("ipsec0") == (on_stop == "closed")
    assert left() == ""
    assert net.where("lan", TO_SITE) == "wan"
    assert release("ipsec0") is False


def test_a_table_alone_closes_before_there_is_a_gateway(net, policy):
    host = HostPolicy("ipsec0")
    host.open([policy(*SITE)])
    host.close("closed")
    assert net.where("lan", TO_SITE) is None
    assert net.where("lan", TO_OTHER) == "wan"
    release("ipsec0")


def test_a_refused_transaction_is_halved_until_only_the_guilty_child_fails(net, opened, policy):
    host = opened(policy(*SITE))
    # an element of somebody else's in the way of one child
    sh("nft add element inet ipsec_fast v4_0_24_24 '{ 10.4.13.0 . 10.1.0.0 : goto bypass }'")
    host._watch.take_table()  # nobody noticed
    seen = committed(host)
    host.load([policy(f"c{n}/net", "10.1.0.0/24", f"10.4.{n}.0/24") for n in range(32)], 0.0)
    refused = host.flush(0.0)
    assert list(refused) == ["c13/net"]
    assert "cannot load or unload c13/net" in str(refused["c13/net"])
    assert len(seen) <= 2 * 5 + 1
    assert "c13/net" not in host.names
    for number in (0, 12, 14, 31):
        assert net.where("lan", packet_of(f"10.1.0.10 10.4.{number}.9 udp 1 7")) == "tun"
    host.unload([f"c{n}/net" for n in range(32)], 1.0)
    assert host.flush(1.0) == {}
    assert net.where("lan", TO_SITE) == "tun"
    assert host.names == ["site/net"]


@pytest.mark.parametrize(
    "removal",
    [
        "nft flush ruleset",
        "nft delete table inet ipsec_fast",
        "nft flush chain inet ipsec_fast protect",
        "nft flush map inet ipsec_fast v4_0_24_24",
        "nft add rule inet ipsec_fast prerouting accept",
        "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
        "ip rule del pref 4194; ip -6 rule del pref 4194",
        "ip route flush table 4118; ip -6 route flush table 4118",
    ],
)
def test_what_others_remove_is_put_back_at_once_and_told_in_one_line(net, opened, policy, removal):
    lines: list[str] = []
    host = opened(policy(*SITE), log=lines.append)
    assert host.take_news() == []
    before = sh("nft list ruleset; ip rule; ip -6 rule; ip route show table 4118; ip -6 route show table 4118")
    sh(removal)
    assert host.take_news() == lines
    assert len(lines) == 1
    assert "put back" in lines[0]
    assert sh("nft list ruleset; ip rule; ip -6 rule; ip route show table 4118; ip -6 route show table 4118") == before
    assert net.where("lan", TO_SITE) == "tun"
    assert host.take_news() == []


def test_our_own_changes_and_those_of_others_elsewhere_are_no_news(net, opened, policy):
    host = opened(policy(*SITE))
    host.load([policy(*OTHER), policy("narrow/net", "10.1.0.0/24", "10.2.0.7/32")], 0.0)
    assert host.flush(0.0) == {}
    sh("nft add table inet other; nft add chain inet other c; ip rule add pref 9999 lookup 77; ip rule del pref 9999")
    sh("ip route add 203.0.113.0/24 dev lan; ip route del 203.0.113.0/24")
    assert host.take_news() == []


def test_a_load_after_a_flush_that_nobody_has_told_yet_puts_all_back(net, opened, policy):
    host = opened(policy(*SITE))
    sh("nft flush ruleset")
    host.load([policy(*OTHER)], 0.0)
    assert host.flush(0.0) == {}
    assert net.where("lan", TO_SITE) == net.where("lan", TO_OTHER) == "tun"


def test_a_foreign_table_of_our_name_is_one_line_and_stays(net, policy):
    sh("nft add table inet ipsec_fast; nft add chain inet ipsec_fast mine")
    with pytest.raises(HostError, match="the nftables table inet ipsec_fast is not ours"):
        HostPolicy("ipsec0").open([policy(*SITE)], net.tun.index)
    with pytest.raises(HostError, match="is not ours"):
        release("ipsec0")
    assert "chain mine" in sh("nft list table inet ipsec_fast")
    assert "proto 73" not in left()


def test_two_gateways_with_marks_of_their_own_leave_each_other_alone(net, opened, policy):
    opened(policy(*SITE))
    second_tun = type(net.tun)("vpn7")
    with pytest.raises(HostError, match="gateway with the device ipsec0"):
        HostPolicy("vpn7", Marks(0x50000000)).open([policy(*OTHER)], second_tun.index)
    second = HostPolicy("vpn7", Marks(0x50000000), table="ipsec_fast_two")
    second.open([policy(*OTHER)], second_tun.index)
    assert net.where("lan", TO_SITE) == "tun"
    assert net.where("lan", TO_OTHER) is None  # not by the first one's TUN, nor in clear
    second.close("open")
    second_tun.close()
    assert net.where("lan", TO_SITE) == "tun"
    assert net.where("lan", TO_OTHER) == "wan"


def test_bad_names_marks_and_policies_are_refused_before_anything_is_done(net, opened, policy):
    for bad in ("", "1st", "a b", "x" * 64, 'a"b'):
        with pytest.raises(UsageError, match="nftables table"):
            HostPolicy("ipsec0", table=bad)
    for base, mask in ((0, 0xFF000000), (0x49000000, 0xFF000000), (0x48, 0xFF000000), (0x48, 0xF), (0x48, 0xFF00FF)):
        with pytest.raises(UsageError, match="mark"):
            Marks(base, mask)
    host = opened()
    with pytest.raises(UsageError, match="one address family"):
        host.load([policy(*SITE), policy("crossed/net", "10.1.0.0/24", "fd00::/64")], 0.0)
    assert host.get_timer() is None


def test_a_mark_in_the_lowest_byte_works_as_well(net, policy):
    host = HostPolicy("ipsec0", Marks(0x48, 0xFF))
    host.open([policy(*SITE)], net.tun.index)
    assert net.where("lan", TO_SITE) == "tun"
    assert net.where("tun", TO_SITE.back) == "lan"
    assert net.where("lan", TO_OTHER) == "wan"
    host.close("open")


def test_names_that_nft_could_not_quote_are_shown_and_found_again(net, opened, policy):
    odd = 'a"b, priority 7/' + "ü" * 100
    killed = opened(policy(odd, *SITE[1:]))
    killed.close("closed")
    again = HostPolicy("ipsec0")
    assert again.open([policy(odd, *SITE[1:])], net.tun.index) == []
    assert len(again.names) == 1
    again.unload([odd], 0.0)
    assert again.flush(0.0) == {}
    assert net.where("lan", TO_SITE) == "wan"
    again.close("closed")
    third = HostPolicy("ipsec0")
    assert third.open([], net.tun.index) == []
    third.close("open")


def test_ten_thousand_policies_load_in_bounded_messages(net, opened, policy):
    host = opened(policy(*SITE))
    host.load([policy(f"c{n}/net", "10.1.0.0/24", f"20.{n // 256}.{n % 256}.0/24") for n in range(10_000)], 0.0)
    assert host.flush(0.0) == {}
    assert net.where("lan", packet_of("10.1.0.10 20.39.15.9 udp 1 7")) == "tun"
    host.unload([f"c{n}/net" for n in range(10_000)], 1.0)
    assert host.flush(1.0) == {}
    assert net.where("lan", packet_of("10.1.0.10 20.39.15.9 udp 1 7")) == "wan"


def test_prefixes_are_in_hash_maps_and_a_fifth_pair_of_lengths_or_a_range_in_one_of_intervals(net, opened, policy):
    host = opened(policy(*SITE))
    more = [policy(f"c{length}/net", "10.1.0.0/24", f"20.{length}.0.0/{length}") for length in range(17, 24)]
    host.load([*more, policy("range/net", "10.1.0.0/24", "21.0.0.3-21.0.0.9")], 0.0)
    assert host.flush(0.0) == {}
    for again in (False, True):
        if again:  # written anew by the text of all
            sh("nft flush ruleset")
            assert len(host.take_news()) == 1
        maps = sh("nft list maps | grep -o 'map v4_[^ ]*' | sort").split()[1::2]
        assert sum("nets" in name for name in maps) == 1
        assert len(maps) == 5
        for length in range(17, 24):
            assert net.where("lan", packet_of(f"10.1.0.10 20.{length}.0.9 udp 1 7")) == "tun"
            assert net.where("wan", packet_of(f"20.{length}.0.9 10.1.0.10 udp 1 7")) is None
            assert net.where("lan", packet_of(f"10.1.0.10 20.{length}.128.9 udp 1 7")) == (
                "tun" if length < 17 else "wan"
            )
        assert net.where("lan", packet_of("10.1.0.10 21.0.0.9 udp 1 7")) == "tun"
        assert net.where("lan", packet_of("10.1.0.10 21.0.0.10 udp 1 7")) == "wan"
    host.unload([one.name for one in more], 1.0)
    assert host.flush(1.0) == {}
    assert net.where("lan", packet_of("10.1.0.10 20.17.0.9 udp 1 7")) == "wan"


def test_many_deletions_from_a_map_of_intervals_are_one_new_table(net, opened, policy):
    def many(first: int, count: int):
        ends = [(f"20.{n // 256}.{n % 256}.1", f"20.{n // 256}.{n % 256}.9") for n in range(first, first + count)]
        return [policy(f"c{n}/net", "10.1.0.0/24", f"{low}-{high}") for n, (low, high) in enumerate(ends, first)]

    host = opened(policy(*SITE))
    host.load(many(0, 1000), 0.0)
    assert host.flush(0.0) == {}
    seen = committed(host)
    host.unload([f"c{n}/net" for n in range(1, 1000)], 1.0)
    assert host.flush(1.0) == {}
    assert seen == []
    host.unload(["c0/net"], 2.0)
    assert host.flush(2.0) == {}
    assert len(seen) == 1
    assert net.where("lan", TO_SITE) == "tun"
    assert net.where("lan", packet_of("10.1.0.10 20.0.0.5 udp 1 7")) == "wan"


def test_a_tun_that_is_lost_refuses_and_one_made_anew_carries_again(net, opened, policy):
    plain = policy(*SITE)
    sources = ((ip_network("10.2.0.0/24"), ip_address("10.1.0.1")),)
    host = opened(replace(plain, sources=sources))
    net.tun.close()
    assert net.where("lan", TO_SITE) is None
    assert all("refused" in line for line in host.take_news())
    sh("ip -6 rule del pref 4194")
    assert host.take_news() == ["the device ipsec0 is gone or down: what is protected is refused"]
    assert "lookup 4118" in sh("ip -6 rule")
    host.move(net.open_tun().index)
    assert net.where("lan", TO_SITE) == "tun"
    assert "dev ipsec0 table 4119 src 10.1.0.1" in " ".join(sh("ip route get 10.2.0.9").split())
    sh("ip -6 rule del pref 4194")
    assert len(host.take_news()) == 1
    assert net.where("lan", TO_SITE) == "tun"
