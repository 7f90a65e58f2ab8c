"""Imports point down only (ARCHITECTURE: the house), for `import` and `cimport` alike; ike, dataplane and system are strangers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# lower number = lower layer; equal numbers are strangers to each other
LAYERS = {
    "errors": 0, "iana": 0, "algorithms": 0, "model": 0,
    "crypto": 1,
    "ike": 2, "dataplane": 2, "system": 2,
    "policy": 3, "control": 4, "gateway": 5,
    "cli": 6, "demo": 6, "decrypt": 6, "bench": 6,
}  # fmt: skip
WORDS = {"errors", "iana", "algorithms", "model"}
# the library's face re-exports; it stands above the dataplane
FACE = {"__init__", "__main__"}
ABSOLUTE = re.compile(
    r"^\s*(?:from\s+ipsec_fast(?:\.(\w+))?[\w.]*\s+(?:c?import)\s+(.+)|c?import\s+ipsec_fast\.(\w+))", re.MULTILINE
)
RELATIVE = re.compile(r"^\s*from\s+(\.+)([\w.]*)\s+c?import\s+(.+)", re.MULTILINE)
SOURCES = sorted(
    path
    for folder in ("ipsec_fast", "ext")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".pxd", ".pyx"}
)


def parts_of(path: Path) -> tuple[str, ...]:
    """ext/dataplane/esp.pyx and ipsec_fast/dataplane/esp.pxd are the same module: ("dataplane", "esp")."""
    return path.relative_to(ROOT).with_suffix("").parts[1:]


def imported_layers(text: str, parts: tuple[str, ...]) -> set[str]:
    found = set()
    for package, names, plain in ABSOLUTE.findall(text):
        found |= (
            {package or plain}
            if package or plain
            else {name.split()[0].strip("(),") for name in names.split(",") if name.split()}
        )
    for dots, package, names in RELATIVE.findall(text):
        base = parts[: len(parts) - len(dots)]
        target = (*base, *filter(None, package.split(".")))
        found |= {target[0]} if target else {name.split()[0].strip("(),") for name in names.split(",") if name.split()}
    return found & LAYERS.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(parts_of(path)))
def test_imports_point_down_only(path: Path) -> None:
    parts = parts_of(path)
    if parts[0] in FACE:
        return
    assert parts[0] in LAYERS, f"{path}: a new top name needs its layer here and in the architecture"
    for imported in imported_layers(path.read_text(), parts) - {parts[0]}:
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
        (("dataplane", "esp"), "    from ipsec_fast import gateway", {"gateway"}),
    ],
)
def test_layer_test_sees_every_form_of_import(parts: tuple[str, ...], line: str, expected: set[str]) -> None:
    assert imported_layers(line, parts) == expected
