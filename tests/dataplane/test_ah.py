"""AH: what must be refused first; every bit that counts and every bit that may change; vectors; scapy as an independent oracle."""

from __future__ import annotations

import json
import random
import struct

import pytest
from dataplane_vectors import FOLDER, RAN, load
from kernel_packets import Slots, ipv4, ipv6, open_batch, pair, seal
from odd_packets import V4, V6, as_fragment, ipv6_with_chain, upper
from test_ah_twin import ah_key
from twin_ip import head_of, ipv4_header, with_length

from ipsec_fast import SA, open_for_test, protect, protect_packet, seal_with_iv_for_test, unprotect_packet
from ipsec_fast.algorithms import ah_suite, ah_suite_names
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import AlgorithmError, IntegrityError, StateError, UsageError

ENGINES = tuple(engine.engines())
NAMES = ah_suite_names()
OUTERS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:a::1", "2001:db8:a::2")}


def ah(direction: str, algorithm: str = "sha256", mode: str = "tunnel", outer: int = 4, **more) -> SA:
    if mode == "tunnel":
        more = {"src": OUTERS[outer][0], "dst": OUTERS[outer][1], **more}
    return SA(direction, 0x1001, algorithm, ah_key(algorithm), mode=mode, protocol="ah", **more)


# --- refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"src": None, "dst": None}, "it covers the outer header"),
        ({"encap": (4500, 4500)}, "no UDP"),
        ({"mode": "beet"}, "tunnel and transport mode"),
        ({"tfc": 100}, "AH hides nothing"),
        ({"mode": "transport", "original": "recompute"}, "inbound transport mode in UDP"),
    ],
)
def test_what_ah_does_not_have_is_said(wrong, message):
    with pytest.raises(UsageError, match=message):
        ah("out", **wrong)


def test_algorithms_and_keys_are_checked_by_their_ah_names():
    for name in ("aes128gcm16", "null-sha256", "md5", "aes128-sha256", ""):
        with pytest.raises(AlgorithmError, match="we carry aes256gmac"):
            ah_suite(name)
    with pytest.raises(AlgorithmError, match=r"needs 20 bytes of key .16 cipher key, 4 salt., not 16"):
        SA("in", 1, "aes128gmac", bytes(16), mode="transport", protocol="ah")
    with pytest.raises(UsageError, match="it is 'esp' or 'ah'"):
        SA("in", 1, protocol="ipcomp")


@pytest.mark.parametrize("algorithm", NAMES)
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_every_length_from_0_to_200_is_dropped_or_whole(algorithm, mode):
    packet = (ipv4 if mode == "transport" else ipv6)(120)
    out, into = ah("out", algorithm, mode), ah("in", algorithm, mode)
    good = seal([packet], out)[0]
    names = open_batch([good[:length] for length in range(len(good))], into).names
    assert "ok" not in names
    assert into.seq == 0
    rng = random.Random(algorithm)
    noise = [rng.randbytes(n % 201) for n in range(402)]
    headed = [good[:20] + rng.randbytes(n) for n in range(181)]
    headed = [with_length(one[:20], len(one) - 20) + one[20:] for one in headed]
    assert "ok" not in open_batch(noise + headed, into).names
    assert into.seq == 0
    assert open_batch([good], into).packets == [packet]


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_bad_icv_zeroes_its_own_region_and_nothing_else(algorithm):
    out, into = ah("out", algorithm), ah("in", algorithm)
    sealed = bytearray(seal([ipv4(100)], out)[0])
    sealed[-1] ^= 1
    slots = Slots([bytes(sealed)], into, before=40, behind=40)
    from ipsec_fast import unprotect

    assert unprotect(slots.batch) == 0
    assert slots.names == ["bad_icv"]
    assert set(slots.buffer[:40]) == set(slots.buffer[-40:]) == {0xEE}
    assert not slots.buffer[40:-40].any()


def test_an_sa_of_the_other_protocol_is_told_apart():
    out, into = pair(outer="v4")
    ah_out, ah_into = ah("out"), ah("in")
    sealed, authenticated = seal([ipv4(60)], out)[0], seal([ipv4(60)], ah_out)[0]
    assert open_batch([authenticated], into).names == ["bad_outer"]
    assert open_batch([sealed], ah_into).names == ["bad_outer"]
    mixed = Slots([ipv4(60)] * 4, [out, ah_out, out, ah_out], 80, 40)
    assert protect(mixed.batch) == 4
    assert [head_of(one).protocol for one in mixed.packets] == [50, 51, 50, 51]


@pytest.mark.parametrize("packet", [as_fragment(ipv4(60), 0, True), as_fragment(ipv4(60), 64, False)])
def test_fragments_are_refused_in_both_directions(packet):
    out = ah("out", mode="transport")
    slots = Slots([packet], out, out.headroom)
    protect(slots.batch)
    assert slots.names == ["outer_fragment"]
    sealed = seal([ipv4(60)], ah("out"))[0]
    assert open_batch([as_fragment(sealed, 0, True)], ah("in")).names == ["outer_fragment"]


@pytest.mark.parametrize("lie", [-2, -1, 1, 2, 200])
def test_a_payload_length_that_lies_is_dropped(lie):
    sealed = bytearray(seal([ipv4(60)], ah("out"))[0])
    sealed[21] = sealed[21] + lie & 255
    assert open_batch([bytes(sealed)], ah("in")).names == ["bad_length"]


def test_routing_header_type_0_is_refused():
    packet = ipv6_with_chain([(43, 3)], 17, bytes(20), fill=0)
    out = ah("out", mode="transport")
    slots = Slots([packet], out, out.headroom)
    protect(slots.batch)
    assert slots.names == ["bad_inner"]
    assert bytes(slots.buffer[out.headroom :]) == packet
    assert out.seq == 0


# --- every bit ----------------------------------------------------------------------------------------------------------------

IPV4_MAY_CHANGE = {1, 6, 7, 8, 10, 11}  # TOS, flags and offset, TTL, checksum
IPV6_MAY_CHANGE = {1, 2, 3, 7}  # class, flow label, hop limit; the low half of byte 0 too


@pytest.mark.parametrize("algorithm", ["sha256", "aes128gmac", "aesxcbc"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("esn", [False, True])
def test_each_immutable_bit_is_detected_and_each_mutable_one_tolerated(algorithm, outer, esn):
    out, packet = ah("out", algorithm, outer=outer, esn=esn), ipv4(60, tos=1)
    sealed = seal([packet], out)[0]
    free = IPV4_MAY_CHANGE if outer == 4 else IPV6_MAY_CHANGE
    for bit in range(8 * len(sealed)):
        at, mask = bit // 8, 1 << bit % 8
        wrong = sealed[:at] + bytes([sealed[at] ^ mask]) + sealed[at + 1 :]
        into = ah("in", algorithm, outer=outer, esn=esn)
        verdict = open_batch([wrong], into).names[0]
        is_free = at in free or (outer == 6 and at == 0 and mask < 16)
        makes_fragment = outer == 4 and at in (6, 7) and not (at == 6 and mask in (0x40, 0x80))
        if makes_fragment:
            assert verdict == "outer_fragment"
        elif is_free:
            assert verdict in ("ok", "bad_ecn"), (at, mask)
        else:
            assert verdict != "ok", (at, mask)
            assert into.seq == 0, (at, mask)


FIXED = [bytes([130, 4, 1, 2]), bytes([134, 6, 0, 0, 0, 1, 0, 0]), bytes([148, 4, 0, 0]), bytes([1, 1, 1, 1])]
CHANGING = [
    bytes([7, 7, 4, 1, 2, 3, 4, 0]),
    bytes([68, 8, 5, 0, 1, 2, 3, 4]),
    bytes([222, 4, 9, 9]),
    bytes([82, 4, 1, 1]),
]


@pytest.mark.parametrize("options", FIXED + CHANGING)
@pytest.mark.parametrize("algorithm", ["sha384", "aes256gmac"])
def test_ipv4_options_count_or_not_as_appendix_a_says(options, algorithm):
    packet = ipv4_header(*V4, 17, options=options, payload=30) + bytes(30)
    sealed = seal([packet], ah("out", algorithm, "transport"))[0]
    assert open_batch([sealed], ah("in", algorithm, "transport")).packets == [packet]
    at = 20 + (3 if options[0] != 1 else 1)  # a byte of the first option's data
    wrong = sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :]
    expected = "bad_icv" if options in FIXED else "ok"
    if options[0] == 1:  # a NOP that became an option whose length does not fit
        expected = "bad_outer"
    assert open_batch([wrong], ah("in", algorithm, "transport")).names == [expected]


def test_a_source_route_counts_with_its_last_address():
    """The sender's destination is the next hop; at the end it is the last of the route (RFC 4302 section 3.3.3.1.1.1)."""
    route = bytes([131, 7, 4]) + bytes([10, 2, 0, 9]) + b"\0"
    packet = ipv4_header("10.1.0.1", "10.9.9.9", 17, options=route, payload=20) + bytes(20)
    sealed = seal([packet], ah("out", mode="transport"))[0]
    arrived = sealed[:16] + bytes([10, 2, 0, 9, 131, 7, 8, 10, 9, 9, 9]) + sealed[27:]
    assert open_batch([arrived], ah("in", mode="transport")).names == ["ok"]
    elsewhere = sealed[:16] + bytes([10, 2, 0, 8]) + sealed[20:]
    assert open_batch([elsewhere], ah("in", mode="transport")).names == ["bad_icv"]


@pytest.mark.parametrize(("kind", "fill"), [(0, 0x3E), (0, 0x1E), (60, 0x3E), (60, 0x1E)])
def test_ipv6_options_may_change_where_their_type_says_so(kind, fill):
    packet = ipv6_with_chain([(kind, 2), (43, 1)], 17, bytes(20), fill=fill)
    if packet[56 + 2] == 0 or packet[56 + 3]:
        packet = packet[:58] + bytes([4, 0]) + packet[60:]  # a routing header at its end
    sealed = seal([packet], ah("out", mode="transport"))[0]
    assert open_batch([sealed], ah("in", mode="transport")).packets == [packet]
    changed = sealed[:47] + bytes([sealed[47] ^ 0xFF]) + sealed[48:]
    assert open_batch([changed], ah("in", mode="transport")).names == ["ok" if fill & 0x20 else "bad_icv"]
    other_type = sealed[:42] + bytes([sealed[42] ^ 0x40]) + sealed[43:]
    assert open_batch([other_type], ah("in", mode="transport")).names == ["bad_icv"]


def test_a_mobile_nodes_routing_header_counts_as_at_its_end():
    home, care_of = bytes(range(16)), bytes(range(16, 32))
    routing = bytes([17, 2, 2, 1, 0, 0, 0, 0]) + home
    body = bytes(20)
    base = struct.pack("!IHBB", 6 << 28, len(routing) + len(body), 43, 64)
    packet = base + bytes(15) + b"\1" + care_of + routing + body
    sealed = seal([packet], ah("out", mode="transport"))[0]
    arrived = sealed[:24] + home + sealed[40:43] + b"\0" + sealed[44:48] + care_of + sealed[64:]
    assert open_batch([arrived], ah("in", mode="transport")).names == ["ok"]


# --- lengths, numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", NAMES)
def test_ah_is_a_multiple_of_4_in_ipv4_and_of_8_in_ipv6(algorithm):
    """Of GMAC too, whose ICV field holds the IV: erratum 3643 of RFC 4543."""
    suite = ah_suite(algorithm)
    exact = 12 + suite.iv_bytes + suite.icv_bytes
    for packet, unit in ((ipv4(60), 4), (ipv6(60), 8)):
        out, into = ah("out", algorithm, "transport"), ah("in", algorithm, "transport")
        sealed = seal([packet], out)[0]
        assert len(sealed) - 60 == -(-exact // unit) * unit == (sealed[head_of(packet).length + 1] + 2) * 4
        assert out.sealed_length(60, head_of(packet).length) == len(sealed)
        assert open_batch([sealed], into).packets == [packet]


def test_gmac_numbers_are_its_ivs_and_esn_crosses_2_to_the_32():
    start = (1 << 32) - 3
    for algorithm in NAMES:
        out, into = (ah(way, algorithm, esn=True, seq=start) for way in ("out", "in"))
        packets = [ipv4(40 + n) for n in range(6)]
        sealed = seal(packets, out)
        if ah_suite(algorithm).iv_bytes:
            assert [int.from_bytes(one[32:40], "big") for one in sealed] == list(range(start + 1, start + 7))
        assert open_batch(sealed, into).packets == packets
        assert into.seq == start + 6
        assert set(open_batch(sealed, into).names) == {"replay_seen"}


def test_one_packet_forms_and_their_errors():
    out, into = ah("out"), ah("in")
    sealed = protect_packet(out, memoryview(ipv4(60)))
    assert unprotect_packet(into, bytearray(sealed)) == ipv4(60)
    with pytest.raises(IntegrityError, match="replay_seen"):
        unprotect_packet(into, sealed)
    with pytest.raises(UsageError, match="needs an inbound SA"):
        unprotect_packet(out, sealed)
    with pytest.raises(UsageError, match="needs an outbound SA"):
        protect_packet(into, sealed)
    with pytest.raises(UsageError, match="bad_inner"):
        protect_packet(out, b"")
    with pytest.raises(StateError, match="no_grant"):
        protect_packet(ah("out", granted=0), ipv4(60))
    given = seal_with_iv_for_test(ah("out", "aes128gmac"), ipv4(60), 7, b"12345678")
    assert given[32:40] == b"12345678"
    assert open_for_test(ah("in", "aes128gmac"), given) == ipv4(60)


# --- others' packets --------------------------------------------------------------------------------------------------------------


VECTOR_NAMES = {"hmac-sha2-256-128": "sha256", "aes-gmac-128": "aes128gmac"}


@pytest.mark.parametrize("name", ENGINES)
def test_the_vectors_of_others(name):
    vectors = [v for v in load("esp_vectors.json")["vectors"] if v["proto"] == "ah"]
    if not vectors:
        pytest.skip("no vectors of AH without the folder of third-party vectors: set IPSEC_FAST_VECTORS")
    for v in vectors:
        algorithm, key = VECTOR_NAMES[v["auth"]["alg"]], bytes.fromhex(v["auth"]["key"] + v["auth"]["salt"])
        packet, inner, iv = (bytes.fromhex(v[field]) for field in ("packet", "inner_packet", "iv"))
        head = head_of(packet)
        outer = {"src": head.src, "dst": head.dst} if v["mode"] == "tunnel" else {}
        out, into = (
            SA(way, v["spi"], algorithm, key, mode=v["mode"], protocol="ah", engine=name, esn=v["esn"], **outer)
            for way in ("out", "in")
        )
        assert open_for_test(into, packet) == inner, v["id"]
        ours = seal_with_iv_for_test(out, inner, v["seq"], iv)
        if head.version == 4 and outer:  # our outer header has another identification and DF, which the ICV covers
            at = head.length + 12 + len(iv) + ah_suite(algorithm).icv_bytes
            assert (ours[at:], ours[20:32]) == (packet[at:], packet[20:32])
        else:
            assert ours == packet, v["id"]
        RAN[f"esp_vectors.json: AH on {name}"] += 1


def test_ah_of_a_capture_without_keys_is_parsed_to_its_icv():
    path = FOLDER / "pcaps" / "zk_IPsec_ESP-AH_tunnel_mode.cap"
    if not path.exists():
        pytest.skip(f"{path} is not here; set IPSEC_FAST_VECTORS to the folder of the vectors")
    frames = json.loads(path.with_suffix(".cap.expected.json").read_text())["frames"]
    from scapy.utils import rdpcap

    for frame, raw in zip(frames, rdpcap(str(path)), strict=True):
        packet = bytes(raw)[14:]
        spi = int(frame["spi"], 16)
        into = SA("in", spi, "sha1", bytes(20), mode="transport", protocol="ah", seq=frame["seq"] - 1)
        assert open_batch([packet], into).names == ["bad_icv"]  # found, of the right length and number, of another key
        assert open_batch(
            [packet], SA("in", spi, "sha1", bytes(20), mode="transport", protocol="ah", seq=frame["seq"])
        ).names == ["replay_seen"]


SCAPY = {
    "sha1": "HMAC-SHA1-96",
    "sha256": "SHA2-256-128",
    "sha384": "SHA2-384-192",
    "sha512": "SHA2-512-256",
    "aescmac": "AES-CMAC-96",
}


@pytest.mark.parametrize("algorithm", list(SCAPY))
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("mode", ["transport", 4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_scapy_verifies_ours_and_we_its(algorithm, esn, mode, version):
    ipsec = pytest.importorskip("scapy.layers.ipsec", reason="scapy is not installed")
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    body = upper(17, *(V4 if version == 4 else V6), bytes(range(50)))
    packet = (
        ipv4_header(*V4, 17, options=bytes([148, 4, 0, 0]), payload=len(body)) + body
        if version == 4
        else ipv6_with_chain([], 17, body)
    )
    tunnel = {} if mode == "transport" else {"mode": "tunnel", "outer": mode}
    out, into = (ah(way, algorithm, **{"mode": "transport", **tunnel}, esn=esn) for way in ("out", "in"))
    outer = None if mode == "transport" else (IP if mode == 4 else IPv6)(src=OUTERS[mode][0], dst=OUTERS[mode][1])
    theirs = ipsec.SecurityAssociation(
        ipsec.AH, spi=0x1001, seq_num=1, auth_algo=SCAPY[algorithm], auth_key=ah_key(algorithm), tunnel_header=outer,
        esn_en=esn, esn=0,
    )  # fmt: skip
    parse_inner = IP if version == 4 else IPv6
    parse_outer = parse_inner if mode == "transport" else IP if mode == 4 else IPv6
    sealed = seal([packet], out)[0]
    assert bytes(theirs.decrypt(parse_outer(sealed), verify=True))[-50:] == packet[-50:]
    made = bytes(theirs.encrypt(parse_inner(packet)))
    opened = open_batch([made], into)
    assert opened.names == ["ok"]
    assert opened.packets[0][-50:] == packet[-50:]
