"""A configuration file becomes frozen values; every problem is named with its path and what would be right."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from ipsec_fast.crypto.secret import reveal_for_test
from ipsec_fast.errors import ConfigError
from ipsec_fast.gateway.config import LoadedConfig, load_config
from ipsec_fast.ike.config import Fragmentation
from ipsec_fast.ike.lifetimes import ChildLifetimes, IkeLifetimes, time_limits
from ipsec_fast.model import Identity, TrafficSelector

SECRET = "correct horse battery staple"
GOOD = """
[gateway]
socket = "/run/other.vici"
[connections.paris]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
proposals = ["aes128gcm16-prfsha256-x25519"]
local = { auth = "psk", id = "london.example" }
remote = { auth = "psk", id = "paris.example" }
[connections.paris.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["aes128gcm16", "aes128-sha256"]
start_action = "start"
rekey_time = "1h"
[secrets.ike-paris]
id = ["london.example", "paris.example"]
file = "paris.psk"
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret("paris.psk", SECRET + "\n")

    def secret(self, name: str, text: str, mode: int = 0o600) -> Path:
        file = self.path / name
        file.write_text(text)
        file.chmod(mode)
        return file

    def load(self, text: str, mode: int = 0o600) -> LoadedConfig:
        file = self.path / "site.toml"
        file.write_text(text)
        file.chmod(mode)
        return load_config(file)

    def problems(self, text: str, mode: int = 0o600) -> dict[str, str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, mode)
        assert SECRET not in str(caught.value)
        return {problem.path: problem.message for problem in caught.value.problems}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def in_connection(line: str) -> str:
    return replaced("[connections.paris.children.net]", line + "\n[connections.paris.children.net]")


def in_child(line: str) -> str:
    return replaced('local_ts = ["10.1.0.0/24"]', line)


# --- bad input: what a user would type wrong, the path that is named, a word of the advice

BAD = [
    pytest.param(GOOD + "[gatway]\n", "gatway", "did you mean 'gateway'", id="unknown-section"),
    pytest.param(GOOD + "[pools.x]\n", "pools", "not supported", id="section-of-swanctl"),
    pytest.param("gateway = 3\n" + GOOD.split("\n", 3)[3], "gateway", "section", id="value-for-section"),
    pytest.param(replaced('"/run/other.vici"', '"other.vici"'), "gateway.socket", "absolute", id="relative-socket"),
    pytest.param(replaced('"/run/other.vici"', f'"/{"x" * 120}"'), "gateway.socket", "107", id="long-socket"),
    *(
        pytest.param(
            replaced("[connections.paris]", f"ike_fragment_bytes = {value}\n[connections.paris]"),
            "gateway.ike_fragment_bytes",
            "576 to 65535",
            id=f"fragment-{value}",
        )
        for value in (0, 575, 65536, -1, "true", "1280.5", '"big"', "[1280]")
    ),
    *(
        pytest.param(
            in_connection(f"fragmentation = {value}"), "connections.paris.fragmentation", '"accept"', id=f"frag-{value}"
        )
        for value in ('"always"', "2", '""', '["yes"]', "{}")
    ),
    pytest.param(
        replaced("[connections.paris]", "workers = 0\n[connections.paris]"), "gateway.workers", "auto", id="w"
    ),
    pytest.param(
        replaced("[connections.paris]", 'engine = "null"\n[connections.paris]'), "gateway.engine", "encrypts", id="null"
    ),
    pytest.param(
        replaced("[connections.paris]", 'tun = "a/b"\n[connections.paris]'), "gateway.tun", "interface", id="tun"
    ),
    pytest.param(
        replaced("[connections.paris]", "offload = { tso = 5 }\n[connections.paris]"),
        "gateway.offload.tso",
        "true or false",
        id="offload",
    ),
    *(
        pytest.param(
            replaced("[connections.paris]", f"{line}\n[connections.paris]"), f"gateway.{key}", text, id=f"{key}-{n}"
        )
        for n, (key, line, text) in enumerate(
            (
                ("state_dir", 'state_dir = "state"', "absolute path, for example /run/ipsec-fast.state"),
                ("state_dir", "state_dir = 5", "absolute path"),
                ("state_dir", 'state_dir = "/x/.."', "a directory of its own"),
                ("state_mark", 'state_mark = "mark"', "absolute path"),
                ("state_mark", 'state_dir = "/run/x"\nstate_mark = "/run/x/mark"', "must not lie in state_dir"),
                ("state_mark", 'state_mark = "/run/other.state"', "must not lie in state_dir"),
                ("state_key", "state_key = 5", "path of a file"),
                ("state_key", 'state_key = ""', "path of a file"),
                ("state_key", 'state_key = "missing.key"', "missing.key: No such file"),
                ("state_key", 'state_key = "paris.psk"', "at least 32"),
            )
        )
    ),
    pytest.param(
        in_connection('remote_adrs = ["x"]'), "connections.paris.remote_adrs", "did you mean 'remote_addrs'", id="typo"
    ),
    pytest.param(in_connection("version = 1"), "connections.paris.version", "IKEv1", id="ikev1"),
    pytest.param(in_connection("version = true"), "connections.paris.version", "2", id="version-bool"),
    pytest.param(in_connection('vips = ["0.0.0.0"]'), "connections.paris.vips", "not supported", id="vips"),
    pytest.param(in_connection("if_id_in = 3"), "connections.paris.if_id_in", 'if_id_in = "0"', id="if-id"),
    pytest.param(in_connection('rekey_time = "1 hour"'), "connections.paris.rekey_time", '"1h"', id="time"),
    pytest.param(in_connection("rekey_time = -1"), "connections.paris.rekey_time", "between 0", id="negative-time"),
    pytest.param(in_connection("rekey_time = inf"), "connections.paris.rekey_time", "between 0", id="endless-time"),
    pytest.param(in_connection("dpd_delay = []"), "connections.paris.dpd_delay", '"30m"', id="time-list"),
    pytest.param(in_connection("mss = 20"), "connections.paris.mss", '"auto"', id="mss"),
    pytest.param(in_connection('mtu_probe = "yes"'), "connections.paris.mtu_probe", '"off"', id="mtu-probe"),
    pytest.param(in_connection("mtu_probe = []"), "connections.paris.mtu_probe", "addresses", id="mtu-probe-empty"),
    pytest.param(
        in_connection('mtu_probe = "10.9.9.9"'), "connections.paris.mtu_probe", "no remote_ts", id="mtu-probe-else"
    ),
    pytest.param(in_connection("mtu_probe = true"), "connections.paris.mtu_probe", "addresses", id="mtu-probe-bool"),
    pytest.param(
        in_connection(f"mtu_probe = {['10.2.0.1'] * 9}"), "connections.paris.mtu_probe", "up to 8", id="mtu-probe-many"
    ),
    pytest.param(in_connection("encap = 7"), "connections.paris.encap", "true or false", id="yes-no"),
    pytest.param(in_connection("local_port = 4501"), "connections.paris.local_port", "500", id="port"),
    pytest.param(
        replaced('["192.0.2.1"]', '["192.0.2.300"]'), "connections.paris.local_addrs", "no IPv4 or IPv6", id="address"
    ),
    pytest.param(
        replaced('["192.0.2.2"]', '["peer.example"]'), "connections.paris.remote_addrs", "host names", id="host-name"
    ),
    pytest.param(replaced('["192.0.2.2"]', '["192.0.2.0/24"]'), "connections.paris.remote_addrs", "subnets", id="net"),
    pytest.param(replaced('["192.0.2.2"]', '["0.0.0.0"]'), "connections.paris.remote_addrs", "nobody", id="zero"),
    pytest.param(replaced('["192.0.2.2"]', "[5]"), "connections.paris.remote_addrs", "list of strings", id="numbers"),
    pytest.param(replaced('["192.0.2.2"]', '["192.0.2.1"]'), "connections.paris.remote_addrs", "peer's", id="itself"),
    pytest.param(replaced('["192.0.2.2"]', '["2001:db8::1"]'), "connections.paris", "no IP version", id="families"),
    pytest.param(
        replaced('["192.0.2.2"]', "[]"), "connections.paris.children.net.start_action", "remote_addrs", id="s"
    ),
    pytest.param(replaced("x25519", "x25518"), "connections.paris.proposals", "x25518", id="proposal"),
    pytest.param(replaced("prfsha256-x25519", "x25519"), "connections.paris.proposals", "prfsha256", id="no-prf"),
    pytest.param(
        replaced('"aes128-sha256"', '"aes128"'), "connections.paris.children.net.esp_proposals", "sha", id="i"
    ),
    pytest.param(replaced('auth = "psk", id = "london', 'id = "london'), "connections.paris.local.auth", "psk", id="a"),
    pytest.param(
        replaced('local = { auth = "psk"', 'local-1 = { auth = "pubkey"'),
        "connections.paris.local-1.auth",
        'write "psk"',
        id="pubkey",
    ),
    pytest.param(
        in_connection('local-2 = { auth = "psk" }'), "connections.paris.local-2", "second round", id="two-rounds"
    ),
    pytest.param(
        replaced('remote = { auth = "psk", id = "paris.example" }', ""),
        "connections.paris.remote",
        "missing",
        id="side",
    ),
    pytest.param(replaced('"london.example" }', '"*.example" }'), "connections.paris.local.id", "wildcard", id="star"),
    pytest.param(
        replaced('"paris.example" }', '"p*.example" }'), "connections.paris.remote.id", "at the head", id="mid"
    ),
    pytest.param(replaced('"paris.example" }', '"@*" }'), "connections.paris.remote.id", "%any", id="star-alone"),
    pytest.param(replaced('"paris.example" }', '"C=FR, CN=p" }'), "connections.paris.remote.id", "DN", id="dn"),
    pytest.param(replaced('"paris.example" }', '"" }'), "connections.paris.remote.id", "empty", id="empty-id"),
    pytest.param(replaced('"paris.example" }', '"192.0.2" }'), "connections.paris.remote.id", "is none", id="half-ip"),
    pytest.param(
        in_child('local_ts = ["10.1.0.5/24"]'),
        "connections.paris.children.net.local_ts",
        "did you mean 10.1.0.0/24?",
        id="host-bits",
    ),
    pytest.param(
        in_child('local_ts = ["10.1.0.0/24[tpc/443]"]'), "connections.paris.children.net.local_ts", "tpc", id="protocol"
    ),
    pytest.param(in_child("local_ts = []"), "connections.paris.children.net.local_ts", "empty", id="no-selector"),
    pytest.param(
        in_child('local_ts = ["dynamic[tpc/22]"]'), "connections.paris.children.net.local_ts", "mean tcp", id="dyn"
    ),
    pytest.param(in_child('local_ts = ["2001:db8::/64"]'), "connections.paris.children.net", "no IP version", id="v46"),
    pytest.param(in_child('mode = "transport"'), "connections.paris.children.net.mode", '"tunnel"', id="mode"),
    pytest.param(
        replaced('"start"', '"trap|none"'), "connections.paris.children.net.start_action", "trap|start", id="trap"
    ),
    pytest.param(replaced('"start"', '"begin"'), "connections.paris.children.net.start_action", '"start"', id="action"),
    pytest.param(in_child('updown = "/x"'), "connections.paris.children.net.updown", "not supported", id="updown"),
    pytest.param(in_child("tfc_padding = 1"), "connections.paris.children.net.tfc_padding", "not supported", id="tfc"),
    pytest.param(GOOD + "[connections.'a b'.children]\n", "connections.'a b'", "visible ASCII", id="name"),
    pytest.param(GOOD + "[secrets.eap-x]\n", "secrets.eap-x", "not supported", id="eap"),
    pytest.param(GOOD + "[secrets.psk]\n", "secrets.psk", "ike-NAME", id="kind-of-secret"),
    pytest.param(GOOD + "[secrets]\nfoo = 'x'\n", "secrets.foo", "ike-NAME", id="secret-not-section"),
    pytest.param(replaced('file = "paris.psk"', ""), "secrets.ike-paris", "neither", id="no-secret"),
    pytest.param(GOOD + f'secret = "{SECRET}"\n', "secrets.ike-paris", "keep one", id="two-secrets"),
    pytest.param(replaced("file =", "fiel ="), "secrets.ike-paris.fiel", "did you mean 'file'", id="secret-key"),
    pytest.param(replaced("file =", "psk ="), "secrets.ike-paris.psk", "unknown key", id="secret-key-2"),
    pytest.param(replaced('"paris.psk"', '"none.psk"'), "secrets.ike-paris.file", "No such file", id="no-file"),
    pytest.param(replaced('"paris.psk"', '"."'), "secrets.ike-paris.file", "regular file", id="folder"),
    pytest.param(replaced('"paris.psk"', '"/dev/zero"'), "secrets.ike-paris.file", "regular file", id="device"),
    pytest.param(
        replaced('id = ["london.example", "paris.example"]', 'id = ["rome.example"]'),
        "connections.paris",
        'id = ["london.example", "paris.example"]',
        id="nobody-s-secret",
    ),
    pytest.param(
        GOOD + '[secrets.ike-2]\nid = "paris.example, LONDON.example"\nfile = "paris.psk"\n',
        "secrets.ike-2",
        "secrets.ike-paris",
        id="secret-twice",
    ),
]


@pytest.mark.parametrize(("text", "path", "advice"), BAD)
def test_names_path_and_remedy(folder: Folder, text: str, path: str, advice: str) -> None:
    problems = folder.problems(text)
    assert path in problems, problems
    assert advice in problems[path]
    assert len(problems) == 1, problems


def test_all_problems_at_once(folder: Folder) -> None:
    text = GOOD.replace("x25519", "x1").replace("10.1.0.0/24", "ten").replace("paris.psk", "gone").replace("1h", "soon")
    assert set(folder.problems(text)) == {
        "connections.paris.proposals",
        "connections.paris.children.net.local_ts",
        "connections.paris.children.net.rekey_time",
        "secrets.ike-paris.file",
    }


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o601])
def test_secret_others_can_read_or_change_is_refused(folder: Folder, mode: int) -> None:
    folder.secret("paris.psk", SECRET, mode)
    assert "chmod 600" in folder.problems(GOOD)["secrets.ike-paris.file"]


@pytest.mark.parametrize("text", ["", "short", "1234567\n"])
def test_short_secret_is_refused(folder: Folder, text: str) -> None:
    folder.secret("paris.psk", text)
    assert "at least 16" in folder.problems(GOOD)["secrets.ike-paris.file"]


def test_long_secret_is_refused(folder: Folder) -> None:
    folder.secret("paris.psk", "x" * 5000)
    assert "4096" in folder.problems(GOOD)["secrets.ike-paris.file"]


def test_fifo_is_refused_at_once(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe", 0o600)
    assert "regular file" in folder.problems(replaced('"paris.psk"', '"pipe"'))["secrets.ike-paris.file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_secret_of_another_user_is_refused(folder: Folder) -> None:
    try:
        os.chown(folder.path / "paris.psk", 12345, 0)
    except OSError as error:
        pytest.skip(f"this user namespace has no user 12345: {error}")
    assert "belongs to user 12345" in folder.problems(GOOD)["secrets.ike-paris.file"]


def test_inline_secret_wants_a_private_file(folder: Folder) -> None:
    text = replaced('file = "paris.psk"', f'secret = "{SECRET}"')
    assert "chmod 600" in folder.problems(text, mode=0o644)["secrets.ike-paris.secret"]


@pytest.mark.parametrize(
    ("written", "word"),
    [("0xzz", "hex"), ("0s!!", "base64"), ("short", "at least 16"), ("", "empty"), ("0x00", "at least 16")],
)
def test_inline_secret_errors(folder: Folder, written: str, word: str) -> None:
    text = replaced('file = "paris.psk"', f'secret = "{written}"')
    assert word in folder.problems(text)["secrets.ike-paris.secret"]


def test_inline_secret_of_another_type(folder: Folder) -> None:
    assert folder.problems(replaced('file = "paris.psk"', "secret = 12345678901234567890"))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"[gateway\n", "line 1"),
        (b"connections {\n  paris {\n    version = 2\n  }\n}\n", "swanctl.conf"),
        (b"a = " + b"[" * 5000, "nested|TOML"),
    ],
)
def test_files_that_are_no_toml(folder: Folder, data: bytes, word: str) -> None:
    file = folder.path / "x.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=word):
        load_config(file)


def test_missing_file_and_folder(folder: Folder) -> None:
    for path, word in ((folder.path / "none.toml", "No such file"), (folder.path, "directory")):
        with pytest.raises(ConfigError, match=word):
            load_config(path)


# --- good input


def test_the_issue_s_example(folder: Folder) -> None:
    loaded = folder.load(GOOD, mode=0o644)
    (connection,) = loaded.connections
    (child,) = connection.children
    assert loaded.settings.socket == "/run/other.vici"
    assert loaded.settings.tun == "ipsec0"
    assert connection.local_addrs == (ip_address("192.0.2.1"),)
    assert connection.remote_id == Identity.parse("paris.example")
    assert connection.encap
    assert child.local_ts == (TrafficSelector.parse("10.1.0.0/24"),)
    assert [proposal.number for proposal in child.proposals] == [1, 2]
    assert child.lifetimes == ChildLifetimes(time_limits(3600, 3960, 360))
    assert connection.lifetimes == IkeLifetimes(14400, 0, 1440, 1440)
    assert loaded.start == (("paris", "net"),)
    assert loaded.mss == {"paris": "auto"}
    assert reveal_for_test(loaded.secrets[0].secret) == SECRET.encode()
    assert loaded.warnings == ()
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("", "yes"),
        ("fragmentation = true", "yes"),
        ('fragmentation = "yes"', "yes"),
        ('fragmentation = "Accept"', "accept"),
        ('fragmentation = "force"', "force"),
        ('fragmentation = "no"', "no"),
        ("fragmentation = false", "no"),
    ],
)
def test_fragmentation_has_swanctl_s_words(folder: Folder, line: str, meant: str) -> None:
    folder.secret("paris.psk", SECRET)
    loaded = folder.load(in_connection(line))
    assert loaded.connections[0].fragmentation.value == meant


def test_the_size_of_ike_fragments_is_a_setting_of_the_gateway(folder: Folder) -> None:
    folder.secret("paris.psk", SECRET)
    assert folder.load(GOOD).settings.ike_fragment_bytes == 1280
    given = folder.load(replaced("[connections.paris]", 'ike_fragment_bytes = "1400"\n[connections.paris]'))
    assert given.settings.ike_fragment_bytes == 1400


def test_swanctl_s_spellings_are_understood(folder: Folder) -> None:
    folder.secret("x.psk", SECRET)
    loaded = folder.load("""
[connections.a]
version = "2"
local_addrs = "192.0.2.1, 2001:db8::1"
remote_addrs = "%any"
proposals = "aes128gcm16-prfsha256-x25519, default"
encap = "no"
rekey_time = "3600"
dpd_delay = "45s"
mobike = "no"
fragmentation = false
keyingtries = 1
mss = "1300"
local1 = { auth = "psk", id = "dns:a.example" }
remote-x = { auth = "psk", id = "%any" }
[connections.a.children.c]
remote_ts = "10.0.0.0/8[tcp/443], 10.0.0.1-10.0.0.9"
mode = "TUNNEL"
rekey_bytes = 0
[secrets.ike]
id-1 = "a.example"
id2 = "@#0102"
file = "x.psk"
""")
    (connection,) = loaded.connections
    assert len(connection.local_addrs) == 2
    assert connection.remote_addrs == ()
    assert [proposal.number for proposal in connection.proposals] == [1, 2, 3]
    assert (connection.encap, connection.lifetimes.rekey_time_s, connection.dpd_delay_s) == (False, 3600, 45)
    assert connection.remote_id is None
    assert connection.fragmentation is Fragmentation.NO
    assert connection.children[0].local_ts == ()
    assert len(connection.children[0].remote_ts) == 2
    assert loaded.secrets[0].ids == (Identity.parse("a.example"), Identity.parse("@#0102"))
    assert loaded.mss == {"a": 1300}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("'auto'", "auto"),
        ('"off"', "off"),
        ('"10.2.0.1, 10.2.0.9"', (ip_address("10.2.0.1"), ip_address("10.2.0.9"))),
        ('["10.2.0.1"]', (ip_address("10.2.0.1"),)),
    ],
)
def test_who_answers_probes_is_read(folder: Folder, written: str, found: object) -> None:
    assert folder.load(in_connection(f"mtu_probe = {written}")).mtu_probe == {"paris": found}


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        (SECRET, SECRET.encode()),
        ("0x" + "ab" * 16, b"\xab" * 16),
        ("0sAAECAwQFBgcICQoLDA0ODw==", bytes(range(16))),
    ],
)
def test_inline_secrets_are_decoded_and_warned_about_once(folder: Folder, written: str, secret: bytes) -> None:
    loaded = folder.load(replaced('file = "paris.psk"', f'secret = "{written}"'))
    assert reveal_for_test(loaded.secrets[0].secret) == secret
    assert len(loaded.warnings) == 1
    assert written not in loaded.warnings[0]


def test_secret_without_id_serves_everybody(folder: Folder) -> None:
    loaded = folder.load(replaced('id = ["london.example", "paris.example"]', ""))
    assert loaded.secrets[0].ids == ()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "swanctl --load-all"),
        (GOOD.split("[connections.paris.children.net]")[0] + GOOD[GOOD.index("[secrets") :], "no children"),
        (
            GOOD
            + '[connections.b]\nlocal={auth="psk",id="london.example"}\nremote={auth="psk",id="paris.example"}\n'
            + "children.net={}\n",
            "has a child of that name too",
        ),
    ],
)
def test_warnings(folder: Folder, text: str, word: str) -> None:
    assert any(word in warning for warning in folder.load(text).warnings)
