"""pytest-benchmark over a mix of packet sizes, ours beside the bare engine: `python -m pytest bench`."""

from __future__ import annotations

import pytest

from ipsec_fast.bench.esp import USUAL
from ipsec_fast.bench.imix import BATCH, SIMPLE_IMIX, MixCase, batches_of

pytest.importorskip("pytest_benchmark")


@pytest.mark.parametrize("whose", ["ours", "bare engine"])
@pytest.mark.parametrize("algorithm", USUAL)
@pytest.mark.parametrize("direction", ["out", "in"])
def test_imix(benchmark, direction, algorithm, whose):
    case = MixCase(algorithm, batches_of(SIMPLE_IMIX, BATCH), direction, "auto")
    benchmark.group = f"{direction} {algorithm} simple IMIX, batch {BATCH}"
    benchmark.pedantic(case.run if whose == "ours" else case.run_raw, rounds=100, warmup_rounds=5)
