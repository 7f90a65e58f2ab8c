"""help() of compiled classes and functions says what the .pyi files say, which is not visible at a prompt."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
INTERFACES = sorted(
    path
    for path in ROOT.glob("ipsec_fast/*/*.pyi")
    if (ROOT / "ext" / path.parent.name / f"{path.stem}.pyx").exists() and path.stem != "ipsecmb"
)


def squeezed(text: str | None) -> str:
    return " ".join((text or "").split())


def told(thing: Any) -> str:
    """Its docstring, the signature on top of it and all."""
    return squeezed(inspect.getdoc(thing))


def attribute_notes(source: list[str], body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Annotated names, and what the comment or the string behind them says."""
    for node, behind in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        note = source[node.lineno - 1].partition("#")[2]
        if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
            note = str(behind.value.value)
        yield node.target.id, squeezed(note)


def complaints(interface: Path) -> Iterator[str]:
    text = interface.read_text()
    source, tree = text.splitlines(), ast.parse(text)
    module = importlib.import_module(f"ipsec_fast.{interface.parent.name}.{interface.stem}")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from of_function(node, getattr(module, node.name), node.name)
        if isinstance(node, ast.ClassDef):
            yield from of_class(node, source, getattr(module, node.name))


def of_function(node: ast.FunctionDef, thing: Any, name: str) -> Iterator[str]:
    wanted = squeezed(ast.get_docstring(node))
    if not wanted or wanted not in told(thing):
        yield f"{name}: {wanted or 'no text in the .pyi'!r} is not in {told(thing)!r}"


def of_class(node: ast.ClassDef, source: list[str], cls: Any) -> Iterator[str]:
    wanted = squeezed(ast.get_docstring(node))
    if not wanted or wanted not in told(cls):
        yield f"{node.name}: {wanted!r} is not in {told(cls)!r}"
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__" and ast.get_docstring(one):
            yield f"{node.name}.__init__: its text belongs to the class, where help() shows it"
        if isinstance(one, ast.FunctionDef) and not one.name.startswith("__"):
            is_member = inspect.isgetsetdescriptor(getattr(cls, one.name)) and not ast.get_docstring(one)
            if not (is_member and (told(getattr(cls, one.name)) or one.name in told(cls))):
                yield from of_function(one, getattr(cls, one.name), f"{node.name}.{one.name}")
    for name, note in attribute_notes(source, node.body):
        found = told(getattr(cls, name, None))
        if note and note.rstrip(".").lower() not in f"{found} {told(cls)}".lower():
            yield f"{node.name}.{name}: {note!r} is in neither {found!r} nor the text of the class"
        if not found and name not in told(cls):
            yield f"{node.name}.{name}: not a word about it"


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_help_holds_what_the_interface_file_says(interface: Path) -> None:
    assert list(complaints(interface)) == []


def test_no_text_sends_the_reader_to_an_interface_file() -> None:
    for path in [*ROOT.glob("ext/*/*.pyx"), *ROOT.glob("ext/*/*.pxi")]:
        assert '"""See ' not in path.read_text(), path
        assert ".pyi tells" not in path.read_text(), path
