"""`net`: the lab in a namespace of its own; `opened` opens a HostPolicy there and takes it away afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from nft_lab import Lab, lab

from ipsec_fast.model import TrafficSelector
from ipsec_fast.system.nft.host_policy import HostPolicy
from ipsec_fast.system.nft.policies import Action, Policy

Opener = Callable[..., HostPolicy]


def make_policy(name: str, local: str, remote: str, action: Action = Action.PROTECT, priority: int = 0) -> Policy:
    """Selectors in one text, with commas between them."""
    parse = TrafficSelector.parse
    return Policy(name, action, tuple(map(parse, local.split(","))), tuple(map(parse, remote.split(","))), priority)


@pytest.fixture
def policy() -> Callable[..., Policy]:
    return make_policy


@pytest.fixture
def net(private_net: Callable[[str], str]) -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def opened(net: Lab) -> Iterator[Opener]:
    made: list[HostPolicy] = []

    def open_(*policies: Policy, **options: object) -> HostPolicy:
        assert net.tun
        one = HostPolicy("ipsec0", **options)  # type: ignore[arg-type]
        made.append(one)
        one.open(policies, net.tun.index)
        return one

    yield open_
    for one in made:
        one.close("open")
