"""A peer makes a child of 840 networks and deletes it: the gateway keeps answering, and no route remains."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, sh, site_pair, wait_until

from ipsec_fast.gateway.vici.client import ViciClient

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
RANGES = [f"10.{100 + i}.0.1-10.{100 + i}.0.254" for i in range(60)]
# 0.1 s is the aim; on a busy machine a process may get no CPU for longer. The old removal took minutes.
MOST_S = 2.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SitePair]:
    with site_pair("manynet", tmp_path) as found:
        yield found


class Asking(threading.Thread):
    """Asks a gateway for its state again and again; `worst_s` is the longest wait for an answer."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(daemon=True)
        self._path = str(gateway.config.with_suffix(".vici"))
        self._ends = threading.Event()
        self.worst_s, self.count = 0.0, 0
        self.start()

    def run(self) -> None:
        with ViciClient(self._path) as client:
            while not self._ends.is_set():
                began = time.monotonic()
                client.request("stats", {})
                self.worst_s = max(self.worst_s, time.monotonic() - began)
                self.count += 1
                time.sleep(0.01)

    def end(self) -> None:
        self._ends.set()
        self.join(30)


def test_status_answers_while_840_networks_come_and_go(pair: SitePair) -> None:
    a = pair.gateway("a", remote_ts='10.64.0.0/10", "10.128.0.0/9').wait_for("listening")
    b = pair.gateway("b", local_ts='", "'.join(RANGES)).wait_for("listening")
    asking = Asking(a)
    b.command("up", "net", "--timeout", "60")

    def routes() -> int:
        text = sh(f"ip -n {pair.netns('a')} route show table 4500", check=False)
        return sum("dev ipsec0" in line for line in text.splitlines())

    assert routes() == 840
    b.command("down", "net")
    wait_until("all routes are gone", lambda: routes() == 0, 30)
    asking.end()
    assert asking.count > 5
    assert asking.worst_s < MOST_S
    text = sh(f"ip -n {pair.netns('a')} -4 route show table all")
    assert "proto 73" not in text


def test_ten_thousand_requests_for_a_dead_peer_keep_nobody_out(pair: SitePair) -> None:
    a = pair.gateway("a").wait_for("listening")
    asking = Asking(a)
    with ViciClient(str(a.config.with_suffix(".vici"))) as client:
        for _ in range(10_000):
            assert client.request("initiate", {"child": "net", "timeout": "-1"})["success"] == b"yes"
    asking.end()
    assert asking.count > 20
    assert asking.worst_s < MOST_S
    assert len(a.sas()) == 1
    assert a.text().count("initiating IKE SA") == 1
    assert a.stop() == 0
    assert "taken down by us before it was set up" in a.text()
