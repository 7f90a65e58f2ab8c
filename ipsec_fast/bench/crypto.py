"""`ipsec-fast bench crypto`: what each engine takes for the bare cipher and ICV of a packet, every engine in turn on the same sizes.

This is the limit that `bench esp` is held against. Engines take turns batch by batch, so that a busy moment hurts all alike. One core.
Called by crypto_face.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..algorithms import esp_suite, esp_suite_names
from ..dataplane.engine import engines
from ..dataplane.raw import RawBatch
from ..errors import UsageError
from .esp import USUAL
from .samples import take_turns


@dataclass(frozen=True, slots=True)
class Result:
    """One row; the field names are the JSON's. `spread`: half of the samples lie within it, as a share of the median.

    `of_best`: ns_per_packet / that of the fastest engine in this run for the same packets.
    """

    algorithm: str
    engine: str
    direction: str
    packet_bytes: int
    batch: int
    ns_per_packet: float
    gbit_per_s: float
    spread: float
    of_best: float
    ns_low: float  # half of the samples lie between these two
    ns_high: float


def run_bench_crypto(
    algorithms: Iterable[str],
    sizes: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    engine: str = "auto",
    on_result: Callable[[Result], None] | None = None,
    on_plan: Callable[[int], None] | None = None,
) -> list[Result]:
    """Each algorithm x direction x size x batch on every engine that carries it, `seconds` for each; `all` names every algorithm."""
    known = engines()
    if engine != "auto" and engine not in known:
        raise UsageError(f"engine {engine!r} is not available here; there is {', '.join(known)}")
    if not 0 < seconds <= 600 or any(not 20 <= n <= 65000 for n in sizes) or any(not 1 <= n <= 4096 for n in batches):
        raise UsageError("bench: packets are 20 to 65000 bytes, batches 1 to 4096 packets, seconds above 0")
    wanted = list(algorithms) or list(USUAL)
    names = list(esp_suite_names()) if "all" in wanted else [esp_suite(name).name for name in wanted]
    carriers = {name: [one for one in known if name in known[one] and engine in ("auto", one)] for name in names}
    for name, carried in carriers.items():
        if not carried:
            raise UsageError(f"engine {engine} does not carry {name}")
    if on_plan is not None:
        on_plan(sum(map(len, carriers.values())) * 2 * len(sizes) * len(batches))
    found = []
    for name, carried in carriers.items():
        for direction in ("out", "in"):
            for size in sizes:
                for batch in batches:
                    rows = _compare(name, carried, direction, size, batch, seconds)
                    found += rows
                    if on_result is not None:
                        for row in rows:
                            on_result(row)
    return found


def _compare(name: str, carried: Sequence[str], direction: str, size: int, batch: int, seconds: float) -> list[Result]:
    cases = [RawBatch(name, size, batch, direction == "out", one) for one in carried]
    samples = take_turns([case.run for case in cases], seconds * len(cases))
    best = min(sample.median for sample in samples)
    return [
        Result(
            name, one, direction, size, batch,
            ns_per_packet=round(sample.median / batch, 1),
            gbit_per_s=round(size * 8 * batch / sample.median, 2),
            spread=round(sample.spread, 3),
            of_best=round(sample.median / best, 2),
            ns_low=round(sample.low / batch, 1),
            ns_high=round(sample.high / batch, 1),
        )
        for one, sample in zip(carried, samples, strict=True)
    ]  # fmt: skip
