"""`ipsec-fast mtu`: what is refused first, then the figures, the table and what a running gateway tells."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipsec_fast.cli import main
from tests.support.fake_control import FakeControl, running_server

Run = Callable[..., tuple[int, str, str]]
FIXED = ("overhead_bytes", "max_inner_bytes", "mss_ipv4", "mss_ipv6", "mss_ipv4_timestamps", "mss_ipv6_timestamps")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(["mtu", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[FakeControl, str]]:
    path = str(tmp_path / "v.sock")
    with running_server(path) as (control, _):
        yield control, path


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--path-mtu 575", "--path-mtu 575: it is a number of bytes of IPv4 from 576 to 65535"),
        ("--path-mtu 1279 --outer ipv6", "of IPv6 from 1280 to 65535"),
        ("--path-mtu 65536", "from 576 to 65535"),
        ("--path-mtu -1", "--path-mtu -1: it is"),
        ("--path-mtu 1e3", "--path-mtu 1e3: it is"),
        ("--path-mtu ١٥٠٠", "from 576 to 65535"),
        ("--path-mtu 99999999999999999999", "from 576 to 65535"),
        ("--tfc 65001", "from 0 to 65000"),
        ("--tfc 1480", "with TFC padding to 1480 bytes no inner packet fits a path MTU of 1500"),
        ("--tfc 100 --mode transport", "TFC padding is for ESP in tunnel mode"),
        ("--tfc 100 --protocol ah", "TFC padding is for ESP in tunnel mode"),
        ("--algorithm aes128gcm17", "unknown ESP algorithm 'aes128gcm17'; near: aes128gcm16"),
        ("--algorithm aes128", "write aes128-sha256"),
        ("--algorithm sha256", "add --protocol ah"),
        ("--algorithm=", "unknown ESP algorithm ''; we carry"),
        ("--algorithm des", "we carry aesNgcm16"),
        ("--protocol ah --algorithm sha257", "unknown AH algorithm 'sha257'; near: sha256"),
        ("--protocol ah --encap udp", "no UDP"),
        ("--protocol ah --mode beet", "AH has tunnel and transport mode"),
        ("--mode transport --inner ipv6", "of one version"),
        ("--mode beet --inner ipv6 --encap none --algorithm aes128ccm8iiv", "adds too little"),
        ("--packet 19", "of an IPv4 packet from 20 to 65535"),
        ("--packet 39 --inner ipv6", "of an IPv6 packet from 40 to 65535"),
        ("--outer ipv5", "invalid choice"),
        ("net --algorithm aes128gcm16", "--algorithm is for the arithmetic alone"),
        ("net --path-mtu 1400", "--path-mtu is for the arithmetic alone"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run: Run, words: str, why: str) -> None:
    status, out, err = run(*words.split())
    assert (status, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_no_gateway_is_one_line_and_exit_1(run: Run, tmp_path: Path) -> None:
    status, out, err = run("net", "--socket", str(tmp_path / "none"))
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_name_that_is_not_up_is_told_what_is(run: Run, gateway: tuple[FakeControl, str]) -> None:
    status, out, err = run("nobody", "--socket", gateway[1])
    assert (status, out) == (1, "")
    assert "nothing named 'nobody' is up; there are: paris (net), rome (coast)" in err


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        ("", (62, 1438, 1398, 1378, 1386, 1366)),
        ("--algorithm aes128-sha256", (70, 1422, 1382, 1362, 1370, 1350)),
        ("--algorithm aes128gcm16iiv --encap none", (46, 1454, 1414, 1394, 1402, 1382)),
        ("--outer ipv6 --path-mtu 1280", (82, 1198, 1158, 1138, 1146, 1126)),
        ("--protocol ah", (48, 1452, 1412, 1392, 1400, 1380)),
        ("--mode transport", (42, 1458, 1418, None, 1406, None)),
        ("--mode beet --inner ipv6", (22, 1478, None, 1418, None, 1406)),
        ("--tfc 1400", (62, 1438, 1398, 1378, 1386, 1366)),
        ("--path-mtu 65535", (65535 - 65470 - 3, 65470, 65430, 65410, 65418, 65398)),
    ],
)
def test_json_has_the_fixed_keys(run: Run, words: str, figures: tuple[int | None, ...]) -> None:
    status, out, err = run("--json", *words.split())
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert tuple(document[key] for key in FIXED) == figures
    packet = document["packet"]
    assert sum(part["bytes"] for part in packet["parts"]) == packet["sealed_bytes"] <= document["path_mtu"]
    assert packet["sealed_bytes"] - packet["inner_bytes"] == document["overhead_bytes"]


def test_table_shows_every_header_and_the_sum(run: Run) -> None:
    status, out, _ = run("--algorithm", "aes256-sha512", "--outer", "ipv6", "--path-mtu", "1280")
    assert status == 0
    sizes = [int(line.split()[-1]) for line in out.split("-----")[0].splitlines()[2:-1]]
    assert sizes == [40, 8, 8, 16, 1166, 0, 2, 32]
    assert "on the wire                                1272   of 1280, 8 left: less than another block" in out
    assert "IPv6 packets of 1167 to 1280 bytes are sealed whole and leave in outer fragments." in out


def test_any_packet_can_be_shown(run: Run) -> None:
    assert "164   of 1500, 1336 left" in run("--packet", "100")[1]
    status, out, _ = run("--packet", "1439", "--json")
    assert status == 0
    packet = json.loads(out)["packet"]
    assert (packet["padding_bytes"], packet["sealed_bytes"], packet["fits"]) == (3, 1504, False)


def test_running_children_show_what_is_in_force_and_where_it_comes_from(
    run: Run, gateway: tuple[FakeControl, str]
) -> None:
    status, out, _ = run("net", "--socket", gateway[1])
    assert status == 0
    for text in (
        "paris/net #7\naes128gcm16, ESP in UDP, tunnel mode, IPv4 in IPv4, path MTU 1492\n",
        "largest inner packet                       1430\n",
        "MSS, as SYNs are clamped to it             1390   1370",
        "path MTU                                   1492\n",
        "  computed                                 1500   from the route and its device, 1m 40s ago",
        "  learned                                     -\n",
        "  probed                                   1492   by packets that came through, 7s ago",
    ):
        assert text in out, out


@pytest.mark.parametrize(("name", "children"), [("paris/net", ["net"]), ("rome", ["coast"]), ("coast", ["coast"])])
def test_running_children_as_json(run: Run, gateway: tuple[FakeControl, str], name: str, children: list[str]) -> None:
    status, out, _ = run(name, "--json", "--socket", gateway[1])
    document = json.loads(out)
    assert (status, document["name"]) == (0, name)
    assert [child["child"] for child in document["children"]] == children
    child = document["children"][0]
    assert tuple(child[key] for key in FIXED) == (62, 1430, 1390, 1370, 1378, 1358)
    assert child["computed"] == {"path_mtu": 1500, "seconds_ago": 100}
    assert (child["learned"], child["probed"]) == (None, {"path_mtu": 1492, "seconds_ago": 7})


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from ipsec_fast.cli import main; main(['mtu', '--json']);"
        "heavy = {'asyncio', 'numpy', 'pydantic', 'pyroute2', 'rich', 'cryptography', 'ssl', 'logging', 'difflib'};"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stderr == "[]\n"
