"""The scan for secrets in a test's output finds each form, does not print them, and fails the test that leaks."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
import secret_scan

SECRET = b"correct horse battery staple"
FORMS = {
    "plain": SECRET,
    "upper": SECRET.upper(),
    "hex": SECRET.hex().encode(),
    "hex-upper": SECRET.hex().upper().encode(),
    "hex-spaced": SECRET.hex(" ").encode(),
    "base64": base64.b64encode(SECRET),
    "repr": repr(SECRET).encode(),
}
SUPPORT = Path(__file__).parent / "support"
TEST = """
from pathlib import Path
def test_it(tmp_path: Path) -> None:
    (tmp_path / "a.psk").write_text("correct horse battery staple")
    (tmp_path / "a.log").write_text("listening\\n{}\\n")
"""


@pytest.mark.parametrize("form", list(FORMS))
def test_a_secret_is_found_in_each_form_and_not_repeated(form: str) -> None:
    output = b"12:00:00 listening\n12:00:01 key " + FORMS[form] + b" taken\n"
    (line,) = set(secret_scan.leaks({SECRET}, [("a.log", output)]))
    assert line == "a.log, line 2: a secret of this test"


def test_output_without_secrets_is_let_through() -> None:
    assert secret_scan.leaks({SECRET}, [("a.log", b"authentication with pre-shared key successful\n" * 1000)]) == []


def test_secrets_are_taken_from_files_and_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.psk").write_bytes(SECRET + b"\n")
    (tmp_path / "a.toml").write_text('[secrets.ike]\nsecret = "another long secret"\n')
    (tmp_path / "swanctl.conf").write_text("secrets {\n ike-1 {\n  secret = 0xdeadbeefdeadbeef\n }\n}\n")
    assert secret_scan.secrets_in(tmp_path) == {SECRET, b"another long secret", b"deadbeefdeadbeef"}


@pytest.mark.parametrize(("line", "code"), [("a.psk: correct horse battery staple", 1), ("nothing to see", 0)])
def test_a_test_whose_gateway_prints_its_secret_fails(tmp_path: Path, line: str, code: int) -> None:
    (tmp_path / "test_inner.py").write_text(TEST.format(line))
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "secret_scan",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*words, "test_inner.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SUPPORT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
    assert ("a.log, line 2" in done.stdout) == bool(code)
    assert "staple" not in done.stdout
