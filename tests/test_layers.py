"""Imports point down only (ARCHITECTURE: the house), for `import` and `cimport` alike; ike, dataplane and system are strangers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# lower number = lower layer; equal numbers are strangers to each other
LAYERS = {
    "errors": 0, "iana": 0, "algorithms": 0, "model": 0,
    "crypto": 1,
    "ike": 2, "dataplane": 2, "system": 2,
    "policy": 3, "control": 4, "gateway": 5,
    "cli": 6, "demo": 6, "decrypt": 6,
    "bench": 7,  # a face like them; its scenarios stand on the demo's namespaces and gateways
}  # fmt: skip
WORDS = {"errors", "iana", "algorithms", "model"}
# the library's face re-exports; it stands above the dataplane
FACE = {"__init__", "__main__"}
# Cython's own grammar has no parser at hand: its import lines are found by shape, brackets and continuations joined first
FROM = re.compile(r"^[ \t]*from\s+(\.*)([\w.]*)\s+c?import\s+(.+)", re.MULTILINE)
PLAIN = re.compile(r"^[ \t]*c?import\s+(.+)", re.MULTILINE)
SOURCES = sorted(
    path
    for folder in ("ipsec_fast", "ext")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".pxd", ".pyx", ".pxi"}
)


def parts_of(path: Path) -> tuple[str, ...]:
    """ext/dataplane/esp.pyx and ipsec_fast/dataplane/esp.pxd are the same module: ("dataplane", "esp")."""
    return path.relative_to(ROOT).with_suffix("").parts[1:]


def imported_layers(text: str, parts: tuple[str, ...], *, cython: bool) -> set[str]:
    """The top names under ipsec_fast that a source imports, wherever in it the import stands."""
    imports = cython_imports(text) if cython else python_imports(text)
    found: set[str] = set()
    for dots, module, names in imports:
        if dots:
            target = (*parts[: len(parts) - dots], *filter(None, module.split(".")))
        elif module.split(".")[0] == "ipsec_fast":
            target = tuple(module.split(".")[1:])
        else:
            continue
        found |= {target[0]} if target else set(names)
    return found & LAYERS.keys()


def python_imports(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """(leading dots, module, names) of each import."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)


def cython_imports(text: str) -> Iterator[tuple[int, str, list[str]]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"#.*", "", text))
    joined = re.sub(r"import\s*\(([^)]*)\)", lambda m: "import " + m[1].replace("\n", " "), joined)
    for dots, module, names in FROM.findall(joined):
        yield len(dots), module, [name.split()[0] for name in names.split(",") if name.split()]
    for modules in PLAIN.findall(joined):
        yield from ((0, module.split()[0], []) for module in modules.split(",") if module.split())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(parts_of(path)))
def test_imports_point_down_only(path: Path) -> None:
    parts = parts_of(path)
    if parts[0] in FACE:
        return
    assert parts[0] in LAYERS, f"{path}: a new top name needs its layer here and in the architecture"
    is_cython = path.suffix in {".pyx", ".pxd", ".pxi"}
    for imported in imported_layers(path.read_text(), parts, cython=is_cython) - {parts[0]}:
        allowed = LAYERS[imported] < LAYERS[parts[0]] or (imported in WORDS and parts[0] in WORDS)
        assert allowed, f"{path} (layer {parts[0]}) imports {imported}, which is not below it"


@pytest.mark.parametrize(
    ("parts", "line", "expected"),
    [
        (("ike", "v2", "ike_sa"), "from ...model import Path", {"model"}),
        (("ike", "endpoint"), "from ..dataplane import sad", {"dataplane"}),
        (("ike", "endpoint"), "from .. import dataplane, errors", {"dataplane", "errors"}),
        (("dataplane", "esp"), "from ipsec_fast.control.manager cimport x", {"control"}),
        (("dataplane", "esp"), "cimport ipsec_fast.crypto.secret", {"crypto"}),
        (("dataplane", "esp"), "if 1:\n    from ipsec_fast import gateway", {"gateway"}),
        (
            ("dataplane", "esp"),
            "from ipsec_fast import (\n    model,  # why\n    gateway as g,\n)",
            {"model", "gateway"},
        ),
        (("ike", "endpoint"), "from .. import \\\n    dataplane", {"dataplane"}),
        (("ike", "endpoint"), "import os, ipsec_fast.gateway.config as c", {"gateway"}),
        (("ike", "endpoint"), "from . import config\nfrom .v2 import rules\nfrom struct import Struct", {"ike"}),
        (("ike", "endpoint"), "# from ..dataplane import sad", set()),
    ],
)
def test_layer_test_sees_every_form_of_import(parts: tuple[str, ...], line: str, expected: set[str]) -> None:
    assert imported_layers(line, parts, cython=True) == expected
    if "cimport" not in line:
        assert imported_layers(line, parts, cython=False) == expected


def test_layer_test_reads_sources() -> None:
    assert len(SOURCES) > 50
