"""Connections and secrets over the control socket: what is refused and why, what replaces what, what stays."""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vici

from ipsec_fast.crypto.secret import arena_report
from ipsec_fast.errors import HostError
from ipsec_fast.gateway import configuration as configuration_module
from ipsec_fast.gateway.vici.codec import MAX_SEGMENT_BYTES, Packet, PacketType, encode_message, encode_segment
from ipsec_fast.gateway.waiting import Change
from ipsec_fast.ike.events import ChildUp, IkeUp
from ipsec_fast.model import Identity
from tests.support.fake_control import FakeControl, ike_view, running_server

PSK = b"a long shared secret, swordfish"
SITE: dict[str, Any] = {
    "local_addrs": ["192.0.2.1"],
    "remote_addrs": ["192.0.2.9"],
    "local-1": {"auth": "psk", "id": "a.example"},
    "remote-1": {"auth": "psk", "id": "b.example"},
    "children": {"net": {"local_ts": ["10.1.0.0/24"], "remote_ts": ["10.9.0.0/24"], "start_action": "start"}},
}


def site(**changes: Any) -> dict[str, Any]:
    return {"oslo": SITE | changes}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[FakeControl, str]]:
    path = str(tmp_path / "v.sock")
    with running_server(path) as (control, _):
        yield control, path


@pytest.fixture
def control(gateway: tuple[FakeControl, str]) -> FakeControl:
    return gateway[0]


@pytest.fixture
def session(gateway: tuple[FakeControl, str]) -> Iterator[vici.Session]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gateway[1])
        yield vici.Session(connection)


def refusal(session: vici.Session, command: str, message: dict[str, Any]) -> str:
    with pytest.raises(vici.exception.CommandException) as raised:
        session.request(command, message)
    return str(raised.value)


def secret_bytes() -> int:
    gc.collect()  # of what other tests left
    return arena_report()["used_bytes"]


def names(items: list[bytes]) -> list[str]:
    return [item.decode() for item in items]


# --- what is refused


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "one section"),
        ({"oslo": "yes"}, "one section"),
        ({"oslo": {}, "rome2": {}}, "one section"),
        ({"oslo": {}}, "connections.oslo.local: missing"),
        ({"os.lo": SITE}, "a name is 1 to 100"),
        ({"": SITE}, "a name is 1 to 100"),
        (site(versoin="2"), "connections.oslo.versoin: unknown key; did you mean 'version'?"),
        (site(version="1"), "connections.oslo.version: IKEv1 is not supported"),
        (site(local_addrs=["nobody"]), "connections.oslo.local_addrs: 'nobody': host names are not supported"),
        (
            site(if_id_out="7"),
            'connections.oslo.if_id_out: not supported by this version; leave it out, or write if_id_out = "0"',
        ),
        (site(vips=["0.0.0.0"]), "connections.oslo.vips: not supported"),
        (site(rekey_time=["4h"]), "connections.oslo.rekey_time: must be a time"),
        (site(children="net"), "connections.oslo.children: must be a section"),
        (site(children={"net": {"remote_ts": ["10.9.0.1/24"]}}), "did you mean 10.9.0.0/24?"),
        (site(**{"local-1": {"auth": "pubkey", "certs": [b"\x30\x82"]}}), "connections.oslo.local-1.auth: "),
        (site(**{"remote-2": {"auth": "eap"}}), "a second round of authentication"),
        (site(local_addrs=["198.51.100.1"]), "listens elsewhere"),
        (
            site(children={"net": {"remote_ts": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1025)]}}),
            "needs 1025 policies (local_ts times remote_ts) and 1025 routes; at most 1024",
        ),
        ({"paris": SITE}, "connection paris stands in the gateway's own file"),
    ],
)
def test_a_connection_that_cannot_be_is_refused_with_its_path(
    session: vici.Session, control: FakeControl, message: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(session, "load-conn", message)
    assert session.get_conns()["conns"] == []
    assert control.applied == []


def test_every_problem_of_a_connection_is_in_one_answer(session: vici.Session) -> None:
    text = refusal(session, "load-conn", site(version="1", proposals=["none-such"], encap="maybe"))
    for path in ("connections.oslo.version", "connections.oslo.proposals", "connections.oslo.encap"):
        assert path in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"id": "s", "type": "ike"}, "missing data"),
        ({"id": "s", "type": "ike", "data": ""}, "missing data"),
        ({"id": "s", "type": "ike", "data": [PSK]}, "missing data"),
        ({"id": "s", "data": PSK}, "missing type"),
        ({"id": "s", "type": "eap", "data": PSK}, "not supported by this version"),
        ({"id": "s", "type": "magic", "data": PSK}, "unknown type of secret"),
        ({"id": "s", "type": "ike", "data": "short"}, "secrets.s: it holds 5 bytes"),
        ({"id": "s", "type": "ike", "data": PSK * 200}, "longer than"),
        ({"id": "s", "type": "ike", "data": PSK, "owners": "a.example"}, "owners must be a list"),
        ({"id": "s", "type": "ike", "data": PSK, "owners": ["CN=x"]}, "secrets.s.id: "),
        ({"id": "s" * 101, "type": "ike", "data": PSK}, "id must be"),
        ({"id": "s\n", "type": "ike", "data": PSK}, "id must be"),
    ],
)
def test_a_secret_that_cannot_be_is_refused_and_wiped(
    session: vici.Session, message: dict[str, Any], reason: str
) -> None:
    before = secret_bytes()
    text = refusal(session, "load-shared", message)
    assert reason in text
    assert "swordfish" not in text
    assert "short" not in text
    assert session.get_shared()["keys"] == []
    assert secret_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["load-cert", "load-key", "unload-key", "load-token", "flush-certs", "load-authority", "unload-authority", "load-pool",
     "unload-pool", "redirect"],
)  # fmt: skip
def test_what_has_no_meaning_yet_says_so(session: vici.Session, command: str) -> None:
    assert "not supported by this version: " in refusal(session, command, {"name": "x"})


def test_a_host_that_refuses_leaves_everything_as_it_was(session: vici.Session, control: FakeControl) -> None:
    def refuse(change: Change) -> None:
        if any(one.name == "oslo" for one in change.all):
            raise HostError("add the route: no buffer space")

    control.configuration._around = configuration_module.Surroundings(control._check, refuse, control._begin)
    assert "no buffer space" in refusal(session, "load-conn", site())
    assert session.get_conns()["conns"] == []
    assert control.begun == []


def test_loaded_connections_and_secrets_are_bounded(session: vici.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_module, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(configuration_module, "MAX_CHILDREN", 1)
    monkeypatch.setattr(configuration_module, "MAX_SECRETS", 1)
    two = {"one": {}, "two": {}}
    assert "at most 1 may be loaded" in refusal(session, "load-conn", site(children=two))
    session.load_conn(site())
    assert "1 connections are loaded already" in refusal(session, "load-conn", {"bergen": SITE})
    session.load_conn(site(encap="no"))  # to replace one is no more of them
    session.load_shared({"id": "s", "type": "ike", "data": PSK})
    assert "1 secrets are loaded already" in refusal(session, "load-shared", {"type": "ike", "data": PSK})


def test_a_connection_that_no_answer_could_hold_is_refused(session: vici.Session) -> None:
    many = [f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(1024)]
    children: dict[str, Any] = {f"c{n}": {"remote_ts": many} if n < 31 else {} for n in range(250)}
    message = site(children=children)
    assert len(encode_message(message)) < MAX_SEGMENT_BYTES - 10
    assert "too large for one vici message" in refusal(session, "load-conn", message)


# --- connections


def test_load_and_unload(session: vici.Session, control: FakeControl) -> None:
    session.load_conn(site())
    assert names(session.get_conns()["conns"]) == ["oslo"]
    assert [next(iter(one)) for one in session.list_conns()] == ["paris", "rome", "oslo"]
    assert control.begun == [("oslo", "net")]
    assert control.applied == [("paris", "rome", "oslo")]
    session.unload_conn({"name": "oslo"})
    assert session.get_conns()["conns"] == []
    assert control.applied[-1] == ("paris", "rome")
    assert len(control.begun) == 1
    assert "nothing of that name is loaded" in refusal(session, "unload-conn", {"name": "oslo"})
    assert "its own file" in refusal(session, "unload-conn", {"name": "paris"}).replace("the gateway's", "its")
    assert "missing name" in refusal(session, "unload-conn", {})


def test_the_same_again_changes_nothing_and_a_change_begins_anew(session: vici.Session, control: FakeControl) -> None:
    session.load_conn(site())
    session.load_conn(site())
    assert len(control.applied) == len(control.begun) == 1
    session.load_conn(site(rekey_time="1h"))
    assert control.begun == [("oslo", "net")] * 2
    (shown,) = session.list_conns({"ike": "oslo"})
    assert shown["oslo"]["rekey_time"] == b"3600"
    assert names(session.get_conns()["conns"]) == ["oslo"]


def test_a_file_s_connection_is_not_among_those_that_swanctl_would_unload(session: vici.Session) -> None:
    assert session.get_conns()["conns"] == []


# --- trap policies


def test_install_list_and_uninstall(session: vici.Session) -> None:
    assert "missing child" in refusal(session, "install", {"ike": "paris"})
    assert "no connection nowhere child net" in refusal(session, "install", {"ike": "nowhere", "child": "net"})
    session.install({"ike": "paris", "child": "net"})
    (policy,) = session.list_policies({"trap": "yes"})
    assert policy == {
        "paris/net": {
            "child": b"net", "ike": b"paris", "mode": b"TUNNEL", "local-ts": [b"10.1.0.0/24"],
            "remote-ts": [b"10.2.0.0/24[tcp/443]"],
        }
    }  # fmt: skip
    for nothing in ({"drop": "yes", "pass": "yes"}, {"child": "other"}, {"ike": "rome"}):
        assert list(session.list_policies(nothing)) == []
    session.uninstall({"child": "net"})
    assert list(session.list_policies()) == []


# --- secrets


def who(*words: str) -> list[Identity]:
    return [Identity.parse(word) for word in words]


def test_the_last_loaded_secret_wins_and_unloading_uncovers_the_older(
    session: vici.Session, control: FakeControl
) -> None:
    pair = who("a.example", "b.example")
    for name, size in (("old", 20), ("new", 30)):
        session.load_shared({"id": name, "type": "IKE", "data": b"x" * size, "owners": ["a.example", "b.example"]})
    assert names(session.get_shared()["keys"]) == ["old", "new"]
    credentials = control.configuration.credentials
    assert len(credentials.shared_key(*pair)) == 30
    session.unload_shared({"id": "new"})
    assert len(credentials.shared_key(*pair)) == 20
    session.load_shared({"id": "old", "type": "ike", "data": b"y" * 40, "owners": ["%any"]})
    assert len(credentials.shared_key(*who("c.example", "d.example"))) == 40
    assert "no secret with the id" in refusal(session, "unload-shared", {"id": "new"})


def test_clear_creds_wipes_all_that_was_loaded(session: vici.Session, control: FakeControl) -> None:
    before = secret_bytes()
    session.load_shared({"id": "s", "type": "ike", "data": PSK})
    session.load_shared({"type": "ike", "data": PSK})
    assert names(session.get_shared()["keys"]) == ["s"]
    session.clear_creds()
    assert session.get_shared()["keys"] == []
    assert secret_bytes() == before


def test_nothing_to_show_is_an_empty_answer(session: vici.Session) -> None:
    assert session.get_keys()["keys"] == []
    assert session.get_authorities()["authorities"] == []
    assert session.get_pools() == {}
    for stream in (session.list_certs, session.list_authorities):
        assert list(stream()) == []


def test_algorithms_are_named_as_list_sas_names_them(session: vici.Session) -> None:
    known = session.get_algorithms()
    assert known["aead"]["AES_GCM_16"] == b"openssl"
    assert "CURVE_25519" in known["ke"]
    assert "PRF_HMAC_SHA2_256" in known["prf"]


# --- counters


def test_counters_of_all_of_one_and_of_each(session: vici.Session, control: FakeControl) -> None:
    control.messages = {("", 34, True, False): 3, ("oslo", 35, False, False): 2, ("rome", 35, False, False): 1}
    control.exchange_counters.hear(IkeUp(2, "oslo", replaces=1), ike_view(2, "oslo"))
    control.exchange_counters.hear(ChildUp(2, 8, "oslo", "net", replaces=7), None)
    control.exchange_counters.hear(ChildUp(2, 9, "oslo", "net"), None)
    everything = session.get_counters()["counters"][""]
    assert len(everything) == 21
    wanted = {"ike-init-in-req": b"3", "ike-auth-out-req": b"3", "ike-rekey-init": b"1", "child-rekey": b"1",
              "invalid": b"2", "invalid-spi": b"1", "info-in-req": b"0"}  # fmt: skip
    assert {name: everything[name] for name in wanted} == wanted
    assert session.get_counters({"name": "oslo"})["counters"]["oslo"]["ike-auth-out-req"] == b"2"
    assert list(session.get_counters({"all": "yes"})["counters"]) == ["oslo", "rome"]
    assert "no counters found" in refusal(session, "get-counters", {"name": "nowhere"})
    assert "no counters found" in refusal(session, "reset-counters", {"name": "nowhere"})


def test_a_reset_counts_from_there_on_and_only_that_one(session: vici.Session, control: FakeControl) -> None:
    control.messages = {("oslo", 35, False, False): 2}
    session.reset_counters({"name": "oslo"})
    control.messages = {("oslo", 35, False, False): 5}
    assert session.get_counters({"name": "oslo"})["counters"]["oslo"]["ike-auth-out-req"] == b"3"
    assert session.get_counters()["counters"][""]["ike-auth-out-req"] == b"5"
    session.reset_counters()
    assert set(session.get_counters()["counters"][""].values()) == {b"0"}


# --- hostile


def test_mutated_messages_never_kill_the_server_nor_change_the_file_s_connections(
    gateway: tuple[FakeControl, str], session: vici.Session
) -> None:
    rng = random.Random(8)
    secret = {"id": "s", "type": "ike", "data": PSK, "owners": ["a.example", "b.example"]}
    good = [
        encode_segment(Packet(PacketType.CMD_REQUEST, name, encode_message(message)))
        for name, message in (("load-conn", site()), ("load-shared", secret), ("unload-conn", {"name": "oslo"}))
    ]
    for _ in range(400):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(gateway[1])
            client.sendall(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
            if rng.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
    assert [one.name for one in gateway[0].connections()][:2] == ["paris", "rome"]
    assert session.version()["daemon"] == b"ipsec-fast"
