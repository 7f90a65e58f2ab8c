"""Real handshakes while 30 % of the datagrams on UDP 500 and 4500 are lost at random, in both directions: every one succeeds.

Two gateways with a connection each for every handshake, all begun at once; nft drops what comes in on either side. The same with `Pair`
and many more of them: tests/ike/exchanges/test_lossy_handshakes.py.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import PSK, SIDES, Gateway, SitePair, site_pair, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]
COUNT = 50
LIMIT_S = 150.0  # the schedule of retransmissions ends after 100 s
LOSS = (
    "add table inet loss",
    "add counter inet loss came",
    "add counter inet loss lost",
    "add chain inet loss in { type filter hook input priority -300 ; policy accept ; }",
    "add rule inet loss in udp dport { 500, 4500 } counter name came",
    "add rule inet loss in udp dport { 500, 4500 } numgen random mod 100 < 30 counter name lost drop",
)


@pytest.fixture
def pair() -> Iterator[SitePair]:
    directory = Path(tempfile.mkdtemp(prefix="lh-"))
    try:
        with site_pair("lossy", directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)


def many(pair: SitePair, side: str, start: str) -> Gateway:
    """A gateway with COUNT connections to the other side, each with identities and selectors of its own.

    Liveness is off: under such a loss it would find some of those that stand silent while the last ones still come up, and replace them.
    """
    own, other, peer = SIDES[side]
    secret = pair.directory / "both.psk"
    secret.write_text(PSK)
    secret.chmod(0o600)
    lines = [f'[gateway]\nworkers = 1\nsocket = "{pair.directory}/{side}.vici"', f'[secrets.ike-1]\nfile = "{secret}"']
    for n in range(COUNT):
        lines.append(f"""
[connections.c{n}]
local_addrs = ["192.0.2.{own}"]
remote_addrs = ["192.0.2.{other}"]
dpd_delay = "0s"
proposals = ["aes128gcm16-prfsha256-x25519"]
local = {{ auth = "psk", id = "{side}{n}.example" }}
remote = {{ auth = "psk", id = "{peer}{n}.example" }}
[connections.c{n}.children.n{n}]
local_ts = ["10.{own}.{n}.0/24"]
remote_ts = ["10.{other}.{n}.0/24"]
esp_proposals = ["aes128gcm16"]
start_action = "{start}"
""")
    file = pair.directory / f"{side}.toml"
    file.write_text("\n".join(lines))
    pair.gateways.append(Gateway(pair.netns(side), file))
    return pair.gateways[-1]


def packets(pair: SitePair, side: str) -> tuple[int, int]:
    """(came, lost), as nft has counted."""
    found = json.loads(pair.nft(side, "list counters", json_output=True))["nftables"]
    counts = {one["counter"]["name"]: one["counter"]["packets"] for one in found if "counter" in one}
    return counts["came"], counts["lost"]


def installed(gateway: Gateway) -> dict[str, dict]:
    """The children that stand, by the name of their connection."""
    return {sa["name"]: child for sa in gateway.sas() for child in sa["child-sas"] if child["state"] == "INSTALLED"}


def test_every_handshake_succeeds_at_its_first_attempt_under_30_percent_loss_in_both_directions(pair: SitePair) -> None:
    for side in SIDES:
        pair.nft(side, *LOSS)
    b = many(pair, "b", "none").wait_for("listening", 60)
    began = time.monotonic()
    a = many(pair, "a", "start").wait_for("listening", 60)
    wait_until("every one stands on both sides", lambda: len(installed(a)) == len(installed(b)) == COUNT, LIMIT_S)
    took_s = time.monotonic() - began
    came, lost = (sum(numbers) for numbers in zip(*(packets(pair, side) for side in SIDES), strict=True))
    print(f"{COUNT} handshakes in {took_s:.1f} s, {lost} of {came} datagrams lost ({100 * lost / came:.0f} %)")
    assert 0.15 < lost / came < 0.45
    ids = sorted(int(sa["uniqueid"]) for sa in a.sas())
    assert ids == list(range(1, COUNT + 1)), "a later one would be a second attempt"
    at_a, at_b = installed(a), installed(b)
    for name, child in at_a.items():
        assert (child["spi-in"], child["spi-out"]) == (at_b[name]["spi-out"], at_b[name]["spi-in"])
