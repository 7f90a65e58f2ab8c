"""`ipsec-fast bench gateway`: what is refused, the engine `null` and where it is not, and one short run of what needs nothing installed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import gateway, gateway_face, tunnels
from ipsec_fast.bench.tunnels import Kind
from ipsec_fast.errors import HostError, UsageError

FIELDS = {
    "path", "engine", "pinned", "tcp1_gbit_per_s", "tcp4_gbit_per_s", "tcp1_no_tso_gbit_per_s", "udp64_kpps", "rtt_ms_median",
    "cpu_s_per_gbyte", "rss_mbytes",
}  # fmt: skip


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["gateway", *words])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--rounds", "0"), "--rounds 0: 1 to 100"),
        (("--rounds", "101"), "--rounds 101"),
        (("--seconds", "0.5"), "--seconds 0.5: 1 to 600"),
        (("--seconds", "nan"), "--seconds nan"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_made(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        bench.main(parse(*words))


def test_a_peer_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels.wireguard.shutil, "which", lambda name: None)
    kinds, absent = tunnels.all_paths()
    assert [kind.name for kind in kinds[:2]] == ["veth", "null"]
    assert [line.partition(":")[0] for line in absent] == ["wireguard-go", "charon"]
    assert "apt-get install --no-install-recommends wireguard-go" in absent[0]
    monkeypatch.setattr(gateway_face, "go_inside", lambda words: None)
    with pytest.raises(HostError, match="no wireguard-go: apt-get install"):
        bench.main(parse("--path", "wireguard-go"))


def test_medians_and_spread_are_those_of_the_rounds() -> None:
    rounds = [dict.fromkeys(gateway.FIGURES, value) for value in (1.0, 4.0, 2.0)]
    del rounds[0]["rss_mbytes"]
    row, spread, ends = gateway.combine(Kind("veth"), False, rounds)
    assert (row.tcp1_gbit_per_s, row.rss_mbytes) == (2.0, 3.0)
    assert spread["tcp1_gbit_per_s"] == 1.5
    assert ends["tcp1_gbit_per_s"] == (1.0, 4.0)


NULL = """
from ipsec_fast import SA, protect_packet, unprotect_packet
from ipsec_fast.bench.null_engine import register
from ipsec_fast.dataplane.engine import engine_for, engines
register(); register()
inner = bytes.fromhex('4500001c00000000401100000a0100010a020001') + b'plaintxt'
for name in engines()['null']:
    from ipsec_fast.algorithms import esp_suite
    key = bytes(esp_suite(name).keymat_bytes)
    out, into = (SA(d, 0x1001, name, key, engine='null') for d in ('out', 'in'))
    sealed = protect_packet(out, inner)
    assert inner in sealed and unprotect_packet(into, sealed) == inner, name
    assert SA('out', 0x1001, name, key).engine != 'null', 'nobody gets it unasked'
print(len(engines()['null']))
"""


def test_the_null_engine_is_there_once_it_is_asked_for_and_chosen_by_name_alone() -> None:
    done = subprocess.run([sys.executable, "-c", NULL], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "71"), done.stderr


@pytest.mark.parametrize("module", ["ipsec_fast.cli.main", "ipsec_fast.gateway.daemon", "ipsec_fast"])
def test_no_other_program_has_it(module: str) -> None:
    code = f"import {module}; from ipsec_fast.dataplane.engine import engines; assert 'null' not in engines()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_short_run_has_the_fields_and_leaves_nothing_behind() -> None:
    words = ["--json", "--rounds", "1", "--seconds", "1", "--layout", "free"]
    for name in ("veth", "null", "ipsec_fast"):
        words += ["--path", name]
    done = subprocess.run(
        [sys.executable, "-m", "ipsec_fast", "bench", "gateway", *words], capture_output=True, text=True, timeout=180
    )
    if done.returncode == 1 and "network namespaces" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"machine", "results", "spread", "rounds", "absent"}
    rows = document["results"]
    assert all(set(row) == FIELDS for row in rows)
    assert {row["path"] for row in rows} == {"veth", "null", "ipsec_fast"}
    assert len(document["spread"]) == len(rows)
    for row in rows:
        figures = [row[name] for name in gateway.FIGURES if row["path"] != "veth" or name[:3] not in ("cpu", "rss")]
        assert all(value > 0 for value in figures), row
        assert row["pinned"] is False
    assert not list(Path("/run/netns").glob("speed-*"))
