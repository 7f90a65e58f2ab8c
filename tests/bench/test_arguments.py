"""The command line of `ipsec-fast bench`: each benchmark has its own arguments, and what is wrong is one line, said first."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench.arguments import BENCHES, command_words, within
from ipsec_fast.errors import UsageError

ROOT = Path(__file__).parents[2]
IN_MEMORY = "ike --path endpoints"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    bench.add_arguments(made)
    return made


@pytest.mark.parametrize(
    "words",
    [
        "",
        "moon",
        "esp --engine abacus",
        "esp --size 0",
        "esp --batch 5000",
        "esp --sas 5",
        "esp --seconds x",
        "crypto --algorithm rot13",
        "imix --mix 3",
        "imix --mix 0x64",
        "imix --mix 1x10",
        "imix --mix 4095x64,4x32 --batch 4096",
        "imix --batch 0",
        "sa-scale --batch 4",
        "gateway --rounds 0",
        "gateway --path moon",
        "gateway --layout sideways",
        "gateway --report /run/x.png",
        "ike --rounds 0",
        "ike --parallel 99",
        "ike --proposal rot13",
        "ike --path endpoints --responder charon",
        f"{IN_MEMORY} --seconds nan",
        "rekey --peer nobody",
        "crash --kills 0",
        "gate --baseline /nonexistent/baseline.json",
        "gate --record /nonexistent/baseline.json",
        "gate --record a --baseline b",
        f"{IN_MEMORY} --report speed.pdf",
        f"{IN_MEMORY} --report /nonexistent/speed.png",
        f"{IN_MEMORY} --report /",
    ],
)
def test_bad_usage_is_one_line_and_exit_2(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ipsec_fast", "bench", *words.split()], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("ipsec-fast: ")


@pytest.mark.parametrize("name", BENCHES)
def test_help_shows_the_own_arguments_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([name, "--help"])
    text = capsys.readouterr().out
    own = argparse.ArgumentParser(add_help=False)
    BENCHES[name].add(own)
    shown = set(re.findall(r"^  (?:-h, )?(--[a-z]+)", text, re.MULTILINE))
    wanted = set(re.findall(r"--[a-z]+", own.format_usage())) | {"--json", "--help"}
    assert shown == (wanted if name == "gate" else wanted | {"--report"})


def test_every_command_line_of_the_documents_is_accepted() -> None:
    found = []
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in re.findall(r"ipsec-fast bench ([a-z][^`#\n]*)", path.read_text()):
            words = re.sub(r"[\[\]]|\.\.\.", " ", line)
            words = (
                re.sub(r"\b(N|S|BYTES|PPS)\b", "5", words).replace("FILE.html|.png", "x.png").replace("FILE", "x.png")
            )
            words = re.sub(r"\|\w+", "", words)
            found.append(words)
            parser().parse_args(shlex.split(words))
    assert len(found) > 10


@pytest.mark.parametrize(
    "words",
    [
        "esp --algorithm aes128gcm16 --algorithm null-sha256 --size 64 --batch 4 --engine openssl --seconds 0.25 --json",
        "gateway --path veth --path null --layout free --rounds 7 --report a/b.html",
        "rekey --peer ours --child 3 --ike 0 --rate 500 --seconds 2 --workers 2",
        "crash --kills 3",
        "ike --path gateways --responder charon --proposal aes128gcm16-prfsha256-x25519 --parallel 2",
    ],
)
def test_the_copy_inside_namespaces_gets_the_same_arguments(words: str) -> None:
    once = parser().parse_args(words.split())
    again = parser().parse_args(command_words(once))
    assert vars(once) == vars(again)


@pytest.mark.parametrize("value", [0, 101, float("nan")])
def test_a_number_out_of_range_says_what_is_possible(value: float) -> None:
    with pytest.raises(UsageError, match=r"--rounds .*: 1 to 100 are possible"):
        within("rounds", value, 1, 100)
    within("rounds", 100, 1, 100)
