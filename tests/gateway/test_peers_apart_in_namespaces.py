"""Real gateways: networks that are connected here are not taken from a peer, and a
network belongs to the first peer that has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import SitePair, site_pair, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
WIDE = '0.0.0.0/1", "128.0.0.0/1'


@pytest.fixture
def pair() -> Iterator[SitePair]:
    with tempfile.TemporaryDirectory(prefix="pa-") as directory, site_pair("apart", Path(directory)) as found:
        yield found


def test_a_connected_network_is_cut_out_of_what_a_peer_proposes(pair: SitePair) -> None:
    a = pair.gateway("a", remote_ts=WIDE).wait_for("listening")
    b = pair.gateway("b", local_ts='10.2.0.0/24", "192.0.2.0/24", "224.0.0.0/4').wait_for("listening")
    b.command("up", "net")
    wait_until("a has it", lambda: a.sas() and a.sas()[0]["child-sas"], 10.0)
    (child,) = a.sas()[0]["child-sas"]
    assert sorted(child["remote-ts"]) == ["10.2.0.0/24", "192.0.2.2/32"]
    assert pair.ping("b") == 3


def test_a_second_peer_that_wants_the_network_of_the_first_is_refused_and_the_log_names_it(pair: SitePair) -> None:
    anybody = {"remote_id": "%any"}
    a = pair.gateway("a", **anybody).wait_for("listening")
    first = pair.gateway("b").wait_for("listening")
    first.command("up", "net")
    first.kill()
    second = pair.gateway("b", local_id="mallory.example")
    wait_until("it listens", lambda: second.text().count("listening") == 2, 30.0)  # both write to one log
    second.command("up", "net", check=False)
    a.wait_for("which b.example has", 10.0)
    standing = [sa["remote-id"] for sa in a.sas() if sa["child-sas"]]
    assert standing == ["b.example"]
