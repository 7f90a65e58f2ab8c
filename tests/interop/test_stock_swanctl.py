"""Stock swanctl against our control socket: what an operator of strongSwan types."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import one_of_each, up

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]
Connect = Callable[..., Peers]


def test_list_sas_prints_the_tunnel(connect: Connect) -> None:
    peers = connect()
    up(peers, "ours")
    text = peers.ours.swanctl("--list-sas")
    print(text)
    for words in ("t: #", "ESTABLISHED, IKEv2", "'a.example' @ 192.0.2.1[4500]", "'b.example' @ 192.0.2.2[4500]",
                  "AES_GCM_16-128/PRF_HMAC_SHA2_256/CURVE_25519", "INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128",
                  "local  10.1.0.0/24", "remote 10.2.0.0/24", "bytes", "packets"):  # fmt: skip
        assert words in text


def test_list_conns_prints_the_configuration(connect: Connect) -> None:
    text = connect().ours.swanctl("--list-conns")
    for words in ("t: IKEv2", "192.0.2.1", "192.0.2.2", "a.example", "net: TUNNEL", "10.1.0.0/24", "10.2.0.0/24"):
        assert words in text


def test_initiate_streams_the_negotiation(connect: Connect) -> None:
    text = connect().ours.initiate()
    assert "initiate completed successfully" in text
    assert "established" in text


def test_initiate_of_an_unknown_child_says_so(connect: Connect) -> None:
    peers = connect()
    text = peers.ours.initiate("nowhere", check=False)
    assert "initiate failed" in text
    assert "nowhere" in text


def test_rekey_and_terminate(connect: Connect) -> None:
    peers = connect()
    up(peers, "ours")
    assert "rekey completed successfully" in peers.ours.swanctl("--rekey", "--child", "net")
    one_of_each(peers)
    assert "rekey completed successfully" in peers.ours.swanctl("--rekey", "--ike", "t")
    one_of_each(peers)
    assert "terminate completed successfully" in peers.ours.swanctl("--terminate", "--ike", "t")
    assert peers.ours.swanctl("--list-sas").strip() == ""


def test_stats_and_version(connect: Connect) -> None:
    ours = connect().ours
    assert "uptime" in ours.swanctl("--stats")
    assert "ipsec" in ours.swanctl("--version", check=False).lower() or ours.call("version")["daemon"]
