"""A real gateway and its state directory: what it refuses is one line and the tunnel still comes; a stop leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_pair import Gateway, SitePair, sh, site_pair

pytestmark = pytest.mark.netns
KEY = "a key for state at rest of 32 bytes and more"


@pytest.fixture
def pair() -> Iterator[SitePair]:
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="gs-", dir=shm if shm.is_dir() else None))
    try:
        with site_pair("gst", directory) as found:
            (directory / "state.key").write_text(KEY)
            (directory / "state.key").chmod(0o600)
            yield found
    finally:
        shutil.rmtree(directory)


def start(pair: SitePair, **gateway: str) -> Gateway:
    lines = "\n".join(f'{key} = "{value}"' for key, value in gateway.items())
    return pair.gateway("a", gateway=lines).wait_for("listening on", 30)


def state_store(gateway: Gateway) -> str:
    found: str = json.loads(gateway.command("status", "--json"))["gateway"]["state_store"]
    assert f"state of the SAs: {found}\n" in gateway.command("status")
    return found


def test_without_a_key_nothing_is_written_and_the_status_says_so(pair: SitePair) -> None:
    one = start(pair, state_dir=str(pair.directory / "state"))
    assert state_store(one) == "memory (no state_key: nothing is written)"
    assert not [path.name for path in pair.directory.iterdir() if "state" in path.name and path.name != "state.key"]


def test_with_a_key_the_directory_is_private_and_an_orderly_stop_leaves_nothing(pair: SitePair) -> None:
    one = start(pair, state_key="state.key")
    directory = pair.directory / "a.state"  # the default goes with the control socket's name
    assert state_store(one) == f"directory {directory}"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    everything = b"".join(path.read_bytes() for path in directory.iterdir())
    assert KEY.encode() not in everything
    assert one.stop() == 0
    assert not directory.exists()
    assert not (pair.directory / "a.state.mark").exists()


@pytest.mark.parametrize("how", ["garbage", "owned by somebody else"])
def test_a_directory_that_cannot_be_used_is_one_line_and_the_tunnel_comes(pair: SitePair, how: str) -> None:
    directory = pair.directory / "a.state"
    directory.mkdir(mode=0o700)
    (directory / "header").write_bytes(b"garbage" * 100)
    (directory / "header").chmod(0o600)
    if how != "garbage":
        try:
            os.chown(directory, 65534, -1)
        except OSError:
            pytest.skip("this user cannot give a directory away")
    one = start(pair, state_key="state.key")
    pair.gateway("b").wait_for("listening on", 30)
    about = [line for line in one.text().splitlines() if str(directory) in line]
    assert len(about) == 1, one.text()
    if how == "garbage":
        assert "is not used: its header is none of ours; tunnels are negotiated anew" in about[0]
        assert state_store(one) == f"directory {directory}"
    else:
        assert "belongs to user 65534" in about[0]
        assert state_store(one).startswith(f"memory ({directory}: belongs to user 65534")
        assert (directory / "header").read_bytes() == b"garbage" * 100
    one.command("up", "net", "--timeout", "30")
    assert pair.ping() == 3


def test_a_start_that_fails_leaves_the_state_for_the_next_one(pair: SitePair) -> None:
    first = start(pair, state_key="state.key")
    first.kill()
    before = sorted((pair.directory / "a.state").iterdir())
    sh(f"ip -n {pair.netns('a')} addr del 192.0.2.1/24 dev out")
    second = pair.gateway("a", gateway='state_key = "state.key"')
    assert second.exit_code() == 1
    assert sorted((pair.directory / "a.state").iterdir()) == before != []
