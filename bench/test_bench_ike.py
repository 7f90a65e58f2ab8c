"""pytest-benchmark over whole IKE handshakes of two endpoints in memory, for each group: `python -m pytest bench`."""

from __future__ import annotations

import pytest

from ipsec_fast.bench.ike import PROPOSALS, EndpointPair

pytest.importorskip("pytest_benchmark")


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_handshake(benchmark, proposal):
    pair = EndpointPair([proposal])
    benchmark.group = "handshake and deletion, both sides"
    benchmark.pedantic(pair.handshake, rounds=50, warmup_rounds=3)
