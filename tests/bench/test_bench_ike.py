"""`ipsec-fast bench ike`: every handshake is a whole one and is gone afterwards; turns and medians; then real ones with each responder."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import charon, ike_face
from ipsec_fast.bench.ike import (
    FIGURES,
    PROPOSALS,
    EndpointPair,
    Figures,
    Measure,
    combine,
    measure_endpoints,
    run_rounds,
)
from ipsec_fast.bench.ike_side import Side, connection_of
from ipsec_fast.errors import AlgorithmError, HostError, UsageError

FIELDS = {"path", "initiator", "responder", "proposal", "parallel", "handshakes", *FIGURES, "spread"}
X25519, MODP = PROPOSALS[0], PROPOSALS[-1]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["ike", *words])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--rounds", "0"), "--rounds 0: 1 to 100"),
        (("--seconds", "0"), "--seconds 0: 0.05 to 600"),
        (("--parallel", "25"), "--parallel 25: 1 to 24"),
        (("--proposal", "aes128gcm16-prfsha256-ecp224bp"), "ecp224bp"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        bench.main(parse(*words))


def test_charon_asked_for_and_missing_is_an_error_and_otherwise_named_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(charon.shutil, "which", lambda name: None)
    with pytest.raises(HostError, match="apt-get install"):
        ike_face._responders(["gateways"], "charon")
    found, absent = ike_face._responders(["endpoints", "gateways"], None)
    assert found == ["endpoints", "ipsec_fast"]
    assert absent[0].startswith("charon: no charon-systemd")


def test_sides_that_do_not_know_each_other_are_no_figure() -> None:
    pair = EndpointPair([X25519])
    london, _ = pair._sides
    pair._sides = (london, Side(connection_of(False, [X25519]), b"another secret"))
    with pytest.raises(HostError, match="a handshake in memory failed"):
        pair.handshake()


def test_sides_without_a_common_proposal_are_no_figure() -> None:
    pair = EndpointPair([X25519])
    london, _ = pair._sides
    pair._sides = (london, Side(connection_of(False, [MODP]), b"another secret"))
    with pytest.raises(HostError, match="0 and 0 Child SAs came up"):
        pair.handshake()


@pytest.mark.parametrize("proposal", [*PROPOSALS, "aes256-sha256-x25519"])
def test_handshakes_in_memory_leave_nothing_behind(proposal: str) -> None:
    pair = EndpointPair([proposal])
    for _ in range(3):
        assert min(pair.handshake()) > 0
    assert [len(side._children) for side in pair._sides] == [0, 0]
    assert [len(side._spis) for side in pair._sides] == [0, 0]


def test_however_short_the_time_there_are_some_handshakes() -> None:
    figures = measure_endpoints(X25519, 0.0)
    assert figures.handshakes >= 3
    assert figures.handshakes_per_s == pytest.approx(1e3 / (figures.initiator_cpu_ms + figures.responder_cpu_ms))


def test_each_round_begins_with_another_one() -> None:
    order: list[tuple[str, str]] = []

    def opener(responder: str, proposals: object) -> Measure:
        return lambda proposal, seconds: order.append((responder, proposal)) or Figures(1, 1.0, 1.0, 1.0)

    found = run_rounds(2, ["a", "b"], 1.0, ["endpoints", "charon"], opener, lambda text: None)
    assert order == [
        ("endpoints", "a"), ("endpoints", "b"), ("charon", "a"), ("charon", "b"),
        ("charon", "b"), ("charon", "a"), ("endpoints", "b"), ("endpoints", "a"),
    ]  # fmt: skip
    assert all(len(figures) == 2 for figures in found.values())


def test_rows_are_medians_with_their_ends() -> None:
    rounds = [Figures(10, rate, rate / 2, rate / 4) for rate in (100.0, 400.0, 200.0)]
    found = {
        ("gateways", "charon", "a"): rounds,
        ("gateways", "ipsec_fast", "a"): rounds,
        ("endpoints", "ipsec_fast", "a"): rounds,
    }
    rows = combine(found, 8, ["a"])
    assert [(row.path, row.responder, row.parallel) for row in rows] == [
        ("endpoints", "ipsec_fast", 1), ("gateways", "ipsec_fast", 8), ("gateways", "charon", 8),
    ]  # fmt: skip
    assert (rows[0].handshakes, rows[0].handshakes_per_s, rows[0].initiator_cpu_ms) == (30, 200.0, 100.0)
    assert rows[0].spread["responder_cpu_ms"] == (25.0, 100.0)


def test_endpoints_alone_need_no_namespaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ike_face, "go_inside", lambda words: pytest.fail("no namespaces are needed"))
    words = ["--json", "--path", "endpoints", "--rounds", "5", "--seconds", "0.05", "--proposal", X25519]
    assert bench.main(parse(*words)) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "results", "rounds", "seconds", "absent"}
    (row,) = document["results"]
    assert set(row) == FIELDS
    assert row["handshakes"] >= 15
    for name in FIGURES:
        low, high = row["spread"][name]
        assert 0 < low <= row[name] <= high


def test_an_unknown_proposal_is_named() -> None:
    with pytest.raises(AlgorithmError, match="rot13"):
        connection_of(True, ["rot13"])


@pytest.mark.netns
@pytest.mark.parametrize("responder", ["ipsec_fast", pytest.param("charon", marks=pytest.mark.interop)])
def test_a_short_run_with_a_real_responder(responder: str) -> None:
    words = f"--json --path gateways --responder {responder} --rounds 1 --seconds 0.2 --parallel 4 --proposal {X25519} --proposal {MODP}"
    done = subprocess.run(
        [sys.executable, "-m", "ipsec_fast", "bench", "ike", *words.split()],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = document["results"]
    assert [(row["path"], row["responder"], row["proposal"]) for row in rows] == [
        ("gateways", responder, X25519), ("gateways", responder, MODP),
    ]  # fmt: skip
    for row in rows:
        assert set(row) == FIELDS
        assert row["handshakes"] >= 3
        assert row["handshakes_per_s"] > 0
        assert row["initiator_cpu_ms"] > 0
    assert ("charon" in document["machine"]) == (responder == "charon")
    assert not list(Path("/run/netns").glob("ike-*"))
