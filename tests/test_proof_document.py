"""docs/proof.md is what its command prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from third_party import needs_vectors

ROOT = Path(__file__).parents[1]


@needs_vectors
def test_the_tables_are_those_that_the_command_prints():
    command = [sys.executable, ROOT / "tests" / "support" / "proof_table.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs" / "proof.md").read_text().endswith("## Tables\n\n" + done.stdout)
