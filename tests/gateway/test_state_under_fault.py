"""The state of real gateways at bad moments: killed with a request of its own unanswered, and a state directory on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, one_pair, sh, site_pair, wait_until, watched

from ipsec_fast.gateway.vici.client import ViciClient

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
STATE = 'state_key = "state.key"'
DISK_BYTES = 64 << 10


@pytest.fixture
def pair() -> Iterator[SitePair]:
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="sf-", dir=shm if shm.is_dir() else None))
    try:
        with site_pair("sft", directory) as found:
            (directory / "state.key").write_text("a key for state at rest of 32 bytes and more")
            (directory / "state.key").chmod(0o600)
            yield found
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def small_disk(pair: SitePair) -> Iterator[Path]:
    disk = pair.directory / "disk"
    disk.mkdir(mode=0o700)
    sh(f"mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs {disk}")
    try:
        yield disk
    finally:
        for gateway in pair.gateways:  # before the mount goes
            with contextlib.suppress(Exception):
                gateway.kill()
        sh(f"umount -l {disk}")


def fill(disk: Path) -> None:
    """Until not one byte more finds room."""
    fd = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, bytes(4096))
    finally:
        os.close(fd)


def about_the_store(gateway: Gateway) -> list[str]:
    return [line for line in gateway.text().splitlines() if "stored" in line and "state directory" not in line]


def state_store(gateway: Gateway) -> str:
    found: str = json.loads(gateway.command("status", "--json"))["gateway"]["state_store"]
    return found


@pytest.mark.parametrize("what", ["child", "ike"])
def test_killed_with_an_own_request_unanswered_it_negotiates_anew_and_one_pair_remains(
    pair: SitePair, what: str
) -> None:
    b = pair.gateway("b", gateway=STATE).wait_for("listening", 30)
    a = pair.gateway("a", gateway=STATE).wait_for("listening", 30)
    a.command("up", "net", "--timeout", "30")
    assert pair.ping() == 3
    with watched(pair) as tap:
        assert pair.ping() == 3
        pair.cut("a")
        with ViciClient(str(a.config.with_suffix(".vici"))) as client:
            client.request("rekey", {"child": "net"} if what == "child" else {"ike": "site"})
        wait_until("the request is open", lambda: "REKEYING" in json.dumps(a.sas()), 10.0)
        a.kill()
        a.log.unlink()
        a = pair.gateway("a", gateway=STATE).wait_for("a request of ours was outstanding", 30)
        pair.mend("a")
        took_s = wait_until("the tunnel is back", lambda: pair.ping(count=1) == 1, 20.0)
        wait_until("one IKE SA with one child on both sides", lambda: one_pair(a, b), 20.0)
        assert pair.ping("b") == 3
    assert "the peer sent INITIAL_CONTACT" in b.text(), b.text()
    assert " restored " not in a.text()
    assert len(tap.findings.ike_auths) == 1
    print(f"killed with a rekey of {what} open: {took_s:.2f} s from the mended wire until the tunnel was back")


def test_a_full_disk_is_one_line_the_tunnel_goes_on_and_nothing_is_used_twice(pair: SitePair, small_disk: Path) -> None:
    lines = f'{STATE}\nstate_dir = "{small_disk}/state"'
    b = pair.gateway("b").wait_for("listening", 30)
    with watched(pair):
        a = pair.gateway("a", gateway=lines, start="start").wait_for("net installed", 30)
        assert pair.ping() == 3
        assert about_the_store(a) == []
        fill(small_disk)
        for _ in range(6):
            assert pair.ping(count=10, interval_s=0.1) == 10
            fill(small_disk)
        (line,) = about_the_store(a)
        assert "cannot be stored" in line
        assert "no space left on device" in line
        assert state_store(a).endswith("; 1 IKE SA could not be stored")
        for words in ({"child": "net"}, {"ike": "site"}):
            with ViciClient(str(a.config.with_suffix(".vici"))) as client:
                client.request("rekey", words)
            time.sleep(0.5)
            assert pair.ping() == 3
        a.kill()
        a.log.unlink()
        a = pair.gateway("a", gateway=lines, start="start").wait_for("listening", 30)
        wait_until("the tunnel is back", lambda: pair.ping(count=1) == 1, 20.0)
        wait_until("one IKE SA with one child on both sides", lambda: one_pair(a, b), 20.0)
        (small_disk / "filler").unlink()
    assert a.stop() == 0
