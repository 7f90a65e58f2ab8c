"""The table collision x outcome of docs/collisions.md: played again, and nothing in it may differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from collision_table import CROSSINGS, DISTURBED, HEAD, row_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "collisions.md"


@pytest.mark.parametrize(("one", "other"), CROSSINGS)
def test_both_sides_agree_whatever_happens_to_a_message(one: str, other: str) -> None:
    row = row_of(one, other)
    print(row.text)
    assert row.disagree == []
    if "terminate" not in one + other:
        assert row.gaps == 0
    assert row.text in DOCUMENT.read_text().splitlines()


def test_the_document_shows_every_crossing_and_every_fate() -> None:
    text = DOCUMENT.read_text()
    assert HEAD in text
    assert all(fate in text for fate in DISTURBED)
