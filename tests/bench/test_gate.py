"""The gate on ratios: noise passes, a slower kernel does not, whatever the machine; what is no baseline is refused.

Nothing here depends on how fast this machine is: ratios are handed in, or a real kernel is slowed down beyond any noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import gate, gate_face
from ipsec_fast.bench.esp import EspCase
from ipsec_fast.bench.gate import MARGIN, MARGIN_ELSEWHERE, TRIES, Baseline, Case, judge, load_baseline, record, text_of
from ipsec_fast.bench.machine import machine
from ipsec_fast.dataplane.engine import engines
from ipsec_fast.errors import UsageError

ROOT = Path(__file__).parents[2]
CASE = Case("aes128gcm16", "out", 64, "openssl")
OTHER = Case("aes128gcm16", "in", 1400, "openssl")
SLOW = 10  # a kernel that does everything so many times; a bare engine is never that much slower by itself


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["gate", *words])


def handing_out(*ratios: float) -> tuple[list[Case], gate.Measure]:
    """What was asked for, and a measurement that gives these one after the other."""
    asked: list[Case] = []
    left: Iterator[float] = iter(ratios)

    def measure(case: Case) -> float:
        asked.append(case)
        return next(left)

    return asked, measure


def test_a_ratio_that_is_worse_in_every_try_fails() -> None:
    asked, measure = handing_out(*[1.2 * (1 + MARGIN) + 0.01] * TRIES)
    (verdict,) = judge({CASE: 1.2}, MARGIN, measure)
    assert verdict.is_slower
    assert verdict.tries == len(asked) == TRIES


def test_the_best_try_counts_and_no_more_are_made_than_needed() -> None:
    asked, measure = handing_out(5.0, 4.0, 1.2)
    (verdict,) = judge({CASE: 1.2}, MARGIN, measure)
    assert not verdict.is_slower
    assert (verdict.ratio, verdict.tries, len(asked)) == (1.2, 3, 3)


def test_a_ratio_within_the_margin_needs_one_try() -> None:
    asked, measure = handing_out(1.2 * (1 + MARGIN) - 0.001)
    (verdict,) = judge({CASE: 1.2}, MARGIN, measure)
    assert not verdict.is_slower
    assert len(asked) == 1


def test_all_are_tried_before_any_is_tried_again() -> None:
    asked, measure = handing_out(9.0, 1.0, 9.0, *[9.0] * (TRIES - 2))
    verdicts = judge({CASE: 1.0, OTHER: 1.0}, MARGIN, measure)
    assert asked[:3] == [CASE, OTHER, CASE]
    assert [one.is_slower for one in verdicts] == [True, False]


def test_further_tries_are_taken_afresh() -> None:
    _, first = handing_out(9.0, 1.0)
    asked, later = handing_out(8.0, 1.0)
    opened: list[None] = []

    def afresh() -> AbstractContextManager[gate.Measure]:
        opened.append(None)
        return nullcontext(later)

    verdicts = judge({CASE: 1.0, OTHER: 1.0}, MARGIN, first, afresh)
    assert [(one.ratio, one.tries) for one in verdicts] == [(1.0, 3), (1.0, 1)]
    assert (asked, len(opened)) == ([CASE, CASE], 2)


def test_another_process_measures_the_same_thing() -> None:
    with gate.in_another_process() as measure:
        assert 0.5 < measure(CASE) < 50


def test_a_faster_kernel_passes() -> None:
    _, measure = handing_out(0.9)
    assert not judge({CASE: 1.9}, MARGIN, measure)[0].is_slower


def test_what_is_recorded_is_the_median_of_tries_in_turn() -> None:
    asked, measure = handing_out(*[value for value in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0) for _ in range(2)])
    assert record([CASE, OTHER], measure) == {CASE: 1.3, OTHER: 1.3}
    assert asked[:4] == [CASE, OTHER, CASE, OTHER]


def test_the_margin_is_wider_on_another_machine() -> None:
    here = machine()
    assert Baseline(here, {CASE: 1.0}).margin_on(here) == MARGIN
    assert Baseline(here | {"kernel": "other", "python": "other"}, {CASE: 1.0}).margin_on(here) == MARGIN
    for name in ("cpu", "openssl", "ipsecmb"):
        assert Baseline(here | {name: "other"}, {CASE: 1.0}).margin_on(here) == MARGIN_ELSEWHERE


class SlowedCase(EspCase):
    """A kernel that does everything `SLOW` times."""

    def seal(self) -> int:
        return sum(super(SlowedCase, self).seal() for _ in range(SLOW))

    def open(self) -> int:
        return sum(super(SlowedCase, self).open() for _ in range(SLOW))


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_real_kernel_that_is_slowed_down_fails_even_elsewhere(direction: str, engine: str) -> None:
    case = Case("aes128gcm16", direction, 64, engine)
    (recorded,) = record([case], gate.measure_ratio).values()

    def measure(one: Case) -> float:
        return gate.ratio_of(SlowedCase(one.algorithm, one.packet_bytes, gate.BATCH, one.engine), one, seconds=0.02)

    (verdict,) = judge({case: recorded}, MARGIN_ELSEWHERE, measure)
    assert verdict.is_slower
    assert verdict.ratio > 3 * recorded


def test_the_command_fails_and_names_what_is_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PAUSE_S", 0.0)
    path = tmp_path / "baseline.json"
    path.write_text(text_of(machine(), {CASE: 0.2, OTHER: 900.0}))  # no kernel takes a fifth of the bare engine's time
    assert bench.main(parse("--baseline", str(path))) == 1
    out = capsys.readouterr().out
    assert "slower than" in out
    assert str(CASE) in out
    assert str(OTHER) not in out
    assert "1 of 2 ratios within" in out
    assert bench.main(parse("--baseline", str(path), "--json")) == 1
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["direction"], row["is_slower"], row["tries"]) for row in rows] == [
        ("out", True, TRIES),
        ("in", False, 1),
    ]


def test_what_this_machine_cannot_measure_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text_of(machine(), {CASE: 900.0, Case("aes128gcm16", "out", 64, "abacus"): 1.0}))
    assert bench.main(parse("--baseline", str(path))) == 0
    said = capsys.readouterr().err
    assert "not possible here: 1 cases, the first aes128gcm16 out 64 B on abacus" in said
    path.write_text(text_of(machine(), {Case("aes128gcm16", "out", 64, "abacus"): 1.0}))
    with pytest.raises(UsageError, match="no case that this machine can measure"):
        bench.main(parse("--baseline", str(path)))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"machine": {}, "ratios": []}', '{"machine": {}, "ratios": [{"algorithm": "a"}]}', "\x00", "{" * 5000,
     '{"machine": {}, "ratios": [{"algorithm": "a", "direction": "out", "packet_bytes": 64, "engine": "e", "ratio": NaN}]}'],
)  # fmt: skip
def test_what_is_no_baseline_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no baseline"):
        load_baseline(path)


def test_a_missing_baseline_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bench gate --record"):
        load_baseline(tmp_path / "baseline.json")


def test_a_record_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate_face, "usual_cases", lambda: [CASE, OTHER])
    path = tmp_path / "baseline.json"
    assert bench.main(parse("--record", str(path))) == 0
    baseline = load_baseline(path)
    assert set(baseline.ratios) == {CASE, OTHER}
    assert baseline.machine == machine()
    assert str(path) in capsys.readouterr().out


def test_the_recorded_baseline_has_every_usual_case_of_both_engines() -> None:
    baseline = load_baseline(ROOT / "bench" / "baseline.json")
    assert {case.engine for case in baseline.ratios} == {"openssl", "ipsecmb"}
    assert not set(gate.usual_cases()) - set(baseline.ratios)
