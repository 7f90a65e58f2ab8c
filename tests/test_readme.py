"""What the README tells a newcomer to type is what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsec_fast.gateway.config import load_config

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return text


def test_the_configuration_is_accepted(tmp_path: Path) -> None:
    psk = tmp_path / "paris.psk"
    psk.write_text("vN2xq8Zt0mRf4Kc7Yp1Lw9Hs3Bd6Gj5A\n")
    psk.chmod(0o600)
    (tmp_path / "site.toml").write_text(block("toml"))
    loaded = load_config(tmp_path / "site.toml")
    try:
        assert loaded.start == (("paris", "net"),)
        assert not loaded.warnings
    finally:
        for one in loaded.secrets:
            one.secret.close()


def test_the_script_seals_and_opens(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "32\n32\n"


def test_swanctl_is_given_its_command_first() -> None:
    assert re.search(r"swanctl --list-sas --uri unix://", README)
    assert not re.search(r"swanctl --uri", README)
