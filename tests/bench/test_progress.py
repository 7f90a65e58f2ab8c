"""The bar is on stderr, on a terminal alone, and never where somebody reads JSON; stdout holds the rows and nothing else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

BENCH = "-m ipsec_fast bench esp --seconds 0.001 --algorithm aes128gcm16 --size 64"
WORDS = [sys.executable, *BENCH.split()]


def run_on_a_terminal(*more: str) -> tuple[str, str]:
    """(stdout, what the terminal got) of a run whose stderr is a terminal and whose stdout is a pipe."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*WORDS, *more], stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm"}
        )
        os.close(slave)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        seen = b""
        try:
            while chunk := os.read(master, 65536):
                seen += chunk
        except OSError:  # the last one that had the terminal open is gone
            pass
        assert process.wait() == 0
        return out, seen.decode()
    finally:
        os.close(master)


def test_a_terminal_gets_a_bar_and_stdout_the_rows_alone() -> None:
    out, seen = run_on_a_terminal()
    assert "aes128gcm16" in seen
    assert "4/4" in seen
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2 + 4 + 1  # the last line is what a call costs


def test_with_json_there_is_no_bar() -> None:
    out, seen = run_on_a_terminal("--json")
    assert seen == ""
    assert out.startswith("{")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_without_a_terminal_stderr_is_silent(more: list[str]) -> None:
    done = subprocess.run([*WORDS, *more], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
