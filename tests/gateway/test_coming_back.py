"""A tunnel that was lost comes back by itself: the wire cut and mended, the peer killed, DELETE, trap. The times are printed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, captured, one_pair, site_pair, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
FAST = 'dpd_delay = "2s"\ndpd_timeout = "2s"'


@pytest.fixture
def pair() -> Iterator[SitePair]:
    directory = Path(tempfile.mkdtemp(prefix="cb-"))
    try:
        with site_pair("alive", directory) as found:
            yield found
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def pinging(pair: SitePair) -> Iterator[None]:
    words = ["ip", "netns", "exec", pair.netns("a"), "ping", "-q", "-i", "0.1", "-I", "10.1.0.1", "10.2.0.1"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def up(pair: SitePair, a: dict[str, str], b: dict[str, str]) -> tuple[Gateway, Gateway]:
    other = pair.gateway("b", **b).wait_for("listening")
    one = pair.gateway("a", **a)
    try:
        one.wait_for("net installed", 20.0)
        other.wait_for("net installed")
    except AssertionError as error:
        raise AssertionError(f"{error}\n--- b\n{other.text()}") from None
    return one, other


@pytest.mark.parametrize(("lines", "limit_s"), [("", 10.0), (FAST, 5.0)], ids=["default", "configured"])
def test_a_cut_wire_is_found_in_time_and_one_pair_remains_when_it_is_mended(
    pair: SitePair, lines: str, limit_s: float
) -> None:
    options = {"connection": lines}
    a, b = up(pair, {"start": "start", **options}, options)
    with pinging(pair):
        time.sleep(2)
        pair.cut("a")
        pair.cut("b")
        found_s = wait_until("the peer is silent", lambda: "is silent" in a.text(), limit_s)
        time.sleep(1)
        (old, new) = a.sas()
        assert (old["state"], new["state"]) == ("ESTABLISHED", "CONNECTING"), (
            "a replacement, and the old one still waits"
        )
        assert "silent" in old
        pair.mend("a")
        pair.mend("b")
        back_s = wait_until("the tunnel is back", lambda: pair.ping(count=1) == 1, 20.0)
        wait_until("one pair", lambda: one_pair(a, b), 15.0)
    print(f"cut wire: found after {found_s:.1f} s, back {back_s:.1f} s after it was mended")


@pytest.mark.parametrize("starter", ["a", "ab"], ids=["we-start", "both-start"])
def test_a_peer_that_was_killed_and_has_no_state_is_back_soon(pair: SitePair, starter: str) -> None:
    options = [{"start": "start" if side in starter else "none"} for side in "ab"]
    a, b = up(pair, *options)
    wait_until("one pair", lambda: one_pair(a, b), 15.0)
    with pinging(pair), captured(pair.netns("a")) as seen:
        time.sleep(1)
        b.kill()
        began = time.monotonic()
        again = pair.gateway("b", **options[1]).wait_for("listening")
        back_s = wait_until("the tunnel is back", lambda: pair.ping(count=1) == 1, 15.0)
        back_s = time.monotonic() - began
        wait_until("one pair", lambda: one_pair(a, again), 15.0)
    assert not [packet for packet in seen if packet.is_clear]
    print(f"killed peer: the tunnel is back after {back_s:.1f} s")
    assert back_s < 10.0


def test_a_delete_of_the_peers_is_answered_by_close_action(pair: SitePair) -> None:
    a, b = up(pair, {"start": "start", "child": 'close_action = "start"'}, {})
    b.command("down", "site")
    wait_until("it is set up again", lambda: a.text().count("net installed") == 2, 5.0)
    assert pair.ping() == 3


def test_what_was_taken_down_stays_down(pair: SitePair) -> None:
    a, b = up(pair, {"start": "start", "child": 'close_action = "start"'}, {})
    a.command("down", "site")
    time.sleep(4)
    assert a.sas() == b.sas() == []
    a.command("up", "net")
    assert pair.ping() == 3


def test_down_ends_the_attempts_too(pair: SitePair) -> None:
    a = pair.gateway("a", start="start").wait_for("listening")
    wait_until("an attempt", lambda: a.sas(), 5.0)
    a.command("down", "net")
    time.sleep(2)
    assert a.sas() == []


def test_the_first_packet_of_a_trap_begins_it_and_none_leaves_in_clear(pair: SitePair) -> None:
    pair.gateway("b").wait_for("listening")
    a = pair.gateway("a", start="trap").wait_for("listening")
    with captured(pair.netns("a")) as seen:
        time.sleep(1)
        assert a.sas() == [], "nothing happens without a packet"
        began = time.monotonic()
        pair.ping(count=1)
        a.wait_for("net installed", 5.0)
        print(f"trap: installed {time.monotonic() - began:.2f} s after the first packet")
        assert pair.ping() == 3
    assert not [packet for packet in seen if packet.is_clear]
    a.command("down", "site")
    assert a.sas() == []
    wait_until("a trap stays one", lambda: pair.ping(count=1) == 1, 5.0)


def test_a_trap_against_a_peer_that_is_not_there_tries_once_at_a_time(pair: SitePair) -> None:
    a = pair.gateway("a", start="trap").wait_for("listening")
    with pinging(pair), captured(pair.netns("a")) as seen:
        time.sleep(4)
        assert len(a.sas()) == 1
    assert not [packet for packet in seen if packet.is_clear]
    assert sum(packet.port == 500 for packet in seen) <= 6
