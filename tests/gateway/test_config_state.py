"""`state_dir`, `state_mark`, `state_key`: keys that others may read, credentials, defaults that two gateways do not share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipsec_fast.crypto.secret import reveal_for_test
from ipsec_fast.errors import ConfigError, SecretError
from ipsec_fast.gateway.config import GatewaySettings, LoadedConfig, load_config
from ipsec_fast.gateway.config_state import CREDENTIAL, DEFAULT_STATE_DIR, default_state_dir, read_state_key
from ipsec_fast.gateway.vici import DEFAULT_SOCKET

KEY = b"k" * 44


def key_file(folder: Path, name: str = "state.key", *, data: bytes = KEY, mode: int = 0o600) -> Path:
    (folder / name).write_bytes(data)
    (folder / name).chmod(mode)
    return folder / name


@pytest.fixture(autouse=True)
def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def loaded(folder: Path, text: str) -> LoadedConfig:
    (folder / "site.toml").write_text(f"[gateway]\n{text}\n")
    return load_config(folder / "site.toml")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    key_file(tmp_path, mode=mode)
    with pytest.raises(ConfigError, match=r"gateway\.state_key: .*may be read or changed by others .*chmod 600"):
        loaded(tmp_path, 'state_key = "state.key"')


def test_a_short_key_is_refused_and_one_of_32_bytes_is_taken(tmp_path: Path) -> None:
    key_file(tmp_path, data=b"x" * 31 + b"\n")
    with pytest.raises(ConfigError, match="holds 31 bytes; it must hold at least 32"):
        loaded(tmp_path, 'state_key = "state.key"')
    key_file(tmp_path, data=b"x" * 32 + b"\n")
    key = loaded(tmp_path, 'state_key = "state.key"').state_key
    assert key is not None
    assert reveal_for_test(key) == b"x" * 32


def test_a_directory_or_pipe_for_a_key_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in (".", "pipe"):
        with pytest.raises(ConfigError, match="not a regular file"):
            loaded(tmp_path, f'state_key = "{name}"')


@pytest.mark.parametrize("mode", [0o444, 0o460])
def test_a_credential_that_everybody_may_read_or_the_group_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    key_file(tmp_path, CREDENTIAL, mode=mode)
    with pytest.raises(SecretError, match="by others"):
        read_state_key(None, tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_the_service_manager_s_credential_counts_where_no_file_is_named(tmp_path: Path, mode: int) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_state_key(None, tmp_path, environment) is None
    key_file(tmp_path, CREDENTIAL, mode=mode)
    found = read_state_key(None, Path("/"), environment)
    assert found is not None
    assert reveal_for_test(found) == KEY
    key_file(tmp_path, data=b"f" * 32)
    named = read_state_key("state.key", tmp_path, environment)
    assert named is not None
    assert reveal_for_test(named) == b"f" * 32


def test_no_key_means_none(tmp_path: Path) -> None:
    assert loaded(tmp_path, "").state_key is None
    assert read_state_key(None, tmp_path, {}) is None


def test_the_default_directory_goes_with_the_control_socket(tmp_path: Path) -> None:
    assert GatewaySettings().state_dir == default_state_dir(DEFAULT_SOCKET) == DEFAULT_STATE_DIR
    assert default_state_dir("/run/b.vici") == "/run/b.state"
    assert default_state_dir("/run/b/socket") == "/run/b/socket.state"
    assert loaded(tmp_path, 'socket = "/run/b.vici"').settings.state_dir == "/run/b.state"
    assert loaded(tmp_path, "").settings.state_mark is None


def test_what_is_written_is_taken(tmp_path: Path) -> None:
    settings = loaded(tmp_path, 'socket = "/run/b.vici"\nstate_dir = "/srv/x/"\nstate_mark = "/srv/x.other"').settings
    assert (settings.state_dir, settings.state_mark) == ("/srv/x", "/srv/x.other")


def test_a_key_is_closed_where_the_rest_of_the_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipsec_fast.gateway import config

    key_file(tmp_path)
    seen = []
    monkeypatch.setattr(config, "read_state_key", lambda *a: seen.append(read_state_key(*a)) or seen[-1])
    with pytest.raises(ConfigError):
        loaded(tmp_path, 'state_key = "state.key"\n[connections.a]')
    assert seen[0].closed
