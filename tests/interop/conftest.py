"""Our gateway in a (192.0.2.1), charon in b (192.0.2.2), a host behind each: see tests/netns/lab.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from netns.daemon import Charon, Daemon, OurGateway
from netns.lab import Lab
from netns.site import LEFT, RIGHT, Site


@dataclass
class Peers:
    lab: Lab
    ours: OurGateway
    charon: Charon

    def side(self, name: str) -> Daemon:
        return self.ours if name == "ours" else self.charon

    def other(self, name: str) -> Daemon:
        return self.charon if name == "ours" else self.ours

    def logs(self) -> str:
        return f"--- ours\n{self.ours.log()[-4000:]}\n--- charon\n{self.charon.log()[-4000:]}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("interop") as lab:
        yield lab


@pytest.fixture
def connect(lab: Lab) -> Iterator[Callable[..., Peers]]:
    """Start both daemons: `connect(ours=Site, charon=Site)`; changes to both: `connect(esp=("aes256gcm16",))`.

    `settings` go into charon's strongswan.conf.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interop")))

        def start(ours: Site = LEFT, charon: Site = RIGHT, settings: str = "", **changes: object) -> Peers:
            peers = Peers(
                lab,
                OurGateway(lab.a, directory / "ours", ours.but(**changes)),
                Charon(lab.b, directory / "charon", charon.but(**changes), settings=settings),
            )
            stack.callback(lambda: print(peers.logs()))  # shown for a test that fails
            stack.enter_context(peers.charon)
            stack.enter_context(peers.ours)
            return peers

        yield start
