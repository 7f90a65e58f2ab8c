"""Gateways without a connection in their file, configured by `swanctl --load-all` with a swanctl.conf, in namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import vici

from tests.gateway.site_pair import PSK, SIDES, Gateway, SitePair, captured, sh, site_pair

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and TUN devices need root"),
    pytest.mark.skipif(shutil.which("swanctl") is None, reason="no swanctl: apt-get install strongswan-swanctl"),
]


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SitePair]:
    with site_pair(f"vc{os.getpid() % 10000}", tmp_path_factory.mktemp("v")) as pair:
        yield pair


def bare_gateway(pair: SitePair, side: str, gateway_options: str = "") -> Gateway:
    """One that knows nothing but its socket, and what `gateway_options` adds to its section."""
    file = pair.directory / f"{side}.toml"
    file.write_text(f'[gateway]\nsocket = "{pair.directory}/{side}.vici"\nworkers = 1\n{gateway_options}\n')
    gateway = Gateway(pair.netns(side), file)
    pair.gateways.append(gateway)
    return gateway.wait_for("listening")


def write_swanctl_conf(pair: SitePair, side: str, *, start: str = "none", psk: str = PSK, more: str = "") -> Path:
    own, other, peer = SIDES[side]
    folder = pair.directory / f"{side}.swanctl"
    (folder / "conf.d").mkdir(parents=True, exist_ok=True)
    (folder / "swanctl.conf").write_text(f"""
# a comment, as people have them
connections {{
  site {{
    version = 2
    local_addrs = 192.0.2.{own}
    remote_addrs = 192.0.2.{other}
    proposals = aes128gcm16-prfsha256-x25519, default
    local {{
      auth = psk
      id = {side}.example
    }}
    remote-1 {{
      auth = psk
      id = {peer}.example
    }}
    children {{
      net {{
        local_ts = 10.{own}.0.0/24
        remote_ts = 10.{other}.0.0/24
        esp_proposals = aes128gcm16
        start_action = {start}
      }}
    }}
  }}
  {more}
}}
include conf.d/*.conf
""")
    (folder / "conf.d" / "secrets.conf").write_text(f"""
secrets {{
  ike-site {{
    id-1 = a.example
    id-2 = b.example
    secret = "{psk}"
  }}
}}
""")
    return folder


def run_swanctl(pair: SitePair, side: str, *words: str, check: bool = True) -> str:
    folder = pair.directory / f"{side}.swanctl"
    done = subprocess.run(
        ["swanctl", *words, "--uri", f"unix://{pair.directory}/{side}.vici"],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"SWANCTL_DIR": str(folder)},
    )
    assert not check or done.returncode == 0, f"swanctl {words}: {done.stdout} {done.stderr}"
    return done.stdout + done.stderr


def load_all(pair: SitePair, side: str, **config: str) -> str:
    write_swanctl_conf(pair, side, **config)
    return run_swanctl(pair, side, "--load-all")


def wait_until(what: str, condition: object) -> None:
    until = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.05)


def test_two_gateways_configured_by_swanctl_alone_carry_a_ping(pair: SitePair) -> None:
    gateways = [bare_gateway(pair, side) for side in "ba"]
    assert "swanctl --load-all" in gateways[0].text()  # it says what it waits for
    text = load_all(pair, "b")
    assert "loaded ike secret 'ike-site'" in text
    assert "successfully loaded 1 connections, 0 unloaded" in text
    load_all(pair, "a")
    with captured(pair.netns("b")) as seen:
        assert "initiate completed successfully" in run_swanctl(pair, "a", "--initiate", "--child", "net")
        assert pair.ping("a") == pair.ping("b") == 3
    for side, counted in (("a", "ike-auth-out-req"), ("b", "ike-auth-out-resp")):
        lines = [line.split() for line in run_swanctl(pair, side, "--counters", "--name", "site").splitlines()]
        assert [counted, ":", "1"] in lines, lines
    assert [packet for packet in seen if packet.is_clear] == []
    assert PSK not in "".join(gateway.text() for gateway in gateways)
    assert all(gateway.stop() == 0 for gateway in gateways)
    assert pair.leftovers("a") == pair.leftovers("b") == ""


def test_start_action_of_a_loaded_connection_is_executed_and_its_traffic_is_never_clear(pair: SitePair) -> None:
    one = bare_gateway(pair, "a")
    with captured(pair.netns("b")) as seen:
        load_all(pair, "a", start="start")
        assert pair.ping("a") == 0
    assert [packet for packet in seen if packet.is_clear] == []
    bare_gateway(pair, "b")
    load_all(pair, "b")
    one.wait_for("installed", 20)
    assert pair.ping("a") == 3
    load_all(pair, "a", start="start")  # the same again: nothing happens to what stands
    (sa,) = one.sas()
    assert len(sa["child-sas"]) == 1


def test_a_changed_connection_leaves_its_sas_and_an_unloaded_one_is_not_brought_back(pair: SitePair) -> None:
    one, two = bare_gateway(pair, "a"), bare_gateway(pair, "b")
    load_all(pair, "b")
    load_all(pair, "a", start="start")
    one.wait_for("installed")
    (before,) = one.sas()
    assert "loaded connection 'site'" in load_all(
        pair, "a", start="none", more="other { local { auth = psk } \n remote { auth = psk \n id = %any } }"
    )
    assert one.sas()[0]["initiator-spi"] == before["initiator-spi"]
    (pair.directory / "a.swanctl" / "swanctl.conf").write_text("")
    assert "2 unloaded" in run_swanctl(pair, "a", "--load-conns")
    assert pair.ping("a") == 3  # its SAs stay
    assert run_swanctl(pair, "a", "--list-conns").strip() == ""
    one.command("down", "site")
    assert pair.leftovers("a").count("10.2.0.0/24") == 0
    assert two.sas() == []


def test_trap_policies_follow_load_install_uninstall_and_unload(pair: SitePair) -> None:
    one = bare_gateway(pair, "a")
    bare_gateway(pair, "b")
    load_all(pair, "b")
    load_all(pair, "a", start="trap")
    assert "site/net, TUNNEL" in run_swanctl(pair, "a", "--list-pols")
    assert "dev ipsec0" in pair.leftovers("a")
    assert "uninstall completed successfully" in run_swanctl(pair, "a", "--uninstall", "--child", "net")
    assert run_swanctl(pair, "a", "--list-pols").strip() == ""
    assert "10.2.0.0/24" not in pair.leftovers("a")
    assert "install failed: no" in run_swanctl(pair, "a", "--uninstall", "--child", "net", check=False)
    assert "install completed successfully" in run_swanctl(pair, "a", "--install", "--child", "net", "--ike", "site")
    pair.ping("a")
    one.wait_for("installed")
    assert pair.ping("a") == 3
    run_swanctl(pair, "a", "--terminate", "--ike", "site")
    (pair.directory / "a.swanctl" / "swanctl.conf").write_text("")
    run_swanctl(pair, "a", "--load-conns")
    assert "10.2.0.0/24" not in pair.leftovers("a")


def test_monitor_and_log_stream_a_negotiation_and_its_end(pair: SitePair) -> None:
    for side in "ab":
        bare_gateway(pair, side)
        load_all(pair, side)
    uri = f"unix://{pair.directory}/a.vici"

    def seen(name: str) -> str:
        return (pair.directory / name).read_text()

    with (pair.directory / "monitor").open("w") as monitor, (pair.directory / "log").open("w") as log:
        streams = [
            subprocess.Popen(["stdbuf", "-oL", "swanctl", words, "--uri", uri], stdout=file, stderr=file)
            for words, file in (("--monitor-sa", monitor), ("--log", log))
        ]
        try:
            wait_until("both streams are registered", lambda: len(streams_of(uri)) >= 2)
            run_swanctl(pair, "a", "--initiate", "--child", "net")
            run_swanctl(pair, "a", "--rekey", "--child", "net")
            wait_until("the rekey is done", lambda: "replaced by a rekey" in seen("log"))
            assert pair.ping("a") == 3
            run_swanctl(pair, "a", "--terminate", "--ike", "site")
            wait_until("the log has the end", lambda: "net{2} closed: deleted by us" in seen("log"))
            wait_until("the monitor has four events", lambda: seen("monitor").count("ESTABLISHED") >= 4)
        finally:
            for stream in streams:
                stream.send_signal(signal.SIGINT)
                stream.wait(5)
    print(seen("monitor"), seen("log"))
    assert "(null)" not in seen("monitor")
    assert "net: #2" in seen("monitor")  # the rekeyed child is the one that goes
    assert "252 bytes,     3 packets,     0s ago" in seen("monitor")  # with what it carried
    assert "[IKE] initiating IKE SA site" in seen("log")


def streams_of(uri: str) -> list[str]:
    return [line for line in sh("ss -xH").splitlines() if uri.removeprefix("unix://") in line and "ESTAB" in line]


def test_secrets_change_while_the_gateway_runs(pair: SitePair) -> None:
    one = bare_gateway(pair, "a")
    bare_gateway(pair, "b")
    load_all(pair, "b")
    load_all(pair, "a", psk="another secret, of the same length")
    text = run_swanctl(pair, "a", "--initiate", "--child", "net", check=False)
    assert "initiate failed" in text
    assert "AUTHENTICATION_FAILED" in text
    load_all(pair, "a")
    run_swanctl(pair, "a", "--initiate", "--child", "net")
    assert pair.ping("a") == 3
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{pair.directory}/a.vici")
        session = vici.Session(connection)
        assert session.get_shared()["keys"] == [b"ike-site"]
        session.clear_creds()
        assert session.get_shared()["keys"] == []
    one.command("down", "site")
    assert "no secret for" in run_swanctl(pair, "a", "--initiate", "--child", "net", check=False)
    assert "swordfish" not in one.text()


def test_what_a_gateway_cannot_take_is_one_line_of_swanctl_with_the_path(pair: SitePair) -> None:
    bare_gateway(pair, "a")
    write_swanctl_conf(pair, "a", psk="short", more="bad { mobike = yes \n local { auth = pubkey } }")
    text = run_swanctl(pair, "a", "--load-all", check=False)
    assert "loading connection 'bad' failed: connections.bad.mobike: not supported by this version" in text
    assert "connections.bad.local.auth: " in text
    assert "secrets.ike-site: it holds 5 bytes; it must hold at least 16" in text
    assert "loaded connection 'site'" in text


def test_every_other_view_of_swanctl_answers(pair: SitePair) -> None:
    bare_gateway(pair, "a")
    load_all(pair, "a")
    for words, expected in (
        ("--list-conns", "site: IKEv2"),
        ("--list-pools", ""),
        ("--list-certs", ""),
        ("--list-authorities", ""),
        ("--list-algs", "AES_GCM_16[openssl]"),
        ("--stats", "uptime"),
        ("--counters", "ike-init-out-req"),
        ("--counters --reset --all", ""),
        ("--version --daemon", "ipsec-fast"),
        ("--load-pools", "no pools found, 0 unloaded"),
        ("--load-authorities", "no authorities found, 0 unloaded"),
        ("--load-creds --clear", "loaded ike secret"),
        ("--reload-settings", ""),
    ):
        assert expected in run_swanctl(pair, "a", *words.split()), words


def test_a_hangup_reads_the_file_again_and_leaves_what_was_loaded(pair: SitePair) -> None:
    one = bare_gateway(pair, "a")
    load_all(pair, "a")
    secret = pair.directory / "x.psk"
    secret.write_text(PSK)
    secret.chmod(0o600)
    sides = 'local = { auth = "psk", id = "a.example" }\nremote = { auth = "psk", id = "x.example" }'
    good = one.config.read_text() + f'[connections.more]\n{sides}\n[secrets.ike-x]\nfile = "{secret}"\n'
    one.config.write_text(good + "broken")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("reload failed, everything stays as it was")
    one.config.write_text(good)
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("read again: 1 connections, 1 secrets")
    assert [line.split(":")[0] for line in run_swanctl(pair, "a", "--list-conns").splitlines() if "IKEv2" in line] == [
        "more",
        "site",
    ]
    assert one.process.poll() is None


def test_an_address_that_the_gateway_does_not_listen_on_says_what_to_do(pair: SitePair) -> None:
    pair.gateway("a").wait_for("listening")
    write_swanctl_conf(pair, "b")
    shutil.copytree(pair.directory / "b.swanctl", pair.directory / "a.swanctl")
    conf = pair.directory / "a.swanctl" / "swanctl.conf"
    conf.write_text(conf.read_text().replace("  site {", "  other {"))
    text = run_swanctl(pair, "a", "--load-all", check=False)
    assert "connections.other.local_addrs: 192.0.2.2: this gateway listens on 192.0.2.1 only" in text


def copies_in_memory(pid: int, what: bytes) -> int:
    """In all that root may read of a process; the arena is memfd_secret memory, or counted where that is missing."""
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if "r" not in rights or "[v" in line:
                continue
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(start)
                found += memory.read(end - start).count(what)
    return found


def test_of_a_loaded_secret_nothing_is_left_outside_the_arena(pair: SitePair) -> None:
    secret = os.urandom(24).hex()
    gateway = bare_gateway(pair, "a")
    load_all(pair, "a", psk=secret)
    loaded = copies_in_memory(gateway.process.pid, secret.encode()[8:])
    run_swanctl(pair, "a", "--load-creds", "--clear")
    write_swanctl_conf(pair, "a", psk=PSK)
    run_swanctl(pair, "a", "--load-creds", "--clear")
    assert loaded <= 1
    assert copies_in_memory(gateway.process.pid, secret.encode()[8:]) == 0
    assert copies_in_memory(gateway.process.pid, b"swanctl --load-all") > 0  # so it would have been found


def test_a_reauthentication_by_swanctl_makes_another_ike_sa_and_the_traffic_goes_on(pair: SitePair) -> None:
    one = bare_gateway(pair, "a")
    bare_gateway(pair, "b")
    for side in "ab":
        load_all(pair, side)
    run_swanctl(pair, "a", "--initiate", "--child", "net")
    (before,) = one.sas()
    run_swanctl(pair, "a", "--rekey", "--ike", "site", "--reauth")
    one.wait_for("replaced by a reauthentication")
    wait_until("one IKE SA is left", lambda: len(one.sas()) == 1)
    assert one.sas()[0]["initiator-spi"] != before["initiator-spi"]
    assert pair.ping("a") == 3


def test_an_ike_sa_of_a_loaded_connection_goes_on_after_a_crash_once_it_is_loaded_again(pair: SitePair) -> None:
    bare_gateway(pair, "b")
    key = pair.directory / "state.key"
    key.write_text("a key for state at rest of 32 bytes and more")
    key.chmod(0o600)
    one = bare_gateway(pair, "a", f'state_dir = "{pair.directory}/a.state"\nstate_key = "{key}"')
    for side in "ab":
        load_all(pair, side)
    run_swanctl(pair, "a", "--initiate", "--child", "net")
    (before,) = one.sas()
    one.kill()
    again = bare_gateway(pair, "a", f'state_dir = "{pair.directory}/a.state"\nstate_key = "{key}"')
    again.wait_for("it is kept for 60 s")
    load_all(pair, "a")
    again.wait_for("site restored (IKE SA 1)")
    assert again.sas()[0]["initiator-spi"] == before["initiator-spi"]
    assert pair.ping("a") == 3
