"""Real packets past the kernel's policy: what is protected leaves by the TUN only, clear ones are dropped, others go their way."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nft_lab import ip_of, sh, upper_of
from policy_twin import Packet, packet_of, way_of

from ipsec_fast.errors import UsageError
from ipsec_fast.model import TrafficSelector
from ipsec_fast.system.nft.marks import Marks
from ipsec_fast.system.nft.policies import Action, Policy, boxes_of

pytestmark = pytest.mark.netns
SITE = "site/net", "10.1.0.0/24,fd00:1::/64", "10.2.0.0/24,fd00:2::/64"


def ways(net, side: str, *rows: tuple[str, str | None]) -> None:
    for text, way in rows:
        assert net.where(side, packet_of(text)) == way, text


def test_a_protected_packet_leaves_by_the_tun_and_others_go_their_way(net, opened, policy):
    opened(policy(*SITE))
    ways(
        net,
        "lan",
        ("10.1.0.10 10.2.0.9 udp 1000 53", "tun"),
        ("fd00:1::10 fd00:2::9 udp 1000 53", "tun"),
        ("10.1.0.10 10.2.0.9 47", "tun"),
        ("10.1.0.10 10.3.0.9 udp 1000 53", "wan"),
        ("10.1.7.10 10.2.0.9 udp 1000 53", "wan"),
        ("fd00:1::10 fd00:3::9 tcp 1000 53", "wan"),
        ("10.1.0.10 10.1.0.1 udp 1000 53", "local"),
    )


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_clear_packets_that_a_policy_protects_are_dropped_and_counted_forwarded_and_local(
    net, opened, policy, rp_filter
):
    host = opened(policy(*SITE))
    net.rp_filter(rp_filter)
    clear = (
        "10.2.0.9 10.1.0.10 udp 1000 53",
        "10.2.0.9 10.1.0.1 udp 1000 53",
        "10.2.0.9 10.1.0.1 udp 1000 22",
        "fd00:2::9 fd00:1::10 tcp 1000 53",
        "fd00:2::9 fd00:1::1 tcp 1000 53",
    )
    ways(net, "wan", *((text, None) for text in clear))
    assert host.counters()["clear_in"].packets == len(clear)
    ways(net, "tun", *((text, "local" if "::1 " in text or "0.1 " in text else "lan") for text in clear))
    assert host.counters()["clear_in"].packets == len(clear)
    ways(net, "wan", ("10.3.0.9 10.1.0.1 udp 1000 53", "local"), ("fd00:3::9 fd00:1::10 tcp 1000 53", "lan"))


def test_ports_protocols_and_types_decide(net, opened, policy):
    opened(
        policy("web/a", "10.1.0.0/24", "10.2.0.0/24[tcp/80]"),
        policy("range/a", "10.1.0.0/24[udp/1000-1010]", "10.2.0.0/24"),
        policy("gre/a", "10.1.0.0/24", "10.2.0.0/24[gre]"),
        policy("echo/a", "10.1.0.0/24", "10.2.0.0/24[icmp/2048]"),
        policy("echo6/a", "fd00:1::/64", "fd00:2::/64[ipv6-icmp/32768-33023]"),
    )
    ways(
        net,
        "lan",
        ("10.1.0.10 10.2.0.9 tcp 1 80", "tun"),
        ("10.1.0.10 10.2.0.9 tcp 80 1", "wan"),
        ("10.1.0.10 10.2.0.9 udp 1005 7", "tun"),
        ("10.1.0.10 10.2.0.9 udp 1011 7", "wan"),
        ("10.1.0.10 10.2.0.9 47", "tun"),
        ("10.1.0.10 10.2.0.9 89", "wan"),
        ("10.1.0.10 10.2.0.9 icmp 2048", "tun"),
        ("10.1.0.10 10.2.0.9 icmp 0", "wan"),
        ("fd00:1::10 fd00:2::9 ipv6-icmp 32768", "tun"),
        ("fd00:1::10 fd00:2::9 ipv6-icmp 33024", "wan"),
    )
    ways(
        net,
        "wan",
        ("10.2.0.9 10.1.0.10 tcp 80 1", None),
        ("10.2.0.9 10.1.0.10 tcp 1 80", "lan"),
        ("10.2.0.9 10.1.0.10 udp 7 1005", None),
        ("10.2.0.9 10.1.0.10 icmp 2048", None),
        ("10.2.0.9 10.1.0.10 icmp 0", "lan"),
    )


def test_bypass_and_discard_by_narrowness_and_by_priority(net, opened, policy):
    opened(
        policy("all/net", "10.1.0.0/24", "0.0.0.0/0"),
        policy("dns/pass", "10.1.0.0/24", "10.5.0.0/16[udp/53]", Action.PASS),
        policy("smtp/drop", "10.1.0.0/24", "10.0.0.0/8[tcp/25]", Action.DROP),
        policy("vip/pass", "10.1.0.0/16", "10.4.0.0/14", Action.PASS, priority=1),
    )
    ways(
        net,
        "lan",
        ("10.1.0.10 8.8.8.8 udp 1 53", "tun"),
        ("10.1.0.10 10.9.0.1 tcp 1 25", None),
        ("10.1.0.10 10.9.0.1 tcp 1 26", "tun"),
        ("10.1.0.10 10.5.0.1 udp 1 53", "wan"),
        ("10.1.0.10 10.5.0.1 tcp 1 25", "wan"),  # priority 1 comes before what is narrower
        ("10.1.9.10 8.8.8.8 udp 1 53", "wan"),
    )
    ways(
        net,
        "wan",
        ("10.9.0.1 10.1.0.10 tcp 25 1", None),
        ("10.5.0.1 10.1.0.10 udp 53 1", "lan"),
        ("8.8.8.8 10.1.0.10 udp 53 1", None),
    )


SHAPES = {
    "site": ("10.1.0.0/24", "10.2.0.0/24", "10.2.0.9"),
    "host to host": ("192.0.2.1/32", "192.0.2.2/32", None),
    "the peer's network": ("10.1.0.0/24,192.0.2.1/32", "192.0.2.0/24", "192.0.2.77"),
    "everything": ("10.1.0.0/24", "0.0.0.0/0", "8.8.8.8"),
    "two halves": ("10.1.0.0/24,192.0.2.1/32", "0.0.0.0/1,128.0.0.0/1", "203.0.113.7"),
}


@pytest.mark.parametrize("src_valid_mark", [0, 1])
@pytest.mark.parametrize("rp_filter", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_reverse_path_filters_accept_the_tunnel_and_what_carries_it(
    net, opened, policy, shape, rp_filter, src_valid_mark
):
    local, remote, far = SHAPES[shape]
    own = ip_address("192.0.2.1" if "192.0.2.1" in local else "10.1.0.1")
    sources = tuple((ip_network(one), own) for one in remote.split(","))  # which reverse look-ups must not meet
    opened(replace(policy("one/net", local, remote), sources=sources))
    net.rp_filter(rp_filter)
    sh(f"sysctl -qw net.ipv4.conf.all.src_valid_mark={src_valid_mark}")
    if far:
        ways(net, "lan", (f"10.1.0.10 {far} udp 1 7", "tun"))
        ways(net, "tun", (f"{far} 10.1.0.10 udp 7 1", "lan"))
        ways(net, "wan", (f"{far} 10.1.0.10 udp 7 1", None))
    else:
        ways(net, "tun", ("192.0.2.2 192.0.2.1 udp 7 1", "local"))
        ways(net, "wan", ("192.0.2.2 192.0.2.1 udp 7 1", None))
    ways(
        net,
        "wan",
        ("192.0.2.2 192.0.2.1 udp 500 500", "local"),
        ("192.0.2.2 192.0.2.1 udp 4500 4500", "local"),
        ("192.0.2.2 192.0.2.1 50", "local"),
    )
    assert sends(net, "192.0.2.2", mark=Marks().own, port=500) == "wan"


def sends(net, to: str, *, bound: str = "", mark: int = 0, port: int = 7777) -> str | None:
    """Where a datagram of the gateway itself goes."""
    return sends_from(net, to, bound=bound, mark=mark, port=port)[0]


def sends_from(net, to: str, *, bound: str = "", mark: int = 0, port: int = 7777) -> tuple[str | None, str]:
    """The same, with its source."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    net.drain()
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        if mark:
            one.setsockopt(socket.SOL_SOCKET, 36, mark)
        if bound:
            one.bind((bound, 0))
        try:
            one.sendto(b"from the gateway", (to, port))
        except OSError as error:
            return "refused", error.strerror or ""
    for _ in range(20):
        for where, data in net._read():
            at, end = (12, 20) if data[0] >> 4 == 4 else (8, 40)
            half = (end - at) // 2
            if data[at + half : end] == socket.inet_pton(family, to):
                return where, socket.inet_ntop(family, data[at : at + half])
    return None, ""


def test_packets_of_the_gateway_itself_get_an_inside_source_and_a_bound_one_goes_its_way(net, opened, policy):
    plain = policy(*SITE)
    sources = tuple(
        (ip_network(network), ip_address(source))
        for network, source in (("10.2.0.0/24", "10.1.0.1"), ("fd00:2::/64", "fd00:1::1"))
    )
    host = opened(Policy(plain.name, plain.action, plain.local_ts, plain.remote_ts, 0, sources))
    net.rp_filter(1)
    assert sends_from(net, "10.2.0.9") == ("tun", "10.1.0.1")
    assert sends_from(net, "fd00:2::9") == ("tun", "fd00:1::1")
    assert sends_from(net, "10.2.0.9", bound="192.0.2.1") == ("wan", "192.0.2.1")
    assert sends_from(net, "fd00:2::9", bound="2001:db8::1") == ("wan", "2001:db8::1")
    assert sends_from(net, "10.3.0.9") == ("wan", "192.0.2.1")
    assert sends(net, "10.2.0.9", mark=Marks().own) == "wan"
    net.tun.close()  # as when the gateway is killed
    assert sends(net, "10.2.0.9") == "refused"
    assert sends(net, "fd00:2::9") == "refused"
    assert sends_from(net, "10.2.0.9", bound="10.1.0.1")[0] in ("refused", None)
    host.unload([plain.name], 0.0)
    assert host.flush(0.0) == {}
    assert sends_from(net, "10.2.0.9") == ("wan", "192.0.2.1")


def test_without_the_tun_protected_packets_are_refused_and_others_pass(net, opened, policy):
    opened(policy(*SITE))
    net.tun.close()
    ways(
        net,
        "lan",
        ("10.1.0.10 10.2.0.9 udp 1 7", None),
        ("fd00:1::10 fd00:2::9 udp 1 7", None),
        ("10.1.0.10 10.3.0.9 udp 1 7", "wan"),
    )
    ways(net, "wan", ("10.2.0.9 10.1.0.10 udp 7 1", None))


def test_a_hub_sends_from_spoke_to_spoke_through_the_tun(net, opened, policy):
    opened(policy("one/net", "10.0.0.0/8", "10.2.0.0/16"), policy("two/net", "10.0.0.0/8", "10.3.0.0/16"))
    for rp_filter in (0, 1, 2):
        net.rp_filter(rp_filter)
        ways(
            net,
            "tun",
            ("10.2.0.9 10.3.0.9 udp 1 7", "tun"),
            ("10.3.0.9 10.2.0.9 udp 1 7", "tun"),
            ("10.2.0.9 10.1.0.10 udp 1 7", "lan"),
        )


def test_equal_wide_selectors_on_both_sides_do_not_loop_decrypted_packets(net, opened, policy):
    host = opened(
        policy("wide/net", "10.0.0.0/8", "10.0.0.0/8"), policy("lan/pass", "10.1.0.0/24", "10.1.0.0/24", Action.PASS)
    )
    host.set_inside([ip_network("10.1.0.0/16")])
    ways(net, "tun", ("10.2.0.9 10.1.0.10 udp 1 7", "lan"))
    ways(net, "lan", ("10.1.0.10 10.2.0.9 udp 1 7", "tun"), ("10.1.0.10 10.1.0.1 udp 1 7", "local"))
    assert sends(net, "10.1.0.10") == "lan"


@pytest.mark.parametrize("local", ["10.1.0.0/24", "0.0.0.0/0,::/0"])
def test_fragments_are_looked_up_with_the_ports_of_their_first(net, opened, policy, local):
    opened(policy("udp/net", local, "10.2.0.0/24[udp/53]"))
    for port, way in ((53, "tun"), (54, "wan")):
        whole = packet_of(f"10.1.0.10 10.2.0.9 udp 1000 {port}")
        data = upper_of(whole, b"x" * 2000)
        pieces = [
            ip_of(whole, data[:1024], fragment=0x2000),
            ip_of(whole, data[1024:], fragment=1024 // 8),
        ]
        where, seen = net.pass_through("lan", pieces, whole)
        assert where == way
        assert sum(len(one) - 20 for one in seen) == len(data)


def test_neighbours_and_dhcp_of_the_gateway_are_not_captured_by_a_selector_of_everything(net, opened, policy):
    opened(policy("all/net", "0.0.0.0/0,::/0", "0.0.0.0/0,::/0"))
    net.drain()
    sh("ip neigh del 2001:db8::2 dev wan")
    assert sends(net, "2001:db8::2", mark=Marks().own) == "wan"  # after a neighbour solicitation and its answer
    assert sends(net, "2001:db8::2") == "tun"
    ways(net, "wan", ("192.0.2.2 192.0.2.1 udp 67 68", "local"), ("192.0.2.2 192.0.2.1 udp 67 69", None))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("192.0.2.1", 68))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for target in ("192.0.2.2", "255.255.255.255"):
            net.drain()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan")
            one.sendto(b"dhcp", (target, 67))
            assert [where for _ in range(3) for where, data in net._read() if data[9] == 17] == ["wan"]


def test_icmp_errors_that_quote_what_carries_the_tunnel_reach_us(net, opened, policy):
    opened(policy("all/net", "0.0.0.0/0,::/0", "0.0.0.0/0,::/0"))
    for quoted, way in (("50", "local"), ("udp 4500 4500", "local"), ("udp 500 500", "local"), ("udp 7 7", None)):
        inner = ip_of(packet_of(f"192.0.2.1 203.0.113.1 {quoted}"), b"12345678")
        error = packet_of("192.0.2.2 192.0.2.1 icmp 772")  # fragmentation needed
        assert net.where("wan", error, payload=inner) == way, quoted
        inner = ip_of(packet_of(f"2001:db8::1 2001:db8:7::1 {quoted}"), b"12345678")
        error = packet_of("2001:db8::2 2001:db8::1 ipv6-icmp 512")  # packet too big
        assert net.where("wan", error, payload=inner) == way, quoted


NAT = """
table ip foreign {
  chain post {
    type nat hook postrouting priority srcnat;
    ip saddr 10.1.7.0/24 oifname "wan" snat to 10.1.0.77
    ip saddr 10.1.8.0/24 oifname "wan" masquerade
  }
  chain pre {
    type nat hook prerouting priority dstnat;
    iifname "wan" ip daddr 192.0.2.1 udp dport 8080 dnat to 10.1.0.10:80
    iifname "wan" ip daddr 192.0.2.1 udp dport 8081 dnat to 10.1.0.1:80
    iifname "lan" ip daddr 10.66.0.1 dnat to 10.2.0.9
  }
}
"""


def test_nat_rules_of_others_neither_send_protected_packets_in_clear_nor_let_clear_ones_in(net, opened, policy):
    host = opened(policy(*SITE))
    sh(f"nft -f - <<'END'\n{NAT}\nEND")
    ways(
        net,
        "lan",
        ("10.1.0.10 10.2.0.9 udp 1 7", "tun"),
        ("10.1.7.10 10.2.0.9 udp 1 7", None),  # would leave with a protected source
        ("10.1.0.10 10.66.0.1 udp 1 7", None),  # would leave for a protected destination
    )
    assert host.counters()["clear_out"].packets == 2
    ways(
        net,
        "wan",
        ("10.2.0.9 192.0.2.1 udp 1 8080", None),
        ("10.2.0.9 192.0.2.1 udp 1 8081", None),
    )
    assert host.counters()["clear_in"].packets == 2


def test_a_decrypted_packet_that_nat_gives_a_protected_source_is_not_sent_in_clear(net, opened, policy):
    host = opened(policy(*SITE))
    rule = "ip saddr 10.9.0.0/24 ip daddr 10.2.0.0/24 snat to 10.1.0.77"
    sh("nft 'add table ip foreign; add chain ip foreign post { type nat hook postrouting priority srcnat; }'")
    sh(f"nft add rule ip foreign post {rule}")
    ways(net, "tun", ("10.9.0.5 10.2.0.9 udp 1 7", None), ("10.9.0.5 10.3.0.9 udp 1 7", "wan"))
    assert host.counters()["clear_out"].packets == 1


def test_a_discard_policy_of_everything_leaves_neighbours_and_dhcp(net, opened, policy):
    host = opened(policy("all/drop", "0.0.0.0/0,::/0", "0.0.0.0/0,::/0", Action.DROP))
    sh("ip neigh del 2001:db8::2 dev wan")
    assert sends(net, "2001:db8::2", mark=Marks().own) == "wan"
    assert sends(net, "2001:db8::2") in ("refused", None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("192.0.2.1", 68))
        net.drain()
        one.sendto(b"dhcp", ("192.0.2.2", 67))
        assert [where for _ in range(3) for where, data in net._read() if data[9] == 17] == ["wan"]
    before = host.counters()["discarded"].packets
    with pytest.raises(AssertionError, match="the stop packet did not come"):
        net.where("lan", packet_of("10.1.0.10 8.8.8.8 udp 1 7"))
    assert host.counters()["discarded"].packets > before


def test_a_mark_that_others_took_away_or_set_does_not_open_and_their_bits_survive(net, opened, policy):
    host = opened(policy(*SITE))
    sh(
        "nft add table inet other; nft add chain inet other pre '{ type filter hook prerouting priority mangle + 5; }';"
        "nft add rule inet other pre udp dport 1 meta mark set 0;"
        "nft add rule inet other pre udp dport 2 meta mark set meta mark or 0x11;"
        "nft add chain inet other post '{ type filter hook postrouting priority 2000; }';"
        "nft add rule inet other post meta mark and 0xffffff == 0x11 counter"
    )
    ways(net, "lan", ("10.1.0.10 10.2.0.9 udp 9 1", None), ("10.1.0.10 10.2.0.9 udp 9 2", "tun"))
    assert host.counters()["clear_out"].packets == 1
    assert "counter packets 1 " in sh("nft list chain inet other post")


def test_a_late_route_that_leads_protected_packets_elsewhere_is_stopped_and_counted(net, opened, policy):
    host = opened(policy(*SITE))
    sh("ip rule add pref 10 to 10.2.0.0/24 lookup main")
    ways(net, "lan", ("10.1.0.10 10.2.0.9 udp 9 1", None))
    assert host.counters()["clear_out"].packets == 1


FIREWALLD = """
table inet firewalld {
  chain filter_PREROUTING {
    type filter hook prerouting priority filter + 10
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
}
"""


def test_firewallds_reverse_path_rule_for_ipv6_accepts_both_directions(net, opened, policy):
    opened(policy(*SITE))
    sh(f"nft -f - <<'END'\n{FIREWALLD}\nEND")
    ways(net, "lan", ("fd00:1::10 fd00:2::9 udp 1 7", "tun"), ("fd00:1::10 fd00:3::9 udp 1 7", "wan"))
    ways(net, "tun", ("fd00:2::9 fd00:1::10 udp 7 1", "lan"), ("fd00:2::9 fd00:1::1 udp 7 1", "local"))


LOCAL, REMOTE = [0x0A010700 + n for n in (9, 10, 11, 12)], [0x0A020000 + n for n in (8, 9, 10, 11)]


def _addresses(draw, among: list[int]) -> tuple[object, object]:
    low, high = sorted((draw(st.sampled_from(among)), draw(st.sampled_from(among))))
    return IPv4Address(low), IPv4Address(high)


@st.composite
def random_policies(draw) -> list[Policy]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        sides = []
        for among in (LOCAL, REMOTE):
            protocol = draw(st.sampled_from([0, 0, 6, 17, 47, 1]))
            first, last = sorted((draw(st.integers(1, 5)), draw(st.integers(1, 5))))
            ports = (0, 65535) if protocol == 47 or draw(st.booleans()) else (first, last)
            sides.append((TrafficSelector(*_addresses(draw, among), protocol, *ports),))
        one = Policy(f"r/{number}", draw(st.sampled_from(list(Action))), *sides, draw(st.sampled_from([0, 0, 1, 2])))
        try:
            boxes_of(one)
        except UsageError:
            continue
        made.append(one)
    return made


@st.composite
def random_packets(draw) -> Packet:
    ends = [IPv4Address(draw(st.sampled_from(among))) for among in (LOCAL, REMOTE)]
    protocol = draw(st.sampled_from([6, 17, 47, 1]))
    ports = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    packet = Packet(*ends, protocol, None if protocol == 47 else (ports[0],) * 2 if protocol == 1 else ports)
    return packet if draw(st.booleans()) else packet.back


def test_the_kernel_gives_the_verdict_of_the_slow_twin(net, opened):
    host = opened()
    loaded: list[str] = []

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(random_policies(), st.lists(random_packets(), min_size=10, max_size=10))
    def compare(policies, packets):
        host.unload(loaded, 0.0)
        host.load(policies, 0.0)
        assert host.flush(0.0) == {}
        loaded[:] = [one.name for one in policies]
        for packet in packets:
            outbound = int(packet.source) in LOCAL
            seen = net.where("lan" if outbound else "wan", packet)
            expected = {"tun": "tun", "dropped": None, "clear": "wan" if outbound else "lan"}[way_of(policies, packet)]
            assert seen == expected, packet

    compare()
