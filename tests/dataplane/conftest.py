"""Runs a module once on every engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_packets import Engine

from ipsec_fast.dataplane.engine import engines


@pytest.fixture(scope="module", params=list(engines()))
def each_engine(request) -> Iterator[str]:
    """For `usefixtures`: every `pair` of the module on this engine."""
    Engine.wanted = request.param
    yield request.param
    Engine.wanted = "auto"
