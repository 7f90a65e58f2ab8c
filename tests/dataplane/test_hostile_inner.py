"""Packets that a hostile peer or application makes: what the merge would have repaired or changed, fragments that lie, reserved SPIs."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from inner_packets import checksum, icmp, tcp, udp
from test_coalesce import V4, V6, assert_apart, frames_of

from ipsec_fast.dataplane import ip
from ipsec_fast.dataplane.pmtu import too_big_answer
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.segment import segments
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.status import NAMES
from ipsec_fast.dataplane.udp import set_endpoint
from ipsec_fast.errors import UsageError
from ipsec_fast.model import TrafficSelector

FIRST = tcp(*V4, b"a" * 100, seq=1000, ident=1)
SECOND = tcp(*V4, b"b" * 100, seq=1100, ident=2)


def patched(packet: bytes, at: int, value: bytes, *, upper: bool) -> bytes:
    """`packet` with other bytes at `at`, its IPv4 (not `upper`) or TCP checksum good again."""
    out = bytearray(packet)
    out[at : at + len(value)] = value
    if not upper:
        out[10:12] = b"\0\0"
        out[10:12] = struct.pack("!H", checksum(bytes(out[:20])))
    else:
        out[36:38] = b"\0\0"
        pseudo = bytes(out[12:20]) + struct.pack("!II", len(out) - 20, 6)
        out[36:38] = struct.pack("!H", checksum(pseudo + bytes(out[20:])))
    return bytes(out)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_ipv4_header_checksum_does_not_become_a_good_one(bad: int) -> None:
    packets = [FIRST, SECOND]
    damaged = bytearray(packets[bad])
    damaged[10] ^= 0x40
    packets[bad] = bytes(damaged)
    assert_apart(*packets)


@pytest.mark.parametrize("first", [False, True], ids=["second", "first"])
@pytest.mark.parametrize(
    ("at", "value", "upper"),
    [
        (32, bytes([0x51]), True),
        (38, b"\0\1", True),
        (6, b"\xc0\0", False),
    ],
    ids=["reserved TCP bits", "urgent pointer without URG", "reserved IPv4 flag"],
)
def test_what_a_split_would_not_give_back_is_not_merged(at: int, value: bytes, upper: bool, first: bool) -> None:
    if first:
        assert_apart(patched(FIRST, at, value, upper=upper), SECOND)
    else:
        assert_apart(FIRST, patched(SECOND, at, value, upper=upper))


@pytest.mark.parametrize("make", [tcp, udp])
def test_fragmentable_packets_merge_only_with_identifications_in_a_row(make) -> None:  # type: ignore[no-untyped-def]
    def packet(number: int, ident: int) -> bytes:
        fields = {"seq": 1000 + 100 * number} if make is tcp else {}
        return make(*V4, b"x" * 100, ident=ident, df=False, **fields)  # type: ignore[no-any-return]

    assert_apart(packet(0, 7), packet(1, 7))
    assert_apart(packet(0, 7), packet(1, 9))
    assert len(frames_of([packet(0, 0xFFFF), packet(1, 0)])) == 1


def test_a_second_fragment_header_is_refused() -> None:
    def fragment(following: int, offset_and_more: int) -> bytes:
        return bytes([following, 0]) + struct.pack("!HI", offset_and_more, 7)

    def packet(*headers: bytes) -> bytes:
        body = b"".join(headers) + struct.pack("!HHHH", 1, 2, 8, 0)
        addresses = ip_address(V6[0]).packed + ip_address(V6[1]).packed
        return struct.pack("!IHBB", 6 << 28, len(body), 44, 64) + addresses + body

    assert ip.parse(packet(fragment(17, 1)))[0] == "ok"
    assert ip.parse(packet(fragment(44, 1), fragment(17, 0)))[0] == "bad_chain"
    assert ip.parse(packet(fragment(44, 0), fragment(17, 0)))[0] == "bad_chain"


def test_a_fragment_that_ends_beyond_64_kb_is_not_fragmented_again() -> None:
    payload = bytes(2000)
    whole = udp(*V4, payload, df=False)
    late = patched(whole, 6, struct.pack("!H", 0x1FFF), upper=False)
    verdict, packets = segments(bytes(10) + late, mtu=1000)
    assert (NAMES[verdict], packets) == ("bad_inner", [])
    last = patched(whole, 6, struct.pack("!H", (65535 - 2008) // 8), upper=False)
    verdict, packets = segments(bytes(10) + last, mtu=1000)
    assert NAMES[verdict] == "ok"
    assert [struct.unpack_from("!H", p, 6)[0] & 0xE000 for p in packets] == [0x2000] * (len(packets) - 1) + [0]


def test_no_answer_to_redirects() -> None:
    body = bytes(1300)
    packet = struct.pack("!IHBB", 6 << 28, 4 + len(body), 58, 64) + ip_address(V6[0]).packed + ip_address(V6[1]).packed
    assert too_big_answer(packet + bytes([128, 0, 0, 0]) + body, 1280)
    assert not too_big_answer(packet + bytes([137, 0, 0, 0]) + body, 1280)
    assert not too_big_answer(icmp(*V4, 5, 0, body), 1000)


@pytest.mark.parametrize("spi", [1, 255])
def test_reserved_spis_stay_out_of_the_tables(spi: int) -> None:
    sa, any4 = SA("in", spi, "aes128gcm16", bytes(20)), TrafficSelector.parse("0.0.0.0/0")
    set_selectors(sa, [any4], [any4])
    with pytest.raises(UsageError, match="reserved"):
        Tables([sa], [])


def test_an_sa_without_a_key_stays_out_of_the_tables() -> None:
    any4 = TrafficSelector.parse("0.0.0.0/0")
    unmade = SA.__new__(SA)
    set_endpoint(unmade, 0, None, ip_address("192.0.2.1"), 4500)
    with pytest.raises(UsageError, match="no key"):
        Tables([], [Policy("protect", any4, any4, unmade)])
