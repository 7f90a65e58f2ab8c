"""`per_cpu_sas`, in the file and over the control socket: swanctl.conf's words, and `auto`."""

from __future__ import annotations

import pytest

from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config_load import parse_connection
from ipsec_fast.ike.config import ChildConfig


def load(**child: object) -> ChildConfig:
    auth = {"auth": "psk"}
    section = {"remote_addrs": ["192.0.2.2"], "local": auth, "remote": auth, "children": {"net": child}}
    return parse_connection("paris", section).connection.children[0]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("per_cpu_sas", "encap", "not supported by this version; write yes, no or auto"),
        ("per_cpu_sas", "4", 'must be yes, no or "auto"'),
        ("per_cpu_sas", ["yes"], 'must be yes, no or "auto"'),
        ("per_cpu_sas_max", "257", "must be a number from 1 to 256"),
        ("per_cpu_sas_max", "-1", "must be a number from 1 to 256"),
        ("per_cpu_sas_max", "000000000300", "must be a number from 1 to 256"),
        ("per_cpu_sas_max", "0" * 9 + "9" * 5000, "must be a number from 1 to 256"),
        ("per_cpu_sas_max", "9" * 5000, "must be a number from 1 to 256"),
        ("per_cpu_sas_max", True, "must be a number from 1 to 256"),
        ("per_cpu_sas_max", "\u0663", "must be a number from 1 to 256"),
    ],
)
def test_anything_else_is_refused_with_what_would_be_right(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{key: value})
    (problem,) = caught.value.problems
    assert problem.path == f"connections.paris.children.net.{key}"
    assert said in problem.message


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({}, (None, 0)),
        ({"per_cpu_sas": "auto"}, (None, 0)),
        ({"per_cpu_sas": "yes", "per_cpu_sas_max": "40"}, (True, 40)),
        ({"per_cpu_sas": True, "per_cpu_sas_max": 256}, (True, 256)),
        ({"per_cpu_sas": "1"}, (True, 0)),
        ({"per_cpu_sas": "no", "per_cpu_sas_max": 0}, (False, 0)),
        ({"per_cpu_sas": False}, (False, 0)),
    ],
)
def test_what_the_words_mean(words: dict[str, object], meant: tuple[bool | None, int]) -> None:
    child = load(**words)
    assert (child.per_resource, child.per_resource_max) == meant
