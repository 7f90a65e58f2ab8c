"""Suites of every kind between two gateways: negotiated, carrying, rekeyed, and gone on with after a kill -9."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, one_pair, site_pair, wait_until

from ipsec_fast.algorithms import esp_suite
from ipsec_fast.gateway.vici.client import ViciClient

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
SUITES = (
    "aes128gcm16iiv",
    "chacha20poly1305",
    "aes256ccm16",
    "aes128gmac",
    "aes128ctr-sha256",
    "aes128-aesxcbc",
    "null-sha384",
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair("sui", tmp_path) as found:
        (tmp_path / "state.key").write_text("a key for state at rest of 32 bytes and more")
        (tmp_path / "state.key").chmod(0o600)
        yield found


def name_of(suite: str, sa: dict) -> bool:
    """Whether list-sas names what was configured."""
    row = esp_suite(suite)
    shown = (sa["encr-alg"], sa.get("encr-keysize"), sa.get("integ-alg"))
    return shown == (row.encryption.id.name, row.encryption.key_bits, row.integrity.id.name if row.integrity else None)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_is_negotiated_carries_is_rekeyed_and_survives_a_crash(pair: SitePair, suite: str) -> None:
    options = {"esp": suite, "gateway": 'state_key = "state.key"'}
    b = pair.gateway("b", **options).wait_for("listening")
    a = pair.gateway("a", **options).wait_for("listening")
    a.command("up", "net", "--timeout", "30")
    (child,) = a.sas()[0]["child-sas"]
    assert name_of(suite, child), child
    assert pair.ping() == 3
    with ViciClient(str(a.config.with_suffix(".vici"))) as client:
        client.request("rekey", {"child": "net"})
    wait_until("another Child SA on both sides", lambda: is_another(child, a, b), 10.0)
    assert pair.ping("b") == 3
    a.kill()
    a = pair.gateway("a", **options).wait_for("restored")
    wait_until("one pair", lambda: one_pair(a, b), 10.0)
    assert pair.ping() == pair.ping("b") == 3
    assert sum(drops(one) for one in (a, b)) == 0


def is_another(child: dict, *gateways: Gateway) -> bool:
    found = [one.sas()[0]["child-sas"] for one in gateways]
    return all(len(children) == 1 for children in found) and found[0][0]["spi-in"] != child["spi-in"]


def drops(gateway: Gateway) -> int:
    """Packets that came and were not opened."""
    with ViciClient(str(gateway.config.with_suffix(".vici"))) as client:
        counters = client.request("stats")["counters"]
    return sum(int(counters[name]) for name in ("drop_bad_icv", "drop_malformed", "drop_bad_inner") if name in counters)
