"""Counts that a run prints at its end, such as how many third-party vectors ran. The counting stands beside the tests, the printing in
tests/conftest.py; where tests run in several worker processes, the one that prints adds up what they counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

_tallies: dict[str, Counter[str]] = {}


def tally(line: str) -> Counter[str]:
    """The counter whose entries are printed as `line`, which has places for `name` and `count`."""
    return _tallies.setdefault(line, Counter())


def counted() -> dict[str, dict[str, int]]:
    """All of them in a form that one process can send to another."""
    return {line: dict(counts) for line, counts in _tallies.items()}


def add(theirs: Mapping[str, Mapping[str, int]]) -> None:
    """Add what another process counted."""
    for line, counts in theirs.items():
        tally(line).update(counts)


def forget() -> None:
    """Count from nothing."""
    for counts in _tallies.values():
        counts.clear()


def lines() -> Iterator[str]:
    for line, counts in sorted(_tallies.items()):
        yield from (line.format(name=name, count=count) for name, count in sorted(counts.items()))
