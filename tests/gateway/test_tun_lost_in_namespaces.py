"""Somebody deletes our TUN device or sets it down: one error line, it is restored, nothing leaves in clear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import SitePair, captured, sh, site_pair, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair("tunlost", tmp_path) as found:
        yield found


def up(pair: SitePair, workers: str = "workers = 1") -> None:
    both = {"workers": workers}
    selectors = {
        side: {
            "local_ts": f'10.{own}.0.0/24", "fd00:{own}::/64',
            "remote_ts": f'10.{other}.0.0/24", "fd00:{other}::/64',
        }
        for side, own, other in (("a", "1", "2"), ("b", "2", "1"))
    }
    pair.gateway("b", **both, **selectors["b"]).wait_for("listening")
    pair.gateway("a", **both, **selectors["a"]).wait_for("listening").command("up", "net", "--timeout", "30")


def errors(pair: SitePair) -> list[str]:
    return [line for line in pair.gateways[1].text().splitlines() if " error: " in line]


@pytest.mark.parametrize("workers", ["workers = 1", "workers = 2"])
def test_a_deleted_device_is_made_again_with_addresses_routes_mtu_and_queues(pair: SitePair, workers: str) -> None:
    up(pair, workers)
    netns = pair.netns("a")
    sh(f"ip -n {netns} addr add 172.31.9.1/32 dev ipsec0")
    sh(f"ip -n {netns} addr add fd99::9/128 dev ipsec0 nodad")

    def way() -> list[str]:
        families = [sh(f"ip -n {netns} {family} route show table 4500") for family in ("-4", "-6")]
        return sorted(" ".join(families).split())

    def mtu() -> str:
        return sh(f"ip -n {netns} -o link show ipsec0", check=False).partition(" mtu ")[2].split(" ")[0]

    before = way(), mtu()
    assert pair.ping() == 3
    with captured(netns) as seen:
        sh(f"ip -n {netns} link del ipsec0")
        for _ in range(5):
            pair.ping(count=1)
        wait_until("pings pass again", lambda: pair.ping() == 3 and pair.ping(inner="6") == 3, 60)
    assert not [packet for packet in seen if packet.is_clear]
    assert (way(), mtu()) == before
    addresses = sh(f"ip -n {netns} addr show dev ipsec0")
    assert "172.31.9.1/32" in addresses
    assert "fd99::9/128" in addresses
    assert len(errors(pair)) == 1, pair.gateways[1].text()
    assert "ipsec0" in errors(pair)[0]
    assert pair.gateways[1].stop() == 0
    assert pair.leftovers("a") == ""


def test_a_device_that_is_set_down_comes_up_again_and_repetition_is_bounded(pair: SitePair) -> None:
    up(pair)
    netns = pair.netns("a")
    sh(f"ip -n {netns} link set ipsec0 down")
    wait_until("pings pass again", lambda: pair.ping() == 3, 60)
    for _ in range(3):
        sh(f"ip -n {netns} link del ipsec0", check=False)
        wait_until("it is made again", lambda: "ipsec0" in sh(f"ip -n {netns} -o link"), 60)
    wait_until("pings pass again", lambda: pair.ping() == 3 and pair.ping(inner="6") == 3, 60)
    assert 2 <= len(errors(pair)) <= 4
    assert "in 1 s" in pair.gateways[1].text()


@pytest.mark.parametrize("workers", ["workers = 1", "workers = 2"])
def test_a_device_that_is_renamed_or_moved_to_another_namespace_is_made_again(pair: SitePair, workers: str) -> None:
    """Its queues hang on the old device then, which goes with the last of them."""
    up(pair, workers)
    netns, other = pair.netns("a"), pair.netns("b")
    sh(f"ip -n {netns} addr add 172.31.9.1/32 dev ipsec0")
    # an older kernel refuses that of a device that is up
    sh(f"ip -n {netns} link set ipsec0 name mine0", check=False)
    wait_until("pings pass again", lambda: "ipsec0" in sh(f"ip -n {netns} -o link") and pair.ping() == 3, 60)
    assert "mine0" not in sh(f"ip -n {netns} -o link")
    sh(f"ip -n {netns} link set ipsec0 netns {other} name moved0")
    wait_until("pings pass again", lambda: "ipsec0" in sh(f"ip -n {netns} -o link") and pair.ping() == 3, 60)
    assert "moved0" not in sh(f"ip -n {other} -o link")
    assert "172.31.9.1/32" in sh(f"ip -n {netns} addr show dev ipsec0")
    assert pair.gateways[1].stop() == 0
    assert pair.leftovers("a") == ""
