"""How many selectors one child may have: a TS payload counts them in one byte (RFC 7296 section 3.13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config import load_config
from ipsec_fast.gateway.config_load import parse_connection

SITE = """
[connections.paris]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
local = {{ auth = "psk", id = "london.example" }}
remote = {{ auth = "psk", id = "paris.example" }}
[connections.paris.children.net]
local_ts = [{local}]
remote_ts = [{remote}]
start_action = "{start}"
[secrets.ike-paris]
file = "paris.psk"
"""


def hosts(count: int) -> list[str]:
    """No two are neighbours."""
    return [f"10.2.{i // 100}.{2 * (i % 100)}/32" for i in range(count)]


def problems(folder: Path, local: list[str], remote: list[str], start: str = "none") -> str:
    (folder / "paris.psk").write_text("correct horse battery staple\n")
    (folder / "paris.psk").chmod(0o600)
    quoted = {side: ", ".join(f'"{ts}"' for ts in tss) for side, tss in (("local", local), ("remote", remote))}
    file = folder / "site.toml"
    file.write_text(SITE.format(**quoted, start=start))
    file.chmod(0o600)
    try:
        load_config(file)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("count", [256, 257, 300, 1000])
@pytest.mark.parametrize("side", ["local_ts", "remote_ts"])
def test_more_than_255_are_refused_with_the_number(tmp_path: Path, count: int, side: str) -> None:
    many, one = hosts(count), ["10.1.0.0/24"]
    text = problems(tmp_path, many, one) if side == "local_ts" else problems(tmp_path, one, many)
    assert f"connections.paris.children.net.{side}: has {count} selectors; at most 255 fit into one Child SA" in text
    assert "split it into several children" in text


@pytest.mark.parametrize("start", ["none", "start"])
def test_255_are_taken(tmp_path: Path, start: str) -> None:
    assert problems(tmp_path, ["10.1.0.0/24"], hosts(255), start) == ""


@pytest.mark.parametrize("start", ["trap", "trap|start"])
def test_a_trap_needs_one_place_for_the_packet_that_begins_it(tmp_path: Path, start: str) -> None:
    assert problems(tmp_path, ["10.1.0.0/24"], hosts(254), start) == ""
    text = problems(tmp_path, ["10.1.0.0/24"], hosts(255), start)
    assert "remote_ts: has 255 selectors; at most 254 fit into one Child SA" in text
    assert "one more place is for the packet" in text


def test_neighbours_are_joined_before_anything_is_refused(tmp_path: Path) -> None:
    nets = [f"10.{2 + i // 250}.{i % 250}.0/24" for i in range(300)]
    assert problems(tmp_path, ["10.1.0.0/24"], nets, "trap") == ""
    mixed = nets[:10] + hosts(300)[50:]
    text = problems(tmp_path, ["192.168.1.0/24"], mixed[:300])
    assert text == ""
    apart = [f"10.{100 + i // 120}.{2 * (i % 120)}.0/24" for i in range(290)] + ["10.200.0.0/24", "10.200.1.0/24"]
    assert "has 292 selectors, 291 where neighbours are joined; at most 255" in problems(
        tmp_path, ["10.1.0.0/24"], apart
    )


def test_load_conn_refuses_them_with_the_same_words() -> None:
    section = {
        "local_addrs": ["192.0.2.1"],
        "remote_addrs": ["192.0.2.2"],
        "local-1": {"auth": "psk", "id": "london.example"},
        "remote-1": {"auth": "psk", "id": "paris.example"},
        "children": {"net": {"local_ts": ["10.1.0.0/24"], "remote_ts": hosts(300)}},
    }
    with pytest.raises(ConfigError, match=r"children\.net\.remote_ts: has 300 selectors; at most 255 fit"):
        parse_connection("paris", section)
    section["children"]["net"] |= {"remote_ts": hosts(255), "start_action": "trap"}
    with pytest.raises(ConfigError, match=r"has 255 selectors; at most 254 fit"):
        parse_connection("paris", section)
