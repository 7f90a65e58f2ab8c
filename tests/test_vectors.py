"""The vectors in tests/vectors: which there are, where they came from, and that they are what the larger folder has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from third_party import FOLDER, OWN, needs_vectors

FILES = sorted(OWN.glob("*.json"))


def vectors(path: Path) -> list[dict]:
    return json.loads(path.read_text())["vectors"]


def test_the_table_of_the_readme_is_right():
    rows = re.findall(r"^\| (\S+\.json) \| (\d+) \|", (OWN / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == [(path.name, str(len(vectors(path)))) for path in FILES]
    for path in FILES:
        document = json.loads(path.read_text())
        assert "source" in document or all("RFC" in vector["source"] and vector["licence"] for vector in vectors(path))


@needs_vectors
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_the_one_of_the_larger_folder(path):
    theirs = {vector["id"]: vector for vector in vectors(FOLDER / path.name)}
    assert all(theirs[vector["id"]] == vector for vector in vectors(path))
