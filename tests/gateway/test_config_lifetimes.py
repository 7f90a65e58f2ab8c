"""Lifetimes in the configuration: strongSwan's keys, spellings and defaults; what cannot work is refused with a value that would."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config import LoadedConfig, load_config
from ipsec_fast.gateway.config_fields import parse_bytes, parse_packets, parse_seconds
from ipsec_fast.ike.lifetimes import ChildLifetimes, IkeLifetimes, Limits, count_limits, ike_lifetimes, time_limits

SITE = """
[connections.a]
remote_addrs = "192.0.2.2"
{connection}
local = {{ auth = "psk", id = "a.example" }}
remote = {{ auth = "psk", id = "b.example" }}
[connections.a.children.net]
remote_ts = "10.2.0.0/24"
{child}
[secrets.ike]
file = "a.psk"
"""
BAD_CHILD = [
    ('life_time = "30m"', "life_time", "1800s is not more than rekey_time, 3600s", "3960s"),
    ('rekey_time = "1h"\nrand_time = "1h"', "rand_time", "3600s may be taken off rekey_time, 3600s", "1800s"),
    ('rekey_bytes = "1g"\nlife_bytes = "1g"', "life_bytes", "not more than rekey_bytes", "1181116007"),
    ('rekey_bytes = "1k"\nrand_bytes = "2k"', "rand_bytes", "2048 may be taken off rekey_bytes, 1024", "512"),
    ("rekey_packets = 100\nlife_packets = 99", "life_packets", "99 is not more than rekey_packets, 100", "110"),
    ("rekey_packets = 100\nrand_packets = 100", "rand_packets", "nothing is left", "at most 50"),
]
BAD_CONNECTION = [
    ('over_time = "0"', "over_time", "ends the IKE SA when its rekey has only begun", "leave it out"),
    ('rekey_time = "1m"\nrand_time = "1m"', "rand_time", "60s may be taken off rekey_time, 60s", "30s"),
    ('reauth_time = "1m"\nrand_time = "2m"', "rand_time", "120s may be taken off reauth_time, 60s", "30s"),
]


def load(folder: Path, connection: str = "", child: str = "") -> LoadedConfig:
    secret = folder / "a.psk"
    secret.write_text("0123456789abcdef")
    secret.chmod(0o600)
    (folder / "a.toml").write_text(SITE.format(connection=connection, child=child))
    return load_config(folder / "a.toml")


@pytest.mark.parametrize(("text", "key", "what", "right"), BAD_CHILD)
def test_impossible_lifetimes_of_a_child(tmp_path: Path, text: str, key: str, what: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, child=text)
    (problem,) = caught.value.problems
    assert problem.path == f"connections.a.children.net.{key}"
    assert what in problem.message
    assert right in problem.message


@pytest.mark.parametrize(("text", "key", "what", "right"), BAD_CONNECTION)
def test_impossible_lifetimes_of_a_connection(tmp_path: Path, text: str, key: str, what: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, connection=text)
    (problem,) = caught.value.problems
    assert problem.path == f"connections.a.{key}"
    assert what in problem.message
    assert right in problem.message


@pytest.mark.parametrize("value", ["1t", "-1", "1.5k", "k", "", True, 1.0, None, str(1 << 63), "8589934592g"])
def test_no_number_of_bytes(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_bytes(value)


@pytest.mark.parametrize("value", ["1k", "-1", "1.5", "", True, 2.0])
def test_no_number_of_packets(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_packets(value)


def test_suffixes_are_strongswan_s() -> None:
    assert [parse_bytes(v) for v in (7, "7", "1k", "1K", "2 m", "3g", "3G")] == [
        7, 7, 1 << 10, 1 << 10, 2 << 20, 3 << 30, 3 << 30,
    ]  # fmt: skip
    assert [parse_seconds(v) for v in ("5S", "2M", "1H", "1D")] == [5, 120, 3600, 86400]


def test_defaults_are_strongswan_s(tmp_path: Path) -> None:
    (connection,) = load(tmp_path).connections
    assert connection.lifetimes == IkeLifetimes(14400, 0, 1440, 1440)
    assert connection.children[0].lifetimes == ChildLifetimes(Limits(3600, 3960, 360), Limits(0, 0, 0), Limits(0, 0, 0))


def test_a_reauthentication_stands_in_for_the_rekey(tmp_path: Path) -> None:
    (connection,) = load(tmp_path, connection='reauth_time = "10h"').connections
    assert connection.lifetimes == IkeLifetimes(0, 36000, 3600, 3600)
    (connection,) = load(tmp_path, connection='reauth_time = "10h"\nrekey_time = "2h"').connections
    assert connection.lifetimes == IkeLifetimes(7200, 36000, 3600, 3600)


def test_every_key_arrives(tmp_path: Path) -> None:
    (connection,) = load(
        tmp_path,
        connection='rekey_time = "2h"\nreauth_time = "3h"\nover_time = "5m"\nrand_time = "1m"',
        child='rekey_time = "40m"\nlife_time = "50m"\nrand_time = "5m"\nrekey_bytes = "1g"\nlife_bytes = "2g"\n'
        'rand_bytes = "1m"\nrekey_packets = "1000"\nlife_packets = 2000\nrand_packets = 10\ninactivity = "90s"',
    ).connections
    assert connection.lifetimes == IkeLifetimes(7200, 10800, 300, 60)
    lifetimes = connection.children[0].lifetimes
    assert lifetimes.time == Limits(2400, 3000, 300)
    assert lifetimes.bytes == Limits(1 << 30, 2 << 30, 1 << 20)
    assert lifetimes.packets == Limits(1000, 2000, 10)
    assert lifetimes.inactivity_s == 90


def test_what_never_ends_has_no_limits() -> None:
    assert time_limits(0.0) == Limits(0, 0, 0)
    assert ike_lifetimes(0.0) == IkeLifetimes(0, 0, 0, 0)
    assert count_limits(0, 500) == Limits(0, 500, 0)


def test_a_long_life_leaves_half_of_the_rekey() -> None:
    assert time_limits(600.0, 6000.0) == Limits(600, 6000, 300)
