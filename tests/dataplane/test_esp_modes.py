"""Transport and BEET mode, header rules, TFC and dummy packets: what must be refused first, then each rule where a person can read it."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from kernel_packets import OUTERS, SUITES, Slots, ipv4, ipv6, key_of, open_batch, pair, seal
from odd_packets import V4, V6, as_fragment, ipv6_with_chain, upper
from twin_ip import head_of, ipv4_header, upper_checksum

from ipsec_fast import SA, OuterHeader, protect_dummies
from ipsec_fast.algorithms import esp_suite
from ipsec_fast.errors import UsageError

pytestmark = pytest.mark.usefixtures("each_engine")

BEET = {"mode": "beet", "inner": V4, "src": "192.0.2.1", "dst": "192.0.2.2"}


def made(**arguments) -> SA:
    return SA("in", 0x1001, key=key_of("aes128gcm16"), **arguments)


# --- refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "transport", "src": "192.0.2.1", "dst": "192.0.2.2"}, "leave out src and dst"),
        ({"mode": "beet", "inner": V4}, "BEET mode needs src and dst"),
        ({**BEET, "inner": None}, "has inner="),
        ({"inner": V4}, "BEET mode, and only that"),
        ({**BEET, "inner": "10.1.0.1"}, "it is \\(source address, destination address\\)"),
        ({**BEET, "inner": ("10.1.0.1", "2001:db8::1")}, "one is IPv4, the other IPv6"),
        ({**BEET, "header": OuterHeader()}, "beet mode has no header rules"),
        ({"header": {"dscp": 1}}, "it is an OuterHeader"),
        ({"mode": "transport", "tfc": 100}, "TFC padding is for outbound tunnel mode"),
        ({"tfc": 100}, "TFC padding is for outbound tunnel mode"),
        ({"tfc": -1}, "0 to 65000"),
        ({"original": "recompute"}, "inbound transport mode in UDP"),
        ({"mode": "transport", "original": V4}, "inbound transport mode in UDP"),
        ({"mode": "transport", "encap": (1, 2), "original": ("10.0.0.1",)}, "source address, destination address"),
        ({"mode": "transport", "encap": (0, 4500)}, "each 1 to 65535"),
        ({"mode": "transport", "encap": 4500}, "each 1 to 65535"),
    ],
)
def test_what_does_not_go_together_is_said(wrong, message):
    with pytest.raises(UsageError, match=message):
        made(**wrong)


@pytest.mark.parametrize("algorithm", [name for name in SUITES if "ccm8iiv" in name])
def test_beet_that_would_not_fit_its_own_region_is_refused(algorithm):
    with pytest.raises(UsageError, match="adds too little"):
        SA("in", 1, algorithm, key_of(algorithm), mode="beet", inner=V6, **OUTERS["v4"])
    SA("in", 1, algorithm, key_of(algorithm), mode="beet", inner=V6, **OUTERS["v4udp"])


@pytest.mark.parametrize(
    "rules",
    [
        {"dscp": 64},
        {"dscp": "yes"},
        {"ttl": 0},
        {"ttl": 256},
        {"flow_label": 1 << 20},
        {"df": "maybe"},
        {"dscp_in": True},
    ],
)
def test_a_header_rule_out_of_range_is_said(rules):
    with pytest.raises(UsageError, match=next(iter(rules))):
        OuterHeader(**rules)


@pytest.mark.parametrize("mode", [{"mode": "transport"}, BEET])
@pytest.mark.parametrize("packet", [as_fragment(ipv4(60), 0, True), as_fragment(ipv4(60), 64, False)])
def test_fragments_are_not_sealed_where_the_header_stays_outside(mode, packet):
    out, _ = pair(**mode)
    slots = Slots([packet], out, out.headroom, out.tailroom)
    from ipsec_fast import protect

    protect(slots.batch)
    assert slots.names == ["outer_fragment"]
    assert out.seq == 0


def test_beet_takes_packets_of_its_own_addresses_only():
    out, _ = pair(**BEET)
    wrong = [ipv6(60), ipv4_header("10.1.0.2", V4[1], 17) + bytes(8), ipv4_header(V4[0], "10.2.0.2", 17) + bytes(8)]
    slots = Slots(wrong, out, out.headroom, out.tailroom)
    from ipsec_fast import protect

    protect(slots.batch)
    assert slots.names == ["bad_inner"] * 3
    assert out.seq == 0


@pytest.mark.parametrize("options", [b"", bytes([1, 1, 1, 0])])
@pytest.mark.parametrize("mode", [{"mode": "transport"}, BEET])
def test_next_header_59_is_not_sealed_where_the_header_stays_outside(mode, options):
    """The receiver would take the packet for a dummy and drop it (RFC 4303 section 2.6)."""
    out, _ = pair(**mode)
    header = ipv4_header(*V4, 59)
    header = bytes([0x45 + len(options) // 4]) + header[1:] + options
    packet = header[:2] + struct.pack("!H", len(header) + 8) + header[4:] + bytes(8)
    slots = Slots([packet], out, out.headroom, out.tailroom)
    from ipsec_fast import protect

    assert protect(slots.batch) == 0
    assert slots.names == ["bad_inner"]
    assert (out.seq, out.counters()["bad_inner"]) == (0, 1)


def test_next_header_59_of_ipv6_is_not_sealed_in_transport_mode():
    out, _ = pair(mode="transport")
    plain = ipv6(60, protocol=59)
    behind_options = ipv6(60, protocol=0)[:40] + bytes([59, 0, 1, 4, 0, 0, 0, 0]) + bytes(12)
    slots = Slots([plain, behind_options], out, out.headroom, out.tailroom)
    from ipsec_fast import protect

    assert protect(slots.batch) == 0
    assert slots.names == ["bad_inner"] * 2


@pytest.mark.parametrize("filler", [1, 2, 3, 8, 255])
def test_a_beet_pseudo_header_that_lies_is_dropped(filler):
    out, _ = pair("null-sha256", mode="transport")
    crafted = bytearray(ipv4_header("192.0.2.1", "192.0.2.2", 94) + bytes([17, 0, filler, 0, 1, 1, 1, 1]) + bytes(8))
    _, into = pair("null-sha256", **BEET)
    sealed = seal([bytes(crafted[:2]) + struct.pack("!H", len(crafted)) + bytes(crafted[4:])], out)[0]
    assert open_batch([sealed], into).names == ["bad_inner"]


@pytest.mark.parametrize("mode", [{"mode": "transport"}, BEET])
def test_no_dummies_where_the_header_stays_outside(mode):
    out, _ = pair(**mode)
    slots = Slots([ipv4(60)], out, out.headroom, out.tailroom)
    with pytest.raises(UsageError, match="tunnel mode"):
        protect_dummies(slots.batch)
    assert out.seq == 0


def test_a_dummy_of_no_bytes_needs_its_room_too():
    out, _ = pair()
    slots = Slots([b""], out)
    with pytest.raises(BufferError, match="bytes before it"):
        protect_dummies(slots.batch)
    slots = Slots([b""], out, out.headroom, out.tailroom - 1)
    with pytest.raises(BufferError, match="bytes behind it"):
        protect_dummies(slots.batch)
    assert out.seq == 0


# --- transport ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("udp", [None, (4500, 4500)])
@pytest.mark.parametrize("packet", [ipv4(60), ipv6(80)])
def test_the_header_stays_outside(packet, udp):
    out, into = pair(mode="transport", encap=udp)
    sealed = seal([packet], out)[0]
    head = head_of(sealed)
    assert (head.src, head.dst) == (head_of(packet).src, head_of(packet).dst)
    assert (head.protocol, head.total) == (17 if udp else 50, len(sealed))
    assert len(sealed) == out.sealed_length(len(packet), head.length)
    assert open_batch([sealed], into).packets == [packet]


def test_ipv6_headers_that_routers_read_stay_in_front_and_those_for_the_destination_do_not():
    packet = ipv6_with_chain([(0, 1), (60, 1), (43, 2), (60, 1)], 17, bytes(20))
    out, into = pair("null-sha256", mode="transport")
    sealed = seal([packet], out)[0]
    head = head_of(sealed)
    assert [kind for kind, _, _ in head.chain] == [0, 60, 43]
    assert head.protocol == 50
    assert open_batch([sealed], into).packets == [packet]


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("original", ["recompute", ("10.0.0.7", "192.0.2.2")])
def test_a_nat_on_the_way_leaves_a_right_checksum(protocol, original):
    """The sender was 10.0.0.7; a NAT made it 198.51.100.1, whose header is what arrives (RFC 3948 section 3.1.2)."""
    body = upper(protocol, "10.0.0.7", "192.0.2.2", b"sixteen bytes...")
    packet = ipv4_header("10.0.0.7", "192.0.2.2", protocol, payload=len(body)) + body
    out, into = pair(mode="transport", encap=(4500, 4500))
    _, mending = pair(mode="transport", encap=(4500, 4500))
    mending = SA("in", 0x1001, key=key_of("aes128gcm16"), mode="transport", encap=(4500, 4500), original=original)
    sealed = seal([packet], out)[0]
    behind = ipv4_header("198.51.100.1", "192.0.2.2", 17, payload=len(sealed) - 20) + sealed[20:]
    arrived = open_batch([behind], mending).packets[0]
    source = ip_address("198.51.100.1")
    at = 20 + (16 if protocol == 6 else 6)
    zeroed = arrived[20:at] + b"\0\0" + arrived[at + 2 :]
    right = upper_checksum(source, ip_address("192.0.2.2"), protocol, zeroed)
    assert arrived[at : at + 2] == struct.pack("!H", right)
    unmended = open_batch([behind], into).packets[0]
    assert unmended[at : at + 2] == packet[at : at + 2]


def test_a_wrong_checksum_stays_wrong_when_the_original_addresses_are_known():
    body = bytearray(upper(17, "10.0.0.7", "192.0.2.2", bytes(16)))
    body[6] ^= 0x55
    packet = ipv4_header("10.0.0.7", "192.0.2.2", 17, payload=len(body)) + bytes(body)
    sealed = seal([packet], pair(mode="transport", encap=(4500, 4500))[0])[0]
    into = SA(
        "in",
        0x1001,
        key=key_of("aes128gcm16"),
        mode="transport",
        encap=(4500, 4500),
        original=("10.0.0.7", "192.0.2.2"),
    )
    assert open_batch([sealed], into).packets == [packet]


# --- BEET -----------------------------------------------------------------------------------------------------------------------


def test_beet_saves_the_inner_header_and_brings_it_back():
    options = bytes([7, 4, 4, 0])
    packet = ipv4_header(*V4, 17, tos=0x2D, ident=0, df=True, ttl=9, options=options, payload=40) + bytes(range(40))
    out, into = pair(**BEET)
    tunnel, _ = pair(outer="v4")
    plain = packet[:20].replace(packet[:1], b"\x45", 1)
    sealed = seal([packet], out)[0]
    assert plain not in sealed
    assert (
        len(seal([ipv4_header(*V4, 17, payload=40) + bytes(40)], pair(**BEET)[0])[0]) == tunnel.sealed_length(60) - 20
    )
    came = open_batch([sealed], into).packets[0]
    # the identification is the outer header's: DF is set, nothing depends on it (RFC 6864)
    assert came[20:] == packet[20:]
    assert (came[1], came[8], came[6] & 0x40) == (0x2D, 9, 0x40)


# --- header rules ---------------------------------------------------------------------------------------------------------------


def outer_of(packet: bytes, outer: str = "v4", **rules):
    return head_of(seal([packet], pair(outer=outer, header=OuterHeader(**rules))[0])[0])


def test_dscp_ecn_df_ttl_and_flow_label_follow_their_rules():
    packet = ipv4(60, tos=0xB9)
    assert outer_of(packet).tos == 0xB9
    assert outer_of(packet, dscp=10).tos == 10 << 2 | 1
    assert outer_of(packet, ecn=False).tos == 0xB8
    assert outer_of(packet, dscp=0, ecn=False).tos == 0
    assert [outer_of(packet, df=df).dont_fragment for df in ("set", "clear", "copy")] == [True, False, False]
    assert outer_of(ipv6(60), df="copy").dont_fragment
    assert [outer_of(packet, ttl=ttl).ttl for ttl in (64, 1, "copy")] == [64, 1, 64]
    assert outer_of(packet, "v6", flow_label=0xABCDE).label == 0xABCDE
    assert outer_of(ipv6(60), "v6", flow_label="copy").label == 0
    assert outer_of(packet, "v6", dscp=63, flow_label=0xFFFFF).tos == 63 << 2 | 1


@pytest.mark.parametrize("rule", ["keep", "copy"])
@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_the_whole_table_of_rfc_6040(outer, inner, make, rule):
    table = {
        (0, 0): 0, (0, 1): 0, (0, 2): 0, (0, 3): None,
        (1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 3,
        (2, 0): 2, (2, 1): 1, (2, 2): 2, (2, 3): 3,
        (3, 0): 3, (3, 1): 3, (3, 2): 3, (3, 3): 3,
    }  # fmt: skip
    out, _ = pair(outer="v4")
    _, into = pair(outer="v4", header=OuterHeader(dscp_in=rule))
    sealed = bytearray(seal([make(60, tos=0x28 | inner)], out)[0])
    sealed[1] = 0xB8 | outer  # on the way somebody changed class and mark
    opened = open_batch([bytes(sealed)], into)
    expected = table[inner, outer]
    if expected is None:
        assert opened.names == ["bad_ecn"]
        return
    assert head_of(opened.packets[0]).tos == (0xB8 if rule == "copy" else 0x28) | expected


# --- traffic flow confidentiality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["aes128gcm16", "aes128-sha256", "null-sha256", "aes128ccm8iiv"])
@pytest.mark.parametrize("outer", ["none", "v6udp"])
def test_tfc_padding_hides_the_length_and_is_cut_off(algorithm, outer):
    out, into = pair(algorithm, outer=outer)
    padding = SA("out", 0x1001, algorithm, key_of(algorithm), tfc=500, **OUTERS[outer])
    packets = [ipv4(20), ipv4(499), ipv6(40), ipv4(500), ipv4(501)]
    sealed = seal(packets, padding)
    assert [len(one) for one in sealed] == [padding.sealed_length(len(one)) for one in packets]
    assert len({len(one) for one in sealed[:4]}) == 1
    assert len(sealed[4]) == out.sealed_length(501)
    assert open_batch(sealed, into).packets == packets


@pytest.mark.parametrize("outer", list(OUTERS))
@pytest.mark.parametrize("algorithm", ["aes256gcm16", "aes128-sha1"])
def test_dummies_take_numbers_say_nothing_and_are_dropped(algorithm, outer):
    out, into = pair(algorithm, outer=outer)
    slots = Slots([b"\xaa" * size for size in (0, 1, 60, 1400)], out, out.headroom, out.tailroom)
    assert protect_dummies(slots.batch) == 4
    assert out.seq == 4
    if outer != "none":
        heads = [head_of(one) for one in slots.packets]
        assert {(head.tos, head.ttl) for head in heads} == {(0, 64)}
    icv = esp_suite(algorithm).icv_bytes
    assert b"\xaa" * 16 not in slots.packets[3][:-icv]
    opened = open_batch(slots.packets, into)
    assert opened.names == ["dummy"] * 4
    assert not opened.buffer.any()  # nothing of it is left
    assert into.counters()["dummy"] == 4
    assert into.seq == 4
