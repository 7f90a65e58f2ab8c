"""Third-party vectors and captures that may be read but not copied: the folder beside the project, or IPSEC_FAST_VECTORS."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("IPSEC_FAST_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors")
OWN = Path(__file__).parents[1] / "vectors"  # those that may be copied
needs_vectors = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no third-party vectors in {FOLDER}")


def load(name: str) -> Any:
    """A JSON file of the folder; our copy where the folder is absent; skips the test where there is none."""
    path = FOLDER / name if (FOLDER / name).is_file() else OWN / name
    if not path.is_file():
        pytest.skip(f"no third-party vectors: {path}")
    return json.loads(path.read_text())
