"""Two gateways with `encap = false`: ESP as protocol 50 on the wire, over a rekey and a crash; `copy_df = false`: outer fragments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import INNER_ADDRESS, Gateway, Seen, SitePair, captured, one_pair, sh, site_pair, wait_until

from ipsec_fast.gateway.vici.client import ViciClient

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
RAW = {"connection": 'encap = false\nmtu_probe = "off"'}  # what is on the wire is counted


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair("fragraw", tmp_path) as found:
        yield found


def up(pair: SitePair, a: dict[str, str], b: dict[str, str]) -> tuple[Gateway, Gateway]:
    two = pair.gateway("b", **b).wait_for("listening")
    one = pair.gateway("a", **a).wait_for("listening")
    one.command("up", "net", "--timeout", "30")
    return one, two


def pings(pair: SitePair, size: int, *more: str, inner: str = "4") -> int:
    """How many of three with so many bytes of data came back."""
    source, target = (INNER_ADDRESS[inner].format(number) for number in (1, 2))
    words = f"ping -n -c3 -i0.05 -W2 -s {size} {' '.join(more)} -I {source} {target}"
    text = sh(f"ip netns exec {pair.netns('a')} {words}", check=False)
    return int(text.split(" received")[0].rsplit(" ", 1)[-1])


def protocols(seen: list[Seen]) -> set[int]:
    """Of what passed between the gateways, but IKE and neighbours' talk."""
    assert not any(one.is_clear for one in seen)
    return {one.protocol for one in seen if one.port != 500} - {0, 58}


@pytest.mark.parametrize("outer", ["4", "6"])
def test_esp_travels_as_protocol_50_over_a_rekey(pair: SitePair, outer: str) -> None:
    a, b = up(pair, RAW | {"outer": outer}, RAW | {"outer": outer})
    (child,) = a.sas()[0]["child-sas"]
    assert "encap" not in child
    with captured(pair.netns("b")) as seen:
        assert [pings(pair, size) for size in (56, 1400, 3000)] == [3, 3, 3]
    assert protocols(seen) == {50}
    if outer == "4":  # 3000 bytes come in three inner fragments
        assert sum(one.protocol == 50 for one in seen) == 6 * (1 + 1 + 3)
    with ViciClient(str(a.config.with_suffix(".vici"))) as client:
        client.request("rekey", {"child": "net"})
    wait_until("another Child SA on both sides", lambda: is_another(child, a, b), 10.0)
    with captured(pair.netns("b")) as seen:
        assert pings(pair, 3000) == 3
    assert protocols(seen) == {50}
    assert pair.ping("b") == 3


def is_another(child: dict, *gateways: Gateway) -> bool:
    if not one_pair(*gateways):
        return False
    return all(one.sas()[0]["child-sas"][0]["uniqueid"] != child["uniqueid"] for one in gateways)


def test_a_side_that_wants_encapsulation_gets_it(pair: SitePair) -> None:
    a, _ = up(pair, RAW, {})
    assert a.sas()[0]["child-sas"][0]["encap"] == "yes"
    with captured(pair.netns("b")) as seen:
        assert pings(pair, 56) == 3
    assert 50 not in protocols(seen)


def test_after_a_crash_it_goes_on_without_encapsulation(pair: SitePair, tmp_path: Path) -> None:
    (tmp_path / "state.key").write_text("a key for state at rest of 32 bytes and more")
    (tmp_path / "state.key").chmod(0o600)
    options = RAW | {"gateway": 'state_key = "state.key"'}
    a, b = up(pair, options, options)
    a.kill()
    a = pair.gateway("a", **options).wait_for("restored")
    wait_until("one pair", lambda: one_pair(a, b), 10.0)
    with captured(pair.netns("b")) as seen:
        assert pair.ping() == pair.ping("b") == 3
    assert 50 in protocols(seen)


@pytest.mark.parametrize(("connection", "protocol"), [("encap = false", 50), ("", 17)])
def test_without_copy_df_full_packets_leave_in_two_outer_fragments(
    pair: SitePair, connection: str, protocol: int
) -> None:
    options = {"connection": connection, "child": "copy_df = false"}
    a, _ = up(pair, options, options)
    with captured(pair.netns("b")) as seen:
        assert pings(pair, 1472, "-M do") == 3
    assert sum(one.protocol == protocol and one.port != 500 for one in seen) >= 12
    assert a.sas()[0]["child-sas"][0]["mtu"] == 1500
    assert pings(pair, 3000) == 3
