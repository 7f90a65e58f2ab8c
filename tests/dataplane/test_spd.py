"""Policies and selectors as the worker matches them, against the same question asked of TrafficSelector."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_packets import icmp, ip, tcp, udp

from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.spd import Policy, Tables, accepts, set_selectors
from ipsec_fast.dataplane.udp import endpoint, set_endpoint, set_raw_endpoint
from ipsec_fast.errors import UsageError
from ipsec_fast.model import TrafficSelector

KEY = bytes(20)
V4, V6 = ("10.1.0.1", "10.2.0.1"), ("fd01::1", "fd02::1")
ts = TrafficSelector.parse


def inbound(spi: int, local: str, remote: str) -> SA:
    sa = SA("in", 0x100 + spi, "aes128gcm16", KEY)
    set_selectors(sa, [ts(t) for t in local.split()], [ts(t) for t in remote.split()])
    return sa


def test_tables_refuse_what_a_worker_cannot_use() -> None:
    good = inbound(1, "10.0.0.0/8", "10.0.0.0/8")
    out = SA("out", 0x200, "aes128gcm16", KEY)
    any4 = ts("0.0.0.0/0")
    with pytest.raises(UsageError, match="twice"):
        Tables([good, good], [])
    with pytest.raises(UsageError, match="direction"):
        Tables([out], [])
    with pytest.raises(UsageError, match="set_selectors"):
        Tables([SA("in", 0x300, "aes128gcm16", KEY)], [])
    with pytest.raises(UsageError, match="set_endpoint"):
        Tables([], [Policy("protect", any4, any4, out)])
    with pytest.raises(UsageError, match="outer addresses"):
        Tables([SA("in", 0x300, "aes128gcm16", KEY, src="192.0.2.1", dst="192.0.2.2")], [])
    for protocol, algorithm, key in (("ah", "sha256", bytes(32)), ("esp", "aes128gcm16", KEY)):
        other = SA("out", 0x300, algorithm, key, protocol=protocol, mode="transport")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a worker carries tunnel mode"):
            Tables([], [Policy("protect", any4, any4, other)])
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2"}
    with pytest.raises(UsageError, match="set_raw_endpoint"):
        Tables([], [Policy("protect", any4, any4, SA("out", 0x300, "sha256", bytes(32), protocol="ah", **ends))])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the SA needs src and dst"):
        set_raw_endpoint(out, 0)
    with pytest.raises(UsageError, match="MTU is 68"):
        set_raw_endpoint(SA("out", 0x300, "aes128gcm16", KEY, **ends), 0, 67)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one IP version"):
        Policy("protect", any4, ts("::/0"))
    with pytest.raises(UsageError, match="only protect"):
        Policy("bypass", any4, any4, out)
    with pytest.raises(UsageError, match="none of"):
        Policy("allow", any4, any4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="both sides"):
        set_selectors(good, [], [any4])
    with pytest.raises(UsageError, match="one version"):
        set_endpoint(out, 0, ip_address("::1"), ip_address("192.0.2.1"), 4500)


def test_no_policy_matches_outside_the_ranges() -> None:
    tables = Tables([], [Policy("protect", ts("10.1.0.5-10.1.0.9"), ts("10.2.0.0/24"))])
    for source, found in (("10.1.0.4", False), ("10.1.0.5", True), ("10.1.0.9", True), ("10.1.0.10", False)):
        assert (tables.find(udp(source, "10.2.0.1")) is not None) is found
    assert tables.find(udp("10.1.0.5", "10.2.1.0")) is None
    assert tables.find(udp(*V6)) is None
    assert tables.find(b"no packet") is None


def test_first_match_counts() -> None:
    ssh = Policy("discard", ts("10.1.0.0/16"), ts("10.2.0.0/16[tcp/22]"))
    rest = Policy("protect", ts("10.1.0.0/16"), ts("10.2.0.0/16"))
    tables = Tables([], [ssh, rest])
    assert tables.find(tcp(*V4, ports=(5000, 22))) is ssh
    assert tables.find(tcp(*V4, ports=(5000, 23))) is rest
    assert tables.find(udp(*V4, ports=(5000, 22))) is rest


def test_inbound_matches_source_with_remote_and_destination_with_local() -> None:
    sa = inbound(1, "10.2.0.0/24 10.9.0.0/24", "10.1.0.0/24[udp/1000-2000]")
    assert accepts(sa, udp(*V4, ports=(1500, 7)))
    assert accepts(sa, udp("10.1.0.1", "10.9.0.3", ports=(1000, 7)))
    assert not accepts(sa, udp(*V4, ports=(999, 7)))
    assert not accepts(sa, udp(*V4, ports=(2001, 7)))
    assert not accepts(sa, tcp(*V4, ports=(1500, 7)))
    assert not accepts(sa, udp(*reversed(V4), ports=(1500, 7)))


def test_ports_that_cannot_be_seen_match_any_and_opaque_only() -> None:
    later = udp(*V4, b"x" * 16, fragment=10)
    no_ports = ip(*V4, 47, b"gre payload")
    for selector, seen, unseen in (
        ("10.1.0.1[udp/53]", True, False),
        ("10.1.0.1[udp/opaque]", False, True),
        ("10.1.0.1[udp]", True, True),
    ):
        sa = inbound(1, "10.2.0.1", selector)
        assert accepts(sa, udp(*V4, ports=(53, 53))) is seen
        assert accepts(sa, later) is unseen
        assert not accepts(sa, no_ports)
    assert accepts(inbound(1, "10.2.0.1[gre]", "10.1.0.1[gre]"), no_ports)


def test_icmp_type_and_code_stand_in_the_ports() -> None:
    sa = inbound(1, "10.2.0.1[icmp/2048-2303]", "10.1.0.1[icmp/2048-2303]")
    assert accepts(sa, icmp(*V4, 8, 0))
    assert not accepts(sa, icmp(*V4, 0, 0))


def test_ipv6_ranges_compare_all_bits() -> None:
    sa = inbound(1, "fd02::/64", "fd01::ffff:ffff:ffff:fff0-fd01:0:0:1::10")
    for source, found in (
        ("fd01::ffff:ffff:ffff:ffef", False),
        ("fd01::ffff:ffff:ffff:fff0", True),
        ("fd01:0:0:1::10", True),
        ("fd01:0:0:1::11", False),
    ):
        assert accepts(sa, udp(source, "fd02::1")) is found


def test_endpoint_is_what_was_set_last() -> None:
    sa = SA("out", 0x100, "aes128gcm16", KEY)
    assert endpoint(sa) is None
    set_endpoint(sa, 1, ip_address("192.0.2.1"), ip_address("192.0.2.2"), 4500)
    set_endpoint(sa, 0, None, ip_address("2001:db8::2"), 4501)
    assert endpoint(sa) == (0, None, ip_address("2001:db8::2"), 4501)


addresses = st.integers(int(IPv4Address("10.0.0.0")), int(IPv4Address("10.0.0.15")))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    start, end = sorted((draw(addresses), draw(addresses)))
    protocol = draw(st.sampled_from([0, 6, 17, 17]))
    ports = draw(st.sampled_from([(0, 65535), (65535, 0), (53, 53), (50, 60)])) if protocol else (0, 65535)
    return TrafficSelector(IPv4Address(start), IPv4Address(end), protocol, *ports)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(selectors(), selectors()), max_size=8),
    addresses,
    addresses,
    st.sampled_from([6, 17]),
    st.sampled_from([50, 53, 99, None]),
)
def test_find_agrees_with_the_model(
    pairs: list[tuple[TrafficSelector, TrafficSelector]], source: int, destination: int, protocol: int, port: int | None
) -> None:
    policies = [Policy("protect", a, b) for a, b in pairs]
    src, dst = IPv4Address(source), IPv4Address(destination)
    ends = (str(src), str(dst))
    if port is None:
        packet, first, last = ip(*ends, protocol, b"x" * 16, fragment=10), 65535, 0
    else:
        packet, first, last = (tcp if protocol == 6 else udp)(*ends, ports=(port, port)), port, port
    wanted = [
        p
        for p in policies
        if inside(p.local, src, protocol, first, last) and inside(p.remote, dst, protocol, first, last)
    ]
    assert Tables([], policies).find(packet) is (wanted[0] if wanted else None)


def inside(selector: TrafficSelector, address: IPv4Address, protocol: int, first: int, last: int) -> bool:
    return selector.contains(TrafficSelector(address, address, protocol, first, last))
