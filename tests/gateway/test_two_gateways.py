"""The whole gateway, twice: what goes wrong first, then a tunnel, its rekeys, a crash, an orderly stop."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import OUTER, SitePair, captured, sh, site_pair

pytestmark = pytest.mark.netns


@pytest.fixture
def pair() -> Iterator[SitePair]:
    directory = Path(tempfile.mkdtemp(prefix="gw-"))  # short: a unix socket's path holds 107 bytes
    try:
        with site_pair("gt", directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)


# what is wrong at a, what a's `up` says, what b's log says
FAILURES = [
    (
        "wrong secret",
        {"psk": "another secret, swordfish"},
        ["AUTHENTICATION_FAILED", "a.example"],
        ["a.example", "pre-shared key"],
    ),
    (
        "wrong peer",
        {"remote_id": "rome.example"},
        ["AUTHENTICATION_FAILED", "rome.example"],
        ["rome.example", "b.example"],
    ),
    ("unknown to the peer", {"local_id": "rome.example"}, ["AUTHENTICATION_FAILED"], ["rome.example", "a.example"]),
    (
        "no common proposal",
        {"proposals": "aes256gcm16-prfsha512-ecp384"},
        ["NO_PROPOSAL_CHOSEN", "AES_GCM_16_256"],
        ["AES_GCM_16_256", "AES_GCM_16_128"],
    ),
    (
        "no common ESP proposal",
        {"esp": "aes256-sha256"},
        ["NO_PROPOSAL_CHOSEN", "AES_CBC_256"],
        ["AES_CBC_256", "AES_GCM_16_128"],
    ),
    (
        "no common selectors",
        {"remote_ts": "10.9.0.0/24"},
        ["TS_UNACCEPTABLE", "10.9.0.0/24"],
        ["10.9.0.0/24", "10.2.0.0/24"],
    ),
]


@pytest.mark.parametrize(("what", "wrong", "said", "logged"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_failed_connection_names_both_sides_leaves_nothing_and_the_gateways_go_on(
    pair: SitePair, what, wrong, said, logged
):
    two = pair.gateway("b")
    one = pair.gateway("a", **wrong)
    for gateway in (one, two):
        gateway.wait_for("listening")
    text = one.command("up", "net", check=False)
    last_line = text.strip().splitlines()[-1]
    assert all(word in last_line for word in said), text
    failed = [line for line in two.text().splitlines() if all(word in line for word in logged)]
    assert len(failed) == 1, two.text()
    assert one.process.poll() is None
    assert two.process.poll() is None
    assert one.sas() == []
    assert [sa for sa in two.sas() if sa.get("child-sas")] == []
    assert "proto 73" not in pair.leftovers("a")
    print(one.text(), two.text())
    assert one.stop() == 0
    assert pair.leftovers("a") == ""


def test_no_answer_ends_the_attempt_at_its_timeout_and_the_gateway_still_stops_at_once(pair: SitePair):
    one = pair.gateway("a", start="start").wait_for("initiating")
    text = one.command("up", "net", "--timeout", "1", check=False)
    assert "not established" in text or "within" in text or "timeout" in text.lower(), text
    before = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - before < 2
    assert pair.leftovers("a") == ""


@pytest.mark.parametrize("port", [500, 4500])
def test_a_port_in_use_is_one_line_exit_code_1_and_nothing_left(pair: SitePair, port: int):
    code = f"import socket,time; s=socket.socket(2,2); s.bind(('192.0.2.1',{port})); print('ok',flush=True); time.sleep(600)"
    with subprocess.Popen(
        ["ip", "netns", "exec", pair.netns("a"), "python3", "-c", code], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        one = pair.gateway("a")
        try:
            assert one.exit_code() == 1
        finally:
            holder.kill()
    assert one.text().count("\n") == 1, one.text()
    assert str(port) in one.text()
    assert pair.leftovers("a") == ""


def test_a_device_name_that_is_taken_is_one_line_and_exit_code_1(pair: SitePair):
    sh(f"ip -n {pair.netns('a')} link add ipsec0 type veth peer name other")
    one = pair.gateway("a")
    assert one.exit_code() == 1
    assert one.text().count("\n") == 1, one.text()
    assert "ipsec0" in one.text()


def test_a_second_gateway_of_the_same_configuration_leaves_the_first_alone(pair: SitePair):
    pair.gateway("b").wait_for("listening")
    one = pair.gateway("a", start="start").wait_for("installed")
    again = pair.gateway("a", start="start")
    assert again.exit_code() == 1
    assert pair.ping() == 3
    assert one.process.poll() is None


def test_forged_and_truncated_datagrams_change_nothing(pair: SitePair):
    two = pair.gateway("b").wait_for("listening")
    pair.gateway("a", start="start").wait_for("installed")
    code = """
import os, socket
s = socket.socket(2, 2)
for port in (500, 4500):
    for size in (0, 1, 3, 4, 5, 8, 20, 27, 28, 29, 32, 100, 1400):
        s.sendto(os.urandom(size), ('192.0.2.2', port))
        s.sendto(bytes(4) + os.urandom(size), ('192.0.2.2', port))
        s.sendto(bytes(size), ('192.0.2.2', port))
"""
    subprocess.run(["ip", "netns", "exec", pair.netns("a"), "python3", "-c", code], check=True)
    assert pair.ping() == 3
    assert len(two.sas()) == 1
    assert "internal" not in two.text()


def test_what_an_audit_wants_is_in_the_log_and_a_flood_is_one_line(pair: SitePair):
    off = {"connection": 'mtu_probe = "off"'}  # numbers that probes have used would be replays
    two = pair.gateway("b", **off).wait_for("listening")
    pair.gateway("a", start="start", **off).wait_for("installed")
    (sa,) = two.sas()
    spi = int(sa["child-sas"][0]["spi-in"], 16)
    code = f"""
import os, socket
s = socket.socket(2, 2)
for number in range(1, 1001):
    s.sendto(({spi}).to_bytes(4, 'big') + number.to_bytes(4, 'big') + os.urandom(100), ('192.0.2.2', 4500))
s.sendto(b'\\0\\0\\1\\7' + bytes(100), ('192.0.2.2', 4500))
"""
    subprocess.run(["ip", "netns", "exec", pair.netns("a"), "python3", "-c", code], check=True)
    two.wait_for("audit: unknown_spi: SPI 0x00000107 from 192.0.2.1")
    two.wait_for(f"bad_icv: esp in SPI 0x{spi:08x}, sequence number ")
    assert pair.ping() == 3
    assert two.text().count("audit: ") == 2


def test_a_tunnel_carries_rekeys_and_stops_without_a_trace(pair: SitePair):
    two = pair.gateway("b").wait_for("listening")
    with captured(pair.netns("b")) as seen:
        one = pair.gateway("a", start="start").wait_for("installed")
        assert pair.ping("a") == 3
        assert pair.ping("b") == 3
        for gateway, words in ((one, "--child net"), (two, "--child net"), (one, "--ike site"), (two, "--ike site")):
            sh(f"swanctl --rekey {words} --uri unix://{gateway.config.with_suffix('.vici')}") if shutil.which(
                "swanctl"
            ) else None
            time.sleep(0.2)
            assert pair.ping("a") == 3
        for gateway in (one, two):
            (sa,) = gateway.sas()
            assert len(sa["child-sas"]) == 1
        assert one.stop() == 0
        two.wait_for("closed (IKE SA")
        assert two.sas() == []
        assert two.stop() == 0
    assert pair.leftovers("a") == pair.leftovers("b") == ""
    assert [packet for packet in seen if packet.is_clear] == []
    assert sum(packet.port == 4500 for packet in seen) > 36  # 18 pings there and back, and IKE


def test_after_a_crash_nothing_leaves_in_clear_and_the_next_start_takes_over(pair: SitePair):
    two = pair.gateway("b").wait_for("listening")
    one = pair.gateway("a", start="start").wait_for("installed")
    assert pair.ping() == 3
    with captured(pair.netns("b")) as seen:
        one.kill()
        assert pair.ping(count=5) == 0
        assert "prohibit" in pair.leftovers("a")
        assert "ipsec0" not in pair.leftovers("a")
        one.log.unlink()
        one = pair.gateway("a", start="start").wait_for("installed")
        assert pair.ping() == 3
    assert [packet for packet in seen if packet.is_clear] == []
    assert len(two.sas()) == len(one.sas()) == 1
    assert len(two.sas()[0]["child-sas"]) == 1
    assert one.stop() == 0
    assert pair.leftovers("a") == ""


def test_up_and_down_and_up_again(pair: SitePair):
    pair.gateway("b").wait_for("listening")
    one = pair.gateway("a").wait_for("listening")
    with captured(pair.netns("b")) as seen:
        assert pair.ping() == 3  # nothing is started by itself: the traffic goes where it went before us
    assert sum(packet.is_clear for packet in seen) == 6  # so the captures of the other tests would see it
    for _ in range(2):
        one.command("up", "net")
        assert pair.ping() == 3
        assert one.sas()[0]["child-sas"]
        one.command("down", "site")
        assert one.sas() == []


@pytest.mark.parametrize(("outer", "inner"), [("6", "6"), ("6", "4"), ("4", "6")])
def test_ipv6_inside_and_outside(pair: SitePair, outer: str, inner: str):
    two = pair.gateway("b", outer=outer, inner=inner).wait_for("listening")
    with captured(pair.netns("b")) as seen:
        one = pair.gateway("a", start="start", outer=outer, inner=inner).wait_for("installed")
        assert pair.ping("a", inner=inner) == 3
        assert pair.ping("b", inner=inner) == 3
        one.kill()
        assert pair.ping("a", inner=inner) == 0
        one.log.unlink()
        one = pair.gateway("a", start="start", outer=outer, inner=inner).wait_for("installed")
        assert pair.ping("a", inner=inner) == 3
    assert [packet for packet in seen if packet.is_clear] == []
    assert {packet.source for packet in seen if packet.port == 4500} == {f"{OUTER[outer]}1", f"{OUTER[outer]}2"}
    assert (one.stop(), two.stop()) == (0, 0)
    assert pair.leftovers("a") == pair.leftovers("b") == ""


def test_a_tunnel_of_everything_leaves_the_connected_network_alone(pair: SitePair):
    pair.gateway("b", local_ts="0.0.0.0/0").wait_for("listening")
    one = pair.gateway("a", start="start", remote_ts="0.0.0.0/0").wait_for("installed")
    namespace = pair.netns("a")
    sh(f"ip -n {namespace} route del 10.2.0.0/24")
    sh(f"ip -n {namespace} route add default via 192.0.2.2")
    assert pair.ping() == 3
    assert "dev out" in sh(f"ip -n {namespace} route get 192.0.2.2")
    assert "dev ipsec0" in sh(f"ip -n {namespace} route get 10.2.0.1")
    one.kill()
    assert pair.ping() == 0
    assert "dev out" in sh(f"ip -n {namespace} route get 192.0.2.2")
