"""A tunnel on several workers: a Child SA for each with a peer that speaks RFC 9611, one owner with others; no number used twice."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import vici
from site_pair import Gateway, SitePair, sh, site_pair, wait_until, watched, write_config

pytestmark = pytest.mark.netns

TWO = "workers = 2"


@pytest.fixture
def pair() -> Iterator[SitePair]:
    directory = Path(tempfile.mkdtemp(prefix="gw-"))
    try:
        with site_pair("gc", directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)


def two_gateways(pair: SitePair, a: str = TWO, b: str = TWO, **changes: str) -> tuple[Gateway, Gateway]:
    other = pair.gateway("b", workers=b, **changes).wait_for("listening")
    one = pair.gateway("a", workers=a, start="start", **changes).wait_for("listening")
    wait_until("a child stands", lambda: children(one) and children(other), 30)
    return one, other


def children(gateway: Gateway) -> list[dict]:
    return [child for sa in gateway.sas() for child in sa["child-sas"]]


def spis_of(gateway: Gateway) -> set[str]:
    return {child["spi-in"] for child in children(gateway)}


def carry_tcp(pair: SitePair, *, streams: int = 4, megabytes: int = 128) -> None:
    server = subprocess.Popen(
        ["ip", "netns", "exec", pair.netns("b"), "iperf3", "-s", "-1", "-B", "10.2.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        line = f"ip netns exec {pair.netns('a')} iperf3 -B 10.1.0.1 -c 10.2.0.1 -n {megabytes}M -P {streams} -C cubic"
        wait_until("iperf3 is through", lambda: "iperf Done" in sh(line, check=False), 90)
    finally:
        server.kill()
        server.wait()


def test_each_worker_gets_a_child_sa_and_they_carry_the_flows(pair: SitePair) -> None:
    one, other = two_gateways(pair)
    for gateway in (one, other):
        wait_until("fallback and one for each worker", lambda g=gateway: len(children(g)) == 3, 30)
    assert pair.ping(count=10) == 10
    carry_tcp(pair, streams=8)
    for gateway in (one, other):
        status = json.loads(gateway.command("status", "--json"))
        assert status["gateway"]["workers"] == 2
        assert {int(child["spi-in"], 16) % 2 for child in children(gateway) if child["packets-out"] > 1} == {0, 1}


def test_no_number_is_used_twice_by_two_workers_over_a_rekey(pair: SitePair) -> None:
    one, _ = two_gateways(pair)
    wait_until("one for each worker", lambda: len(children(one)) == 3, 30)
    with watched(pair) as tap:
        carry_tcp(pair, streams=4, megabytes=24)
        before = spis_of(one)
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(one.config.with_suffix(".vici")))
            vici.Session(control).rekey({"child": "net"})
        wait_until("all are rekeyed", lambda: before.isdisjoint(spis_of(one)), 30)
        carry_tcp(pair, streams=4, megabytes=24)
    assert tap.findings.esp_packets > 20_000  # of which none had a number that was used before: `watched`


def test_a_peer_with_one_worker_gets_one_owner(pair: SitePair) -> None:
    one, other = two_gateways(pair, b="workers = 1")
    assert pair.ping(count=10) == 10
    carry_tcp(pair)
    assert len(children(one)) == len(children(other)) == 1


def test_a_crash_takes_no_flow_down_for_good_and_every_worker_comes_back(pair: SitePair) -> None:
    one, _ = two_gateways(pair)
    wait_until("one for each worker", lambda: len(children(one)) == 3, 30)
    one.kill()
    one.log.unlink()
    again = pair.gateway("a", workers=TWO, start="start").wait_for("listening")
    wait_until("one for each worker again", lambda: len(children(again)) == 3, 60)
    wait_until("packets pass", lambda: pair.ping(count=1) == 1, 30)
    assert pair.ping(count=10) == 10


def test_an_orderly_stop_leaves_nothing(pair: SitePair) -> None:
    one, _ = two_gateways(pair)
    wait_until("one for each worker", lambda: len(children(one)) == 3, 30)
    assert one.stop() == 0
    assert pair.leftovers("a") == ""


def test_a_second_gateway_on_the_host_is_refused_though_the_port_is_shared(pair: SitePair) -> None:
    pair.gateway("a", workers=TWO).wait_for("listening")
    sh(f"ip netns exec {pair.netns('a')} ip link show ipsec0")
    second = pair.gateway("a", workers='workers = 2\ntun = "ipsec1"')
    assert second.exit_code() == 1
    assert "another program has it" in second.text()


def test_a_second_gateway_with_the_same_device_is_refused_and_the_first_stays_closed(pair: SitePair) -> None:
    """Several queues let any process in; its start and its stop would take the routes of the first with them."""
    one, _ = two_gateways(pair)
    before = pair.leftovers("a")
    sh(f"ip -n {pair.netns('a')} address add 192.0.2.77/24 dev out")
    other = pair.directory / "other.toml"
    text = one.config.read_text().replace('local_addrs = ["192.0.2.1"]', 'local_addrs = ["192.0.2.77"]')
    other.write_text(text.replace(f"{pair.directory}/a.vici", f"{pair.directory}/other.vici"))
    second = Gateway(pair.netns("a"), other)
    pair.gateways.append(second)
    assert second.exit_code() == 1
    assert "another process holds it" in second.text()
    assert pair.leftovers("a") == before
    with watched(pair) as tap:  # fails where a packet is in clear
        assert pair.ping(count=5) == 5
    assert tap.findings.esp_packets


def test_too_few_descriptors_are_one_line(pair: SitePair) -> None:
    config = write_config(pair.directory, "a", workers="workers = 64")
    command = (
        f"ip netns exec {pair.netns('a')} prlimit --nofile=100:100 {sys.executable} -m ipsec_fast gateway {config}"
    )
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ulimit -n" in done.stderr.splitlines()[-1]
    assert pair.leftovers("a") == ""
