"""bench/bump.py runs, and its JSON has every path in both layouts; how fast is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ipsec_fast.dataplane.engine import engines

ROOT = Path(__file__).parents[2]


@pytest.mark.netns
def test_every_path_is_measured_in_both_layouts() -> None:
    words = [sys.executable, str(ROOT / "bench" / "bump.py"), "--rounds", "1", "--seconds", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    paths = [("veth", None), *(("bump", engine) for engine in engines())]
    assert [(r["path"], r["engine"], r["pinned"]) for r in results] == [
        (*p, pinned) for pinned in (True, False) for p in paths
    ]
    assert all(r["tcp1_gbit_per_s"] > 0 for r in results)
