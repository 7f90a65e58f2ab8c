"""What docs/mtu.md shows is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsec_fast.cli import main
from ipsec_fast.dataplane.port import COUNTER_NAMES
from tests.support.fake_control import running_server

TEXT = (Path(__file__).parents[1] / "docs" / "mtu.md").read_text()


def test_the_samples_are_the_commands_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples = re.findall(r"```\n\$ ipsec-fast (mtu [^\n]*)\n(.*?)```", TEXT, re.DOTALL)
    assert samples
    with running_server(str(tmp_path / "v")):
        for words, shown in samples:
            name = not words.startswith("mtu -")
            assert main([*words.split(), *(("--socket", str(tmp_path / "v")) if name else ())]) == 0
            assert capsys.readouterr().out == shown


def test_its_counters_and_options_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    main(["mtu", "--help"])
    text = capsys.readouterr().out
    options = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert {one for one in options if one not in text} == set()
    assert {"mss_clamped", "mss_odd", "too_big_answered", "too_big_unanswered", "outer_fragments"} <= set(COUNTER_NAMES)
