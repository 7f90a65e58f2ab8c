"""Two workers with hand-made SAs over raw sockets: ESP and AH without UDP, and outer fragments; what must be dropped first."""

from __future__ import annotations

import subprocess
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
    subprocess.run([*f"ip netns exec {pair.names['a']} python3 -c".split(), code], check=True)


def drops_of(pair: Pair, expected: int) -> dict[str, int]:
    """The drops of gateway b once so many messages came."""
    end = time.monotonic() + 5
    while (found := pair.b.counters())["raw_messages_in"] < expected:
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)
    return {name.removeprefix("drop_"): n for name, n in found.items() if name.startswith("drop_") and n}


@contextmanager
def captured(pair: Pair, expression: str) -> Iterator[list[str]]:
    """Lines of tcpdump on the wire of gateway b, there when the block is over."""
    lines: list[str] = []
    command = f"ip netns exec {pair.names['b']} tcpdump -n -l -v -i v0 --immediate-mode {expression}"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as dump:
        assert dump.stderr is not None
        while "listening" not in dump.stderr.readline():
            pass
        try:
            yield lines
            time.sleep(0.2)
        finally:
            dump.terminate()
            lines += dump.communicate()[0].splitlines()


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
    ("protocol", "algorithm", "word"),
    [(50, "aes128gcm16", "ESP"), (50, "aes256-sha256", "ESP"), (51, "sha256", "AH"), (51, "aes128gmac", "AH")],
)
def test_packets_travel_without_udp(outer: int, protocol: int, algorithm: str, word: str) -> None:
    with Pair(outer, raw=protocol, algorithm=algorithm) as pair:
        meet(pair, outer)
        with captured(pair, f"{'ip6' if outer == 6 else 'ip'} proto {protocol}") as lines:
            for address in INNER["b"]:
                assert " 0% packet loss" in pair.a.sh(f"ping -n -c 3 -i 0.05 -w 5 -s 1200 {address}", check=False)
        sent, received = pair.a.counters(), pair.b.counters()
        assert sent["raw_messages_out"] == received["raw_messages_in"] == received["packets_in"] == 6
        assert sum(f"{word}(" in line for line in lines) == 12
        drops = {n for n, v in received.items() if n.startswith("drop_") and v}
        assert drops <= {"drop_policy_discard"}


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("raw", [50, 0], ids=["ESP", "UDP"])
def test_outer_fragments_are_made_by_us_and_joined_by_the_kernel(outer: int, raw: int) -> None:
    with Pair(outer, raw=raw, outer_mtu=1280) as pair:
        meet(pair, outer)
        with captured(pair, "ip6[6]=44" if outer == 6 else "ip[6:2]&0x3fff!=0") as lines:
            for address in INNER["b"]:
                assert " 0% packet loss" in pair.a.sh(f"ping -n -c 3 -i 0.05 -w 5 -s 1340 {address}", check=False)
        assert pair.a.counters()["outer_fragments"] == 12
        assert pair.b.counters()["packets_in"] == 6
        assert len([line for line in lines if "offset" in line or "frag" in line]) >= 24


def test_congestion_mark_of_a_raw_header_reaches_the_inner() -> None:
    with Pair(4, raw=50) as pair:
        pair.a.sh("nft add table ip t")
        pair.a.sh("nft add chain ip t c { type filter hook output priority 0 ; }")
        pair.a.sh("nft add rule ip t c ip protocol esp ip ecn set ce")
        pair.a.sh("ping -n -c 2 -i 0.05 -W 0.3 10.2.0.1", check=False)
        assert drops_of(pair, 2)["bad_ecn"] == 2
        assert " 0% packet loss" in pair.a.sh("ping -n -c 2 -i 0.05 -w 2 -Q 2 10.2.0.1", check=False)
