"""Clients that are not ours: strongSwan's Python client and stock swanctl, against our server."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import vici

from ipsec_fast.gateway.vici.control import Selection
from tests.support.fake_control import FakeControl, running_server

needs_swanctl = pytest.mark.skipif(
    shutil.which("swanctl") is None, reason="no swanctl: apt-get install --no-install-recommends strongswan-swanctl"
)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[FakeControl, str]]:
    path = str(tmp_path / "v.sock")
    with running_server(path) as (control, _):
        yield control, path


@pytest.fixture
def session(gateway: tuple[FakeControl, str]) -> Iterator[vici.Session]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gateway[1])
        yield vici.Session(connection)


def swanctl(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["swanctl", *arguments, "--uri", f"unix://{path}"], capture_output=True, text=True, timeout=20
    )


def test_list_sas_has_charon_s_keys(session: vici.Session) -> None:
    (sa,) = session.list_sas({"ike": "paris"})
    ours = {"local-id-type": b"FQDN", "remote-id-type": b"FQDN"}  # docs/control-socket.md
    assert {key: value for key, value in sa["paris"].items() if key != "child-sas"} == {
        **ours,
        "uniqueid": b"1",
        "version": b"2",
        "state": b"ESTABLISHED",
        "local-host": b"192.0.2.1",
        "local-port": b"4500",
        "local-id": b"london.example",
        "remote-host": b"192.0.2.2",
        "remote-port": b"4500",
        "remote-id": b"paris.example",
        "initiator": b"yes",
        "initiator-spi": b"3a902cfcdd0b42e2",
        "responder-spi": b"ee60f4ad85f2b723",
        "nat-remote": b"yes",
        "nat-fake": b"yes",
        "nat-any": b"yes",
        "encr-alg": b"AES_GCM_16",
        "encr-keysize": b"128",
        "prf-alg": b"PRF_HMAC_SHA2_256",
        "dh-group": b"CURVE_25519",
        "established": b"100",
        "rekey-time": b"13000",
    }
    assert sa["paris"]["child-sas"]["net-7"] == {
        "name": b"net",
        "uniqueid": b"7",
        "reqid": b"7",
        "state": b"INSTALLED",
        "mode": b"TUNNEL",
        "protocol": b"ESP",
        "encap": b"yes",
        "spi-in": b"c8fb5536",
        "spi-out": b"00825208",
        "encr-alg": b"AES_GCM_16",
        "encr-keysize": b"128",
        "esn": b"1",
        "bytes-in": b"168",
        "packets-in": b"2",
        "use-in": b"3",
        "bytes-out": b"1680",
        "packets-out": b"20",
        "use-out": b"1",
        "rekey-time": b"2247",
        "install-time": b"100",
        "local-ts": [b"10.1.0.0/24"],
        "remote-ts": [b"10.2.0.0/24[tcp/443]"],
        "mtu": b"1430",
        "mss_ipv4": b"1390",
        "mss_ipv6": b"1370",
        "path-mtu": b"1492",
        "path-mtu-source": b"probe",
        "path-mtu-age": b"7",
        "path-mtu-probing": b"echo",
        "worker": b"0",
        "cores": b"one worker",
    }


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["paris", "rome"]),
        ({"noblock": "yes"}, ["paris", "rome"]),
        ({"ike": "rome"}, ["rome"]),
        ({"ike-id": "1"}, ["paris"]),
        ({"child": "coast"}, ["rome"]),
        ({"child-id": "7"}, ["paris"]),
        ({"ike": "paris", "child": "coast"}, []),
        ({"ike": "none"}, []),
    ],
)
def test_list_sas_filters(session: vici.Session, wanted: dict[str, str], found: list[str]) -> None:
    assert [next(iter(sa)) for sa in session.list_sas(wanted)] == found


def test_absent_numbers_are_left_out(session: vici.Session) -> None:
    (sa,) = session.list_sas({"ike": "rome"})
    child = sa["rome"]["child-sas"]["coast-9"]
    assert child["packets-in"] == b"0"
    assert "use-in" not in child
    assert all(value != b"" for value in child.values())


def test_other_commands(session: vici.Session, gateway: tuple[FakeControl, str]) -> None:
    assert session.version()["daemon"] == b"ipsec-fast"
    assert session.stats()["ikesas"]["total"] == b"2"
    assert [next(iter(conn)) for conn in session.list_conns()] == ["paris", "rome"]
    assert [line["msg"] for line in session.initiate({"child": "net"})] == [b"initiating IKE_SA paris[3] to 192.0.2.2"]
    assert session.rekey({"child": "net"})["matches"] == b"1"
    assert list(session.terminate({"child": "net", "force": "yes"})) == []
    assert len(list(session.terminate({"ike": "paris"}))) == 1
    assert gateway[0].calls[-1] == ("terminate", Selection(ike="paris"), False)
    with pytest.raises(vici.exception.CommandException, match="no matching"):
        list(session.terminate({"ike": "paris"}))
    with pytest.raises(vici.exception.CommandException, match="not supported by this version"):
        session.load_pool({"office": {"addrs": "10.9.0.0/24"}})


@needs_swanctl
def test_swanctl_list_sas(gateway: tuple[FakeControl, str]) -> None:
    done = swanctl(gateway[1], "--list-sas")
    assert done.returncode == 0, done.stderr
    assert "paris: #1, ESTABLISHED, IKEv2, 3a902cfcdd0b42e2_i* ee60f4ad85f2b723_r" in done.stdout
    assert "AES_GCM_16-128/PRF_HMAC_SHA2_256/CURVE_25519" in done.stdout
    assert "net: #7, reqid 7, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/ESN" in done.stdout
    assert "168 bytes,     2 packets,     3s ago" in done.stdout
    assert "(null)" not in done.stdout


@needs_swanctl
def test_swanctl_other_views(gateway: tuple[FakeControl, str]) -> None:
    for arguments, expected in (
        (["--stats"], "uptime: 3 minutes"),
        (["--list-conns"], "paris: IKEv2, no reauthentication, rekeying every 14400s"),
        (["--version", "--daemon"], "ipsec-fast"),
    ):
        done = swanctl(gateway[1], *arguments)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert "(null)" not in done.stdout


@needs_swanctl
def test_swanctl_actions(gateway: tuple[FakeControl, str]) -> None:
    done = swanctl(gateway[1], "--initiate", "--child", "net")
    assert (done.returncode, "initiate completed successfully" in done.stdout) == (0, True)
    assert "[IKE] initiating IKE_SA" in done.stdout
    done = swanctl(gateway[1], "--initiate", "--child", "refused")
    assert done.returncode != 0
    assert "aes256gcm16 wanted" in done.stderr
    done = swanctl(gateway[1], "--initiate", "--child", "slow", "--timeout", "1")
    assert "not established after 1000ms" in done.stderr
    done = swanctl(gateway[1], "--rekey", "--child", "net")
    assert "rekey completed successfully" in done.stdout
    done = swanctl(gateway[1], "--terminate", "--ike", "paris")
    assert (done.returncode, "terminate completed successfully" in done.stdout) == (0, True)
    done = swanctl(gateway[1], "--terminate", "--ike", "paris")
    assert "no matching SAs" in done.stderr
