"""More than one peer, one address and one Child SA: road warriors with and
without a NAT, a second address, half-open SAs.

    alice 10.9.0.10 \\
                     10.9.0.1 n 192.0.2.9 ===== 192.0.2.2 b 10.2.0.1
    venus 10.9.0.20 /
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipsec_fast.demo.namespaces import in_namespace
from tests.gateway.site_pair import PSK, Gateway, SitePair, captured, sh, site_pair, wait_until

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.timeout(90),
]
PEERS = {"alice": "10.9.0.10", "venus": "10.9.0.20"}


class Roads:
    def __init__(self, prefix: str, directory: Path) -> None:
        self.prefix, self.directory = prefix, directory
        self.gateways: list[Gateway] = []

    def netns(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def start(self, name: str, connection: str) -> Gateway:
        file = self.directory / f"{name}.toml"
        secret = self.directory / "all.psk"
        secret.write_text(PSK)
        secret.chmod(0o600)
        head = f'[gateway]\nsocket = "{self.directory}/{name}.vici"\nworkers = 1\n'
        file.write_text(f'{head}{connection}\n[secrets.ike-1]\nfile = "{secret}"\n')
        one = Gateway(self.netns(name), file)
        self.gateways.append(one)
        return one

    def ping(self, name: str, target: str) -> int:
        text = sh(f"ip netns exec {self.netns(name)} ping -n -c3 -i0.05 -W1 {target}", check=False)
        return int(text.split(" received")[0].rsplit(" ", 1)[-1]) if " received" in text else 0


@contextlib.contextmanager
def roads(directory: Path, *, nat: bool) -> Iterator[Roads]:
    road = Roads(f"rw{os.getpid()}", directory)
    names = [road.netns(name) for name in (*PEERS, "n", "b")]
    try:
        for name in names:
            sh(f"ip netns add {name}")
            sh(f"ip -n {name} link set lo up")
        n, b = road.netns("n"), road.netns("b")
        sh(f"ip -n {n} link add inside type bridge")
        sh(f"ip -n {n} addr add 10.9.0.1/24 dev inside")
        sh(f"ip -n {n} link set inside up")
        sh(f"ip link add outside netns {n} type veth peer name out netns {b}")
        sh(f"ip -n {n} addr add 192.0.2.9/24 dev outside")
        sh(f"ip -n {b} addr add 192.0.2.2/24 dev out")
        sh(f"ip -n {b} addr add 10.2.0.1/24 dev lo")
        sh(f"ip -n {n} link set outside up")
        sh(f"ip -n {b} link set out up")
        for name, address in PEERS.items():
            sh(f"ip link add port{name} netns {n} type veth peer name out netns {road.netns(name)}")
            sh(f"ip -n {n} link set port{name} master inside")
            sh(f"ip -n {n} link set port{name} up")
            sh(f"ip -n {road.netns(name)} addr add {address}/24 dev out")
            sh(f"ip -n {road.netns(name)} link set out up")
            sh(f"ip -n {road.netns(name)} route add default via 10.9.0.1")
        in_namespace(f"/run/netns/{n}", lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        if nat:
            chain = "add chain ip road out { type nat hook postrouting priority 100 ; }"
            rules = ["add table ip road", chain, "add rule ip road out oifname outside masquerade"]
            for rule in rules:
                sh(f"ip netns exec {n} nft {rule}")
        else:
            sh(f"ip -n {b} route add 10.9.0.0/24 via 192.0.2.9")
        yield road
    finally:
        for gateway in road.gateways:
            if gateway.process.poll() is None:
                gateway.kill()
        for name in names:
            sh(f"ip netns del {name}", check=False)


def start_all(road: Roads, remote_ts: str) -> list[Gateway]:
    """b serves everybody whose mail address ends as it should."""
    b = road.start(
        "b",
        f"""
[connections.road]
local_addrs = ["192.0.2.2"]
local = {{ auth = "psk", id = "b.example" }}
remote = {{ auth = "psk", id = "*@road.example" }}
[connections.road.children.net]
local_ts = ["10.2.0.0/24"]
remote_ts = ["{remote_ts}"]
""",
    ).wait_for("listening on")
    peers = [
        road.start(
            name,
            f"""
[connections.home]
remote_addrs = ["192.0.2.2"]
local = {{ auth = "psk", id = "{name}@road.example" }}
remote = {{ auth = "psk", id = "b.example" }}
[connections.home.children.net]
local_ts = ["dynamic"]
remote_ts = ["10.2.0.0/24"]
start_action = "start"
""",
        )
        for name in PEERS
    ]
    for one in peers:
        one.wait_for("installed")
    return [b, *peers]


@pytest.mark.parametrize("nat", [True, False], ids=["one-nat", "no-nat"])
def test_two_peers_of_one_connection_are_up_side_by_side(tmp_path: Path, nat: bool) -> None:
    """Behind one NAT each has a port of its own; without, each an address, and `dynamic` at both ends."""
    if nat and shutil.which("nft") is None:
        pytest.skip("no nft: apt-get install nftables")
    with roads(tmp_path, nat=nat) as road:
        with captured(road.netns("b")) as seen:
            b, *_ = start_all(road, "10.9.0.0/24" if nat else "dynamic")
            for name, address in PEERS.items():
                assert road.ping(name, "10.2.0.1") == 3
                assert road.ping("b", f"-I 10.2.0.1 {address}") == 3
        sas = b.sas()
        assert {sa["remote-id"] for sa in sas} == {f"{name}@road.example" for name in PEERS}
        assert len({(sa["remote-host"], sa["remote-port"]) for sa in sas}) == 2
        assert len({sa["remote-host"] for sa in sas}) == (1 if nat else 2)
        assert [packet for packet in seen if packet.protocol == 1] == []  # no ping in clear
        assert seen


# --- two gateways


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair(f"sp{os.getpid()}", tmp_path) as pair:
        yield pair


def serve_one(netns: str, port: int) -> threading.Thread:
    """Takes one TCP connection in a namespace."""
    listener = in_namespace(f"/run/netns/{netns}", lambda: socket.create_server(("10.2.0.1", port)))
    listener.settimeout(20)

    def accept() -> None:
        with listener, contextlib.suppress(TimeoutError):
            listener.accept()[0].close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    return thread


def can_connect(netns: str, port: int) -> bool:
    def connect() -> bool:
        with socket.socket() as one:
            one.settimeout(2)
            one.bind(("10.1.0.1", 0))
            try:
                one.connect(("10.2.0.1", port))
            except OSError:
                return False
            return True

    return in_namespace(f"/run/netns/{netns}", connect)


def test_two_child_sas_are_told_apart_by_protocol_and_port(pair: SitePair) -> None:
    """`icmp` has one, `tcp/ssh` the other, and nothing else passes."""
    for side, own, other in (("a", "10.1.0.0/24", "10.2.0.0/24"), ("b", "10.2.0.0/24", "10.1.0.0/24")):
        ssh = '[tcp/ssh]"]' if side == "a" else '[tcp]"]'
        own_ssh = '[tcp]"]' if side == "a" else '[tcp/ssh]"]'
        child = (
            f'[connections.site.children.login]\nlocal_ts = ["{own}{own_ssh}\nremote_ts = ["{other}{ssh}\n'
            f'start_action = "{"start" if side == "a" else "none"}"\n'
        )
        start = "start" if side == "a" else "none"
        pair.gateway(side, start=start, local_ts=f"{own}[icmp]", remote_ts=f"{other}[icmp]", child=child)
    one, two = (gateway.wait_for("listening on") for gateway in pair.gateways)
    wait_until("two Child SAs", lambda: [len(sa["child-sas"]) for sa in one.sas()] == [2], 30)
    assert pair.ping("a") == 3
    serve_one(pair.netns("b"), 22)
    serve_one(pair.netns("b"), 23)
    assert can_connect(pair.netns("a"), 22)
    assert not can_connect(pair.netns("a"), 23)
    children = {child["name"]: child for child in two.sas()[0]["child-sas"]}
    assert children["net"]["packets-in"] >= 3  # echoes that look for the path's MTU are ICMP too
    assert children["login"]["packets-in"] > 0


def test_the_next_address_is_tried_where_one_is_silent(pair: SitePair) -> None:
    pair.gateway("b")
    one = pair.gateway("a", start="start")
    text = one.config.read_text()
    one.kill()
    assert 'remote_addrs = ["192.0.2.2"]' in text
    one.config.write_text(text.replace('["192.0.2.2"]', '["192.0.2.77", "192.0.2.2"]'))
    again = Gateway(pair.netns("a"), one.config)
    pair.gateways.append(again)
    again.wait_for("installed", 25)
    assert pair.ping("a") == 3


def test_up_tries_every_address_of_the_peer(pair: SitePair) -> None:
    pair.gateway("b")
    one = pair.gateway("a")
    text = one.config.read_text()
    one.kill()
    one.config.write_text(text.replace('["192.0.2.2"]', '["192.0.2.77", "192.0.2.78", "192.0.2.2"]'))
    again = Gateway(pair.netns("a"), one.config)
    pair.gateways.append(again)
    again.wait_for("listening on")
    again.command("up", "net")
    assert pair.ping("a") == 3


@pytest.mark.skipif(shutil.which("swanctl") is None, reason="no swanctl")
@pytest.mark.parametrize("words", ["--force", ""])
def test_terminate_of_a_half_open_ike_sa_answers_at_once(pair: SitePair, words: str) -> None:
    two = pair.gateway("b").wait_for("listening on")
    pair.nft(
        "b",
        "add table inet half",
        "add chain inet half in { type filter hook input priority -300 ; policy accept ; }",
        "add rule inet half in udp dport 4500 drop",
    )
    pair.gateway("a", start="start")
    wait_until("a half-open IKE SA", lambda: two.sas(), 20)
    (half_open,) = two.sas()
    began = time.monotonic()
    text = sh(f"swanctl --terminate --ike-id {half_open['uniqueid']} {words} --uri unix://{pair.directory}/b.vici")
    assert "terminate completed successfully" in text
    assert time.monotonic() - began < 10
    assert half_open["uniqueid"] not in {sa["uniqueid"] for sa in two.sas()}


@pytest.mark.skipif(shutil.which("swanctl") is None, reason="no swanctl")
def test_swanctl_gets_in_beside_200_stalled_control_connections(pair: SitePair) -> None:
    one = pair.gateway("a").wait_for("listening on")
    path = str(one.config.with_suffix(".vici"))
    with contextlib.ExitStack() as stack:
        for number in range(200):
            stalled = stack.enter_context(socket.socket(socket.AF_UNIX))
            stalled.connect(path)
            with contextlib.suppress(OSError):  # it may have given way already
                stalled.sendall((b"", b"\0\0", b"\0\0\0\x20\0\7ver")[number % 3])
        assert "ipsec-fast" in sh(f"swanctl --version --daemon --uri unix://{path}").lower()
    assert json.loads(one.command("status", "--json"))
