"""pytest-benchmark over the ESP kernels, each case beside the bare engine: `python -m pytest bench`."""

from __future__ import annotations

import pytest

from ipsec_fast.algorithms import esp_suite_names
from ipsec_fast.bench.esp import EspCase
from ipsec_fast.dataplane.raw import RawBatch

pytest.importorskip("pytest_benchmark")

BATCH = 64


@pytest.mark.parametrize("packet_bytes", [64, 1400])
@pytest.mark.parametrize("algorithm", esp_suite_names())
def test_protect(benchmark, algorithm, packet_bytes):
    case = EspCase(algorithm, packet_bytes, BATCH, "auto")
    benchmark.group = f"out {algorithm} {packet_bytes} B, batch {BATCH}"
    benchmark.pedantic(case.protect_timed, setup=case.fill, rounds=200, warmup_rounds=5)


@pytest.mark.parametrize("packet_bytes", [64, 1400])
@pytest.mark.parametrize("algorithm", esp_suite_names())
def test_unprotect(benchmark, algorithm, packet_bytes):
    case = EspCase(algorithm, packet_bytes, BATCH, "auto")
    benchmark.group = f"in {algorithm} {packet_bytes} B, batch {BATCH}"
    benchmark.pedantic(case.unprotect_timed, setup=case.fill_sealed, rounds=200, warmup_rounds=5)


@pytest.mark.parametrize("packet_bytes", [64, 1400])
@pytest.mark.parametrize("algorithm", esp_suite_names())
@pytest.mark.parametrize("direction", ["out", "in"])
def test_bare_engine(benchmark, direction, algorithm, packet_bytes):
    raw = RawBatch(algorithm, packet_bytes, BATCH, direction == "out")
    benchmark.group = f"{direction} {algorithm} {packet_bytes} B, batch {BATCH}"
    benchmark.pedantic(raw.run, rounds=200, warmup_rounds=5)
