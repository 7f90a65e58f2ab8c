"""A pytest hook that searches the output of every test for the test's secrets, and fails a test that leaks one.

Secrets are the files *.psk and *.key in the test's folder, and each `secret = ...` of configurations there. The hook
searches what the test and its processes printed or logged: as it is, as hexadecimal and as base64. A finding names the
place and never the secret. conftest.py takes the hook from here, so that it covers the whole run.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SECRET_FILES = frozenset((".psk", ".key"))
CONFIGURATIONS = frozenset((".toml", ".conf"))
OUTPUTS = frozenset((".log", ".out", ".err"))
OUTPUT_NAMES = frozenset(("log", "output", "stdout", "stderr"))  # of the daemons in tests/netns and tests/interop
ASSIGNED = re.compile(rb"""^\s*secret\s*=\s*["']?(?:0[xs])?([^"'\n#]+)""", re.MULTILINE)
LEAST_BYTES = 8  # shorter ones may be words
READ_BYTES = 8 << 20
FILES_MAX = 400
KNOWN: set[bytes] = set()  # of tests without a folder


def register(secret: bytes) -> bytes:
    """What a test uses as a secret in memory."""
    KNOWN.add(secret)
    return secret


def secrets_in(folder: Path) -> set[bytes]:
    """What is secret in a test's folder."""
    found: set[bytes] = set()
    for path in _files(folder):
        if path.suffix in SECRET_FILES:
            found.add(_read(path).strip())
        elif path.suffix in CONFIGURATIONS:
            found |= {match.strip() for match in ASSIGNED.findall(_read(path))}
    return {secret for secret in found if len(secret) >= LEAST_BYTES}


def outputs_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What processes of a test wrote, by file."""
    for path in _files(folder):
        if path.suffix in OUTPUTS or path.name in OUTPUT_NAMES:
            yield path.name, _read(path)


def leaks(secrets: set[bytes], outputs: Sequence[tuple[str, bytes]]) -> list[str]:
    """Where a secret is, in some form: one line for each place."""
    forms = {form for secret in secrets for form in forms_of(secret)}
    return [
        f"{name}, line {text[: text.index(form)].count(bytes([10])) + 1}: a secret of this test"
        for name, text in ((name, data.lower()) for name, data in outputs)
        for form in forms
        if form in text
    ]


def forms_of(secret: bytes) -> set[bytes]:
    """As it may be printed, in lower case."""
    text = base64.b64encode(secret)
    spaced = secret.hex(" ").encode()
    return {
        form.lower() for form in (secret, secret.hex().encode(), spaced, text.rstrip(b"="), repr(secret)[2:-1].encode())
    }


def _files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found.append(path)
        if len(found) == FILES_MAX:
            break
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(READ_BYTES)
    except OSError:
        return b""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if call.when == "call" and report.passed:
        outputs = [(name, text.encode(errors="replace")) for name, text in report.sections]
        secrets = set(KNOWN)
        if isinstance(folder, Path) and folder.is_dir():
            secrets |= secrets_in(folder)
            outputs += outputs_in(folder)
        found = leaks(secrets, outputs)
        if found:
            report.outcome = "failed"
            report.longrepr = "\n".join(["secrets in the output of this test:", *found])
    return report
