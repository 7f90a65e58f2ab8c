"""Stateful fragment checking (RFC 4301 section 7.3): a later fragment goes where its first one went, or nowhere."""

from __future__ import annotations

import struct

import pytest
from fragment_packets import piece_v4, piece_v6, udp_v4
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.status import NAMES
from ipsec_fast.dataplane.track import FragmentTracker
from ipsec_fast.errors import UsageError
from ipsec_fast.model import TrafficSelector

ts = TrafficSelector.parse
V4 = ("10.1.0.0/16", "10.2.0.0/16")
V6 = ("::/16", "::/16")


def header(port: int, size: int = 24) -> bytes:
    return struct.pack("!HHHH", 1000, port, 2000, 0) + bytes(size - 8)


def first(port: int, ident: int = 1, version: int = 4, **more) -> bytes:
    return (piece_v4 if version == 4 else piece_v6)(0, header(port), True, ident=ident, **more)


def later(ident: int = 1, version: int = 4, offset: int = 24, **more) -> bytes:
    return (piece_v4 if version == 4 else piece_v6)(offset, bytes(16), False, ident=ident, **more)


def tables(*rows: str) -> Tables:
    """Rows like `discard 10.1.0.0/16 10.2.0.0/16[udp/53]`; which row it was stands in `tag`."""
    return Tables([], [Policy(a, ts(b), ts(c), tag=i) for i, (a, b, c) in enumerate(row.split() for row in rows)])  # type: ignore[arg-type]


def inbound(local: str, remote: str) -> SA:
    sa = SA("in", 0x1001, "aes128gcm16", bytes(20))
    set_selectors(sa, [ts(t) for t in local.split()], [ts(t) for t in remote.split()])
    return sa


def found(tracker: FragmentTracker, given_tables: Tables, packet: bytes, now: float = 0.0) -> str | int:
    verdict, policy = tracker.find(given_tables, packet, now)
    return policy.tag if policy else NAMES[verdict]


# --- outbound

WEB_ONLY = (f"discard {V4[0]} {V4[1]}[udp/53]", f"protect {V4[0]} {V4[1]}")


def test_later_fragment_before_its_first_is_dropped_where_ports_decide() -> None:
    assert found(FragmentTracker(), tables(*WEB_ONLY), later()) == "fragment_unmatched"


def test_later_fragment_of_another_protocol_than_the_ports_needs_no_first() -> None:
    assert found(FragmentTracker(), tables(*WEB_ONLY), later(protocol=47)) == 1


def test_later_fragment_goes_where_its_first_went() -> None:
    tracker, rows = FragmentTracker(), tables(*WEB_ONLY)
    for port, row in ((53, 0), (80, 1)):
        assert found(tracker, rows, first(port, port)) == row
        assert found(tracker, rows, later(port)) == row


def test_other_identification_protocol_or_address_is_another_packet() -> None:
    tracker, rows = FragmentTracker(), tables(*WEB_ONLY, f"protect {V4[0]} {V4[1]}[sctp/53]")
    found(tracker, rows, first(80, 1))
    assert found(tracker, rows, later(2)) == "fragment_unmatched"
    moved = later()[:12] + b"\x0a\1\0\2" + later()[16:]
    assert found(tracker, rows, moved) == "fragment_unmatched"


def test_new_policies_count_for_the_rest_of_a_packet() -> None:
    tracker = FragmentTracker()
    assert found(tracker, tables(*WEB_ONLY), first(80)) == 1
    assert found(tracker, tables(f"discard {V4[0]} {V4[1]}[udp/80]", *WEB_ONLY), later()) == 0


def test_ports_are_forgotten_after_the_timeout() -> None:
    tracker, rows = FragmentTracker(timeout_s=30), tables(*WEB_ONLY)
    found(tracker, rows, first(80), 100.0)
    assert found(tracker, rows, later(), 129.9) == 1
    assert found(tracker, rows, later(), 130.0) == "fragment_unmatched"


def test_a_flood_of_first_fragments_takes_no_more_room_and_the_newest_are_known() -> None:
    tracker, rows = FragmentTracker(entries=64), tables(*WEB_ONLY)
    for ident in range(5000):
        found(tracker, rows, first(80, ident), ident / 1000)
    known = [found(tracker, rows, later(ident), 5.0) == 1 for ident in range(5000)]
    assert sum(known) == 64
    assert known[-1]
    assert not any(known[:4000])


def test_tiny_and_broken_fragments_are_dropped() -> None:
    tracker, rows = FragmentTracker(), tables(*WEB_ONLY)
    assert found(tracker, rows, piece_v4(0, bytes(8), True, protocol=6)) == "fragment_tiny"
    assert found(tracker, rows, piece_v4(8, bytes(8), True, protocol=6)) == "fragment_tiny"
    assert found(tracker, rows, piece_v4(24, b"", False)) == "fragment_length"
    assert found(tracker, rows, piece_v4(24, bytes(9), True)) == "fragment_length"
    assert found(tracker, rows, piece_v4(65528, bytes(16), False)) == "fragment_too_long"


def test_opaque_policy_takes_fragments_whose_first_is_unknown() -> None:
    rows = tables(f"protect {V4[0]}[udp/opaque] {V4[1]}[udp/opaque]", f"protect {V4[0]} {V4[1]}[udp/80]")
    assert found(FragmentTracker(), rows, later()) == 0


def test_ipv6_fragment_follows_its_first_over_a_chain_that_hides_the_protocol() -> None:
    tracker, rows = FragmentTracker(), tables(f"discard {V6[0]} {V6[1]}[udp/53]", f"protect {V6[0]} {V6[1]}")
    options = b"\x11\0" + b"\1\4" + bytes(4)
    assert found(tracker, rows, later(version=6, protocol=60, offset=32)) == "fragment_unmatched"
    for port, row in ((53, 0), (80, 1)):
        assert found(tracker, rows, piece_v6(0, options + header(port), True, ident=port, protocol=60)) == row
        assert found(tracker, rows, later(port, 6, offset=32, protocol=60)) == row


def test_what_is_whole_is_judged_as_ever() -> None:
    rows = tables(*WEB_ONLY)
    assert found(FragmentTracker(), rows, udp_v4(100)) == rows.find(udp_v4(100)).tag
    assert found(FragmentTracker(), rows, b"\x45") == "bad_inner"
    assert found(FragmentTracker(), tables(), udp_v4(100)) == "policy_discard"


# --- inbound


def checked(tracker: FragmentTracker, sa: SA, packet: bytes, now: float = 0.0) -> str:
    return NAMES[tracker.check(sa, packet, now)]


PORTS = (f"{V4[1]}[udp/80] {V4[1]}[udp/443]", f"{V4[0]}")


def test_arriving_later_fragment_needs_a_first_that_was_let_in() -> None:
    tracker, sa = FragmentTracker(), inbound(*PORTS)
    assert checked(tracker, sa, later()) == "fragment_unmatched"
    assert checked(tracker, sa, first(22)) == "selector_mismatch"
    assert checked(tracker, sa, later()) == "fragment_unmatched"
    assert checked(tracker, sa, first(443)) == "ok"
    assert checked(tracker, sa, later()) == "ok"


def test_arriving_fragment_must_suit_the_sa_that_carries_it() -> None:
    tracker = FragmentTracker()
    assert checked(tracker, inbound(*PORTS), first(80)) == "ok"
    assert checked(tracker, inbound(f"{V4[1]}[udp/443]", V4[0]), later()) == "selector_mismatch"
    assert checked(tracker, inbound(*PORTS), later()) == "ok"


def test_address_outside_the_selectors_is_a_mismatch_and_not_unmatched() -> None:
    assert checked(FragmentTracker(), inbound("10.9.0.0/16[udp/80]", V4[0]), later()) == "selector_mismatch"
    assert checked(FragmentTracker(), inbound(f"{V4[1]}[tcp/80]", V4[0]), later()) == "selector_mismatch"


def test_sa_for_every_port_or_for_fragments_takes_any() -> None:
    for local in (V4[1], f"{V4[1]}[udp]", f"{V4[1]}[udp/opaque]"):
        assert checked(FragmentTracker(), inbound(local, V4[0]), later()) == "ok"


def test_directions_do_not_tell_each_other() -> None:
    tracker = FragmentTracker()
    assert found(tracker, tables(*WEB_ONLY), first(80)) == 1
    assert checked(tracker, inbound(*PORTS), later()) == "fragment_unmatched"


@pytest.mark.parametrize("bounds", [{"entries": 3}, {"entries": 1 << 21}, {"timeout_s": 0}, {"timeout_s": 4000}])
def test_tracker_bounds_out_of_range_are_refused(bounds: dict) -> None:
    with pytest.raises(UsageError, match="a tracker has"):
        FragmentTracker(**bounds)


# --- against a dict


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 5), st.sampled_from([53, 80]), st.sampled_from([0.0, 0.0, 9.0])),
        max_size=40,
    )
)
def test_every_later_fragment_is_judged_by_the_last_first_of_its_packet(steps: list) -> None:
    tracker, rows, now, known = FragmentTracker(), tables(*WEB_ONLY), 0.0, {}
    for is_first, ident, port, pause in steps:
        now += pause
        if is_first:
            known[ident] = (port, now)
            assert found(tracker, rows, first(port, ident), now) == (port != 53)
            continue
        at = known.get(ident)
        expected = "fragment_unmatched" if at is None or now - at[1] >= 30 else at[0] != 53
        assert found(tracker, rows, later(ident), now) == expected
