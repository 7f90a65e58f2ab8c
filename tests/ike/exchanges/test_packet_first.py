"""The packet that triggered a Child SA is offered first (RFC 7296 section 2.9), in IKE_AUTH and CREATE_CHILD_SA."""

from __future__ import annotations

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, child, connection
from tampering import change_messages

from ipsec_fast.iana import PayloadType
from ipsec_fast.ike.v2.payloads import TsPayload
from ipsec_fast.model import Path, TrafficSelector

parse = TrafficSelector.parse
PATH = Path(ADDRESS_A, 500, ADDRESS_B, 500)
PACKET = (parse("10.1.0.7[tcp/50000]"), parse("10.2.0.5[tcp/443]"))


def offers(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> list[tuple[str, str]]:
    """TSi and TSr of each request of side a."""
    seen: list[tuple[str, str]] = []

    def note(header, payloads):
        ts = {p.type: " ".join(map(str, p.selectors)) for p in payloads if isinstance(p, TsPayload)}
        if ts and not header.response:
            seen.append((ts[PayloadType.TSI], ts[PayloadType.TSR]))
        return payloads

    change_messages(monkeypatch, pair, "a", note)
    return seen


def test_in_ike_auth_and_in_create_child_sa_and_never_in_a_rekey(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    seen = offers(monkeypatch, pair)
    pair.a.endpoint.initiate(pair.a.configs[0], ("net",), PATH, pair.now, PACKET)
    pair.run(2.0)
    pair.check_one_pair()
    pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
    pair.run(2.0)
    pair.a.endpoint.initiate_child(pair.a.view.ike_id, pair.a.configs[0].children[0], pair.now, PACKET)
    pair.run(2.0)
    led = ("10.1.0.7/32[tcp/50000] 10.1.0.0/24", "10.2.0.5/32[tcp/443] 10.2.0.0/24")
    assert seen == [led, ("10.1.0.0/24", "10.2.0.0/24"), led]
    assert {str(ts) for c in pair.a.view.children for ts in c.remote_ts} == {"10.2.0.0/24"}
    assert all(c.narrowed == "" for c in pair.a.view.children)


def test_it_gets_the_child_that_the_packet_needs() -> None:
    """The peer's policy cannot hold all that we would like, so the packet decides."""
    a = connection("a", children=(child(remote="10.0.0.0/8"),))
    children = (
        child(name, local=local, remote="10.1.0.0/24")
        for name, local in (("other", "10.9.0.0/16"), ("right", "10.2.0.0/24"))
    )
    b = connection("b", children=children)
    pair = Pair(a, b)
    pair.a.endpoint.initiate(a, ("net",), PATH, pair.now, PACKET)
    pair.run(2.0)
    assert [c.name for c in pair.b.view.children] == ["right"]
    assert pair.a.view.children[0].narrowed == "by the peer from 10.0.0.0/8"


ALONE = ("10.1.0.0/24", "10.2.0.0/24")
PACKETS = {
    "10.1.0.7/32[icmp/2048] 10.2.0.5/32[icmp/2048]": True,  # type 8, code 0, on both sides
    "10.1.0.7/32[gre] 10.2.0.5/32[gre]": True,
    # what the child does not allow is not offered, nor is anything twice
    "10.7.0.7 10.2.0.5": False,
    "10.1.0.7 10.7.0.5": False,
    "fd00::7 fd00::5": False,
    "10.1.0.0/24 10.2.0.0/24": False,
}


@pytest.mark.parametrize("packet", PACKETS)
def test_protocol_and_type_are_the_packets(monkeypatch: pytest.MonkeyPatch, packet: str) -> None:
    pair = Pair()
    seen = offers(monkeypatch, pair)
    local, remote = packet.split()
    pair.a.endpoint.initiate(pair.a.configs[0], (), PATH, pair.now, (parse(local), parse(remote)))
    pair.run(2.0)
    pair.check_one_pair()
    assert seen == [(f"{local} {ALONE[0]}", f"{remote} {ALONE[1]}") if PACKETS[packet] else ALONE]


@pytest.mark.parametrize(("count", "leads"), [(254, True), (255, False)])
def test_there_is_room_for_it_or_it_is_left_out(monkeypatch: pytest.MonkeyPatch, count: int, leads: bool) -> None:
    hosts = " ".join(f"10.2.{i // 100}.{2 * (i % 100)}" for i in range(count))
    pair = Pair(
        connection("a", children=(child(remote=hosts),)),
        connection("b", children=(child(local="10.2.0.0/16", remote="10.1.0.0/24"),)),
    )
    seen = offers(monkeypatch, pair)
    packet = (parse("10.1.0.7[udp/1]"), parse("10.2.0.4[udp/2]"))
    pair.a.endpoint.initiate(pair.a.configs[0], (), PATH, pair.now, packet)
    pair.run(2.0)
    assert len(seen[0][1].split()) == 255
    assert seen[0][1].startswith("10.2.0.4/32[udp/2]") == leads
    assert pair.a.view.children
