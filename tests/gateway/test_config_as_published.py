"""Configurations as other products publish them: loaded, warned about, or refused in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from ipsec_fast.crypto.secret import reveal_for_test
from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config import LoadedConfig, load_config
from ipsec_fast.gateway.config_fields import parse_identity
from ipsec_fast.gateway.config_load import parse_connection, parse_owners
from ipsec_fast.iana import IdType
from ipsec_fast.model import DynamicSelector, Identity, TrafficSelector
from tests.support.fake_control import running_server

BASE = """
[gateway]
{gateway}
[connections.site]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
{connection}
[connections.site.local]
auth = "psk"
id = "a.example"
[connections.site.remote]
auth = "psk"
{remote}
[connections.site.children.net]
{child}
[secrets.ike-site]
{secret}
"""
SECRET = 'secret = "a secret of thirty-two characters"'
REMOTE = 'id = "b.example"'


def text_of(**parts: str) -> str:
    return BASE.format(
        **{"gateway": "", "connection": "", "remote": REMOTE, "child": "", "secret": SECRET, **parts},
    )


def load(folder: Path, **parts: str) -> LoadedConfig:
    file = folder / "site.toml"
    file.write_text(text_of(**parts))
    file.chmod(0o600)
    return load_config(file)


def warnings(folder: Path, **parts: str) -> list[str]:
    return [line for line in load(folder, **parts).warnings if "leaves copies of the secret" not in line]


def problems(folder: Path, **parts: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, **parts)
    assert "\n" not in str(caught.value)
    return {one.path: one.message for one in caught.value.problems}


# --- keys that we lack

SAFE = [
    *(("connection", line) for line in (
        "mobike = true", "keyingtries = 0", "keyingtries = 3", 'keyingtries = "%forever"', "send_certreq = true", 'send_cert = "always"',
        "aggressive = true", "pull = false", 'dscp = "101110"', 'childless = "force"', "version = 0", "local_port = 4500",
        "remote_port = 4500", 'ocsp = "both"',
    )),
    *(("child", line) for line in (
        "replay_window = 32", "replay_window = 0", 'copy_dscp = "no"', 'copy_dscp = "in"', "copy_ecn = false", "hostaccess = true",
        "ipcomp = true", 'hw_offload = "yes"', "reqid = 7", "policies_fwd_out = true", 'updown = "/usr/lib/ipsec/_updown iptables"',
        'updown = "/usr/libexec/strongswan/_updown"', 'updown = "ipsec _updown ip6tables"',
    )),
    ("remote", f'{REMOTE}\nrevocation = "strict"'),
]  # fmt: skip


@pytest.mark.parametrize(("part", "line"), SAFE)
def test_a_key_that_may_be_ignored_is_one_warning_that_names_it(tmp_path: Path, part: str, line: str) -> None:
    (warning,) = warnings(tmp_path, **{part: line})
    assert f".{line.splitlines()[-1].split(' =')[0]}: " in warning


FINE = [
    *(("connection", line) for line in (
        "mobike = false", "keyingtries = 1", "send_certreq = false", 'send_cert = "ifasked"', "aggressive = false", "local_port = 500",
        'childless = "allow"', "version = 2", 'if_id_in = "0"',
    )),
    *(("child", line) for line in (
        "policies = true", 'copy_dscp = "out"', "copy_ecn = true", 'hw_offload = "auto"', "ipcomp = false", "hostaccess = false",
        'updown = ""', "reqid = 0", "sha256_96 = false",
    )),
    ("remote", f"{REMOTE}\nround = 1"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "line"), FINE)
def test_a_key_that_asks_for_what_is_done_says_nothing(tmp_path: Path, part: str, line: str) -> None:
    assert warnings(tmp_path, **{part: line}) == []


REFUSED = [
    *(("connection", line) for line in (
        "if_id_in = 3", 'if_id_out = "%unique"', 'vips = "0.0.0.0"', "pools = ['p']", 'ppk_id = "x"', "ppk_required = true",
        "mediation = true", "remote_port = 4501", "version = 1",
    )),
    *(("child", line) for line in (
        'updown = "/usr/local/bin/up.sh"', 'updown = "/usr/lib/ipsec/_updown; rm -rf /"', 'updown = "/tmp/ipsec/../_updown"',
        'updown = "/usr/lib/ipsec/_updown mine"', 'updown = "/opt/mine/_updown"', 'mark_in = "5"', 'set_mark_out = "1/1"', "if_id_in = 3",
        'ah_proposals = "sha256"', "sha256_96 = true", 'interface = "eth0"', 'label = "x"', "policies = false", "tfc_padding = 1400",
        "priority = 5",
    )),
    ("remote", f'{REMOTE}\ncerts = "x.pem"'),
    ("remote", f'{REMOTE}\ncacerts = "x.pem"'),
]  # fmt: skip


@pytest.mark.parametrize(("part", "line"), REFUSED)
def test_a_key_that_changes_who_is_protected_or_how_is_refused(tmp_path: Path, part: str, line: str) -> None:
    key = line.splitlines()[-1].split(" =")[0]
    ((path, message),) = problems(tmp_path, **{part: line}).items()
    assert path.endswith(f".{key}")
    assert "not supported" in message


WRONG = [
    *(("connection", line) for line in (
        'mobike = "maybe"', 'mobike = ""', 'keyingtries = "x"', "keyingtries = -1", "keyingtries = true", 'send_certreq = "maybe"',
        'send_cert = "sometimes"', 'aggressive = "force"', 'pull = "x"', 'dscp = "EF"', 'childless = "pefer"', 'ocsp = "x"',
        "mobike = []", "keyingtries = 1.5",
    )),
    *(("child", line) for line in (
        'replay_window = "x"', "replay_window = -1", 'copy_dscp = "both"', 'copy_ecn = "x"', 'hostaccess = "left"', 'ipcomp = "maybe"',
        'hw_offload = "cripto"', 'reqid = "%unique"', 'policies_fwd_out = "x"',
    )),
    ("remote", f'{REMOTE}\nrevocation = "x"'),
    ("remote", f'{REMOTE}\nround = "first"'),
]  # fmt: skip


@pytest.mark.parametrize(("part", "line"), WRONG)
def test_an_ignored_key_with_a_value_that_swanctl_does_not_have_is_an_error(
    tmp_path: Path, part: str, line: str
) -> None:
    key = line.splitlines()[-1].split(" =")[0]
    ((path, message),) = problems(tmp_path, **{part: line}).items()
    assert path.endswith(f".{key}")
    assert message.startswith("must be ")


def test_a_mistyped_ignored_value_gets_the_nearest_word(tmp_path: Path) -> None:
    assert 'did you mean "crypto"?' in str(problems(tmp_path, child='hw_offload = "cripto"'))


def test_swanctl_s_dpd_timeout_is_a_time_or_an_error() -> None:
    auth = {"auth": "PSK"}  # charon does not mind the case
    section = {"local": auth, "remote": auth, "remote_addrs": ["192.0.2.2"], "dpd_timeout": "x"}
    with pytest.raises(ConfigError, match="dpd_timeout: 'x' is no time"):
        parse_connection("a", section)
    assert "ignored" in str(parse_connection("a", section | {"dpd_timeout": "150s"}).warnings)


@pytest.mark.parametrize("word", ["%any4", "%any6", "%defaultroute"])
def test_a_word_with_a_percent_sign_is_told_what_there_is(tmp_path: Path, word: str) -> None:
    assert "no address" in str(problems(tmp_path, remote=f'{REMOTE}\n[connections.b]\nlocal_addrs = "{word}"'))
    assert "::/0" in str(problems(tmp_path, child=f'local_ts = "{word}"'))


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("connection", 'rekey_time = "' + "x" * 100_000 + '"'),
        ("connection", 'proposals = ["' + '", "'.join(["aes256-sha256x"] * 3000) + '"]'),
        ("connection", f"{'k' * 100_000} = 1"),
        ("child", 'remote_ts = "10.1.0.0/24[tcp/' + "9" * 3000 + ']"'),
        ("gateway", 'state_key = "' + "k" * 50_000 + '"'),
        ("gateway", r'state_key = "a\nb\u202ec"'),
        ("secret", r'file = "a\nb\u001b[2J"'),
    ],
)
def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes(tmp_path: Path, part: str, line: str) -> None:
    ((path, message),) = problems(tmp_path, **{part: line}).items()
    assert len(path) < 1000
    assert len(message) < 1000
    assert message.isprintable()


# --- numbers

HUGE = "9" * 5000
NUMBERS = (
    HUGE,
    "0x" + "f" * 6000,
    "nan",
    "-nan",
    "inf",
    "-1",
    "1e-300",
    "1e300",
    "18446744073709551616",
    "1979-05-27",
    '"1e3"',
)
NUMERIC = [
    ("gateway", "workers"), ("gateway", "ike_fragment_bytes"),
    *(("connection", key) for key in (
        "version", "rekey_time", "reauth_time", "over_time", "rand_time", "dpd_delay", "dpd_timeout", "mss", "remote_port", "if_id_in",
    )),
    *(("child", key) for key in (
        "rekey_time", "life_time", "rand_time", "rekey_bytes", "life_bytes", "rand_bytes", "rekey_packets", "life_packets",
        "rand_packets", "inactivity", "per_cpu_sas_max", "tfc_padding", "mark_in", "priority",
    )),
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
@pytest.mark.parametrize(("part", "key"), NUMERIC)
def test_a_number_out_of_range_is_one_short_error(tmp_path: Path, part: str, key: str, number: str) -> None:
    for path, message in problems(tmp_path, **{part: f"{key} = {number}"}).items():
        assert path.endswith(key) or "line " in message
        assert len(message) < 300


@pytest.mark.parametrize("key", ["keyingtries", "dscp", "mobike"])
def test_a_number_out_of_range_is_an_error_in_a_key_that_is_ignored_too(tmp_path: Path, key: str) -> None:
    assert problems(tmp_path, connection=f"{key} = {HUGE}")
    assert problems(tmp_path, connection=f"{key} = 0x{'f' * 6000}")


@pytest.mark.parametrize("written", ["0.09", "1e-12", '"0.05s"'])
def test_a_time_below_the_clock_s_resolution_is_refused(tmp_path: Path, written: str) -> None:
    (message,) = problems(tmp_path, connection=f"dpd_delay = {written}").values()
    assert "at least 0.1" in message


# --- secrets


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        ("0X" + "aB" * 16, b"\xab" * 16),
        ("0x" + "ab:" * 15 + "ab", b"\xab" * 16),
        ("0x1" + "ab" * 16, b"\x01" + b"\xab" * 16),
        ("0SAAECAwQFBgcICQoLDA0ODw==", bytes(range(16))),
        ("0 is no prefix of anything here", b"0 is no prefix of anything here"),
    ],
)
def test_secrets_are_spelled_as_in_swanctl(tmp_path: Path, written: str, secret: bytes) -> None:
    loaded = load(tmp_path, secret=f'secret = "{written}"')
    assert reveal_for_test(loaded.secrets[0].secret) == secret


@pytest.mark.parametrize("written", ["0Xzz", "0S!!", "0sAAECAwQFBgcICQoLDA0ODw", "0x"])
def test_secrets_that_swanctl_would_cut_or_guess_are_refused(tmp_path: Path, written: str) -> None:
    assert set(problems(tmp_path, secret=f'secret = "{written}"')) == {"secrets.ike-site.secret"}


@pytest.mark.parametrize("size", [8, 15])
def test_a_short_secret_is_a_warning(tmp_path: Path, size: int) -> None:
    (warning,) = warnings(tmp_path, secret=f'secret = "{"x" * size}"')
    assert f"holds {size} bytes" in warning
    assert warnings(tmp_path, secret='secret = "h7Gk2mQ9zR4tWx8v"') == []


@pytest.mark.parametrize("written", ["x" * 16, "passwordpassword", "P@ssw0rd2024!!!!", "abcdefghijklmnop"])
def test_a_secret_that_can_be_guessed_is_a_warning_that_does_not_show_it(tmp_path: Path, written: str) -> None:
    (warning,) = warnings(tmp_path, secret=f'secret = "{written}"')
    assert "can be guessed" in warning
    assert written not in warning
    (tmp_path / "x.psk").write_text(written)
    (tmp_path / "x.psk").chmod(0o600)
    (warning,) = warnings(tmp_path, secret='file = "x.psk"')
    assert "can be guessed" in warning


@pytest.mark.parametrize("size", [1, 7])
def test_a_shorter_one_needs_allow_weak(tmp_path: Path, size: int) -> None:
    secret = f'secret = "{"x" * size}"'
    assert "allow_weak" in problems(tmp_path, secret=secret)["secrets.ike-site.secret"]
    assert load(tmp_path, secret=secret, connection="allow_weak = true").secrets[0].needs_allow_weak
    assert not load(tmp_path, secret=secret + "\nallow_weak = true").secrets[0].needs_allow_weak
    others = 'id = ["c.example", "d.example"]\nallow_weak = false\n' + secret
    more = f"{SECRET}\n[secrets.ike-2]\n{others}"
    assert "allow_weak" in problems(tmp_path, secret=more, connection="allow_weak = true")["secrets.ike-2.secret"]


def test_a_connection_whose_only_secret_is_too_short_for_it_is_named(tmp_path: Path) -> None:
    """Another one allows it, which does not help this one."""
    short = 'secret = "seven77"\n'
    second = (
        short + '[connections.other]\nremote_addrs = "192.0.2.9"\nlocal = { auth = "psk" }\nremote = { auth = "psk" }'
    )
    found = problems(tmp_path, secret=second, connection="allow_weak = true")
    assert list(found) == ["connections.other"]
    assert "too short for it" in found["connections.other"]
    assert load(tmp_path, secret=second + "\nallow_weak = true", connection="allow_weak = true")
    assert load(tmp_path, secret=short + "allow_weak = true")


# --- identities

SAME_AS_STRONGSWAN = [
    ("keyid:router-end", IdType.KEY_ID, b"router-end"), ("KEYID:#0a0B", IdType.KEY_ID, b"\x0a\x0b"),
    ("@#0a:0b", IdType.KEY_ID, b"\x0a\x0b"),
    ("@#a0b", IdType.KEY_ID, b"\x0a\x0b"), ("@@gw@site.example", IdType.RFC822_ADDR, b"gw@site.example"),
    ("@@name", IdType.RFC822_ADDR, b"name"), ("email:gw@site.example", IdType.RFC822_ADDR, b"gw@site.example"),
    ("rfc822:gw", IdType.RFC822_ADDR, b"gw"), ("userfqdn:gw", IdType.RFC822_ADDR, b"gw"), ("fqdn:192.0.2.1", IdType.FQDN, b"192.0.2.1"),
    ("fqdn:#6162", IdType.FQDN, b"ab"), ("dns:gw.example", IdType.FQDN, b"gw.example"), ("@gw.example", IdType.FQDN, b"gw.example"),
    ("ipv4:#c0000201", IdType.IPV4_ADDR, bytes((192, 0, 2, 1))), ("2001:db8::1", IdType.IPV6_ADDR, ip_address("2001:db8::1").packed),
    ("vendor:serial", IdType.KEY_ID, b"vendor:serial"), ("gw", IdType.FQDN, b"gw"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "kind", "data"), SAME_AS_STRONGSWAN)
def test_identities_mean_what_they_mean_in_strongswan_by_every_door(
    tmp_path: Path, written: str, kind: IdType, data: bytes
) -> None:
    wanted = Identity(kind, data)
    assert parse_identity(written) == wanted
    assert parse_owners("x", [written]) == (wanted,)
    section = {"local": {"auth": "psk"}, "remote": {"auth": "psk", "id": written}, "remote_addrs": "192.0.2.2"}
    assert parse_connection("x", section).connection.remote_id == wanted
    assert load(tmp_path, remote=f'id = "{written}"').connections[0].remote_id == wanted


@pytest.mark.parametrize(
    "written",
    ["xmppaddr:gw@site.example", "asn1dn:#3000", "asn1gn:#3000", "uri:http://gw", "{2}:gw", "C=CH, O=x", "10.0.0.1-10.0.0.9", "10.0.0.0/8",
     "2001:db8::/32", "ipv4net:10.0.0.0/8", "ipv4range:10.0.0.1-10.0.0.9", "ipv4:192.0.2.1", "ipv6:#00", "fe80::1%eth0", "@#", "@#0g",
     "^gw.*$", "fqdn:^gw.*$", "%gw", "fqdn:", "g*w"],
)  # fmt: skip
def test_identities_that_we_lack_are_refused_by_every_door(tmp_path: Path, written: str) -> None:
    assert "connections.site.remote.id" in problems(tmp_path, remote=f'id = "{written}"')
    with pytest.raises(ConfigError):
        parse_owners("x", [written])


@pytest.mark.parametrize("written", ["%any", "*", "0.0.0.0", "::", "%any6"])
def test_anybody_has_strongswan_s_spellings(tmp_path: Path, written: str) -> None:
    assert load(tmp_path, remote=f'id = "{written}"').connections[0].remote_id is None


def test_a_wildcard_is_for_the_peer_alone(tmp_path: Path) -> None:
    (one,) = load(tmp_path, remote='id = "*@road.example"').connections
    assert one.remote_id is not None
    assert one.remote_id.is_pattern
    section = {"local": {"auth": "psk", "id": "*.example"}, "remote": {"auth": "psk"}}
    with pytest.raises(ConfigError, match="wildcard"):
        parse_connection("x", section)


# --- selectors and addresses


@pytest.mark.parametrize(
    ("written", "fixed", "dynamic"),
    [
        ("dynamic", [], []),
        ("dynamic[tcp/22]", [], [DynamicSelector(6, 22, 22)]),
        ("dynamic[tcp/ssh]", [], [DynamicSelector(6, 22, 22)]),
        ("dynamic[udp/1000-2000], 10.1.0.0/24", ["10.1.0.0/24"], [DynamicSelector(17, 1000, 2000)]),
        ("dynamic[icmp]", [], [DynamicSelector(1)]),
        ("10.1.0.0/24[tcp/http]", ["10.1.0.0/24[tcp/80]"], []),
        ("10.1.0.0/24[udp/domain]", ["10.1.0.0/24[17/53]"], []),
        ("10.1.0.0/24[esp]", ["10.1.0.0/24[50]"], []),
        ("10.1.0.0/24[ospf]", ["10.1.0.0/24[89]"], []),
    ],
)
def test_dynamic_and_named_ports_are_read(
    tmp_path: Path, written: str, fixed: list[str], dynamic: list[DynamicSelector]
) -> None:
    (child,) = load(tmp_path, child=f'local_ts = "{written}"').connections[0].children
    assert list(child.local_ts) == [TrafficSelector.parse(text) for text in fixed]
    assert list(child.local_dynamic) == dynamic
    (first, *_) = child.local_at((ip_address("192.0.2.1"),))
    assert fixed or first.start == ip_address("192.0.2.1")


@pytest.mark.parametrize(
    "written",
    ["10.1.0.0/24[tcp/htpt]", "10.1.0.0/24[tpc/22]", "10.1.0.0/24[udp/%any]", "dynamic[tcp/70000]", "fe80::1%eth0/128"],
)
def test_a_hint_never_repeats_the_wrong_word(tmp_path: Path, written: str) -> None:
    (message,) = problems(tmp_path, child=f'local_ts = "{written}"').values()
    assert message.count(written) == 1
    assert f"did you mean {written}" not in message


@pytest.mark.parametrize("key", ["local_addrs", "remote_addrs"])
@pytest.mark.parametrize("written", ["fe80::1", "fe80::1%eth0", "febf::1"])
def test_a_link_local_address_is_refused(tmp_path: Path, key: str, written: str) -> None:
    text = text_of().replace(f'{key} = ["192.0.2.', f'{key} = ["{written}", "192.0.2.')
    file = tmp_path / "x.toml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="link-local"):
        load_config(file)


# --- algorithms, words and lifetimes


def test_weak_groups_need_allow_weak(tmp_path: Path) -> None:
    connection, child = 'proposals = "aes128-sha256-modp1024"', 'esp_proposals = "aes128-sha256-modp1536"'
    found = problems(tmp_path, connection=connection, child=child)
    assert set(found) == {"connections.site.proposals", "connections.site.children.net.esp_proposals"}
    assert all("allow_weak = true" in message for message in found.values())
    (warning,) = warnings(tmp_path, connection=f"{connection}\nallow_weak = true", child=child)
    assert "modp1024, modp1536" in warning


@pytest.mark.parametrize("word", ["modp3072", "modp4096", "ecp521"])
def test_other_groups_need_nothing(tmp_path: Path, word: str) -> None:
    parts = {"connection": f'proposals = "aes256-sha256-{word}"', "child": f'esp_proposals = "aes256-sha256-{word}"'}
    assert warnings(tmp_path, **parts) == []


@pytest.mark.parametrize(
    ("part", "line", "hint"),
    [
        ("connection", 'proposals = "aes128gcm61-prfsha256-x25519"', "did you mean 'aes128gcm16'?"),
        ("connection", 'proposals = "aes128-sah256-modp2048"', "did you mean 'sha256'?"),
        ("child", 'esp_proposals = "aes256-sha256-mdop2048"', "did you mean 'modp2048'?"),
        ("child", 'start_action = "strat"', 'did you mean "start"?'),
        ("child", 'close_action = "restrat"', 'did you mean "restart"?'),
        ("connection", 'unique = "repalce"', 'did you mean "replace"?'),
        ("connection", 'fragmentation = "forse"', 'did you mean "force"?'),
        ("child", 'mode = "tunel"', 'did you mean "tunnel"?'),
        ("gateway", 'engine = "opensll"', 'did you mean "openssl"?'),
    ],
)
def test_a_mistyped_value_gets_the_nearest_word(tmp_path: Path, part: str, line: str, hint: str) -> None:
    (message,) = problems(tmp_path, **{part: line}).values()
    assert hint in message
    assert message.count(line.split('"')[1]) <= 1


def test_a_life_as_long_as_the_rekey_is_taken_with_a_warning(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, child='life_time = "1h"')
    assert "life_time: 3600s is rekey_time too" in warning
    limits = load(tmp_path, child='life_time = "1h"').connections[0].children[0].lifetimes.time
    assert limits.life == 3600
    assert limits.rekey - limits.rand > 0
    assert limits.rekey < 3600


# --- whole files, by stock swanctl

AUTH = "local {{ auth = psk\n id = {0} }}\n remote {{ auth = psk\n id = {1} }}"
WHOLE = {
    "cloud": """
connections {
  edge {
    version = 2
    remote_addrs = 198.51.100.7
    local { auth = psk }
    remote { auth = psk }
    mobike = yes
    proposals = aes256gcm16-sha384-modp3072, default
    dpd_delay = 15s
    dpd_timeout = 90s
    children {
      edge {
        local_ts = 10.11.0.0/16
        remote_ts = 10.12.0.0/16, 10.13.0.0/24
        esp_proposals = aes256gcm16-sha256-modp3072
        start_action = start
        close_action = restart
        updown = /usr/libexec/ipsec/_updown iptables
      }
    }
  }
}
secrets {
  ike-edge { id = %any
    secret = 0Sd2Ugc2hhcmUgdGhpcyBhbmQgbm9ib2R5IGVsc2UgZG9lcw== }
}
""",
    "router": """
connections {
  wan-1 {
    local_addrs = 192.0.2.1
    remote_addrs = 198.51.100.7, 198.51.100.8
    local-0d1f { round = 0
      auth = psk
      id = @branch.example }
    remote-77ab { round = 0
      auth = psk
      id = keyid:head-office }
    send_certreq = yes
    keyingtries = 0
    aggressive = no
    encap = no
    rekey_time = 28800
    over_time = 48m
    unique = replace
    fragmentation = yes
    proposals = aes192-sha256-ecp521
    children {
      lan {
        local_ts = 10.11.0.0/24
        remote_ts = 10.12.0.0/24
        esp_proposals = aes192-sha256-ecp521
        life_time = 3600s
        rekey_time = 3600s
        replay_window = 64
        copy_dscp = out
        policies = yes
        start_action = trap
        dpd_action = restart
      }
    }
  }
}
secrets {
  ike-1 { id-a = @branch.example
    id-b = keyid:head-office
    secret = "twelve bytes" }
}
""",
    "roadwarrior server": """
connections {
  road {
    pools =
    local { auth = psk
      id = vpn.example }
    remote { auth = psk
      id = *@road.example }
    send_cert = always
    children {
      ssh { local_ts = dynamic[tcp/ssh], dynamic[icmp]
        remote_ts = dynamic }
    }
  }
}
secrets {
  ike { secret = 0x303132333435363738393a3b3c3d3e3f
    id = *@road.example }
}
""".replace("    pools =\n", ""),
}
NOT_LOADED = {
    "updown": ("children { net { updown = /etc/ipsec.d/up.sh } }", "updown: not supported"),
    "if_id": ("if_id_in = 42", "if_id_in: not supported"),
    "certificates": ("remote-2 { auth = pubkey }", "second round"),
    "weak": ("proposals = aes128-sha1-modp1024", "allow_weak"),
}


def swanctl(path: str, folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    for name in (
        "x509",
        "x509ca",
        "x509ocsp",
        "x509aa",
        "x509ac",
        "x509crl",
        "pubkey",
        "private",
        "rsa",
        "ecdsa",
        "pkcs8",
        "pkcs12",
    ):
        (folder / name).mkdir(exist_ok=True)
    (folder / "swanctl.conf").write_text(text)
    return subprocess.run(
        ["swanctl", "--load-all", "--noprompt", "--uri", f"unix://{path}"],
        env=os.environ | {"SWANCTL_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def gateway_path(tmp_path: Path) -> Iterator[str]:
    if shutil.which("swanctl") is None:
        pytest.skip("no swanctl: apt-get install --no-install-recommends strongswan-swanctl")
    path = str(tmp_path / "v.sock")
    with running_server(path):
        yield path


@pytest.mark.parametrize("name", WHOLE)
def test_a_configuration_in_a_published_style_loads(gateway_path: str, tmp_path: Path, name: str) -> None:
    done = swanctl(gateway_path, tmp_path, WHOLE[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "successfully loaded 1 connections" in done.stdout


def test_what_it_asks_for_and_we_lack_is_one_warning_per_key(
    gateway_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swanctl(gateway_path, tmp_path, WHOLE["router"])
    lines = [record.getMessage() for record in caplog.records]
    for key in ("send_certreq", "keyingtries", "replay_window", "life_time"):
        assert [line for line in lines if f".{key}: " in line], key
    assert len(lines) == len(set(lines)) == 5  # and the secret of 12 bytes
    assert "twelve bytes" not in "".join(lines)


@pytest.mark.parametrize("name", NOT_LOADED)
def test_what_must_not_be_ignored_is_refused_with_one_line(gateway_path: str, tmp_path: Path, name: str) -> None:
    line, reason = NOT_LOADED[name]
    auth = AUTH.format("a.example", "b.example")
    text = f"connections {{ bad {{\n remote_addrs = 192.0.2.2\n {auth}\n {line}\n }} }}\n"
    done = swanctl(gateway_path, tmp_path, text.replace("{ net {", "{\n net {\n").replace("} }", "}\n }"))
    found = [one for one in (done.stdout + done.stderr).splitlines() if "loading connection 'bad' failed" in one]
    assert done.returncode != 0
    assert len(found) == 1
    assert reason in found[0]


def test_weak_words_load_once_they_are_allowed(gateway_path: str, tmp_path: Path) -> None:
    auth = AUTH.format("a.example", "b.example")
    text = "connections {{ old {{\n remote_addrs = 192.0.2.2\n {}\n {}\n proposals = aes128-sha1-modp1024\n }}\n }}\n"
    secret = "secrets {\n ike-old {\n secret = 1234567\n }\n }\n"
    assert swanctl(gateway_path, tmp_path, text.format(auth, "")).returncode != 0
    allowed = text.format(auth, "allow_weak = yes")
    assert swanctl(gateway_path, tmp_path, allowed).returncode == 0
    # the secret may come behind the connection that allows it, and not without one
    assert swanctl(gateway_path, tmp_path, allowed + secret).returncode == 0
    assert (
        swanctl(gateway_path, tmp_path, text.format(auth, "").replace("-sha1-modp1024", "-sha256-modp2048")).returncode
        == 0
    )
    done = swanctl(gateway_path, tmp_path, secret)
    assert "allow_weak" in done.stdout + done.stderr
