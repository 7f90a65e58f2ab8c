"""Has a kernel become slower against its raw limit? Ratios ours / bare engine of one run, held against recorded ones (bench/baseline.json).

A ratio that is too large is taken again, some time later and in another process, and the best of all tries counts: what else the machine
does, and where in memory things happen to lie, is not the same for every try, while a slower kernel is slow in each. On other machines than
the baseline's ratios differ honestly, so the margin is wider there. `measure` is handed in, so that the judgement can be tested without a
clock. Called by gate_face.py.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..dataplane.engine import engines
from ..dataplane.raw import RawBatch
from ..errors import UsageError
from .esp import USUAL, EspCase
from .samples import take_turns

BATCH = 64
SIZES = (64, 1400)
SECONDS = 0.06  # of one try
TRIES = 6
PAUSE_S = 0.5  # before a further one
RECORDED_TRIES = 7
# above the recorded ratio; what repeated runs on busy shared cores came to is in docs/performance.md
MARGIN, MARGIN_ELSEWHERE = 0.15, 0.60
SAME = ("cpu", "openssl", "ipsecmb")  # what makes a machine the baseline's


@dataclass(frozen=True, slots=True, order=True)
class Case:
    algorithm: str
    direction: str
    packet_bytes: int
    engine: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.direction} {self.packet_bytes} B on {self.engine}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case. `ratio` is the best of `tries`."""

    case: Case
    ratio: float
    baseline: float
    limit: float
    tries: int

    @property
    def is_slower(self) -> bool:
        return self.ratio > self.limit


Measure = Callable[[Case], float]


@dataclass(frozen=True)
class Baseline:
    machine: Mapping[str, Any]
    ratios: Mapping[Case, float]

    def margin_on(self, here: Mapping[str, Any]) -> float:
        return MARGIN if all(self.machine.get(name) == here.get(name) for name in SAME) else MARGIN_ELSEWHERE


def usual_cases() -> list[Case]:
    """The usual algorithms on every engine that carries them here."""
    return [
        Case(algorithm, direction, size, engine)
        for algorithm in USUAL
        for engine, carried in engines().items()
        if algorithm in carried
        for direction in ("out", "in")
        for size in SIZES
    ]


def measure_ratio(case: Case) -> float:
    """One try: ours and the bare engine in turn."""
    esp = EspCase(case.algorithm, case.packet_bytes, BATCH, case.engine)
    return ratio_of(esp, case)


def ratio_of(esp: EspCase, case: Case, seconds: float = SECONDS) -> float:
    raw = RawBatch(case.algorithm, case.packet_bytes, BATCH, case.direction == "out", case.engine)
    own, bare = take_turns([esp.seal if case.direction == "out" else esp.open, raw.run], seconds)
    return own.median / bare.median


def judge(
    ratios: Mapping[Case, float],
    margin: float,
    measure: Measure,
    afresh: Callable[[], AbstractContextManager[Measure]] | None = None,
    on_try: Callable[[Case], None] = lambda case: None,
) -> list[Verdict]:
    """A verdict for each; all are tried once before any is tried again. `afresh`: what measures each further round of tries."""
    tried: dict[Case, list[float]] = {case: [] for case in ratios}
    limits = {case: ratio * (1 + margin) for case, ratio in ratios.items()}
    for number in range(TRIES):
        left = [case for case, found in tried.items() if not found or min(found) > limits[case]]
        if not left:
            break
        with nullcontext(measure) if afresh is None or number == 0 else afresh() as one:
            for case in left:
                on_try(case)
                tried[case].append(one(case))
    return [
        Verdict(case, round(min(found), 3), ratios[case], round(limits[case], 3), len(found))
        for case, found in tried.items()
    ]


@contextmanager
def in_another_process() -> Iterator[Measure]:
    """`measure_ratio` in a process of its own: other pages, another layout of memory, and some time later."""
    time.sleep(PAUSE_S)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield lambda case: pool.submit(measure_ratio, case).result()


def record(
    cases: Sequence[Case], measure: Measure, on_try: Callable[[Case], None] = lambda case: None
) -> dict[Case, float]:
    """The median of several tries of each, taken in turn."""
    tried: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(RECORDED_TRIES):
        for case, found in tried.items():
            on_try(case)
            found.append(measure(case))
    return {case: round(statistics.median(found), 3) for case, found in tried.items()}


def load_baseline(path: Path) -> Baseline:
    """UsageError where the file is not one."""
    try:
        document = json.loads(path.read_text())
        ratios = {
            Case(str(r["algorithm"]), str(r["direction"]), int(r["packet_bytes"]), str(r["engine"])): float(r["ratio"])
            for r in document["ratios"]
        }
        machine = dict(document["machine"])
    except OSError as error:
        raise UsageError(
            f"no baseline in {path}: {error.strerror}; `ipsec-fast bench gate --record {path}` makes one"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no baseline: {type(error).__name__} {error}") from None
    if not ratios or any(not 0.1 < ratio < 1000 for ratio in ratios.values()):
        raise UsageError(f"{path} is no baseline: ratios are numbers above 0.1, at least one")
    return Baseline(machine, ratios)


def text_of(machine: Mapping[str, Any], ratios: Mapping[Case, float]) -> str:
    """What `load_baseline` reads, one case a line, so that a difference can be read."""
    rows = ",\n".join("  " + json.dumps(asdict(case) | {"ratio": ratio}) for case, ratio in ratios.items())
    return f'{{\n "machine": {json.dumps(machine)},\n "batch": {BATCH},\n "ratios": [\n{rows}\n ]\n}}\n'


def split_known(ratios: Mapping[Case, float], here: Iterable[Case]) -> tuple[dict[Case, float], list[Case], list[Case]]:
    """(ratios that can be compared here, cases of the baseline that cannot, cases here that it lacks)."""
    possible = set(here)
    common = {case: ratio for case, ratio in ratios.items() if case in possible}
    return common, sorted(set(ratios) - possible), sorted(possible - set(ratios))
