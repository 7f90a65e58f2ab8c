"""docs/attacks.md and docs/findings.md name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("attacks.md", "findings.md")


def named(document: str) -> list[str]:
    return re.findall(r"tests/[\w/]+\.(?:py|c)(?:::\w+)?", (ROOT / "docs" / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_the_document_names_exists(document: str) -> None:
    names = named(document)
    assert len(names) > 50
    missing = []
    for name in names:
        path, _, function = name.partition("::")
        file = ROOT / path
        if not file.exists() or (
            function and not re.search(rf"^(?:async )?def {function}\(", file.read_text(), re.MULTILINE)
        ):
            missing.append(name)
    assert missing == []
