"""Narrowing against a naive model: a packet passes the result exactly if it passes both lists."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsec_fast.errors import NegotiationError
from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.v2.narrow import MAX_SELECTORS, check_narrowed, covers, fold, narrow, narrow_both, reduced
from ipsec_fast.model import TrafficSelector

parse = TrafficSelector.parse


def of(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(parse(text) for text in texts)


@pytest.mark.parametrize(
    ("offered", "configured"),
    [
        (["10.1.0.0/24"], ["10.2.0.0/24"]),
        (["10.1.0.0/24"], ["2001:db8::/64"]),
        (["10.1.0.0/24[tcp]"], ["10.1.0.0/24[udp]"]),
        (["10.1.0.0/24[tcp/80]"], ["10.1.0.0/24[tcp/81-90]"]),
        (["10.1.0.0/24[tcp/opaque]"], ["10.1.0.0/24[tcp/80]"]),
        (["0.0.0.0/0"], ["::/0"]),
    ],
)
def test_nothing_in_common_is_ts_unacceptable_and_names_both(offered: list[str], configured: list[str]) -> None:
    with pytest.raises(NegotiationError) as caught:
        narrow(of(*offered), of(*configured), side="TSi")
    assert caught.value.notify == NotifyType.TS_UNACCEPTABLE == 38
    assert str(caught.value) == f"no common TSi: they offered {offered[0]}, we allow {configured[0]}"


@pytest.mark.parametrize(
    ("offered", "configured", "wanted"),
    [
        (["10.1.0.0/24"], ["10.1.0.0/24"], ["10.1.0.0/24"]),
        (["0.0.0.0/0"], ["10.1.0.0/24", "10.2.0.0/24"], ["10.1.0.0/24", "10.2.0.0/24"]),
        (["10.1.0.0/24", "10.2.0.0/24"], ["0.0.0.0/0"], ["10.1.0.0/24", "10.2.0.0/24"]),
        (["10.0.0.0/8", "192.168.0.0/16"], ["10.1.0.0/16", "192.168.7.0/24", "172.16.0.0/12"], ["10.1.0.0/16", "192.168.7.0/24"]),
        (["10.1.0.5", "10.1.0.0/24"], ["10.1.0.0/16"], ["10.1.0.0/24"]),
        (["10.1.0.0/24"] * 3, ["10.1.0.0/24"] * 2, ["10.1.0.0/24"]),
        (["10.0.0.0/8[tcp]"], ["10.1.0.0/16[tcp/443]", "10.2.0.0/16[udp]"], ["10.1.0.0/16[tcp/443]"]),
        (["10.0.0.0/8[tcp/100-200]"], ["10.0.0.0/8[tcp/150-250]"], ["10.0.0.0/8[tcp/150-200]"]),
        (["10.0.0.0/8[tcp/opaque]"], ["10.0.0.0/8"], ["10.0.0.0/8[tcp/opaque]"]),
        (["10.0.0.0/8"], ["10.0.0.0/8[tcp/opaque]"], ["10.0.0.0/8[tcp/opaque]"]),
        (["10.0.0.10-10.0.0.20"], ["10.0.0.15-10.0.0.30"], ["10.0.0.15-10.0.0.20"]),
        (["0.0.0.0/0", "::/0"], ["2001:db8::/64", "10.0.0.0/8"], ["10.0.0.0/8", "2001:db8::/64"]),
    ],
)  # fmt: skip
def test_intersection_over_all_pairs(offered: list[str], configured: list[str], wanted: list[str]) -> None:
    assert narrow(of(*offered), of(*configured)) == of(*wanted)


def test_result_is_cut_at_the_limit() -> None:
    hosts = [TrafficSelector.host(ip_address(i)) for i in range(1000, 1000 + 2 * 255, 2)]
    assert narrow(hosts, of("0.0.0.0/0")) == tuple(hosts[:MAX_SELECTORS])


def test_what_the_responder_returns_lies_inside_what_we_offered() -> None:
    offered = of("10.1.0.0/24", "10.2.0.0/24[tcp]")
    assert check_narrowed(offered, of("10.1.0.7", "10.2.0.0/25[tcp/80]")) == of("10.1.0.7", "10.2.0.0/25[tcp/80]")


@pytest.mark.parametrize("returned", ["10.1.0.0/23", "10.2.0.0/24", "10.2.0.0/24[udp]", "0.0.0.0/0", "::/0"])
def test_a_widened_selector_is_refused(returned: str) -> None:
    with pytest.raises(NegotiationError, match="widened") as caught:
        check_narrowed(of("10.1.0.0/24", "10.2.0.0/24[tcp]"), of("10.1.0.1", returned), side="TSr")
    assert caught.value.notify == NotifyType.TS_UNACCEPTABLE


# --- the model: packets out of a small world, (address, protocol, port or None for a port that is not available)

Packet = tuple[int, int, int | None]
ADDRESSES, PROTOCOLS, PORTS = range(6), (6, 17), (0, 1, 2, 65535, None)
WORLD: list[Packet] = [(a, protocol, port) for a in ADDRESSES for protocol in PROTOCOLS for port in PORTS]


def passes(ts: TrafficSelector, packet: Packet) -> bool:
    address, protocol, port = packet
    if not int(ts.start) <= address <= int(ts.end) or ts.protocol not in (0, protocol):
        return False
    if port is None:
        return ts.is_opaque or ts.is_any_port
    return not ts.is_opaque and ts.start_port <= port <= ts.end_port


def passing(selectors: Sequence[TrafficSelector]) -> set[Packet]:
    return {packet for packet in WORLD if any(passes(ts, packet) for ts in selectors)}


@st.composite
def small(draw: st.DrawFn) -> TrafficSelector:
    first, last = sorted((draw(st.sampled_from(ADDRESSES)), draw(st.sampled_from(ADDRESSES))))
    ports = draw(st.sampled_from([(0, 65535), (65535, 0), (0, 0), (1, 2), (0, 1), (2, 65535)]))
    return TrafficSelector(ip_address(first), ip_address(last), draw(st.sampled_from([0, *PROTOCOLS])), *ports)


_lists = st.lists(small(), min_size=1, max_size=5)


@given(_lists, _lists)
@settings(max_examples=400)
def test_narrow_passes_what_both_lists_pass(offered: list[TrafficSelector], configured: list[TrafficSelector]) -> None:
    wanted = passing(offered) & passing(configured)
    try:
        result = narrow(offered, configured)
    except NegotiationError:
        assert not wanted
        return
    assert passing(result) == wanted
    assert check_narrowed(offered, result) == check_narrowed(configured, result) == result
    assert not any(a is not b and a.contains(b) for a in result for b in result)


def test_a_responder_cannot_return_more_than_the_limit() -> None:
    hosts = [TrafficSelector.host(ip_address(i)) for i in range(1000, 1000 + MAX_SELECTORS + 1)]
    with pytest.raises(NegotiationError, match="returned 65 selectors"):
        check_narrowed(of("0.0.0.0/0"), hosts)


# --- both sides, and what choosing among children needs


@given(_lists, small())
@settings(max_examples=400)
def test_what_covers_one_passes_all_that_it_passes(selectors: list[TrafficSelector], one: TrafficSelector) -> None:
    """It may miss a cover that is laid like bricks, by addresses and ports at
    once; it never sees one that is not there.
    """
    everything = passing(selectors) >= passing([one])
    if covers(selectors, one):
        assert everything
    if any(ts.contains(one) for ts in selectors):
        assert covers(selectors, one)


@given(_lists)
@settings(max_examples=400)
def test_folding_and_reducing_keep_the_traffic(selectors: list[TrafficSelector]) -> None:
    for fewer in (fold(selectors), reduced(selectors)):
        assert passing(fewer) == passing(selectors)
        assert len(fewer) <= len(selectors)
    assert reduced(selectors)[0] == selectors[0]


@given(_lists, _lists, _lists, _lists)
@settings(max_examples=100)
def test_narrowing_both_sides_passes_what_both_allow(
    tsi: list[TrafficSelector],
    tsr: list[TrafficSelector],
    local: list[TrafficSelector],
    remote: list[TrafficSelector],
) -> None:
    try:
        common = narrow_both(tsi, tsr, local, remote)
    except NegotiationError:
        return
    assert passing(common.remote) <= passing(tsi) & passing(remote)
    assert passing(common.local) <= passing(tsr) & passing(local)
    assert 0 < common.share <= 1
    assert common.left_out == 0
    if all(any(ts.contains(first) for ts in ours) for first, ours in ((tsi[0], remote), (tsr[0], local))):
        kinds = {(ts.version, ts.protocol) for ts in (tsi[0], tsr[0])}
        assert common.holds_first or len(kinds) == 2, "a first selector may meet nothing of the other side"


def test_the_longest_offer_against_a_long_configuration_costs_a_bounded_number_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """255 selectors that all overlap, copies, port after port: looked at once each, whatever they are."""
    made = [0]
    intersect = TrafficSelector.intersect

    def counted(self: TrafficSelector, other: TrafficSelector) -> TrafficSelector | None:
        made[0] += 1
        return intersect(self, other)

    monkeypatch.setattr(TrafficSelector, "intersect", counted)
    configured = [TrafficSelector(ip_address(n << 9), ip_address((n << 9) + 255)) for n in range(255)]
    offers = (
        [TrafficSelector(ip_address(n), ip_address((1 << 30) + n)) for n in range(255)],
        [TrafficSelector(ip_address(0), ip_address(2**32 - 1), 6, 2 * n, 2 * n) for n in range(255)],
        list(of("0.0.0.0/0")) * 255,
    )
    for offered in offers:
        made[0] = 0
        common = narrow_both(reduced(offered), of("10.1.0.0/24"), of("10.1.0.0/24"), configured, policies=1024)
        assert len(common.remote) == 255
        assert made[0] < 1024
