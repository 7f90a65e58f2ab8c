"""Which bits of the headers in front of AH count, by the tables of RFC 4302 appendix A and not by the code, and where AH stands."""

from __future__ import annotations

import pytest
from ah_twin import AhTwin
from kernel_packets import Slots, open_batch, seal
from odd_packets import V4, ipv6_with_chain
from test_ah import ENGINES, ah
from test_ah_twin import ah_key
from twin_ip import head_of, ipv4_header, ipv6_header

from ipsec_fast import SA, protect, unprotect
from ipsec_fast.algorithms import ah_suite_names
from ipsec_fast.dataplane.sad_table import SAD

IMMUTABLE_OPTIONS = {130, 133, 134, 148, 149}  # appendix A1, with copy bit and class; 0 and 1 have no data


def verdicts_of_every_bit(sealed: bytes, first: int, end: int, algorithm: str = "sha256") -> dict[tuple[int, int], str]:
    """Each bit of [first, end) turned alone, the kernel's verdict; the twin says the same."""
    places = [(at, 1 << bit) for at in range(first, end) for bit in range(8)]
    found = {}
    for at, mask in places:
        wrong = sealed[:at] + bytes([sealed[at] ^ mask]) + sealed[at + 1 :]
        twin = AhTwin(algorithm, ah_key(algorithm), mode="transport")
        found[at, mask] = open_batch([wrong], ah("in", algorithm, "transport")).names[0]
        assert found[at, mask] == twin.open(wrong)[0], (at, mask)
    return found


def tolerated(found: dict[tuple[int, int], str]) -> set[int]:
    return {at for (at, mask), name in found.items() if name == "ok"}


@pytest.mark.parametrize(
    "kinds", [range(start, start + 32) for start in range(0, 256, 32)], ids=lambda k: f"{k[0]}-{k[-1]}"
)
def test_every_bit_of_every_ipv4_option(kinds):
    for kind in kinds:
        if kind < 2:
            continue
        options = bytes([kind, 8, 9, 1, 2, 3, 4, 5])
        packet = ipv4_header(*V4, 17, options=options, payload=12) + bytes(12)
        sealed = seal([packet], ah("out", mode="transport"))[0]
        assert open_batch([sealed], ah("in", mode="transport")).packets == [packet]
        free = tolerated(verdicts_of_every_bit(sealed, 20, 28))
        if kind in IMMUTABLE_OPTIONS:
            assert not free
        else:
            assert free >= set(range(22, 28))


def test_every_bit_of_an_ipv4_packet_with_options():
    """NOPs, router alert, record route, end of list and what stands behind it."""
    options = b"\1\x94\4\0\0\1\7\7\4\1\2\3\4\0\xaa\xbb"
    packet = ipv4_header(*V4, 17, options=options, payload=24) + bytes(range(24))
    sealed = seal([packet], ah("out", mode="transport"))[0]
    found = verdicts_of_every_bit(sealed, 0, len(sealed))
    free = {at for at in tolerated(found) if not 26 <= at < 33}
    assert free == {1, 6, 8, 10, 11}
    assert {mask for (at, mask), name in found.items() if at == 6 and name == "ok"} == {0x40, 0x80}
    assert {28, 29, 30, 31, 32} <= tolerated(found)


@pytest.mark.parametrize("kind", [0, 60])
def test_every_type_of_ipv6_option(kind):
    for option in range(2, 256):
        packet = ipv6_with_chain([(kind, 1), (43, 1)], 17, bytes(8), fill=option)
        packet = (
            packet[:50] + bytes([4, 0]) + packet[52:]
        )  # a routing header at its end, so that both kinds stand in front of AH
        sealed = seal([packet], ah("out", mode="transport"))[0]
        assert open_batch([sealed], ah("in", mode="transport")).packets == [packet]
        free = tolerated(verdicts_of_every_bit(sealed, 42, 48))
        assert free == ({44, 45, 46, 47} if option & 0x20 else set()), option


def test_ah_stands_behind_routing_and_before_the_last_destination_options():
    """RFC 4302 section 3.1.1; and what stands behind AH counts whole, whatever its options say of themselves."""
    kinds = [(0, 1), (60, 1), (43, 1), (60, 1)]
    packet = ipv6_with_chain(kinds, 17, bytes(range(20)), fill=0x3E)
    packet = packet[:58] + bytes([4, 0]) + packet[60:]
    sealed = seal([packet], ah("out", mode="transport"))[0]
    head = head_of(sealed)
    assert [one for one, _, _ in head.chain] == [0, 60, 43, 51, 60]
    assert open_batch([sealed], ah("in", mode="transport")).packets == [packet]
    found = verdicts_of_every_bit(sealed, 0, len(sealed))
    # class, flow label, hop limit, data of the options in front
    assert tolerated(found) == {0, 1, 2, 3, 7, 44, 45, 46, 47, 52, 53, 54, 55}
    assert {mask for (at, mask), name in found.items() if at == 0 and name == "ok"} == {1, 2, 4, 8}


@pytest.mark.parametrize(("pointer", "seen"), [(4, "10.2.0.9"), (8, "10.9.9.9")])
@pytest.mark.parametrize("kind", [131, 137])
def test_a_source_route_that_has_been_travelled_leaves_the_destination(kind, pointer, seen):
    """RFC 791: a pointer behind the end means that the destination is the last one already."""
    route = bytes([kind, 7, pointer, 10, 2, 0, 9, 0])
    packet = ipv4_header("10.1.0.1", "10.9.9.9", 17, options=route, payload=20) + bytes(20)
    sealed = seal([packet], ah("out", mode="transport"))[0]
    arrived = sealed[:16] + bytes(int(part) for part in seen.split(".")) + sealed[20:]
    assert open_batch([arrived], ah("in", mode="transport")).names == ["ok"]


def test_a_packet_without_upper_layer_is_carried():
    packet = ipv6_with_chain([(0, 1)], 59, b"")
    sealed = seal([packet], ah("out", mode="transport"))[0]
    assert open_batch([sealed], ah("in", mode="transport")).packets == [packet]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("algorithm", ah_suite_names())
def test_sas_with_and_without_esn_share_a_batch(algorithm, name):
    """The high half is not in the packet; an engine that queues jobs must not count one SA's among another's."""

    def made(way: str) -> list[SA]:
        return [
            SA(way, 0x1001 + esn, algorithm, ah_key(algorithm), protocol="ah", mode="transport", esn=esn, engine=name)
            for esn in (False, True)
        ]

    out, into, packet = made("out") * 40, made("in") * 40, ipv4_header(*V4, 17, payload=33) + bytes(33)
    slots = Slots([packet] * 80, out, out[0].headroom)
    assert protect(slots.batch) == 80
    for i, wire in enumerate(slots.packets):
        twin = AhTwin(algorithm, ah_key(algorithm), spi=0x1001 + i % 2, mode="transport", esn=bool(i % 2))
        twin.seq = i // 2
        assert wire == twin.seal(packet)[1]
    opened = Slots(slots.packets, into)
    assert unprotect(opened.batch) == 80
    assert opened.packets == [packet] * 80


def test_ah_around_esp_is_found_as_ah_in_ipv6_too():
    """RFC 4301 section 5.2: the outermost first; else AH would be passed by unchecked."""
    v6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
    esp_out, esp_in = (SA(way, 0x2001, "aes128gcm16", bytes(20), mode="transport") for way in ("out", "in"))
    inner = ipv6_header(*v6.values(), 17, payload=20) + bytes(20)
    bundle = seal(seal([inner], esp_out), ah("out", mode="transport"))[0]
    ah_in, sad = ah("in", mode="transport"), SAD()
    sad.add(esp_in)
    assert open_batch([bundle], sad).names == ["unknown_spi"]
    sad.add(ah_in)
    once = open_batch([bundle], sad)
    assert once.names == ["ok"]
    assert open_batch(once.packets, sad).packets == [inner]
