"""Two workers with hand-made SAs over raw sockets: ESP and AH without UDP, and outer fragments; what must be dropped first."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hand_pair import INNER, OUTER, Pair

from ipsec_fast.dataplane.raw_socket import RawSocket
from ipsec_fast.errors import UsageError

pytestmark = pytest.mark.netns


def meet(pair: Pair, outer: int) -> None:
    """Neighbour discovery is over, so that no ping is sent twice."""
    assert " 0% packet loss" in pair.a.sh(f"ping -n -c 1 -w 8 {OUTER[outer]['b']}", check=False)


def send_raw(pair: Pair, protocol: int, payloads: list[bytes]) -> None:
    """From namespace a to gateway b, IPv4."""
    code = (
        f"import socket;s=socket.socket(socket.AF_INET,socket.SOCK_RAW,{protocol});"
        f"[s.sendto(bytes.fromhex(x),('192.0.2.2',0)) for x in {[p.hex() for p in payloads]!r}]"
    )
    subprocess.run([*f"ip netns exec {pair.names['a']}".split(), sys.executable, "-c", code], check=True)


def drops_of(pair: Pair, expected: int) -> dict[str, int]:
    """The drops of gateway b once so many messages came."""
    end = time.monotonic() + 5
    while (found := pair.b.counters())["raw_messages_in"] < expected:
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)
    return {name.removeprefix("drop_"): n for name, n in found.items() if name.startswith("drop_") and n}


# not tcpdump: it insists on setgroups(), which a user namespace refuses
CAPTURE = """
import select, signal, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.bind(("v0", 3))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
print("ready", flush=True)
while select.select([s], [], [], 0.05)[0] or not stop:
    try:
        data = s.recv(65535, socket.MSG_DONTWAIT)
    except BlockingIOError:
        continue
    if data[0] >> 4 == 4:
        print(data[9], "fragment" if data[6] & 0x3f or data[7] else "whole", len(data))
    elif data[0] >> 4 == 6:
        print(data[40] if data[6] == 44 else data[6], "fragment" if data[6] == 44 else "whole", len(data))
"""


@contextmanager
def captured(pair: Pair) -> Iterator[list[tuple[int, str, int]]]:
    """(protocol, "fragment" or "whole", length) of what passed the wire of gateway b, there when the block is over."""
    seen: list[tuple[int, str, int]] = []
    command = [*f"ip netns exec {pair.names['b']}".split(), sys.executable, "-c", CAPTURE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as capture:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        try:
            yield seen
        finally:
            capture.terminate()
            for line in capture.communicate()[0].splitlines():
                protocol, kind, length = line.split()
                seen.append((int(protocol), kind, int(length)))


def test_raw_socket_refuses_other_protocols() -> None:
    with pytest.raises(UsageError, match="protocol 50 or 51"):
        RawSocket(None, protocol=17)  # type: ignore[arg-type]


def test_hostile_packets_of_protocol_50_are_dropped_and_counted() -> None:
    with Pair(4, raw=50) as pair:
        known = (0x1001).to_bytes(4)  # spi_in of gateway b
        send_raw(pair, 50, [b"", b"short", bytes(60), b"\0\0\0\xff" + bytes(60), known + bytes(4) + b"\xaa" * 60])
        found = drops_of(pair, 5)
        assert found.pop("policy_discard", 0) >= 0
        assert found == {"runt": 2, "unknown_spi": 2, "replay_old": 1}
        send_raw(pair, 50, [known + (7).to_bytes(4) + b"\xaa" * 60])
        assert drops_of(pair, 6)["bad_icv"] == 1
        assert pair.b.do("punted") == []


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(
    ("protocol", "algorithm"), [(50, "aes128gcm16"), (50, "aes256-sha256"), (51, "sha256"), (51, "aes128gmac")]
)
def test_packets_travel_without_udp(outer: int, protocol: int, algorithm: str) -> None:
    with Pair(outer, raw=protocol, algorithm=algorithm) as pair:
        meet(pair, outer)
        with captured(pair) as seen:
            for address in INNER["b"]:
                assert " 0% packet loss" in pair.a.sh(f"ping -n -c 3 -i 0.05 -w 5 -s 1200 {address}", check=False)
        sent, received = pair.a.counters(), pair.b.counters()
        assert sent["raw_messages_out"] == received["raw_messages_in"] == received["packets_in"] == 6
        assert [kind for found, kind, _ in seen if found == protocol] == ["whole"] * 12
        assert 17 not in {found for found, _, _ in seen}
        drops = {n for n, v in received.items() if n.startswith("drop_") and v}
        assert drops <= {"drop_policy_discard"}


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("raw", [50, 0], ids=["ESP", "UDP"])
def test_outer_fragments_are_made_by_us_and_joined_by_the_kernel(outer: int, raw: int) -> None:
    with Pair(outer, raw=raw, outer_mtu=1280) as pair:
        meet(pair, outer)
        with captured(pair) as seen:
            for address in INNER["b"]:
                assert " 0% packet loss" in pair.a.sh(f"ping -n -c 3 -i 0.05 -w 5 -s 1340 {address}", check=False)
        assert pair.a.counters()["outer_fragments"] == 12
        assert pair.b.counters()["packets_in"] == 6
        cut = [length for protocol, kind, length in seen if (protocol, kind) == (raw or 17, "fragment")]
        assert len(cut) == 24
        assert max(cut) <= 1280


def test_congestion_mark_of_a_raw_header_reaches_the_inner() -> None:
    with Pair(4, raw=50) as pair:
        pair.a.sh("nft add table ip t")
        pair.a.sh("nft add chain ip t c { type filter hook output priority 0 ; }")
        pair.a.sh("nft add rule ip t c ip protocol esp ip ecn set ce")
        pair.a.sh("ping -n -c 2 -i 0.05 -W 0.3 10.2.0.1", check=False)
        assert drops_of(pair, 2)["bad_ecn"] == 2
        assert " 0% packet loss" in pair.a.sh("ping -n -c 2 -i 0.05 -w 2 -Q 2 10.2.0.1", check=False)
