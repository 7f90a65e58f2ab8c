"""A NAT between two gateways changes its mapping under traffic: the one not behind it follows, traffic goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipsec_fast.bench.mtu_ground import OUTER, Gateway, Ground, Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

ELSEWHERE = {4: "192.0.2.77", 6: "2001:db8:1::77"}
SOME = 300_000  # bytes after which a transfer counts as going on


class Nat:
    """In the router: gw1 is seen at an address of its link, its port 4500 at `port` and its port 500 at the next one."""

    def __init__(self, ground: Ground, version: int) -> None:
        self.ground, self.family, self.inside = ground, "ip" if version == 4 else "ip6", OUTER["gw1"][version]

    def map_to(self, address: str, port: int) -> None:
        """Change the mapping in one step; packets to another mapping are dropped."""
        ip, inside = self.family, self.inside
        # nft updates a UDP checksum even if there is none, as in ESP's
        none = " udp checksum set 0" if ip == "ip" else ""
        out, back = [], []
        for theirs, ours in ((4500, port), (500, port + 1)):
            out.append(f"{ip} saddr {inside} udp sport {theirs} {ip} saddr set {address} udp sport set {ours}{none}")
            here = f"{ip} daddr {address} udp dport {ours}"
            back.append(f"{here} {ip} daddr set {inside} udp dport set {theirs}{none} accept")
        if ip == "ip":  # the other pieces of a packet in fragments
            out.append(f"ip saddr {inside} ip frag-off & 0x1fff != 0 ip saddr set {address}")
            back.append(f"ip daddr {address} ip frag-off & 0x1fff != 0 ip daddr set {inside} accept")
        others = f"{inside}, {ELSEWHERE[4 if ip == 'ip' else 6]}"
        back.append(f'iifname "right" {ip} daddr {{ {others} }} udp dport 1-65535 drop')
        rules = "\n".join(
            [
                "table inet nat1",
                "delete table inet nat1",
                "table inet nat1 {",
                "chain out { type filter hook postrouting priority -300;",
                *out,
                "}",
                "chain back { type filter hook prerouting priority -300;",
                *back,
                "}",
                "}",
            ]
        )
        file = self.ground.folder / "nat.nft"
        file.write_text(rules + "\n")
        self.ground.run("router", "nft", "-f", str(file))


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with Ground(tmp_path, prefix="movednat") as found:
        yield found


def up(ground: Ground, version: int, **config: str) -> tuple[Nat, Gateway, Gateway]:
    nat = Nat(ground, version)
    nat.map_to(nat.inside, 40000)
    more = {"connection": 'encap = false\nmtu_probe = "off"', **config}
    server, client = (ground.gateway(node, outer=version, **more) for node in ("gw2", "gw1"))
    client.initiate()
    return nat, client, server


def place_of(gateway: Gateway) -> tuple[str, int]:
    (sa,) = gateway.status()["ike_sas"]
    return sa["remote-host"], int(sa["remote-port"])


def goes_on(transfer: Transfer, gateway: Gateway) -> None:
    before = transfer.arrivals[-1][1] if transfer.arrivals else 0
    gateway.wait_until(
        "the transfer goes on", lambda: transfer.arrivals and transfer.arrivals[-1][1] > before + SOME, 15
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("source", ["host1", "host2"])
def test_traffic_goes_on_when_the_port_and_then_the_address_changes(ground: Ground, version: int, source: str) -> None:
    """Whichever side sends: what the client sends, an acknowledgement at least, shows the server where it is."""
    nat, _, server = up(ground, version)
    assert place_of(server) == (nat.inside, 40000)
    transfer = Transfer(ground, source, "host2" if source == "host1" else "host1")
    try:
        goes_on(transfer, server)
        for address, port in ((nat.inside, 41000), (ELSEWHERE[version], 42000)):
            nat.map_to(address, port)
            server.wait_until(f"it has followed to {port}", lambda a=address, p=port: place_of(server) == (a, p))
            goes_on(transfer, server)
        assert len(server.status()["ike_sas"]) == 1  # the same one, by the same numbers
        assert f"moved it from {nat.inside}[40000] to {nat.inside}[41000]" in server.words()
        assert f"to {ELSEWHERE[version]}[42000]" in server.words()
    finally:
        transfer.stop()


def test_outer_fragments_follow_too(ground: Ground) -> None:
    """Where outer packets may be cut the SA writes the outer header itself; its driver puts the new address there."""
    nat, _, server = up(ground, 4, child="copy_df = false")
    transfer = Transfer(ground, "host2", "host1")
    try:
        goes_on(transfer, server)
        nat.map_to(ELSEWHERE[4], 41000)
        server.wait_until("it has followed", lambda: place_of(server) == (ELSEWHERE[4], 41000))
        goes_on(transfer, server)
    finally:
        transfer.stop()


def test_it_is_remembered_over_a_rekey_of_both(ground: Ground) -> None:
    nat, client, server = up(ground, 4)
    ground.run("host1", "ping", "-n", "-c3", "-i0.1", "-W2", "10.2.0.10")
    nat.map_to(ELSEWHERE[4], 41000)
    ground.run("host1", "ping", "-n", "-c1", "-W2", "10.2.0.10", check=False)
    server.wait_until("it has followed", lambda: place_of(server) == (ELSEWHERE[4], 41000))
    for what in ("child", "ike"):
        name = {"child": "net", "ike": "site"}[what]
        with server.client() as vici:
            vici.request("rekey", {what: name})
    server.wait_until("both are rekeyed", lambda: server.log.read_text().count("rekeyed") >= 2)
    assert " 0% packet loss" in ground.run("host2", "ping", "-n", "-c3", "-i0.1", "-W2", "10.1.0.10")
    assert place_of(server) == (ELSEWHERE[4], 41000)
    assert client.process.poll() is None
