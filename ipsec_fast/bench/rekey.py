"""`bench rekey`: is a packet lost when keys change under load?

For each case: two gateways (gw2 may be charon), the relay between them, and numbered UDP both ways. First the rate is found: the
highest at which nothing is lost in `seconds` without any rekey. Then, at a share of it: a control without rekeys, the rekeys, a control
again. Where a control loses, the host was to blame and not the rekeys: the trial is void and repeated, three times at most.
Called by rekey_face.py and the tests.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..demo.gateways import DemoGateway, write_psk
from ..errors import HostError
from .charon import CharonGateway
from .ground import Count, Ground, Wire
from .rekey_drive import Driver

CIPHER = "aes128gcm16"
REPEATS = 3
PROBE_S = 0.6
WARM_UP_PPS, FIRST_PPS, LAST_PPS = 500, 4000, 1_000_000
REKEY_LIMIT_S = 3.0  # per rekey: what the counters have room for
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    peer: str  # ipsec_fast or charon
    load_share: float
    child: int
    ike: int
    wire: Wire
    workers: int = 1


@dataclass(frozen=True)
class Result:
    """A row of the JSON document."""

    peer: str
    child_rekeys: int
    ike_rekeys: int
    sent: int
    received: int
    duplicates: int
    load_share: float
    lost_control: int
    voided: int
    workers: int = 1


def run_case(case: Case, seconds: float, say: Say, packets_per_s: int | None = None) -> Result:
    """The whole of a case in namespaces of its own; `packets_per_s` stands for a rate that is known. Raises HostError."""
    with (
        _favoured(),
        Ground(case.wire) as ground,
        gateways(ground, case.peer, case.workers) as both,
        Driver(both) as driver,
    ):
        both[0].initiate(lambda line: None)
        driver.wait_for_pair()
        ground.measure(WARM_UP_PPS, lambda: time.sleep(PROBE_S), limit_s=5)  # neighbours are found, caches filled
        rate = packets_per_s or find_rate(ground, seconds, say)
        load = max(1, int(rate * case.load_share))
        say(f"{case.peer}: {rate} packets/s each way without loss; rekeys at {case.load_share:.0%} of it, {load}")
        return run_trials(case, ground, driver, load, seconds, say)


def run_trials(case: Case, ground: Ground, driver: Driver, load: int, seconds: float, say: Say) -> Result:
    """Until a trial's controls lose nothing; what rekeys lose is never repeated away."""
    for voided in range(REPEATS + 1):
        result = _trial(case, ground, driver, load, seconds, voided, say)
        if result.lost_control == 0:
            break
        say(f"{case.peer}: a control lost {result.lost_control} packets, so trial {voided + 1} is void")
    return result


def _trial(case: Case, ground: Ground, driver: Driver, load: int, seconds: float, voided: int, say: Say) -> Result:
    before = _control(ground, load, seconds)
    overflows, stolen = ground.overflows(), stolen_s()
    rekeys = case.child + case.ike
    main = ground.measure(load, lambda: driver.run(case.child, case.ike), limit_s=30 + rekeys * REKEY_LIMIT_S)
    for text in _explain(main, overflows, ground, stolen_s() - stolen):
        say(f"{case.peer}: {text}")
    after = _control(ground, load, seconds)
    say(
        f"{case.peer}: {rekeys} rekeys in {main.seconds:.1f} s, {main.lost} of {main.sent} lost; controls {before.lost} and {after.lost}"
    )
    return Result(
        peer=case.peer,
        child_rekeys=case.child,
        ike_rekeys=case.ike,
        sent=main.sent,
        received=main.received,
        duplicates=main.duplicates,
        load_share=case.load_share,
        lost_control=before.lost + after.lost,
        voided=voided,
        workers=case.workers,
    )


def _control(ground: Ground, load: int, seconds: float) -> Count:
    return ground.measure(load, lambda: time.sleep(seconds), limit_s=seconds + 5)


def stolen_s() -> float:
    """CPU seconds that a hypervisor has kept from this host so far: while it does, queues overflow that are no rekey's."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def _explain(count: Count, before: dict[str, int], ground: Ground, stolen: float) -> Iterator[str]:
    """Where lost packets may have gone."""
    if not count.lost and not count.duplicates:
        return
    full = {name: drops - before.get(name, 0) for name, drops in ground.overflows().items()}
    full = {name: drops for name, drops in full.items() if drops > 0}
    yield (
        f"lost {count.lost}, twice {count.duplicates}; no room: {full or 'nowhere'}; a hypervisor kept {stolen:.1f} CPU s, "
        f"senders had no CPU {count.late} times; first numbers missing {count.missing}"
    )


# --- the rate


def find_rate(ground: Ground, seconds: float, say: Say) -> int:
    """The highest packets per second each way at which nothing is lost in `seconds`."""
    good, rate = 0, FIRST_PPS
    while rate < LAST_PPS and _probe(ground, rate):
        good, rate = rate, rate * 2
    bad = rate
    while good and bad > good * 1.15:
        rate = int((good * bad) ** 0.5)
        good, bad = (rate, bad) if _probe(ground, rate) else (good, rate)
    rate = good or FIRST_PPS
    if carries(ground, rate, seconds):  # if the host was busy for a while, there is more
        while (more := int(rate * 1.5)) < LAST_PPS and _probe(ground, more) and carries(ground, more, seconds):
            rate = more
        return rate
    while not carries(ground, rate, seconds):
        say(f"{rate} packets/s each way lose some in {seconds:g} s")
        rate = int(rate * 0.85)
        if rate < 100:
            raise HostError("not even 100 packets per second pass without loss: this host is too busy to measure")
    return rate


def _probe(ground: Ground, rate: int) -> bool:
    """A short look; what fails once for a reason of the host's is looked at again."""
    return carries(ground, rate, PROBE_S) or carries(ground, rate, PROBE_S)


def carries(ground: Ground, rate: int, seconds: float) -> bool:
    """Whether this load was really sent, and all of it came."""
    count = ground.measure(rate, lambda: time.sleep(seconds), limit_s=seconds + 5)
    return count.lost == 0 and count.sent >= 0.9 * 2 * rate * seconds


# --- the gateways


@contextmanager
def _favoured() -> Iterator[None]:
    """What else runs on this host shall disturb the measurement less: all that is started here inherits the priority."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(-20, before - 10))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


@contextmanager
def gateways(ground: Ground, peer: str, workers: int = 1) -> Iterator[list[DemoGateway]]:
    """gw1 is ours, gw2 is ours or charon; what they logged goes into the error where something fails."""
    with tempfile.TemporaryDirectory(prefix="rekey-", dir="/run") as name:
        folder = Path(name)
        psk = write_psk(folder)
        make: dict[str, Any] = {"ipsec_fast": partial(DemoGateway, workers=workers), "charon": CharonGateway}
        both = [
            DemoGateway(ground.net, "gw1", folder / "gw1", psk, cipher=CIPHER, workers=workers),
            make[peer](ground.net, "gw2", folder / "gw2", psk, cipher=CIPHER),
        ]
        try:
            for gateway in both:
                gateway.wait_until_listening()
            yield both
        finally:
            ground.net.close_processes()
