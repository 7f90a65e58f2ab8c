"""Order and layers of policies: the same verdict as the slow twin, incremental as from scratch, bounded."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_twin import Packet, decide

from ipsec_fast.errors import UsageError
from ipsec_fast.model import TrafficSelector
from ipsec_fast.system.nft.policies import (
    BOXES_MAX,
    LAYERS_MAX,
    Action,
    Book,
    Box,
    Policy,
    boxes_of,
)

ts = TrafficSelector.parse


def policy(name: str, local: str, remote: str, action: Action = Action.PROTECT, priority: int = 0) -> Policy:
    return Policy(name, action, tuple(map(ts, local.split(","))), tuple(map(ts, remote.split(","))), priority)


def load(book: Book, *policies: Policy) -> Book:
    for one in policies:
        book.add(one.name, one.action, boxes_of(one), one.priority)
    return book


def point(packet: Packet) -> Box:
    """A packet as a box of one point: its destination is the remote side."""
    local, remote = (int(packet.source),) * 2, (int(packet.target),) * 2
    if packet.ports is None:
        # outside of every range of ports: such a packet matches any-port selectors only
        return Box(packet.source.version, remote, local, "ports", packet.protocol, (-1, 70000), (-1, 70000))
    kind = "types" if packet.protocol in (1, 58) else "ports"
    return Box(
        packet.source.version, remote, local, kind, packet.protocol, (packet.ports[1],) * 2, (packet.ports[0],) * 2
    )


def found(book: Book, packet: Packet) -> tuple[str, Action] | None:
    one = point(packet)
    if packet.protocol in (1, 58):
        one = Box(one.version, one.remote, one.local, "types", one.protocol, one.remote_ports)
        hits = [p for p in book.placed() if p.layer is not None and p.box.overlaps(one)]
    elif packet.ports is None:
        hits = [
            p for p in book.placed() if p.layer is not None and p.box.kind in ("nets", "protos") and p.box.overlaps(one)
        ]
    else:
        hits = [p for p in book.placed() if p.layer is not None and p.box.overlaps(one)]
    first = min(hits, key=lambda p: p.layer or 0, default=None)
    return None if first is None else (first.name, first.action)


ADDRESSES = {4: [0x0A000000 + n for n in range(16)], 6: [(0xFD << 120) + n for n in range(16)]}


@st.composite
def selectors(draw, version: int) -> TrafficSelector:
    low, high = sorted((draw(st.sampled_from(ADDRESSES[version])), draw(st.sampled_from(ADDRESSES[version]))))
    kind = ip_address(low).__class__ if version == 4 else ip_address("::").__class__
    protocol = draw(st.sampled_from([0, 0, 6, 17, 47, 1 if version == 4 else 58]))
    first, last = sorted((draw(st.integers(0, 5)), draw(st.integers(0, 5))))
    ports = (0, 65535) if protocol == 47 or draw(st.booleans()) else (first, last)
    return TrafficSelector(kind(low), kind(high), protocol, *ports)


@st.composite
def policies_of(draw, version: int) -> list[Policy]:
    made = []
    for number in range(draw(st.integers(1, 7))):
        one = Policy(
            f"c/{number}",
            draw(st.sampled_from(list(Action))),
            (draw(selectors(version)),),
            (draw(selectors(version)),),
            draw(st.sampled_from([0, 0, 0, 1, 2])),
        )
        try:
            boxes_of(one)
        except UsageError:
            continue
        made.append(one)
    return made


@st.composite
def packets(draw, version: int) -> Packet:
    kind = ip_address("0.0.0.0").__class__ if version == 4 else ip_address("::").__class__
    source, target = (kind(draw(st.sampled_from(ADDRESSES[version]))) for _ in range(2))
    protocol = draw(st.sampled_from([6, 17, 47, 50, 1 if version == 4 else 58]))
    if protocol in (1, 58):
        ports = (draw(st.integers(0, 5)),) * 2
    elif protocol in (6, 17):
        ports = (draw(st.integers(0, 6)), draw(st.integers(0, 6)))
    else:
        ports = None
    return Packet(source, target, protocol, ports)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_layers_give_the_verdict_of_the_slow_twin(data) -> None:
    version = data.draw(st.sampled_from([4, 6]))
    made = data.draw(policies_of(version))
    book = load(Book(), *made)
    for packet in data.draw(st.lists(packets(version), min_size=10, max_size=20)):
        assert found(book, packet) == decide(made, packet)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_added_and_removed_the_layers_are_those_of_a_fresh_book_and_the_changes_lead_there(data) -> None:
    made = data.draw(policies_of(4))
    book, kernel, loaded = Book(), {}, []
    for _ in range(12):
        absent = [one for one in made if one not in loaded]
        if loaded and (not absent or data.draw(st.booleans())):
            one = data.draw(st.sampled_from(loaded))
            loaded.remove(one)
            book.remove(one.name)
        elif absent:
            one = data.draw(st.sampled_from(absent))
            loaded.append(one)
            load(book, one)
        changes = book.settle()
        for placed, layer in changes.remove:
            assert kernel.pop((layer, placed.name, placed.box)) is placed
        for placed, layer in changes.add:
            # what stands in one map never overlaps
            assert not any(at == layer and other.box.overlaps(placed.box) for (at, _, _), other in kernel.items())
            kernel[layer, placed.name, placed.box] = placed
        fresh = load(Book(), *loaded)
        assert {(p.layer, p.name, p.box) for p in book.placed()} == {(p.layer, p.name, p.box) for p in fresh.placed()}
        assert set(kernel) == {(p.layer, p.name, p.box) for p in book.placed() if p.layer is not None}


def layers(book: Book) -> dict[str, int | None]:
    return {one.name: one.layer for one in book.placed()}


def test_a_narrow_policy_comes_before_a_wide_one_whichever_is_loaded_first() -> None:
    wide, narrow = (
        policy("wide", "10.1.0.0/24", "10.0.0.0/8"),
        policy("narrow", "10.1.0.0/24", "10.2.0.0/24", Action.PASS),
    )
    for order in ((wide, narrow), (narrow, wide)):
        assert layers(load(Book(), *order)) == {"narrow": 0, "wide": 1}


def test_priority_comes_before_width_and_a_box_that_can_never_be_hit_has_no_element() -> None:
    book = load(
        Book(), policy("narrow", "10.1.0.0/24", "10.2.0.0/24"), policy("wide", "10.0.0.0/8", "10.0.0.0/8", priority=5)
    )
    assert layers(book) == {"wide": 0, "narrow": None}
    book.remove("wide")
    assert layers(book) == {"narrow": 0}


def test_equal_policies_of_many_connections_need_one_layer() -> None:
    book = load(Book(), *(policy(f"peer{n}/net", "0.0.0.0/0", "10.9.0.0/16") for n in range(100)))
    assert {one.layer for one in book.placed()} == {0, None}
    assert sum(one.layer == 0 for one in book.placed()) == 3  # /0 without what it must name


def test_too_many_that_overlap_are_refused_and_nothing_changes() -> None:
    book = load(Book(), *(policy(f"n{n}", "10.1.0.0/24", f"10.0.0.0/{30 - n}") for n in range(LAYERS_MAX)))
    before = layers(book)
    book.settle()
    with pytest.raises(UsageError, match=f"more than {LAYERS_MAX} policies overlap"):
        load(book, policy("one more", "10.1.0.0/24", "10.0.0.0/8"))
    assert layers(book) == before
    assert book.settle().add == []


def test_a_policy_of_too_many_pairs_or_of_no_pair_is_refused() -> None:
    many = ",".join(f"10.{n}.0.0/24" for n in range(33))
    with pytest.raises(UsageError, match=f"more than {BOXES_MAX} pairs"):
        boxes_of(policy("many", many, many))
    for local, remote in (("10.1.0.0/24", "fd00::/64"), ("10.1.0.0/24[tcp]", "10.2.0.0/24[udp]")):
        with pytest.raises(UsageError, match="of one address family and protocol"):
            boxes_of(policy("crossed", local, remote))


@pytest.mark.parametrize(
    ("remote", "covered", "spared"),
    [
        ("0.0.0.0/0", ["8.8.8.8", "169.253.0.1", "240.0.0.1"], ["224.0.0.5", "255.255.255.255", "169.254.1.1"]),
        ("128.0.0.0/1", ["200.0.0.1"], ["239.1.1.1", "169.254.1.1"]),
        ("239.1.1.0/24", ["239.1.1.7"], ["239.2.0.1"]),
        ("224.0.0.0/3", ["240.0.0.1"], ["224.0.0.5"]),
        ("::/0", ["2001:db8::1", "fd00::1"], ["ff02::1", "fe80::1"]),
        ("ff05::/16", ["ff05::2"], ["ff02::1"]),
    ],
)
def test_multicast_broadcast_and_link_local_are_captured_only_if_a_selector_names_them(remote, covered, spared) -> None:
    local = "::/0" if ":" in remote else "10.1.0.0/24"
    boxes = boxes_of(policy("one", local, remote))
    for address, expected in [*((one, True) for one in covered), *((one, False) for one in spared)]:
        value = int(ip_address(address))
        assert any(box.remote[0] <= value <= box.remote[1] for box in boxes) == expected, address


def test_loading_one_policy_looks_at_what_overlaps_it_not_at_all_others() -> None:
    book = load(Book(), *(policy(f"c{n}/net", "10.1.0.0/24", f"10.{2 + n // 256}.{n % 256}.0/24") for n in range(2000)))
    index = book._indexes[4]
    seen: list[int] = []
    inner = index._of
    index._of = lambda key, box: seen.append(1) or inner(key, box)  # type: ignore[method-assign,func-returns-value]
    load(book, policy("new/net", "10.1.0.0/24", "10.200.0.0/24"))
    book.remove("new/net")
    assert len(seen) < 20
