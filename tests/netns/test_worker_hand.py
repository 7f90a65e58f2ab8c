"""Several workers, one of which owns the SAs: what the kernel gives to the others is handed over both ways, nothing lost or reordered."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hand_pair import INNER, OUTER, Gateway, Pair
from lab import wait_for
from test_worker_raw import send_raw

pytestmark = pytest.mark.netns

FLOWS, PER_FLOW = 24, 200
# numbered datagrams of many flows, each round of them only when the one before it has arrived; and what came, in the order of each flow
SENDER = f"""
import socket, struct
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({FLOWS})]
flows[0].bind(("10.1.0.1", 7001))
flows[0].settimeout(10)
for number in range({PER_FLOW}):
    for flow, one in enumerate(flows):
        one.sendto(struct.pack(">II", flow, number), ("10.2.0.1", 7000))
    if number >= 3:
        flows[0].recv(1)
"""
RECEIVER = f"""
import json, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.2.0.1", 7000))
s.settimeout(10)
print("ready", flush=True)
seen = {{}}
try:
    for count in range(1, {FLOWS * PER_FLOW} + 1):
        flow, number = struct.unpack(">II", s.recv(100))
        seen.setdefault(flow, []).append(number)
        if count % {FLOWS} == 0:
            s.sendto(b".", ("10.1.0.1", 7001))
except TimeoutError:
    pass
print(json.dumps(list(seen.values())))
"""


# as much as goes, of many flows
BLASTER = f"""
import socket
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({FLOWS})]
while True:
    for one in flows:
        one.sendto(bytes(100), ("10.2.0.1", 7000))
"""


@pytest.fixture(params=[False, True], ids=["kernel not told", "kernel told"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The SPIs 0x2002 and 0x1001 say which of three workers owns both SAs of `a`, and of `b`."""
    with Pair(workers=3, steer=request.param) as found:
        yield found


def in_namespace(gateway: Gateway, code: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", gateway.namespace, sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_every_flow_arrives_whole_and_in_order(pair: Pair) -> None:
    receiver = in_namespace(pair.b, RECEIVER)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    assert in_namespace(pair.a, SENDER).wait(30) == 0
    flows = json.loads(receiver.communicate(timeout=30)[0])
    assert sorted(map(len, flows)) == [PER_FLOW] * FLOWS
    assert all(numbers == sorted(numbers) for numbers in flows)
    counters = pair.a.do("counters")
    assert counters["worker"]["handed_over"] > 0  # the TUN's queues are picked by the kernel's own hash here
    assert counters["worker"]["taken_over"] == counters["worker"]["handed_over"]
    assert {index for index, one in enumerate(counters["each"]) if one["packets_out"]} == {0x2002 % 3}
    assert pair.b.do("counters")["worker"]["drop_handover_full"] == 0


def test_tcp_and_ping_in_both_directions(pair: Pair) -> None:
    for one, target in ((pair.a, "10.2.0.1"), (pair.b, "10.1.0.1"), (pair.a, "fd02::1")):
        assert " 0% packet loss" in one.sh(f"ping -c 3 -i 0.1 -w 10 {target}", check=False)
    server = subprocess.Popen(
        ["ip", "netns", "exec", pair.b.namespace, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL
    )
    try:
        client = "iperf3 -c 10.2.0.1 -n 64M -P 4 --connect-timeout 3000"
        for _ in range(50):
            text = pair.a.sh(client, check=False, seconds=90)
            if "unable to connect" not in text:
                break
        assert "iperf Done" in text, text
    finally:
        server.kill()
        server.wait()
    assert pair.a.counters()["drop_handover_full"] == 0


def test_the_owner_alone_opens_and_a_stranger_is_dropped_there(pair: Pair) -> None:
    pair.b.do("sendto", data=struct.pack(">II", 0x99990, 1).hex() + "00" * 60)
    wait_for("the drop", lambda: pair.a.counters()["drop_unknown_spi"] == 1)
    assert [one["drop_unknown_spi"] for one in pair.a.do("counters")["each"]].index(1) == 0x99990 % 3
    assert pair.a.do("notices")[-1][:2] == ["UNKNOWN_SPI", 0x99990]


def test_the_port_belongs_to_one_gateway(pair: Pair) -> None:
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('192.0.2.1', 4500))"
    done = subprocess.run(
        ["ip", "netns", "exec", pair.a.namespace, sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "Address already in use" in done.stderr


def test_the_owner_changes_with_each_rekey_under_load_and_no_number_is_used_twice() -> None:
    with Pair(4, workers=3, spares=60) as pair:
        blaster = in_namespace(pair.a, BLASTER)
        try:
            wait_for("traffic", lambda: pair.b.counters()["packets_in"] > 100)
            pair.a.do("switch", pause_s=0.002)
        finally:
            blaster.kill()
            blaster.communicate()
        each = pair.a.do("counters")["each"]
        assert all(one["packets_out"] for one in each)
        assert sum(one["handed_over"] for one in each) > 0
        received = pair.b.counters()
        assert {
            n: v for n, v in received.items() if v and n.startswith(("drop_replay", "drop_bad", "drop_unknown"))
        } == {}
        assert received["packets_in"] > 0


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(("protocol", "algorithm"), [(50, "aes128gcm16"), (51, "sha256"), (51, "aes128gmac")])
def test_what_the_first_workers_raw_socket_takes_goes_to_the_owner(outer: int, protocol: int, algorithm: str) -> None:
    with Pair(outer, workers=3, raw=protocol, algorithm=algorithm) as pair:
        assert " 0% packet loss" in pair.a.sh(f"ping -n -c 1 -w 8 {OUTER[outer]['b']}", check=False)
        for address in INNER["b"]:
            assert " 0% packet loss" in pair.a.sh(f"ping -n -c 3 -i 0.05 -w 5 -s 1200 {address}", check=False)
        found = pair.b.do("counters")
        assert [one["raw_messages_in"] for one in found["each"]] == [6, 0, 0]
        assert [one["packets_in"] for one in found["each"]].index(6) == 0x1001 % 3
        assert found["worker"]["drop_unknown_spi"] == found["worker"]["drop_handover_full"] == 0


def test_hostile_ah_fails_at_its_owner_and_a_stranger_is_counted_there() -> None:
    with Pair(4, workers=3, raw=51, algorithm="sha256") as pair:
        ah = struct.pack(">BBHII", 4, 5, 0, 0x1001, 7) + bytes(16) + b"\x45" + bytes(39)
        stranger = ah[:4] + struct.pack(">I", 0x99991) + ah[8:]
        send_raw(pair, 51, [b"", ah[:11], ah[:12], ah, stranger])
        wait_for("the drops", lambda: pair.b.counters()["drop_bad_icv"] + pair.b.counters()["drop_unknown_spi"] == 2)
        each = pair.b.do("counters")["each"]
        # the first two have no SPI, the third has no ICV
        assert [one["drop_runt"] for one in each] == [2, 0, 1]
        assert [one["drop_bad_icv"] for one in each].index(1) == 0x1001 % 3
        assert [one["drop_unknown_spi"] for one in each].index(1) == 0x99991 % 3
        assert pair.b.do("counters")["worker"]["packets_in"] == 0
