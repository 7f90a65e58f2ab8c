"""Prints how many third-party vectors tests/dataplane ran, and how many it skipped and why."""

from __future__ import annotations

import dataplane_vectors


def pytest_terminal_summary(terminalreporter) -> None:
    for name, ran in sorted(dataplane_vectors.RAN.items()):
        terminalreporter.write_line(f"vectors {name}: {ran} run")
    for name, skipped in sorted(dataplane_vectors.SKIPPED.items()):
        terminalreporter.write_line(f"vectors {name}: {skipped} skipped")
