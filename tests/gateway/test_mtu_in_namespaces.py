"""Two gateways on small paths: IPv6 inside of 1280 bytes, a TUN below 1280 without IPv6, and what `mtu` tells of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import INNER_ADDRESS, Gateway, SitePair, captured, sh, site_pair, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
FRAGMENT_HEADER = 44


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair("mtupath", tmp_path) as found:
        yield found


def narrow(pair: SitePair, mtu: int) -> None:
    for side in "ab":
        sh(f"ip -n {pair.netns(side)} link set out mtu {mtu}")


def both(number: str) -> str:
    """Selectors of both versions, in the quotes of a list of one."""
    return f'10.{number}.0.0/24", "fd00:{number}::/64'


def up(pair: SitePair, **settings: str) -> tuple[Gateway, Gateway]:
    sides = {"a": ("1", "2"), "b": ("2", "1")}
    found = {}
    for side in "ba":
        own, other = sides[side]
        selectors = {"local_ts": both(own), "remote_ts": both(other)} if settings.get("inner") == "both" else {}
        more = {name: value for name, value in settings.items() if value != "both"}
        found[side] = pair.gateway(side, **selectors, **more).wait_for("listening")
    found["a"].command("up", "net", "--timeout", "30")
    return found["a"], found["b"]


def ping(pair: SitePair, length: int, inner: str) -> str:
    """Three IP packets of this length, DF set."""
    source, target = (INNER_ADDRESS[inner].format(number) for number in (1, 2))
    size = length - (28 if inner == "4" else 48)
    words = f"ping -n -c3 -i0.05 -W2 -M do -s {size} -I {source} {target}"
    return sh(f"ip netns exec {pair.netns('a')} {words}", check=False)


def is_refused_above(pair: SitePair, largest: int, inner: str) -> bool:
    """The kernel knows the largest size and refuses one byte more. Not every version of
    ping prints the size, so the route is asked.
    """
    target = INNER_ADDRESS[inner].format(2)
    refused = "message too long" in ping(pair, largest + 1, inner).lower()
    route = sh(f"ip -n {pair.netns('a')} -j route get {target}")
    return refused and json.loads(route)[0]["metrics"][0]["mtu"] == largest


def tun_mtu(pair: SitePair, side: str = "a") -> int:
    return int(json.loads(sh(f"ip -n {pair.netns(side)} -j link show ipsec0"))[0]["mtu"])


def transfer(pair: SitePair, inner: str) -> int:
    """Bytes that one TCP stream brings from a to b in a second."""
    source, target = (INNER_ADDRESS[inner].format(number) for number in (1, 2))
    command = f"ip netns exec {pair.netns('b')} iperf3 -s -1 -p 5998 --forceflush"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            pass
        words = f"iperf3 -J -c {target} -B {source} -p 5998 -t 1 -C cubic --connect-timeout 3000"
        found = json.loads(sh(f"ip netns exec {pair.netns('a')} {words}", check=False))
        server.communicate(timeout=10)
    assert "error" not in found, found["error"]
    return int(found["end"]["sum_received"]["bytes"])


@pytest.mark.parametrize(
    ("outer", "connection", "largest"), [("6", "", 1198), ("6", "encap = false", 1206), ("4", "", 1218)]
)
def test_ipv6_packets_of_1280_bytes_pass_a_path_of_1280(
    pair: SitePair, outer: str, connection: str, largest: int
) -> None:
    narrow(pair, 1280)
    a, b = up(pair, outer=outer, inner="both", connection=connection)
    (child,) = a.sas()[0]["child-sas"]
    assert (child["mtu"], child["mss_ipv4"], child["mss_ipv6"]) == (largest, largest - 40, largest - 60)
    assert tun_mtu(pair) == tun_mtu(pair, "b") == 1280
    for inner, length in (("4", largest), ("6", largest), ("6", largest + 1), ("6", 1280)):
        assert " 0% packet loss" in ping(pair, length, inner), (inner, length)
    assert is_refused_above(pair, largest, "4")
    assert transfer(pair, "6") > 500_000
    assert transfer(pair, "4") > 500_000
    document = json.loads(a.command("mtu", "net", "--json"))["children"][0]
    assert (document["path_mtu"], document["max_inner_bytes"]) == (1280, largest)
    assert document["computed"]["path_mtu"] == 1280
    assert (document["carries_ipv6"], document["cuts_outside"]) == (True, True)
    assert "leave in outer fragments" in a.command("mtu", "site/net")
    assert b.sas()[0]["child-sas"][0]["mtu"] == largest


@pytest.mark.parametrize("inner", ["4", "6"])
def test_without_the_right_to_raw_sockets_it_says_what_is_lost(pair: SitePair, inner: str) -> None:
    narrow(pair, 1280)
    pair.gateway("b", outer="6", inner=inner).wait_for("listening")
    a = pair.gateway("a", outer="6", inner=inner, without="net_raw").wait_for("listening")
    a.command("up", "net", "--timeout", "30")
    assert " 0% packet loss" in ping(pair, 1198, inner)
    text = a.command("mtu", "net")
    assert ("IPv6 packets of 1199 to 1280 bytes are dropped: this gateway has no raw sockets" in text) == (inner == "6")
    if inner == "6":
        assert "100% packet loss" in ping(pair, 1199, inner)


def test_only_what_must_is_cut_outside(pair: SitePair) -> None:
    narrow(pair, 1280)
    up(pair, outer="6", inner="both")
    ping(pair, 100, "4")
    with captured(pair.netns("b")) as seen:
        ping(pair, 1198, "4")
        ping(pair, 1198, "6")
    assert {one.protocol for one in seen} - {0, 58} == {17}  # MLD has a hop-by-hop header (0) before ICMPv6 (58)
    assert not any(one.is_clear for one in seen)
    with captured(pair.netns("b")) as seen:
        ping(pair, 1280, "6")
    assert sum(one.protocol == FRAGMENT_HEADER for one in seen) == 12
    assert not any(one.is_clear or one.protocol == 17 for one in seen)


def test_tun_goes_below_1280_without_ipv6_and_back_before_it_comes(pair: SitePair) -> None:
    narrow(pair, 1000)
    b = pair.gateway("b", child=second_child("2", "1")).wait_for("listening")
    a = pair.gateway("a", child=second_child("1", "2")).wait_for("listening")
    a.command("up", "net", "--timeout", "30")
    assert tun_mtu(pair) == tun_mtu(pair, "b") == a.sas()[0]["child-sas"][0]["mtu"] == 938
    assert " 0% packet loss" in ping(pair, 938, "4")
    a.command("up", "six", "--timeout", "30")
    assert tun_mtu(pair) == tun_mtu(pair, "b") == 1280
    assert " 0% packet loss" in ping(pair, 1280, "6")
    assert " 0% packet loss" in ping(pair, 938, "4")
    assert is_refused_above(pair, 938, "4")
    a.command("down", "six")
    wait_until("the TUN is small again", lambda: tun_mtu(pair) == tun_mtu(pair, "b") == 938, 15.0)
    assert " 0% packet loss" in ping(pair, 938, "4")
    assert len(b.sas()[0]["child-sas"]) == 1


def second_child(own: str, other: str) -> str:
    lines = (f'local_ts = ["fd00:{own}::/64"]', f'remote_ts = ["fd00:{other}::/64"]', 'esp_proposals = ["aes128gcm16"]')
    return "\n".join(("[connections.site.children.six]", *lines))


@pytest.mark.parametrize(("mss", "found"), [("off", (0, 0)), ("1200", (1200, 1200)), ("60000", (1398, 1378))])
def test_mss_of_a_connection_is_off_or_a_number_and_never_more_than_fits(
    pair: SitePair, mss: str, found: tuple[int, int]
) -> None:
    value = mss if mss.isdecimal() else f'"{mss}"'
    a, _ = up(pair, connection=f"mss = {value}")
    (child,) = a.sas()[0]["child-sas"]
    assert (child["mss_ipv4"], child["mss_ipv6"]) == found
    assert ("mss = off" in a.command("mtu", "net")) == (mss == "off")
    assert transfer(pair, "4") > 500_000
