"""docs/library.md: every name in it exists, its Python compiles and runs as far as it goes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import ipsec_fast
from ipsec_fast import SA

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "library.md").read_text()


def test_its_python_runs():
    names = {"key": bytes(20), "PacketBatch": ipsec_fast.PacketBatch}
    first, second, sad, third = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(first, "library.md", "exec"), names)
    names |= {"buffer": np.zeros(256, np.uint8), "sas": names["into"], "verdicts": np.zeros(1, np.uint8)}
    names |= {"offsets": np.zeros(1, np.uint32), "lengths": np.zeros(1, np.uint32)}
    exec(compile(second, "library.md", "exec"), names)
    assert len(names["batch"]) == 1
    exec(compile(sad, "library.md", "exec"), names)
    assert "SAs of <SAD of 1 SAs>" in repr(names["batch"])
    names["key"] = bytes(64)
    exec(compile(third, "library.md", "exec"), names)
    names["crew"].stop()
    assert names["out"].crew == names["crew"].size


def test_every_name_is_there():
    called = set(re.findall(r"`(\w+)\(", TEXT)) - {"help"}
    assert called <= set(ipsec_fast.__all__), called - set(ipsec_fast.__all__)
    for attribute in set(re.findall(r"`sa\.(\w+)", TEXT)) - {"hot"}:
        assert hasattr(SA, attribute), attribute
    for path in re.findall(r"(?:docs|tests)/[\w/.]+", TEXT):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_its_cython_names_what_the_headers_have():
    for module, names in re.findall(r"from (ipsec_fast[\w.]+) cimport (.+)", TEXT):
        header = ROOT.joinpath(*module.split(".")).with_suffix(".pxd").read_text()
        for name in names.split(", "):
            assert re.search(rf"\b{name}\b", header), (module, name)
