"""`ipsec-fast bench gate`: its arguments, what it prints. The judgement is gate.py. Called by bench/__init__ and `./run test`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import HostError, UsageError
from .gate import (
    MARGIN_ELSEWHERE,
    RECORDED_TRIES,
    SAME,
    Case,
    Verdict,
    in_another_process,
    judge,
    load_baseline,
    measure_ratio,
    record,
    split_known,
    text_of,
    usual_cases,
)
from .inside import say
from .machine import describe, machine
from .progress import Meter

BASELINE = Path("bench/baseline.json")


def main(arguments: argparse.Namespace) -> int:
    """0 where no ratio is worse than it was, 1 where one is, in every try."""
    if arguments.record is not None:
        if arguments.baseline is not None:
            raise UsageError("--record writes a baseline and --baseline reads one: name one of the two")
        return _record(arguments)
    path = Path(arguments.baseline) if arguments.baseline is not None else BASELINE
    baseline, where = load_baseline(path), machine()
    ratios, absent, unknown = split_known(baseline.ratios, usual_cases())
    if not ratios:
        raise UsageError(f"{path} has no case that this machine can measure")
    margin = baseline.margin_on(where)
    if margin == MARGIN_ELSEWHERE:
        was = ", ".join(f"{name} {baseline.machine.get(name)}" for name in SAME)
        say(f"{path} is of another machine ({was}): the margin is {margin:.0%} here")
    for text, cases in (("not possible here", absent), (f"not in {path}", unknown)):
        if cases:
            say(f"left out, {text}: {len(cases)} cases, the first {cases[0]}")
    with Meter(arguments, len(ratios)) as meter:
        verdicts = judge(ratios, margin, measure_ratio, in_another_process, lambda case: _begin(meter, case))
    if arguments.json:
        rows = [asdict(one.case) | _figures(one) for one in verdicts]
        print(json.dumps({"machine": where, "margin": margin, "results": rows}, indent=1))
    else:
        print(f"{describe(where)}\n{_summary(verdicts, margin, path)}")
    return 1 if any(one.is_slower for one in verdicts) else 0


def _begin(meter: Meter, case: Case) -> None:
    meter.begin(str(case))


def _figures(one: Verdict) -> dict[str, object]:
    return {
        "ratio": one.ratio,
        "baseline": one.baseline,
        "limit": one.limit,
        "tries": one.tries,
        "is_slower": one.is_slower,
    }


def _summary(verdicts: Sequence[Verdict], margin: float, path: Path) -> str:
    again = sum(one.tries > 1 for one in verdicts)
    slower = [one for one in verdicts if one.is_slower]
    lines = [
        f"slower than {path}: {one.case}, ratio {one.ratio:.2f} in the best of {one.tries} tries, was {one.baseline:.2f}, "
        f"{one.limit:.2f} is the limit"
        for one in slower
    ]
    lines.append(
        f"{len(verdicts) - len(slower)} of {len(verdicts)} ratios within {margin:.0%} of {path}, {again} tried more than once"
    )
    return "\n".join(lines)


def _record(arguments: argparse.Namespace) -> int:
    path = Path(arguments.record)
    try:
        path.open("a").close()  # before minutes are spent; what stands there stays until there is better
    except OSError as error:
        raise UsageError(f"--record {path}: it cannot be written: {error.strerror}") from None
    cases, where = usual_cases(), machine()
    with Meter(arguments, len(cases) * RECORDED_TRIES) as meter:
        ratios = record(cases, measure_ratio, lambda case: _begin(meter, case))
    try:
        path.write_text(text_of(where, ratios))
    except OSError as error:
        raise HostError(f"--record {path}: {error.strerror}") from None
    if arguments.json:
        print(text_of(where, ratios), end="")
    else:
        print(f"{describe(where)}\n{len(ratios)} ratios in {path}, medians of {RECORDED_TRIES} tries")
    return 0
