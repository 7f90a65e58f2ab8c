"""`ipsec-fast demo`: what is refused before anything is made, the figures, and the whole run."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipsec_fast.demo import namespaces
from ipsec_fast.demo.gateways import newest, write_psk
from ipsec_fast.demo.main import cipher_of
from ipsec_fast.demo.view import LiveView, PlainView, RateMeter, choose_view, spark
from ipsec_fast.errors import HostError

DEMO = [sys.executable, "-m", "ipsec_fast", "demo"]
FIELDS = {
    "mode", "tcp1_gbit_per_s", "rtt_ms_median", "rekeys", "packets_lost_over_rekey", "cipher", "engine", "cpu_s_per_gbyte",
    "packets_lost_over_kill", "recovery_s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seconds", "0"], "1 to 3600"),
        (["--seconds", "3601"], "1 to 3600"),
        (["--seconds", "ten"], "invalid int"),
        (["--cipher", "rot13"], "unknown ESP algorithm 'rot13'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(words, reason):
    done = subprocess.run([*DEMO, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_tun_device_names_its_mode_and_the_remedy(monkeypatch, tmp_path):
    node = tmp_path / "tun"
    node.touch(0o600)
    monkeypatch.setattr(namespaces, "TUN_DEVICE", str(node))
    monkeypatch.setattr(namespaces.os, "open", _refuse)
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match=r"ordinary user cannot open .*mode 0600.*chmod 0666"):
        namespaces.check_tun()
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="container needs the device"):
        namespaces.check_tun()


def _refuse(*unused):
    raise PermissionError(13, "Permission denied")


def test_a_missing_tun_device_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(namespaces, "TUN_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(HostError, match="modprobe tun"):
        namespaces.check_tun()


def test_missing_programs_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: None if name in ("iperf3", "ping") else f"/bin/{name}")
    with pytest.raises(HostError, match="no ping, iperf3 here: apt-get install iperf3 iputils-ping"):
        namespaces.find_mode()


def test_a_host_without_namespaces_is_refused_with_what_was_tried(monkeypatch):
    def refuse(command, **unused):
        return subprocess.CompletedProcess(command, 1, "", "unshare: unshare failed: Operation not permitted\n")

    monkeypatch.setattr(namespaces.shutil, "which", lambda name: name)
    monkeypatch.setattr(namespaces.subprocess, "run", refuse)
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    with pytest.raises(
        HostError, match="`unshare -Urnm ip link add` says unshare: unshare failed: Operation not permitted"
    ):
        namespaces.find_mode()


def test_the_psk_is_its_owner_s_alone_and_long_enough(tmp_path):
    path = write_psk(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 49


def test_the_rate_skips_its_first_look_and_a_rekey():
    meter = RateMeter()
    looks = [(0, 0), (125_000_000, 1), (375_000_000, 2), (1000, 3), (1000, 3), (125_001_000, 4)]
    rates = [meter.add({"ike_sas": [{"child-sas": [{"bytes-in": 0, "bytes-out": n}]}]}, at) for n, at in looks]
    assert rates == [None, 1.0, 2.0, None, None, 1.0]
    assert spark([0, 1, 2]) == "▁▄█"


def test_newest_sees_installed_and_established_sas_only():
    status = {
        "ike_sas": [
            {"uniqueid": 3, "state": "DELETING", "child-sas": [{"uniqueid": 9, "state": "DELETING"}]},
            {"uniqueid": 2, "state": "ESTABLISHED", "child-sas": [{"uniqueid": 4, "state": "INSTALLED"}]},
        ]
    }
    assert (newest(status, "ike")["uniqueid"], newest(status, "child")["uniqueid"]) == (2, 4)
    assert newest({"ike_sas": []}, "child") is None


def test_the_cipher_is_spelled_as_in_a_proposal():
    assert cipher_of({"encr-alg": "AES_GCM_16", "encr-keysize": 128}) == "aes128gcm16"
    assert cipher_of({"encr-alg": "AES_CBC", "encr-keysize": 256, "integ-alg": "HMAC_SHA2_256_128"}) == "aes256-sha256"
    assert cipher_of({"encr-alg": "CHACHA20_POLY1305"}) == "chacha20poly1305"
    assert cipher_of({"encr-alg": "NEW", "encr-keysize": 1}) == "NEW"


def test_lines_go_to_stderr_beside_json_and_a_pipe_gets_no_live_view(monkeypatch):
    assert choose_view(json=True, plain=False)._out is sys.stderr
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert isinstance(choose_view(json=False, plain=False), PlainView)


def test_the_live_view_renders_every_part(capsys):
    view = LiveView()
    view.step("one")
    view.detail("initiating")
    child = {"name": "net", "uniqueid": 1, "state": "INSTALLED", "spi-in": "1", "spi-out": "2", "bytes-out": 0}
    sa = {"name": "paris", "uniqueid": 1, "state": "ESTABLISHED", "local-id": "a", "remote-id": "b", "local-host": "c",
          "remote-host": "d", "local-port": 500, "remote-port": 500, "child-sas": [child]}  # fmt: skip
    status = {"version": "1", "gateway": {"engine": "openssl"}, "ike_sas": [sa]}
    view.show(status)
    time.sleep(0.01)
    view.show(status)
    from rich.console import Console

    Console(width=100).print(view._render())
    shown = capsys.readouterr().out
    for part in ("> one", "initiating", "paris #1", "net #1", "0.00 Gbit/s"):
        assert part in shown


@pytest.mark.netns
def test_the_demo_carries_traffic_and_prints_one_json_document():
    done = subprocess.run([*DEMO, "--seconds", "1", "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) >= FIELDS
    assert figures["mode"] in ("root", "userns")
    assert figures["tcp1_gbit_per_s"] > 0.2
    assert (figures["rekeys"], figures["packets_lost_over_rekey"], figures["cipher"]) == (2, 0, "aes128gcm16")
    assert 0 < figures["recovery_s"] < 10
    # 1000 packets a second each way, and nobody to receive them
    assert figures["packets_lost_over_kill"] > 500 * figures["recovery_s"]
    assert "network namespaces" in done.stderr


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_gateway_outlives_an_interrupted_demo(number):
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell lets what it runs behind its back ignore it
    try:
        process = subprocess.Popen([*DEMO, "--plain"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    for line in process.stdout:
        if "established" in line:
            break
    # a live one may start the next program meanwhile; both gateways stand since before this line
    gateways = [pid for pid in _children(process.pid) if "gateway" in _words(pid)]
    assert len(gateways) == 2
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 1)
    deadline = time.monotonic() + 5
    while any("gateway" in _words(pid) for pid in gateways) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [_words(pid) for pid in gateways if "gateway" in _words(pid)]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _words(pid: int) -> list[str]:
    """The command line of a process; empty where it is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
