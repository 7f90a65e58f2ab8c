"""The worked examples of docs/examples, run as a user would; and SAs of what IKE negotiated, in a pipeline of one's own."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from pair import Pair
from twin_ip import head_of, ipv4_header, ipv6_header

import ipsec_fast
from ipsec_fast import OuterHeader, protect_packet, sas_from_ike, unprotect_packet
from ipsec_fast.ike.events import AskInstallChild

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
KEY = bytes(range(20)).hex()
HERE = os.environ | {"PYTHONPATH": str(Path(ipsec_fast.__file__).parents[1])}


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *words], capture_output=True, text=True, timeout=100, env=HERE
    )


# --- captures -----------------------------------------------------------------------------------------------------------------


def capture(path: Path, packets: list[bytes]) -> None:
    utils = pytest.importorskip("scapy.utils", reason="scapy is not installed")
    with utils.PcapWriter(str(path), linktype=1) as writer:
        writer.write_header(None)
        for i, packet in enumerate(packets):
            kind = b"\x08\x06" if packet[0] >> 4 == 0 else b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            writer.write_packet(bytes(12) + kind + packet, sec=1000 + i, usec=i)


def read(path: Path) -> list[tuple[int, bytes]]:
    from scapy.utils import RawPcapReader

    return [(about.sec, packet) for packet, about in RawPcapReader(str(path))]


def test_a_capture_is_sealed_and_opened_again(tmp_path):
    rng = random.Random(9)
    sizes = [0, 1, 30, 1400, 8000] * 60 + [60000]
    packets = [ipv4_header("10.1.0.1", "10.2.0.1", 17, payload=n) + rng.randbytes(n) for n in sizes]
    packets += [ipv6_header("2001:db8::1", "2001:db8::2", 59, payload=77) + rng.randbytes(77)]
    plain, sealed, again = (tmp_path / name for name in ("plain.pcap", "esp.pcap", "again.pcap"))
    capture(plain, [*packets, b"\0arp"])
    ends = ("--key", KEY, "--src", "192.0.2.1", "--dst", "192.0.2.2")
    done = run("pcap_to_esp.py", "seal", str(plain), str(sealed), *ends)
    assert done.returncode == 0, done.stderr
    assert "302 ok" in done.stderr
    assert "1 not IP" in done.stderr
    wire = read(sealed)
    assert {head_of(packet).protocol for _, packet in wire} == {50}
    assert {(str(head_of(packet).src), str(head_of(packet).dst)) for _, packet in wire} == {("192.0.2.1", "192.0.2.2")}
    done = run("pcap_to_esp.py", "open", str(sealed), str(again), *ends)
    assert done.returncode == 0, done.stderr
    assert read(again) == [(1000 + i, packet) for i, packet in enumerate(packets)]
    done = run("pcap_to_esp.py", "open", str(sealed), str(again), "--key", bytes(20).hex(), *ends[2:])
    assert "302 bad_icv" in done.stderr
    assert read(again) == []


def test_a_wrong_key_length_is_one_clear_error(tmp_path):
    done = run("pcap_to_esp.py", "seal", "x", "y", "--key", "00", "--src", "192.0.2.1", "--dst", "192.0.2.2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("aes128gcm16 needs 20 bytes of key (16 cipher key, 4 salt), not 1")


# --- the bump in the wire -------------------------------------------------------------------------------------------------------


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def wire():
    """host a - box a - box b - host b, each in a namespace of its own."""
    names = [f"bump-{os.getpid()}-{n}" for n in range(4)]
    if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    try:
        for name in names[1:]:
            ip("netns", "add", name)
        for left, right in itertools.pairwise(names):
            ip("-n", left, "link", "add", "right", "type", "veth", "peer", "name", "left", "netns", right)
        for i, name in enumerate(names):
            for device in ("left", "right")[i == 0 : 1 if i == 3 else 2]:
                ip("-n", name, "link", "set", device, "up")
        ip("-n", names[0], "addr", "add", "10.1.0.1/24", "dev", "right")
        ip("-n", names[3], "addr", "add", "10.1.0.2/24", "dev", "left")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.netns
def test_two_boxes_seal_what_passes_between_two_hosts(wire):
    other = bytes(range(20, 40)).hex()
    words = {
        wire[1]: ("--plain", "left", "--sealed", "right", "--key-out", KEY, "--spi-out", "0x1000", "--key-in", other, "--spi-in", "0x2000"),
        wire[2]: ("--plain", "right", "--sealed", "left", "--key-out", other, "--spi-out", "0x2000", "--key-in", KEY, "--spi-in", "0x1000"),
    }  # fmt: skip
    boxes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, EXAMPLES / "bump_in_the_wire.py", *given],
            stderr=subprocess.PIPE, text=True, env=HERE,
        )
        for name, given in words.items()
    ]  # fmt: skip
    ping = ["ip", "netns", "exec", wire[0], "ping", "-q", "-i", "0.01", "-W", "1"]
    try:
        until = time.monotonic() + 20
        while subprocess.run([*ping, "-c", "1", "10.1.0.2"], capture_output=True).returncode:
            assert time.monotonic() < until, "the boxes carry nothing"
        for size in ("0", "1", "56", "1400"):
            done = subprocess.run([*ping, "-c", "50", "-s", size, "10.1.0.2"], capture_output=True, text=True)
            assert " 0% packet loss" in done.stdout, done.stdout
        # the seal is real: without the second box nobody answers
        boxes[1].send_signal(signal.SIGTERM)
        boxes[1].wait(10)
        assert subprocess.run([*ping, "-c", "3", "10.1.0.2"], capture_output=True).returncode == 1
    finally:
        for box in boxes:
            box.terminate()
        said = [box.communicate(timeout=10)[1] for box in boxes]
    assert "sealed sent=" in said[0]
    assert "sealed sent=" in said[1]


# --- from IKE -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fake_nat", [True, False])
def test_sas_of_a_negotiation_carry_packets_both_ways(fake_nat):
    pair = Pair().up()
    asks = {
        side: next(event for event in shell.events if isinstance(event, AskInstallChild))
        for side, shell in (("a", pair.a), ("b", pair.b))
    }
    if not fake_nat:
        asks = {side: dataclasses.replace(ask, encap=False) for side, ask in asks.items()}
    in_a, out_a = sas_from_ike(asks["a"], header=OuterHeader(dscp=46))
    in_b, out_b = sas_from_ike(asks["b"], window=4096)
    packet = ipv4_header("10.1.0.1", "10.2.0.1", 17, payload=100) + bytes(100)
    back = ipv4_header("10.2.0.1", "10.1.0.1", 17, payload=100) + bytes(100)
    sealed = protect_packet(out_a, packet)
    head = head_of(sealed)
    assert (head.src, head.dst, head.tos >> 2) == (ip_address("192.0.2.1"), ip_address("192.0.2.2"), 46)
    assert head.protocol == (17 if fake_nat else 50)
    assert unprotect_packet(in_b, sealed) == packet
    assert unprotect_packet(in_a, protect_packet(out_b, back)) == back
    assert in_b.window == 4096
