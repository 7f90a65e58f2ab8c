"""A host behind a gateway gets the answers to its packets that are too big, past strict filters, and its TCP goes on without any clamp.

Reverse path filters are strict on gateway and host (RFC 3704 section 2.2), and stateful firewalls on both let in what belongs to a flow.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.daemon import OurGateway
from tests.netns.lab import Lab, Namespace, wait_for
from tests.netns.site import LEFT, RIGHT

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
LARGEST = 1438  # aes128gcm16 in UDP over IPv4 on 1500
TARGETS = {"4": "10.2.0.10", "6": "fd00:2::10"}
FIREWALL = """
table inet strict {
  chain in { type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname "lo" accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    udp dport { 500, 4500 } accept
  }
  chain through { type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" ct state new accept
  }
}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Two gateways, both versions inside, no clamp; everything strict on the left side."""
    with Lab("toobig") as lab:
        for end, device, address in (
            (lab.l, "eth0", "fd00:1::10"), (lab.a, "lan", "fd00:1::1"), (lab.b, "lan", "fd00:2::1"), (lab.r, "eth0", "fd00:2::10"),
        ):  # fmt: skip
            end.run("ip", "address", "add", f"{address}/64", "dev", device, "nodad")
        lab.l.run("ip", "-6", "route", "add", "default", "via", "fd00:1::1")
        lab.r.run("ip", "-6", "route", "add", "default", "via", "fd00:2::1")
        for end in (lab.l, lab.a):
            end.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
            done = subprocess.run(end.command("nft", "-f", "-"), input=FIREWALL, text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
        for end in (lab.a, lab.b):
            end.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        networks = ("10.1.0.0/24", "fd00:1::/64"), ("10.2.0.0/24", "fd00:2::/64")
        off = (("mss", "off"),)
        left = LEFT.but(children=(("net", networks[0], networks[1]),), options=off)
        right = RIGHT.but(children=(("net", networks[1], networks[0]),), options=off)
        with OurGateway(lab.b, tmp_path / "b", right), OurGateway(lab.a, tmp_path / "a", left) as ours:
            ours.initiate()
            yield lab


def transfer(source: Namespace, target: Namespace, address: str, *more: str) -> tuple[int, int]:
    """(bytes that arrived, retransmissions) of one stream."""
    server = subprocess.Popen(target.command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    try:
        wait_for("iperf3 listens", lambda: ":5201" in target.run("ss", "-tlnH").stdout)
        words = ["iperf3", "-J", "-c", address, "-t", "1", "-C", "cubic", "--connect-timeout", "3000", *more]
        report = json.loads(source.run(*words, check=False).stdout)
        assert "error" not in report, report["error"]
        return int(report["end"]["sum_received"]["bytes"]), int(report["end"]["sum_sent"]["retransmits"])
    finally:
        server.kill()
        server.wait()


def rp_filter_drops(end: Namespace) -> int:
    """IPReversePathFilter of nstat: packets that the filter refused."""
    found = json.loads(end.run("nstat", "-aszj", "TcpExtIPReversePathFilter").stdout)
    return int(found["kernel"]["TcpExtIPReversePathFilter"])


@pytest.mark.parametrize("version", ["4", "6"])
def test_forwarded_host_learns_the_size_and_its_tcp_goes_on(lab: Lab, version: str) -> None:
    target, head = TARGETS[version], {"4": 28, "6": 48}[version]
    assert (
        "3 received"
        in lab.l.run("ping", "-n", "-c3", "-i0.05", "-W2", "-M", "do", "-s", str(LARGEST - head), target).stdout
    )
    said = lab.l.run(
        "ping", "-n", "-c2", "-i0.2", "-W1", "-M", "do", "-s", str(LARGEST + 1 - head), target, check=False
    )
    assert f"mtu={LARGEST}" in (said.stdout + said.stderr).replace(" ", "")
    # by the answer the host knows, for all its connections
    assert f"mtu {LARGEST}" in lab.l.run("ip", "route", "get", target).stdout
    lab.l.run("ip", f"-{version}", "route", "flush", "cache")
    received, _ = transfer(lab.l, lab.r, target)
    assert received > 500_000
    assert f"mtu {LARGEST}" in lab.l.run("ip", "route", "get", target).stdout
    # the other way the host behind the far gateway is the one that learns
    received, _ = transfer(lab.l, lab.r, target, "-R")
    assert received > 500_000
    assert [rp_filter_drops(end) for end in (lab.l, lab.a)] == [0, 0]


def test_packets_without_df_arrive_in_fragments(lab: Lab) -> None:
    said = lab.l.run("ping", "-n", "-c3", "-i0.05", "-W2", "-M", "dont", "-s", "3000", TARGETS["4"])
    assert "3 received" in said.stdout
