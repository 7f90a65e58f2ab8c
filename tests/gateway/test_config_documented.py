"""docs/configuration.md names every key that the models know, and its example is a file that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsec_fast.gateway.config import load_config
from ipsec_fast.gateway.config_model import ChildSection, ConnectionSection, GatewaySection, SecretSection

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize("model", [GatewaySection, ConnectionSection, ChildSection, SecretSection])
def test_every_key_is_documented(model: type[GatewaySection]) -> None:
    for key in model.model_fields.keys() - {"children"}:
        assert f"`{key}`" in TEXT, key


def test_the_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    (tmp_path / "site.toml").write_text(example[1])
    secret = tmp_path / "paris.psk"
    secret.write_text("0123456789abcdef\n")
    secret.chmod(0o600)
    assert load_config(tmp_path / "site.toml").start == (("paris", "net"),)
