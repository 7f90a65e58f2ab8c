"""Authentication tags are compared in constant time (docs/attacks.md, row 63): `CRYPTO_memcmp` or
`hmac.compare_digest`, and nothing else.

A tag is recognised by its name. Comparisons that only look like one are in ALLOWED, with the reason. Left out: how long
a comparison takes; for that the two functions are trusted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(
    r"(?:^|_)(?:icv|mac|hmac|tag|digest|cookie|auth|verifier|signature)s?(?:$|_(?:store|data|bytes|value))",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
CALLS = re.compile(r"\b(?<!CRYPTO_)(memcmp|bcmp|strcmp|strncmp)\s*\(")
EQUALS = re.compile(r"([\w.\[\]>-]+(?:\([^()]*\))?)\s*(?:==|!=)\s*([\w.\[\]>-]+)")
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]+|None|True|False|\d\w*")
CODE = ("**/*.pyx", "**/*.pxi", "**/*.pxd", "**/*.h")

# (file, what stands in the line): why it is no tag, or no secret
ALLOWED = {
    ("ext/dataplane/worker_path.pxi", "w.cookie"): "names our own echoes in the clear; nothing is authenticated by it",
    ("ext/dataplane/worker_path.pxi", "row.sa.tag == tag"): "control's number of an SA",
    ("ext/dataplane/ipsecmb.pyx", "op.icv == op.aad + op.aad_length"): "two addresses",
    ("ext/dataplane/ipsecmb.pyx", "which, used, tags) == used"): "how many were made",
    ("ipsec_fast/bench/wiretap.py", "digest) != digest"): "finds a repeated IV in a capture",
    ("ipsec_fast/ike/endpoint.py", "tombstone.digest == digest_of(data)"): "finds a repeated message by its plain hash",
    ("ipsec_fast/ike/v2/sa_init_answer.py", "sa.window.last_digest != digest_of(data)"): "the same",
    ("ipsec_fast/ike/v2/window.py", "digest == self.last_digest"): "the same",
    ("ipsec_fast/ike/v2/sa_init.py", "cookie == attempt.cookie"): "the responder's cookie, which it sent us twice",
}


def names_in(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if TAG.search(word) and not word.isupper()]


def without_comments(line: str) -> str:
    return re.sub(r"#(?!\s*(?:define|if|endif|include)).*|//.*|/\*.*?\*/", "", line)


def in_compiled_code(path: Path) -> Iterator[str]:
    """Comparisons of tags in Cython and C."""
    is_c = path.suffix == ".h"
    for line in path.read_text().splitlines():
        code = line if is_c else without_comments(line)
        if is_c and code.lstrip().startswith(("*", "/*")):
            continue
        for found in CALLS.finditer(code):
            arguments = code[found.end() :]
            if '"' not in arguments and names_in(arguments):
                yield line.strip()
        for left, right in EQUALS.findall(code):
            if CONSTANT.fullmatch(right) or CONSTANT.fullmatch(left):
                continue  # a kind, NULL, a number
            if names_in(left.rsplit("(", 1)[0]) or names_in(right):
                yield line.strip()


def in_python(path: Path) -> Iterator[str]:
    """Comparisons of tags in Python, by its syntax tree."""
    source = path.read_text()
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) and not isinstance(side.value, bytes) for side in sides):
            continue  # a kind, a length
        last = [
            side.attr if isinstance(side, ast.Attribute) else side.id if isinstance(side, ast.Name) else ""
            for side in sides
        ]
        if any(TAG.search(name) and not name.isupper() for name in last):
            yield lines[node.lineno - 1].strip()


def banned(path: Path) -> list[str]:
    found = in_python(path) if path.suffix == ".py" else in_compiled_code(path)
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return [line for line in found if not any(file == name and text in line for file, text in ALLOWED)]


def shipped() -> list[Path]:
    compiled = [path for folder in ("ext", "ipsec_fast") for shape in CODE for path in (ROOT / folder).glob(shape)]
    return sorted([*compiled, *(ROOT / "ipsec_fast").rglob("*.py")])


def test_no_tag_is_compared_byte_by_byte() -> None:
    files = shipped()
    assert len(files) > 200
    assert {path.relative_to(ROOT).as_posix(): lines for path in files if (lines := banned(path))} == {}


def test_what_is_allowed_is_still_there() -> None:
    for file, text in ALLOWED:
        assert text in (ROOT / file).read_text(), f"{file}: {text} stands in ALLOWED for nothing"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.pyx", "    op.ok = memcmp(tag, op.icv, 16) == 0\n"),
        ("a.pyx", "    if not memcmp (digest, want, 20):\n"),
        ("a.pxi", "    if bcmp(mac, theirs, 12):\n"),
        ("a.pyx", "    return icv == expected_icv\n"),
        ("a.pyx", "    if op.icv[i] != digest[i]:\n"),
        ("a.h", "    return memcmp(computed, packet->icv, 16) == 0;\n"),
        ("a.h", "    return strncmp(mac, other, 12);\n"),
        ("a.py", "ok = digest == hmac.digest(key, data, 'sha256')\n"),
        ("a.py", "if message.icv != expected:\n    raise ValueError\n"),
        ("a.py", "assert b'abc' == cookie\n"),
        ("a.py", "ok = all(x == y for x, y in pairs) or payload.auth_data == own\n"),
    ],
)
def test_the_ban_finds(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert banned(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.pyx", "    op.ok = CRYPTO_memcmp(tag, op.icv, 16) == 0\n"),
        ("a.pyx", "    if memcmp(header + 12, addresses, 8) == 0:  # the ICV is right\n"),
        ("a.h", "/* memcmp of an icv would tell how much of it is right */\nint icv_length;\n"),
        ("a.pyx", "    if sa.icv_length == 16:\n"),
        ("a.py", "ok = hmac.compare_digest(digest, own)\nif len(mac) == 12 or kind == 'mac':\n    pass\n"),
    ],
)
def test_the_ban_lets_through(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert banned(file) == []
