"""The kernels against the slow twin (tests/support/esp_twin.py): every algorithm, mode, family and header rule, every byte and verdict."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from esp_twin import Twin
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_packets import KINDS, SUITES, Slots, key_of, open_batch
from odd_packets import V4, V6, any_packet, mutations, spoilt
from twin_ip import ipv4_header, ipv6_header

from ipsec_fast import SA, OuterHeader, protect
from ipsec_fast.algorithms import Mode, esp_suite
from ipsec_fast.dataplane import engine
from ipsec_fast.dataplane.engine import engine_for

ENGINES = tuple(engine.engines())
OUTER4, OUTER6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8:a::1", "2001:db8:a::2")
NO_ROOM = {f"aes{bits}ccm8iiv" for bits in (128, 192, 256)}  # BEET, IPv6 over IPv4 without UDP
headers = st.builds(
    OuterHeader,
    dscp=st.sampled_from(["copy", 0, 46, 63]),
    ecn=st.booleans(),
    df=st.sampled_from(["set", "clear", "copy"]),
    ttl=st.sampled_from(["copy", 1, 64, 255]),
    flow_label=st.sampled_from(["copy", 0, 0xFFFFF, 0x12345]),
    dscp_in=st.sampled_from(["keep", "copy"]),
)


@st.composite
def associations(draw, mode: str) -> dict:
    """Arguments that SA and Twin share."""
    algorithm = draw(st.sampled_from(SUITES))
    found = {"algorithm": algorithm, "key": key_of(algorithm), "mode": mode, "esn": draw(st.booleans())}
    found["encap"] = draw(st.sampled_from([None, (4500, 4500), (1025, 65535)]))
    if mode == "transport":
        if found["encap"] and draw(st.booleans()):
            found["original"] = draw(
                st.sampled_from(["recompute", ("10.9.9.9", "172.16.0.1"), ("2001:db8::9", "2001:db8::7")])
            )
        return found
    outer = draw(st.sampled_from([OUTER4, OUTER6]))
    found |= {"src": outer[0], "dst": outer[1]}
    if mode == "beet":
        found["inner"] = draw(st.sampled_from([V4, V6]))
        if found["inner"] is V6 and outer is OUTER4 and algorithm in NO_ROOM:
            found["encap"] = (4500, 4500)
        return found
    found["header"] = draw(headers)
    if draw(st.integers(0, 5)) == 0:
        del found["src"], found["dst"], found["encap"]
    return found


def starts(esn: bool) -> st.SearchStrategy[int]:
    near = [0, 1, 1000]
    return st.sampled_from([*near, (1 << 32) - 3, (1 << 33) + 5, (1 << 40) - 2] if esn else [*near, (1 << 32) - 10])


def ipv6_packet(length: int) -> bytes:
    return ipv6_header(*V6, 47, tos=1, label=7, payload=length) + bytes(length)


class Held:
    """The same SA three times: ours in both directions, and the twin's."""

    def __init__(self, given: dict, seq: int, tfc: int, name: str) -> None:
        inbound = {k: v for k, v in given.items() if k != "original"}
        self.out = SA("out", 0x1001, seq=seq, tfc=tfc, engine=name, **inbound)
        self.into = SA("in", 0x1001, seq=seq, engine=name, **given)
        self.seal_twin, self.open_twin = Twin(**given, seq=seq, tfc=tfc), Twin(**given, seq=seq)
        self.iv_at = 8

    def seal(self, packets: list[bytes]) -> tuple[list[str], list[bytes]]:
        slots = Slots(packets, self.out, self.out.headroom, self.out.tailroom)
        protect(slots.batch)
        return slots.names, slots.packets

    def twin_seal(self, packet: bytes, ours: bytes) -> tuple[str, bytes]:
        """A CBC packet's random IV is taken from ours: it stands right in front of what only the key can make."""
        iv = b""
        if esp_suite(self.out.algorithm).encryption.mode is Mode.CBC and ours:
            at = ours.index((0x1001).to_bytes(4, "big") + (self.seal_twin.seq + 1 & 0xFFFFFFFF).to_bytes(4, "big")) + 8
            iv = ours[at : at + 16]
        return self.seal_twin.seal(packet, iv)

    def twin_open(self, packet: bytes) -> tuple[str, bytes]:
        is_v4 = len(packet) > 6 and packet[0] >> 4 == 4
        self.open_twin.received_ident = packet[4] << 8 | packet[5] if is_v4 else 0
        return self.open_twin.open(packet)


@pytest.mark.parametrize("mode", ["tunnel", "transport", "beet"])
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_every_byte_and_verdict_is_the_twins(mode, data):
    given_ = data.draw(associations(mode))
    name = engine_for(given_["algorithm"], data.draw(st.sampled_from(ENGINES)))
    tfc = data.draw(st.sampled_from([0, 0, 100, 1400])) if mode == "tunnel" else 0
    held = Held(given_, data.draw(starts(given_["esn"])), tfc, name)
    packets = data.draw(st.lists(st.one_of(any_packet, any_packet, any_packet, spoilt), min_size=1, max_size=5))
    names, sealed = held.seal(packets)
    theirs = [held.twin_seal(packet, ours) for packet, ours in zip(packets, sealed, strict=True)]
    assert names == [verdict for verdict, _ in theirs]
    assert sealed == [wire for _, wire in theirs]
    on_the_wire = [wire for wire in sealed if wire]
    if not on_the_wire:
        return
    arriving = data.draw(st.lists(st.sampled_from(on_the_wire).flatmap(mutations), min_size=1, max_size=8))
    opened = open_batch(arriving, held.into)
    expected = [held.twin_open(wire) for wire in arriving]
    assert opened.names == [verdict for verdict, _ in expected]
    assert opened.packets == [inner for _, inner in expected]
    assert held.into.seq == held.open_twin.seq


@pytest.mark.parametrize("mode", ["tunnel", "transport", "beet"])
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 256])
@pytest.mark.parametrize("algorithm", KINDS[::4])
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_the_size_of_a_batch_changes_no_verdict(mode, size, algorithm, esn, name):
    given_ = {"algorithm": algorithm, "key": key_of(algorithm), "mode": mode, "window": 64, "esn": esn}
    if mode != "transport":
        given_ |= {"src": OUTER4[0], "dst": OUTER4[1]}
    if mode == "beet":
        given_["inner"] = V4
    held = Held(given_, 0, 0, engine_for(algorithm, name))
    packet = ipv4_header(*V4, 47, payload=70) + bytes(70)
    _, sealed = held.seal([packet] * 300)
    # in order, then late by less and by more than the window, doubled, spoilt: around the edge of every batch
    order = [*range(100), 98, 36, 35, 299, 299, *range(235, 240), 234, 100, *range(240, 299)]
    arriving = [sealed[i] if i % 7 else sealed[i][:-1] + bytes([sealed[i][-1] ^ 1]) for i in order] * 2
    names: list[str] = []
    for at in range(0, len(arriving), size):
        names += open_batch(arriving[at : at + size], held.into).names
    assert names == [held.twin_open(wire)[0] for wire in arriving]


INNER = {
    4: [ipv4_header(*V4, 47, tos=1, payload=n) + bytes(n) for n in (0, 13, 300)],
    6: [ipv6_packet(n) for n in (0, 13, 300)],
}
FAMILIES = [(mode, inner, outer) for mode in ("tunnel", "beet") for inner in (4, 6) for outer in (4, 6)]
FAMILIES += [("transport", 4, 4), ("transport", 6, 6)]


@pytest.mark.parametrize(
    ("name", "algorithm"), [(name, one) for name, suites in engine.engines().items() for one in suites]
)
def test_every_algorithm_in_every_mode_and_family(name, algorithm):
    for (mode, inner, outer), esn in itertools.product(FAMILIES, (False, True)):
        given_ = {"algorithm": algorithm, "key": key_of(algorithm), "mode": mode, "esn": esn}
        if mode != "transport":
            given_ |= dict(zip(("src", "dst"), OUTER4 if outer == 4 else OUTER6, strict=True))
        if mode == "beet":
            given_["inner"] = V4 if inner == 4 else V6
            given_["encap"] = (4500, 4500) if algorithm in NO_ROOM and (inner, outer) == (6, 4) else None
        held = Held(given_, (1 << 32) - 2 if esn else 0, 0, name)
        names, sealed = held.seal(INNER[inner])
        theirs = [held.twin_seal(packet, ours) for packet, ours in zip(INNER[inner], sealed, strict=True)]
        assert names == ["ok"] * 3, (mode, inner, outer)
        assert sealed == [wire for _, wire in theirs], (mode, inner, outer)
        opened = open_batch(sealed, held.into)
        assert opened.packets == [held.twin_open(wire)[1] for wire in sealed], (mode, inner, outer)
        del held  # SAs to one peer share identifications while they live (RFC 6864), and the twin knows one SA
        assert [packet[20:] for packet in opened.packets] == [packet[20:] for packet in INNER[inner]]


def test_the_twin_knows_every_field_of_the_rules():
    assert {field.name for field in dataclasses.fields(OuterHeader)} == {
        "dscp", "ecn", "df", "ttl", "flow_label", "dscp_in",
    }  # fmt: skip
