"""Auditable events (RFC 4303 section 3.4): each drop told once, with number, addresses and flow label where its headers were kept."""

from __future__ import annotations

import gc
import weakref
from ipaddress import ip_address

from inner_packets import checksum
from kernel_packets import Slots, ipv4, pair, seal

from ipsec_fast import SA, Audit, OuterHeader, protect, unprotect
from ipsec_fast.dataplane.audit import AUDITABLE
from ipsec_fast.dataplane.status import VERDICTS


def opened(packets: list[bytes], sa: SA) -> list[str]:
    slots = Slots(packets, sa)
    unprotect(slots.batch)
    return slots.names


def broken(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


def test_every_auditable_event_is_a_verdict():
    assert set(AUDITABLE) <= set(VERDICTS)


def test_nothing_happened():
    out, into = pair()
    opened(seal([ipv4(60)], out), into)
    assert Audit().events([out, into]) == []


def test_each_drop_is_told_once_with_what_the_rfc_asks_for():
    out, into = pair(outer="v6", header=OuterHeader(flow_label=0xABCDE))
    audit = Audit()
    one, two, three = seal([ipv4(60)] * 3, out)
    assert opened([one, one, broken(two), broken(two)], into) == ["ok", "replay_seen", "bad_icv", "bad_icv"]
    replay, icv = audit.events([into])
    assert (replay.verdict, replay.count, replay.seq, replay.source) == ("replay_seen", 1, None, None)
    assert (icv.verdict, icv.protocol, icv.direction, icv.spi, icv.count, icv.seq) == (
        "bad_icv",
        "esp",
        "in",
        0x1001,
        2,
        2,
    )
    assert (icv.source, icv.destination, icv.flow_label) == (
        ip_address("2001:db8::1"),
        ip_address("2001:db8::2"),
        0xABCDE,
    )
    assert str(icv) == (
        "bad_icv: esp in SPI 0x00001001, sequence number 2, from 2001:db8::1 to 2001:db8::2, flow label 0xabcde, 2 packets"
    )
    assert audit.events([into]) == []
    assert opened([broken(three)], into) == ["bad_icv"]
    assert [(e.verdict, e.count, e.seq) for e in audit.events([into])] == [("bad_icv", 1, 3)]


def test_a_fragment_and_the_end_of_the_numbers():
    out, into = pair(outer="v4", seqs=((1 << 32) - 2, 0), esn=False)
    packet = bytearray(seal([ipv4(60)], out)[0])
    packet[6] |= 0x20  # more fragments
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
    assert opened([bytes(packet)], into) == ["outer_fragment"]
    slots = Slots([ipv4(60)], out, out.headroom, out.tailroom)
    protect(slots.batch)
    assert slots.names == ["seq_exhausted"]
    events = Audit().events([into, out])
    assert [(e.verdict, e.direction, e.seq) for e in events] == [
        ("outer_fragment", "in", 0xFFFFFFFF),
        ("seq_exhausted", "out", 0xFFFFFFFF),
    ]


def test_a_bare_esp_packet_has_no_addresses():
    out, into = pair(spi=0x45001234)  # looks like the first bytes of an IPv4 header
    opened([broken(seal([ipv4(60)], out)[0])], into)
    (event,) = Audit().events([into])
    assert (event.seq, event.source, event.destination) == (1, None, None)


def test_it_keeps_no_sa_alive():
    out, into = pair()
    audit = Audit()
    opened([broken(seal([ipv4(60)], out)[0])], into)
    assert len(audit.events([into])) == 1
    gone = weakref.ref(into)
    del into
    gc.collect()
    assert gone() is None
