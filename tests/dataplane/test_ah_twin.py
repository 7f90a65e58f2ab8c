"""The AH kernels against the slow twin (tests/support/ah_twin.py): every algorithm, mode, family, option and verdict."""

from __future__ import annotations

import pytest
from ah_twin import AhTwin
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import Slots, open_batch
from odd_packets import V4, any_packet, mutations, spoilt
from test_esp_twin import INNER, OUTER4, OUTER6, headers, starts
from twin_ip import ipv4_header

from ipsec_fast import SA, protect
from ipsec_fast.algorithms import ah_suite, ah_suite_names
from ipsec_fast.dataplane import engine

ENGINES = tuple(engine.engines())


def ah_key(algorithm: str) -> bytes:
    return bytes(i * 11 + 3 & 255 for i in range(ah_suite(algorithm).keymat_bytes))


@st.composite
def associations(draw, mode: str) -> dict:
    algorithm = draw(st.sampled_from(ah_suite_names()))
    found = {"algorithm": algorithm, "key": ah_key(algorithm), "mode": mode, "esn": draw(st.booleans())}
    if mode == "tunnel":
        outer = draw(st.sampled_from([OUTER4, OUTER6]))
        found |= {"src": outer[0], "dst": outer[1], "header": draw(headers)}
    return found


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_byte_and_verdict_is_the_twins(mode, data):
    given_, name = data.draw(associations(mode)), data.draw(st.sampled_from(ENGINES))
    seq = data.draw(starts(given_["esn"]))
    out, into = (SA(way, 0x1001, protocol="ah", seq=seq, engine=name, **given_) for way in ("out", "in"))
    seal_twin, open_twin = AhTwin(**given_, seq=seq), AhTwin(**given_, seq=seq)
    packets = data.draw(st.lists(st.one_of(any_packet, any_packet, any_packet, spoilt), min_size=1, max_size=5))
    slots = Slots(packets, out, out.headroom, out.tailroom)
    untouched = slots.buffer.copy()
    protect(slots.batch)
    theirs = [seal_twin.seal(packet) for packet in packets]
    assert slots.names == [verdict for verdict, _ in theirs]
    assert slots.packets == [wire for _, wire in theirs]
    if set(slots.names) == {"bad_inner"}:
        at = out.headroom
        for packet in packets:  # what was refused is as it was
            assert bytes(slots.buffer[at : at + len(packet)]) == bytes(untouched[at : at + len(packet)])
            at += len(packet) + out.headroom
    on_the_wire = [wire for wire in slots.packets if wire]
    if not on_the_wire:
        return
    arriving = data.draw(st.lists(st.sampled_from(on_the_wire).flatmap(mutations), min_size=1, max_size=8))
    opened = open_batch(arriving, into)
    expected = [open_twin.open(wire) for wire in arriving]
    assert opened.names == [verdict for verdict, _ in expected]
    assert opened.packets == [inner for _, inner in expected]
    assert into.seq == open_twin.seq


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 256])
@pytest.mark.parametrize("esn", [False, True])
def test_the_size_of_a_batch_changes_no_verdict(mode, size, esn):
    given_ = {"algorithm": "sha256", "key": ah_key("sha256"), "mode": mode, "window": 64, "esn": esn}
    if mode == "tunnel":
        given_ |= {"src": OUTER4[0], "dst": OUTER4[1]}
    out, into = (SA(way, 0x1001, protocol="ah", **given_) for way in ("out", "in"))
    slots = Slots([ipv4_header(*V4, 47, payload=60) + bytes(60)] * 300, out, out.headroom, out.tailroom)
    protect(slots.batch)
    sealed = slots.packets
    order = [*range(100), 98, 36, 35, 299, 299, *range(235, 240), 234, 100, *range(240, 299)]
    arriving = [sealed[i] if i % 7 else sealed[i][:-1] + bytes([sealed[i][-1] ^ 1]) for i in order] * 2
    names: list[str] = []
    for at in range(0, len(arriving), size):
        names += open_batch(arriving[at : at + size], into).names
    twin = AhTwin(**given_)
    assert names == [twin.open(wire)[0] for wire in arriving]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("algorithm", ah_suite_names())
def test_every_algorithm_in_every_mode_and_family(name, algorithm):
    families = [("tunnel", inner, outer) for inner in (4, 6) for outer in (OUTER4, OUTER6)]
    for mode, inner, outer in [*families, ("transport", 4, None), ("transport", 6, None)]:
        for esn in (False, True):
            given_ = {"algorithm": algorithm, "key": ah_key(algorithm), "mode": mode, "esn": esn}
            if outer:
                given_ |= {"src": outer[0], "dst": outer[1]}
            seq = (1 << 32) - 2 if esn else 0
            out, into = (SA(way, 0x1001, protocol="ah", seq=seq, engine=name, **given_) for way in ("out", "in"))
            twin = AhTwin(**given_, seq=seq)
            slots = Slots(INNER[inner], out, out.headroom, out.tailroom)
            assert protect(slots.batch) == 3, (mode, inner, outer)
            assert slots.packets == [twin.seal(packet)[1] for packet in INNER[inner]], (mode, inner, outer)
            assert open_batch(slots.packets, into).packets == INNER[inner]
