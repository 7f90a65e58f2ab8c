"""The peers of a connection: a missing identity, our own identity as the peer's, networks that peers may share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config import LoadedConfig, load_config
from ipsec_fast.gateway.config_load import parse_connection


def load(folder: Path, connection: str, child: str = "") -> LoadedConfig:
    (folder / "a.psk").write_text("0123456789abcdefghij")
    (folder / "a.psk").chmod(0o600)
    text = f'[connections.a]\n{connection}\n[connections.a.children.net]\nremote_ts = "10.0.0.0/8"\n{child}\n'
    (folder / "site.toml").write_text(f'{text}[secrets.ike]\nfile = "a.psk"\n')
    return load_config(folder / "site.toml")


def problems(folder: Path, connection: str, child: str = "") -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, connection, child)
    return {one.path: one.message for one in caught.value.problems}


US = 'local = { auth = "psk", id = "a.example" }'


@pytest.mark.parametrize("addresses", ["", 'remote_addrs = "%any"\n', 'local_addrs = "192.0.2.1"\n'])
def test_without_id_and_addresses_of_the_peer_a_psk_is_refused_and_the_line_to_add_named(tmp_path, addresses) -> None:
    found = problems(tmp_path, f'{addresses}{US}\nremote = {{ auth = "psk" }}')
    assert list(found) == ["connections.a.remote"]
    assert 'id = "%any"' in found["connections.a.remote"]
    assert "remote_addrs" in found["connections.a.remote"]


@pytest.mark.parametrize(
    "connection",
    [
        f'{US}\nremote = {{ auth = "psk", id = "%any" }}',
        f'{US}\nremote-1 = {{ auth = "psk", id = "%any" }}',
        f'{US}\nremote = {{ auth = "psk", id = "b.example" }}',
        f'remote_addrs = "192.0.2.2"\n{US}\nremote = {{ auth = "psk" }}',
    ],
)
def test_what_says_who_is_meant_loads(tmp_path: Path, connection: str) -> None:
    assert load(tmp_path, connection).connections[0].name == "a"


def test_load_conn_wants_the_same() -> None:
    sides = {"local": {"auth": "psk"}, "remote": {"auth": "psk"}}
    with pytest.raises(ConfigError, match=r'connections\.x\.remote: without an id .* id = "%any"'):
        parse_connection("x", sides)
    sides["remote"]["id"] = "%any"
    assert parse_connection("x", sides).connection.remote_id is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("a.example", "a.example"),
        ("a.example", "@A.example"),
        ("fqdn:a.example", "dns:a.example"),
        ("@#0a0b", "@#0A0B"),
        ("ops@a.example", "email:ops@a.example"),
        (None, "192.0.2.1"),
    ],
)
def test_our_own_identity_in_the_peers_place_is_refused(tmp_path: Path, ours: str | None, theirs: str) -> None:
    own = f', id = "{ours}"' if ours else ""
    sides = f'local_addrs = "192.0.2.1"\nlocal = {{ auth = "psk"{own} }}\nremote = {{ auth = "psk", id = "{theirs}" }}'
    assert "is our own identity" in problems(tmp_path, sides)["connections.a.remote.id"]


@pytest.mark.parametrize(("word", "allowed"), [("", False), ("refuse", False), ("allow", True)])
def test_overlap_is_refused_unless_it_is_allowed(tmp_path: Path, word: str, allowed: bool) -> None:
    both = f'{US}\nremote = {{ auth = "psk", id = "%any" }}'
    child = f'overlap = "{word}"' if word else ""
    assert load(tmp_path, both, child).connections[0].children[0].overlap is allowed


@pytest.mark.parametrize("value", ['"yes"', "true", "1", '""', "[]"])
def test_another_word_for_overlap_is_refused(tmp_path: Path, value: str) -> None:
    both = f'{US}\nremote = {{ auth = "psk", id = "%any" }}'
    assert '"allow"' in problems(tmp_path, both, f"overlap = {value}")["connections.a.children.net.overlap"]
