"""The packet that triggers a trap decides what is negotiated, and the operator sees what is narrowed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import SitePair, site_pair

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
WIDE = {"remote_ts": "10.2.0.0/16"}
TWO = {  # the second child holds more of what side a would like
    "child": """
[connections.site.children.other]
local_ts = ["10.2.128.0/17"]
remote_ts = ["10.1.0.0/24"]
"""
}


@pytest.fixture
def pair() -> Iterator[SitePair]:
    with tempfile.TemporaryDirectory(prefix="nw-") as directory, site_pair("narrow", Path(directory)) as found:
        yield found


def test_a_trap_gets_the_child_that_its_packet_needs(pair: SitePair) -> None:
    b = pair.gateway("b", **TWO).wait_for("listening")
    a = pair.gateway("a", start="trap", **WIDE).wait_for("listening")
    pair.ping(count=1)  # to 10.2.0.1
    a.wait_for("net installed", 5.0)
    assert "site net installed" in b.text()
    assert "site other installed" not in b.text()
    assert pair.ping() == 3
    assert "10.1.0.0/24 === 10.2.0.0/24, narrowed by the peer from 10.2.0.0/16" in a.text()


def test_narrowing_is_in_the_log_of_both_and_in_every_status(pair: SitePair) -> None:
    b = pair.gateway("b", **TWO).wait_for("listening")
    a = pair.gateway("a", **WIDE).wait_for("listening")
    said = a.command("up", "net")
    told = "narrowed by the peer from 10.2.0.0/16"
    assert told in said + a.text()
    assert "10.1.0.0/24 === 10.2.128.0/17, " + told in a.text(), "without a packet the peer gives what it has most of"
    assert "narrowed by us from 10.2.0.0/16" in b.text()
    assert f"    {told}\n" in a.command("status")
    assert [sa["child-sas"][0]["narrowed"] for sa in a.sas()] == ["by the peer from 10.2.0.0/16"]
    assert [sa["child-sas"][0]["narrowed"] for sa in b.sas()] == ["by us from 10.2.0.0/16"]
    a.command("down", "site")
