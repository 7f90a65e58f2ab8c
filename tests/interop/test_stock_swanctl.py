"""Stock swanctl against our control socket: what an operator of strongSwan types."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from interop.conftest import Peers
from interop.test_charon_tunnel import one_of_each, up
from netns.daemon import Charon, OurGatewayBySwanctl
from netns.lab import Lab
from netns.site import LEFT, RIGHT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(90)]
Connect = Callable[..., Peers]


@pytest.fixture
def loaded(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    """Both daemons configured by `swanctl --load-all` alone."""
    directory = tmp_path_factory.mktemp("l")
    with (
        Charon(lab.b, directory / "charon", RIGHT) as charon,
        OurGatewayBySwanctl(lab.a, directory / "ours", LEFT) as ours,
    ):
        yield Peers(lab, ours, charon)


@pytest.mark.parametrize("initiator", ["ours", "charon"])
def test_load_all_with_a_swanctl_conf_makes_a_tunnel_with_charon(loaded: Peers, initiator: str) -> None:
    up(loaded, initiator)
    one_of_each(loaded)
    assert "t: IKEv2" in loaded.ours.swanctl("--list-conns")


def test_load_all_again_leaves_what_stands(loaded: Peers) -> None:
    up(loaded, "ours")
    before = loaded.ours.sas()
    assert isinstance(loaded.ours, OurGatewayBySwanctl)
    text = loaded.ours.load_all()
    assert "successfully loaded 1 connections, 0 unloaded" in text
    assert [one.spis for one in loaded.ours.sas()] == [one.spis for one in before]
    one_of_each(loaded)


def test_counters_agree_with_charon_s(loaded: Peers) -> None:
    up(loaded, "ours")
    names = ("ike-init-in-req", "ike-init-in-resp", "ike-auth-in-req", "ike-auth-in-resp")
    ours = loaded.ours.call("get-counters")["counters"][""]
    theirs = loaded.charon.call("get-counters")["counters"][""]
    for name in names:
        mirrored = name.replace("-in-", "-out-")
        assert ours[mirrored] == theirs[name]
        assert theirs[mirrored] == ours[name]
    assert set(ours) == set(theirs)


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
