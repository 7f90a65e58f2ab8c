"""`ipsec-fast bench flood`: good peers come up in every flood, the figures hang together, and it leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import flood_face
from ipsec_fast.bench.flood import LIBRARY, Result, _with_ratios, measure_library
from ipsec_fast.bench.flood_source import KINDS, _half_open, _junk, _refused
from ipsec_fast.errors import UsageError
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import MAX_INIT_BYTES, decode_message
from ipsec_fast.ike.v2.payloads import EncryptedPayload, SaPayload

FIELDS = set(Result.__dataclass_fields__)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["flood", *words])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--seconds", "0"), "--seconds 0: 0.5 to 300"),
        (("--seconds", "301"), "--seconds 301"),
        (("--rate", "-1"), "--rate -1: 0 to"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        bench.main(parse(*words))


class Wire:
    """A socket that keeps what it sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._ends = os.pipe()

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def fileno(self) -> int:
        return self._ends[0]

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


@pytest.mark.parametrize("make", [_refused, _half_open, _junk])
def test_each_datagram_of_a_flood_has_spis_of_its_own_and_can_be_read(make) -> None:  # type: ignore[no-untyped-def]
    wire = Wire()
    step = make([wire])
    assert [step() for _ in range(3)] == [1, 1, 1]
    wire.close()
    assert len({data[:8] for data in wire.sent}) == 3
    message = decode_message(wire.sent[0])
    assert len(wire.sent[0]) <= MAX_INIT_BYTES
    if make is _junk:
        assert IkeHeader.decode(wire.sent[0]).spi_r != bytes(8)
        assert message.get(EncryptedPayload) is not None
    else:
        assert message.get(SaPayload) is not None


def test_ratios_are_to_the_idle_run_and_absent_where_there_is_nothing_to_divide() -> None:
    idle = Result("idle", 0, 1.0, 10, 0, 10.0, 12.0, 2.0, 3.0, 0.0, 50.0)
    row = _with_ratios(replace(idle, flood="junk", setup_ms=15.0, status_ms=8.0, cpu_percent=25.0), idle)
    assert (row.setup_ratio, row.status_ratio, row.cpu_ratio) == (1.5, 4.0, 0.5)
    assert _with_ratios(replace(idle, setup_ms=0.0), idle).setup_ratio is None
    assert _with_ratios(row, replace(idle, cpu_percent=0.0)).cpu_ratio is None


def test_the_library_opens_none_of_the_bad_packets() -> None:
    row = measure_library(0.05)
    assert row.packets >= 640
    assert row.ratio == pytest.approx(row.ns_per_packet / row.good_ns_per_packet, rel=0.02)
    assert row.mpps == pytest.approx(1e3 / row.ns_per_packet, rel=0.02)


def test_the_library_alone_needs_no_namespaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood_face, "go_inside", lambda words: pytest.fail("no namespaces are needed"))
    assert bench.main(parse("--json", "--kind", LIBRARY, "--seconds", "0.5")) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "rate", "results"}
    assert [row["flood"] for row in document["results"]] == [LIBRARY]


def test_bad_icvs_come_as_fast_as_a_socket_takes_them_unless_a_rate_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def run(kinds: object, rates: dict[str, float], *_: object) -> list[Result]:
        asked.extend((rates["bad-icv"], rates["junk"]))
        return [Result("idle", 0, 1.0, 10, 0, 10.0, 12.0, 2.0, 3.0, 0.0, 50.0)]

    monkeypatch.setattr(flood_face, "run_floods", run)
    monkeypatch.setattr(flood_face, "go_inside", lambda words: None)
    for words in ((), ("--rate", "300")):
        assert bench.main(parse("--json", "--kind", "bad-icv", *words)) == 0
    assert asked == [0, flood_face.RATE, 300, 300]


@pytest.mark.netns
def test_a_short_run_against_a_gateway() -> None:
    words = [word for kind in KINDS for word in ("--kind", kind)]
    done = subprocess.run(
        [sys.executable, "-m", "ipsec_fast", "bench", "flood", "--json", "--seconds", "1", "--rate", "300", *words],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [row["flood"] for row in rows] == ["idle", *KINDS]
    for row in rows:
        assert set(row) == FIELDS
        assert row["setups"] >= 1, row
        assert row["seconds"] < 60
        assert row["setup_ms_max"] >= row["setup_ms"] > 0
        assert row["status_ms_max"] >= row["status_ms"] > 0
        assert (row["setup_ratio"] is None) == (row["flood"] == "idle")
        assert (row["sent_per_s"] > 0) == (row["flood"] != "idle")
    seen = {row["flood"]: row["counters"] for row in rows}
    assert seen["junk"]["ike_unknown_spi"] > 100
    assert seen["refused"]["ike_cookies_sent"] > 50
    assert seen["bad-icv"]["drop_bad_icv"] > 100
    assert not seen["idle"]["drop_bad_icv"]
    assert not list(Path("/run/netns").glob("flood-*"))
