"""Prints how many third-party vectors tests/dataplane ran, and how many it skipped and why; runs a module once on every engine."""

from __future__ import annotations

from collections.abc import Iterator

import dataplane_vectors
import pytest
from kernel_packets import Engine
from mtu_checks import CHECKS

from ipsec_fast.dataplane.engine import engines


@pytest.fixture(scope="module", params=list(engines()))
def each_engine(request) -> Iterator[str]:
    """For `usefixtures`: every `pair` of the module on this engine."""
    Engine.wanted = request.param
    yield request.param
    Engine.wanted = "auto"


def pytest_terminal_summary(terminalreporter) -> None:
    for name, ran in sorted(dataplane_vectors.RAN.items()):
        terminalreporter.write_line(f"vectors {name}: {ran} run")
    for name, skipped in sorted(dataplane_vectors.SKIPPED.items()):
        terminalreporter.write_line(f"vectors {name}: {skipped} skipped")
    for name, count in sorted(CHECKS.items()):
        terminalreporter.write_line(f"MTU arithmetic held to sealed packets, {name}: {count} comparisons")
