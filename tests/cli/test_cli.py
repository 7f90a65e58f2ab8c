"""The command line: exit codes, one line per error, one JSON document on stdout, and a quick start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipsec_fast.cli import main
from ipsec_fast.cli.table import duration, size
from tests.support.fake_control import FakeControl, child_view, ike_view, running_server

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(words)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[FakeControl, str]]:
    path = str(tmp_path / "v.sock")
    with running_server(path) as (control, _):
        yield control, path


# --- bad usage: exit 2, one line


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["up"], "NAME"),
        (["gateway"], "FILE"),
        (["check-config"], "FILE"),
        (["status", "--jsn"], "--jsn"),
        (["status", "--socket", "/a", "--config", "/b"], "not allowed"),
        (["up", "net", "--timeout", "soon"], "--timeout"),
        (["check-config", "/nonexistent.toml"], "/nonexistent.toml: cannot read it"),
        (["gateway", "/nonexistent.toml"], "/nonexistent.toml: cannot read it"),
        (["status", "--config", "/nonexistent.toml"], "/nonexistent.toml: No such file"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(run: Run, words: list[str], word: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert word in err
    assert err.startswith("ipsec-fast: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["up", "net"], ["down", "net"]])
def test_no_gateway_is_one_line_and_exit_1(run: Run, tmp_path: Path, command: list[str]) -> None:
    status, out, err = run(*command, "--socket", str(tmp_path / "none"))
    assert (status, out) == (1, "")
    assert "no gateway runs at" in err
    assert err.count("\n") == 1


def test_socket_of_the_wrong_kind(run: Run, tmp_path: Path) -> None:
    status, _, err = run("status", "--socket", str(tmp_path))
    assert status == 1
    assert err.count("\n") == 1


def test_negative_timeout(run: Run, gateway: tuple[FakeControl, str]) -> None:
    assert run("up", "net", "--timeout=-1", "--socket", gateway[1])[0] == 2


def test_config_errors_are_a_line_each(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[gateway]\nworkers = 65\n[connections.a]\nlocal = { auth = "psk" }\nfoo = 1\n')
    status, out, err = run("check-config", str(file))
    assert (status, out) == (2, "")
    assert [line.split(": ")[2] for line in err.splitlines()] == [
        "gateway.workers",
        "connections.a.remote",
        "connections.a.foo",
    ]
    status, out, err = run("check-config", "--json", str(file))
    report = json.loads(out)
    assert (status, err, report["ok"]) == (2, "", False)
    assert report["errors"][0]["path"] == "gateway.workers"


# --- good usage


def test_version_and_help(run: Run) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert "OpenSSL 3" in out
    status, out, _ = run("--help")
    assert status == 0
    assert all(name in out for name in ("gateway", "status", "up", "down", "bench", "check-config", "demo"))
    assert "explain" not in out


def test_check_config(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "a.psk"
    secret.write_text("0123456789abcdef")
    secret.chmod(0o600)
    file = tmp_path / "x.toml"
    file.write_text(
        '[connections.a]\nlocal = { auth = "psk" }\nremote = { auth = "psk", id = "%any" }\n[secrets.ike]\nfile = "a.psk"\n'
    )
    status, out, err = run("check-config", str(file))
    assert (status, out) == (0, f"{file}: ok, 1 connection, 0 children, 1 secret\n")
    assert "no children" in err
    status, out, err = run("check-config", "--json", str(file))
    assert (status, err) == (0, "")
    assert json.loads(out)["connections"] == {"a": []}


def test_status_json_has_numbers_as_numbers(run: Run, gateway: tuple[FakeControl, str]) -> None:
    status, out, err = run("status", "--json", "--socket", gateway[1])
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["gateway"] == {
        "state": "running",
        "engine": "openssl",
        "workers": 1,
        "state_store": "directory /run/x.state",
    }
    sa = document["ike_sas"][0]
    assert (sa["name"], sa["uniqueid"], sa["local-port"], sa["initiator-spi"]) == ("paris", 1, 4500, "3a902cfcdd0b42e2")
    (child,) = sa["child-sas"]
    assert (child["name"], child["spi-out"], child["bytes-in"], child["use-in"]) == ("net", "00825208", 168, 3)
    assert (child["mtu"], child["mss_ipv4"], child["mss_ipv6"]) == (1430, 1390, 1370)


def test_status_for_people(run: Run, gateway: tuple[FakeControl, str], tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text(f'[gateway]\nsocket = "{gateway[1]}"\n')
    status, out, _ = run("status", "--config", str(config))
    assert status == 0
    for text in (
        "running, engine openssl, 1 worker\nstate of the SAs: directory /run/x.state\n",
        "paris #1  ESTABLISHED  IKEv2 initiator",
        "london.example 192.0.2.1[4500]",
        "net #7  INSTALLED  10.1.0.0/24 - 10.2.0.0/24[tcp/443]",
        "ESP in UDP AES_GCM_16-128/ESN",
        "168 B in 2 packets, last 3s ago",
        "inner MTU 1430, MSS 1390 (IPv4) 1370 (IPv6)",
    ):
        assert text in out


def test_status_says_what_was_narrowed(run: Run, gateway: tuple[FakeControl, str]) -> None:
    control, path = gateway
    narrowed = replace(child_view(), narrowed="by the peer from 10.1.0.0/16")
    control.sas[0] = ike_view(children=(narrowed, child_view(8)))
    first, second = json.loads(run("status", "--json", "--socket", path)[1])["ike_sas"][0]["child-sas"]
    assert first["narrowed"] == "by the peer from 10.1.0.0/16"
    assert "narrowed" not in second
    assert run("status", "--socket", path)[1].count("    narrowed by the peer from 10.1.0.0/16\n") == 1


def test_status_says_whose_a_child_sa_is_and_how_the_cores_are_used(run: Run, gateway: tuple[FakeControl, str]) -> None:
    control, path = gateway
    fallback, own = (replace(child_view(n), in_group=True, spi_in=0x1000 + n) for n in (1, 2))
    control.workers = 4
    control.sas[0] = ike_view(children=(fallback, replace(own, resource=2)))
    document = json.loads(run("status", "--json", "--socket", path)[1])
    group, alone = (sa["child-sas"] for sa in document["ike_sas"])
    assert [(c.get("cpu"), c["worker"], c["per-cpu-sas"], c["cores"]) for c in group] == [
        (None, 1, "yes", "per-resource"),
        (2, 2, "yes", "per-resource"),
    ]
    assert [(c["worker"], c["cores"]) for c in alone] == [(0xC8FB5536 % 4, "one owner")]
    assert not {"cpu", "per-cpu-sas"} & alone[0].keys()
    text = run("status", "--socket", path)[1]
    for line in (
        "    per-resource: worker 1, the fallback of all workers\n",
        "    per-resource: worker 2, its own\n",
        "    one owner: worker 2, for all workers\n",
    ):
        assert line in text


def test_status_without_sas(run: Run, gateway: tuple[FakeControl, str]) -> None:
    gateway[0].sas.clear()
    assert "no SA is up" in run("status", "--socket", gateway[1])[1]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("net", ("initiate", "paris", "net")),
        ("paris", ("initiate", "paris", None)),
        ("rome/coast", ("initiate", "rome", "coast")),
    ],
)
def test_up(run: Run, gateway: tuple[FakeControl, str], name: str, call: object) -> None:
    status, out, err = run("up", name, "--socket", f"unix://{gateway[1]}")
    assert (status, out) == (0, f"{name} is up\n")
    assert err == "[IKE] initiating IKE_SA paris[3] to 192.0.2.2\n"
    assert gateway[0].calls == [call]


def test_up_json_is_one_document_also_where_it_fails(run: Run, gateway: tuple[FakeControl, str]) -> None:
    status, out, err = run("up", "net", "--json", "--socket", gateway[1])
    document = json.loads(out)
    assert (status, err, document["up"], document["reason"]) == (0, "", True, None)
    assert document["log"] == [{"group": "IKE", "text": "initiating IKE_SA paris[3] to 192.0.2.2"}]
    assert document["seconds"] >= 0
    status, out, err = run("up", "refused", "--json", "--socket", gateway[1])
    document = json.loads(out)
    assert (status, err, document["up"]) == (1, "", False)
    assert "aes256gcm16 wanted" in document["reason"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["up", "refused"], "aes128gcm16 offered, aes256gcm16 wanted"),
        (["up", "slow", "--timeout", "0.02"], "not established after 20ms"),
        (["up", "nte"], "'nte' in the gateway's configuration; there are: paris (net slow refused), rome (coast)"),
        (["up", "rome/net"], "no child or connection"),
        (["down", "slow"], "nothing named 'slow' is up; there are: paris (net), rome (coast)"),
    ],
)
def test_failures_end_with_the_reason(
    run: Run, gateway: tuple[FakeControl, str], words: list[str], reason: str
) -> None:
    status, out, err = run(*words, "--socket", gateway[1])
    assert (status, out) == (1, "")
    assert reason in err.splitlines()[-1]


def test_down(run: Run, gateway: tuple[FakeControl, str]) -> None:
    assert run("down", "net", "--socket", gateway[1])[:2] == (0, "net is down\n")
    assert run("down", "paris", "--force", "--socket", gateway[1])[:2] == (0, "paris is down\n")
    assert [view.connection for view in gateway[0].sas] == ["rome"]


def test_a_gateway_that_goes_away(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "v.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        status, out, err = run("status", "--socket", path)
        thread.join()
    assert (status, out, err.count("\n")) == (1, "", 1)


# --- as a process


def test_the_quick_commands_import_nothing_heavy() -> None:
    code = (
        "import sys; from ipsec_fast.cli import main; main(['status', '--socket', '/nonexistent']);"
        "heavy = {'asyncio', 'numpy', 'pydantic', 'pyroute2', 'rich', 'cryptography', 'ssl', 'logging'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout == "[]\n", done.stderr


def test_a_reader_that_leaves_is_no_traceback(gateway: tuple[FakeControl, str]) -> None:
    command = [sys.executable, "-m", "ipsec_fast", "status", "--json", "--socket", gateway[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(20)
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
    assert process.returncode in (0, 1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (13000, "3h 36m"), (100000, "1d 3h")]
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_300_000_000_000, "2.3 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
