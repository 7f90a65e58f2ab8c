"""Every exchange, from both sides, through loss, duplication and reordering: it ends as it does on a perfect network."""

from __future__ import annotations

import pytest
from pair import Network, Pair, adverse, perfect

NETWORKS: dict[str, Network] = {"perfect": perfect} | {
    f"{name}-{seed}": adverse(seed, **options)  # type: ignore[arg-type]
    for name, options in {
        "loss": {"loss": 0.3},
        "duplicates": {"duplicate": 0.5},
        "reorder": {"jitter_s": 0.4, "duplicate": 0.3},
        "all": {"loss": 0.3, "duplicate": 0.3, "jitter_s": 1.0},
    }.items()
    for seed in range(3)
}


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


@pytest.fixture(params=["a", "b"])
def side(request: pytest.FixtureRequest) -> str:
    return request.param


def settled(pair: Pair, network: Network) -> Pair:
    """Up on a perfect network, then the given one."""
    pair.up()
    pair.network = network
    return pair


def test_set_up(network: Network, side: str) -> None:
    pair = Pair(network=network)
    pair.initiate(side)
    pair.run(60)
    pair.network = perfect
    pair.run(3)
    pair.check_one_pair()
    assert len(pair.a.live) == len(pair.b.live) == 1


def test_child_rekey(network: Network, side: str) -> None:
    pair = settled(Pair(), network).start_traffic(0.25)
    before = pair.a.view.children[0].spi_in
    pair.call(side, "rekey_child", pair.shell(side).view.children[0].child_id)
    pair.run(60)
    pair.check_one_pair()
    assert pair.a.view.children[0].spi_in != before
    assert not pair.a.gaps
    assert not pair.b.gaps


def test_ike_rekey(network: Network, side: str) -> None:
    pair = settled(Pair(), network)
    before = pair.a.view.spi_i
    child = pair.a.view.children[0].spi_in
    pair.call(side, "rekey_ike", pair.shell(side).view.ike_id)
    pair.run(60)
    pair.check_one_pair()
    assert pair.a.view.spi_i != before
    assert pair.a.view.children[0].spi_in == child
    assert pair.shell(side).view.initiator


def test_child_delete(network: Network, side: str) -> None:
    pair = settled(Pair(), network)
    pair.call(side, "terminate_child", pair.shell(side).view.children[0].child_id)
    pair.run(60)
    pair.check_one_pair(children=0)


def test_ike_delete(network: Network, side: str) -> None:
    pair = settled(Pair(), network)
    pair.call(side, "terminate_ike", pair.shell(side).view.ike_id)
    pair.run(60)
    pair.check_nothing_left()


def test_new_child(network: Network, side: str) -> None:
    pair = settled(Pair(), network)
    shell = pair.shell(side)
    pair.call(side, "initiate_child", shell.view.ike_id, shell.configs[0].children[0])
    pair.run(60)
    pair.check_one_pair(children=2)


def test_liveness(network: Network, side: str) -> None:
    pair = settled(Pair(), network)
    pair.call(side, "check_liveness", pair.shell(side).view.ike_id)
    pair.run(60)
    pair.check_one_pair()
