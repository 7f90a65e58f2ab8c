"""Paths whose MTU changes under a TCP transfer, with and without ICMP: it goes on, and the gateways know the path to the byte.

How long a transfer stands still is measured by `ipsec-fast bench mtu`, not here.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from icmp_forge import quoted_udp, send_icmp, too_big

from ipsec_fast.bench.mtu_ground import OUTER, Gateway, Ground, Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
NO_ECHO = ("net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1")
SOME = 300_000  # bytes: after as many a transfer is said to go on


@pytest.fixture
def ground(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ground]:
    with Ground(tmp_path, **getattr(request, "param", {}), prefix="pathmtu") as found:
        yield found


def up(ground: Ground, **config: object) -> tuple[Gateway, Gateway]:
    two, one = ground.gateway("gw2", **config), ground.gateway("gw1", **config)
    one.initiate()
    return one, two


def settled(gateway: Gateway, mtu: int) -> dict:
    return gateway.wait_until(
        f"probes find {mtu}",
        lambda: (c := gateway.child()).get("path-mtu") == mtu and c["path-mtu-source"] == "probe" and c,
    )


# --- nobody else can move it


def refusals(gateway: Gateway) -> dict[str, int]:
    return {key[10:]: n for key, n in gateway.counters().items() if key.startswith("path_icmp_") and n}


def test_forged_icmp_moves_nothing(ground: Ground) -> None:
    one, _ = up(ground, connection='mtu_probe = "off"', gateway="workers = 1")  # one Child SA, whose numbers are known
    ground.run("host1", "ping", "-n", "-c5", "-i0.02", "-W2", "10.2.0.10")
    spi = int(one.child()["spi-out"], 16)
    here, there, elsewhere = OUTER["gw1"][4], OUTER["gw2"][4], "203.0.113.7"

    def forge(mtu: int, spi: int, seq: int, target: str = there, quoted: int = 24) -> None:
        payload = struct.pack(">II", spi, seq) + bytes(16)
        send_icmp(ground.name("router"), here, too_big(mtu, quoted_udp(here, target, payload[:quoted])))

    wanted = {
        "unknown_spi": lambda: forge(1300, spi ^ 1, 3),
        "old_sequence_number": lambda: forge(1300, spi, 4_000_000),
        "other_destination": lambda: forge(1300, spi, 3, elsewhere),
        "below_minimum": lambda: forge(300, spi, 3),
        "not_smaller": lambda: forge(1500, spi, 3),
        "quotes_too_little": lambda: forge(1300, spi, 3, quoted=0),
    }
    for number, (reason, send) in enumerate(wanted.items(), 1):
        send()
        one.wait_until(f"{reason} is counted", lambda reason=reason: refusals(one).get(reason) == 1)
        assert sum(refusals(one).values()) == number
        assert one.child()["path-mtu"] == 1500
    assert one.child()["mtu"] == 1438
    forge(
        1300, spi, 3
    )  # what is quoted right is believed, whoever sent it: who sees our packets could drop them as well
    assert one.wait_for_mtu(1300)["path-mtu-source"] == "icmp"


def test_old_numbers_are_not_believed(ground: Ground) -> None:
    """What was used more than 10 s ago is tried in tests/control/test_path_parts.py; here, that number 0 is none."""
    one, _ = up(ground, connection='mtu_probe = "off"')
    spi = int(one.child()["spi-out"], 16)
    quoted = quoted_udp(OUTER["gw1"][4], OUTER["gw2"][4], struct.pack(">II", spi, 0))
    send_icmp(ground.name("router"), OUTER["gw1"][4], too_big(1300, quoted))
    one.wait_until("it is refused", lambda: refusals(one) == {"old_sequence_number": 1})
    assert one.child()["path-mtu"] == 1500


def test_icmp_that_quotes_too_little_is_a_reason_to_look_and_no_more(ground: Ground) -> None:
    one, _ = up(ground, gateway="workers = 1")
    settled(one, 1500)
    before = one.counters()["probes_sent"]
    quoted = quoted_udp(OUTER["gw1"][4], OUTER["gw2"][4], b"")
    send_icmp(ground.name("router"), OUTER["gw1"][4], too_big(1300, quoted), times=20)
    one.wait_until("all are counted", lambda: refusals(one) == {"quotes_too_little": 20})
    one.wait_until("it has looked", lambda: one.counters()["probes_sent"] > before)
    assert one.counters()["probes_sent"] - before <= 8  # not for each
    assert one.child()["path-mtu"] == 1500


def test_such_icmp_keeps_no_ike_sa_busy(ground: Ground) -> None:
    for node in ("gw1", "gw2"):
        ground.run(node, "sysctl", "-q", "-w", *NO_ECHO)
    one, _ = up(ground, gateway="workers = 1")
    assert settled(one, 1500)["path-mtu-probing"] == "ike"
    before, quoted = one.counters()["punted"], quoted_udp(OUTER["gw1"][4], OUTER["gw2"][4], b"")
    for count in range(1, 6):
        send_icmp(ground.name("router"), OUTER["gw1"][4], too_big(1300, quoted), times=20)
        one.wait_until("all are counted", lambda n=count: refusals(one) == {"quotes_too_little": 20 * n})
        ground.run("host1", "ping", "-n", "-c3", "-i0.5", "-W2", "10.2.0.10")  # more than a second goes by
    assert one.counters()["punted"] - before <= 2  # answers to one probe, not to one each time
    assert one.child()["path-mtu"] == 1500


def test_icmp_that_lies_about_a_packet_of_ours_is_found_out_by_probes(ground: Ground) -> None:
    one, _ = up(ground, gateway="workers = 1")
    settled(one, 1500)
    spi = int(one.child()["spi-out"], 16)
    quoted = quoted_udp(OUTER["gw1"][4], OUTER["gw2"][4], struct.pack(">II", spi, 1))
    send_icmp(ground.name("router"), OUTER["gw1"][4], too_big(800, quoted))
    one.wait_until("it is believed", lambda: refusals(one) == {"believed": 1})
    settled(one, 1500)


# --- at the start


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mtu", [1280, 1333, 1492])
def test_a_path_that_is_narrow_from_the_start_and_says_nothing(ground: Ground, outer: int, mtu: int) -> None:
    ground.set_path(mtu, filtered=True)
    one, two = up(ground, outer=outer)
    found = mtu if outer == 4 or mtu % 4 == 0 else mtu - mtu % 4
    for gateway in (one, two):
        child = settled(gateway, found // 4 * 4)  # ESP's lengths are multiples of 4
        assert child["path-mtu-probing"] == "echo"
    with Transfer(ground) as there, Transfer(ground, "host2", "host1") as back:
        there.wait_for(SOME)
        back.wait_for(SOME)
        assert there.mss() <= child["mss_ipv4"]


@pytest.mark.parametrize("fragmentation", ["yes", "no"])
@pytest.mark.parametrize("outer", [4, 6])
def test_where_no_inner_address_answers_ike_finds_the_path(ground: Ground, outer: int, fragmentation: str) -> None:
    for node in ("gw1", "gw2"):
        ground.run(node, "sysctl", "-q", "-w", *NO_ECHO)
    ground.set_path(1400, filtered=True)
    one, _ = up(ground, outer=outer, connection=f'fragmentation = "{fragmentation}"')
    assert settled(one, 1400)["path-mtu-probing"] == "ike"
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        ground.set_path(1300)
        one.wait_for_mtu(1300)
        transfer.wait_for(SOME)
        ground.set_path(None)
        one.probe()
        settled(one, 1500)


def test_with_probing_switched_off_the_interface_counts(ground: Ground) -> None:
    one, _ = up(ground, connection='mtu_probe = "off"')
    child = one.child()
    assert (child["path-mtu"], child["path-mtu-source"], child["path-mtu-probing"]) == (1500, "interface", "off")
    assert one.counters()["probes_sent"] == 0


# --- in use


@pytest.mark.parametrize("filtered", [False, True], ids=["icmp", "silent"])
@pytest.mark.parametrize("outer", [4, 6])
def test_1500_to_1300_to_1500_during_a_transfer(ground: Ground, outer: int, filtered: bool) -> None:
    one, two = up(ground, outer=outer)
    settled(one, 1500), settled(two, 1500)
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        full = transfer.mss()
        ground.set_path(1300, filtered=filtered)
        child = one.wait_for_mtu(1300)
        assert child["mtu"] == (1238 if outer == 4 else 1218)
        assert f"mtu {child['mtu']}" in ground.run("gw1", "ip", "route", "show", "table", "4500")
        assert "mtu 1280" in ground.run("gw1", "ip", "-6", "route", "show", "table", "4500")
        transfer.wait_for(2 * SOME)
        assert transfer.mss() < full
        ground.set_path(None)
        one.probe(), two.probe()
        assert settled(one, 1500)["mtu"] == (1438 if outer == 4 else 1418)
        settled(two, 1500)
        transfer.wait_for(SOME)
    for family in ("-4", "-6"):  # the host remembers our too-big answer for ten minutes
        ground.run("host1", "ip", family, "route", "flush", "cache")
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        assert transfer.mss() == full


@pytest.mark.parametrize("ground", [{"mtu": 9000}], indirect=True, ids=["jumbo"])
@pytest.mark.parametrize("filtered", [False, True], ids=["icmp", "silent"])
def test_9000_to_1400_during_a_transfer(ground: Ground, filtered: bool) -> None:
    one, _ = up(ground)
    settled(one, 9000)
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        assert transfer.mss() > 8000
        ground.set_path(1400, filtered=filtered)
        one.wait_for_mtu(1400)
        transfer.wait_for(2 * SOME)
        assert transfer.mss() < 1400


@pytest.mark.parametrize("ground", [{"mtu": 1500, "inside": 9000}], indirect=True, ids=["inside9000"])
@pytest.mark.parametrize("version", [4, 6])
def test_jumbo_inside_and_small_outside(ground: Ground, version: int) -> None:
    one, _ = up(ground)
    child = settled(one, 1500)
    with Transfer(ground, version=version) as there, Transfer(ground, "host2", "host1", version=version) as back:
        there.wait_for(SOME)
        back.wait_for(SOME)
        assert there.mss() <= child[f"mss_ipv{version}"]


def test_both_directions_fall_by_themselves(ground: Ground) -> None:
    one, two = up(ground)
    settled(one, 1500), settled(two, 1500)
    with Transfer(ground) as there, Transfer(ground, "host2", "host1") as back:
        there.wait_for(SOME)
        back.wait_for(SOME)
        ground.set_path(1300, filtered=True)
        one.wait_for_mtu(1300), two.wait_for_mtu(1300)
        there.wait_for(SOME)
        back.wait_for(SOME)


def test_an_interface_that_changes(ground: Ground) -> None:
    one, _ = up(ground)
    settled(one, 1500)
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        ground.set_link("gw1", 1400)
        one.wait_for_mtu(1400)
        transfer.wait_for(SOME)
        ground.set_link("gw1", 1500)
        settled(one, 1500)
        transfer.wait_for(SOME)


def test_a_rekeyed_child_knows_what_its_path_carries(ground: Ground) -> None:
    ground.set_path(1300, filtered=True)
    one, _ = up(ground)
    before = settled(one, 1300)
    with one.client() as client:
        client.request("rekey", {"child": "net"})
    after = one.wait_until(
        "another", lambda: (c := one.child()).get("uniqueid") not in (None, before["uniqueid"]) and c
    )
    assert (after["path-mtu"], after["mtu"], after["mss_ipv4"]) == (1300, before["mtu"], before["mss_ipv4"])
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)


# --- on the wire

CAPTURE = """
import select, signal, socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 25)
s.bind(("wan", 3))
stop, longest, fragments, clear, count = [], 0, 0, 0, 0
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
print("ready", flush=True)
while select.select([s], [], [], 0.05)[0] or not stop:
    try:
        data, sender = s.recvfrom(65535, socket.MSG_DONTWAIT)
    except BlockingIOError:
        continue
    if sender[2] != 4 or sender[1] != 0x800 or data[9] != 17:  # outgoing IPv4 UDP
        continue
    flags = struct.unpack_from(">H", data, 6)[0]
    count += 1
    longest = max(longest, len(data))
    fragments += (flags & 0x3FFF) != 0
    clear += not flags & 0x4000
print(count, longest, fragments, clear, struct.unpack("II", s.getsockopt(263, 6, 8))[1])
"""


def test_no_outer_fragment_leaves_and_the_clamp_is_right_to_the_byte(ground: Ground) -> None:
    one, _ = up(ground)
    settled(one, 1500)
    ground.cut_before_capture("gw1")
    process = ground.start("gw1", "python3", "-c", CAPTURE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with Transfer(ground) as transfer:
        transfer.wait_for(SOME)
        ground.set_path(1300, filtered=True)
        one.wait_for_mtu(1300)
        transfer.wait_for(SOME)
    with Transfer(ground, pace=1_000_000) as transfer:
        transfer.wait_for(SOME)
        assert transfer.mss() == one.child()["mss_ipv4"] - 12  # timestamps
    process.terminate()
    count, longest, fragments, without_df, lost = map(int, process.communicate(timeout=10)[0].split())
    assert count > 100
    assert longest == 1500
    assert (fragments, without_df, lost) == (0, 0, 0)
