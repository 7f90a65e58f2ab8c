"""A peer proposes reserved or connected networks: both roles, IKE_AUTH, CREATE_CHILD_SA and rekeys."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, child, connection

from ipsec_fast.ike.config import ChildConfig
from ipsec_fast.model import selectors_text

WIDE = (child("net", local="10.1.0.0/24", remote="0.0.0.0/1 128.0.0.0/1"),)


def wide_pair(*remote: str, connected: str = "") -> Pair:
    """a is wide; b has these networks."""
    theirs = tuple(
        child(f"c{number}" if number else "net", local=text, remote="10.1.0.0/24") for number, text in enumerate(remote)
    )
    pair = Pair(a=connection("a", children=WIDE), b=connection("b", children=theirs))
    networks = tuple(map(ip_network, connected.split()))
    pair.a.endpoint._core.connected = lambda: networks
    return pair


@pytest.mark.parametrize("network", ["127.0.0.0/8", "224.0.0.5/32", "192.0.2.254/32"])
def test_as_responder_the_child_is_refused_in_both_exchanges(network: str) -> None:
    pair = wide_pair("10.2.0.0/24", network, connected="192.0.2.0/24")
    pair.initiate("b", "net", "c1")
    pair.run(3.0)
    assert [selectors_text(one.remote_ts) for one in pair.a.view.children] == ["10.2.0.0/24"]
    assert "TS_UNACCEPTABLE" in pair.b.log
    alone = wide_pair(network, connected="192.0.2.0/24")
    alone.initiate("b")
    alone.run(3.0)
    assert not alone.a.live
    assert "are not taken from a peer" in alone.a.log


def test_as_responder_what_lies_beside_is_narrowed_away_and_stays_so_over_a_rekey() -> None:
    pair = wide_pair("10.2.0.0/24 239.0.0.0/8 10.7.0.0/16", connected="10.7.3.0/24")
    pair.up("b")
    kept = "10.2.0.0/24 10.7.0.0-10.7.2.255 10.7.4.0-10.7.255.255"
    for _ in range(2):
        (one,) = pair.a.view.children
        (other,) = pair.b.view.children
        assert selectors_text(one.remote_ts) == selectors_text(other.local_ts) == kept
        pair.call("b", "rekey_child", other.child_id)
        pair.run(8.0)


def test_as_initiator_what_a_responder_narrows_to_is_judged_alike() -> None:
    pair = wide_pair("224.0.0.0/4", connected="192.0.2.0/24")
    pair.initiate("a")
    pair.run(3.0)
    assert not pair.a.live
    assert not pair.b.live
    mixed = wide_pair("10.2.0.0/24 224.0.0.0/4")
    mixed.initiate("a")
    mixed.run(3.0)
    assert [selectors_text(one.remote_ts) for one in mixed.a.view.children] == ["10.2.0.0/24"]


def test_host_to_host_on_a_connected_network_works() -> None:
    for remote in ("192.0.2.2/32", "192.0.2.0/24"):
        pair = wide_pair(remote, connected="192.0.2.0/24").up("b")
        assert selectors_text(pair.a.view.children[0].remote_ts) == f"{ADDRESS_B}/32"
    dynamic = ChildConfig("net")
    pair = Pair(a=connection("a", children=(dynamic,)), b=connection("b", children=(dynamic,)))
    pair.a.endpoint._core.connected = pair.b.endpoint._core.connected = lambda: (ip_network("192.0.2.0/24"),)
    pair.up()
    assert selectors_text(pair.b.view.children[0].remote_ts) == f"{ADDRESS_A}/32"
