"""`ipsec-fast bench rekey`: what is refused, which cases it runs, when a trial counts; then 40 + 4 rekeys under load with each peer."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import pytest

from ipsec_fast import bench
from ipsec_fast.bench import charon, rekey, rekey_face
from ipsec_fast.bench.ground import Count, Wire
from ipsec_fast.bench.rekey import Case, Result, run_case
from ipsec_fast.errors import HostError, UsageError

FIELDS = {
    "peer", "child_rekeys", "ike_rekeys", "sent", "received", "duplicates", "load_share", "lost_control", "voided", "workers",
}  # fmt: skip


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["rekey", *words])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--child", "-1"), "--child -1"),
        (("--ike", "100001"), "--ike 100001"),
        (("--child", "0", "--ike", "0"), "nothing to measure"),
        (("--seconds", "0.1"), "--seconds 0.1"),
        (("--rate", "5"), "--rate 5"),
        (("--workers", "0"), "--workers 0"),
        (("--workers", "65"), "--workers 65"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_made(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        bench.main(parse(*words))


def test_an_unknown_peer_is_bad_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ipsec_fast", "bench", "rekey", "--peer", "nobody"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_ours_runs_at_half_and_on_a_bad_wire_at_80_percent_and_charon_at_half() -> None:
    found = rekey_face.cases(None, None, None)
    assert [(case.peer, case.load_share, case.child, case.ike) for case in found] == [
        ("ipsec_fast", 0.5, 1000, 100),
        ("ipsec_fast", 0.8, 1000, 100),
        ("charon", 0.5, 200, 20),
    ]
    assert [(case.wire.reorder, case.wire.reorder_places) for case in found if case.wire.reorder] == [(0.1, 64)]
    assert [case.peer for case in rekey_face.cases("charon", 7, None)] == ["charon"]
    assert rekey_face.cases("charon", 7, None)[0].child == 7


@pytest.mark.parametrize(
    ("change", "clean"),
    [({}, True), ({"received": 9}, False), ({"duplicates": 1}, False), ({"lost_control": 1}, False), ({"voided": 3}, True)],
)  # fmt: skip
def test_only_a_run_without_loss_and_doubles_is_clean(change: dict[str, int], clean: bool) -> None:
    row: dict[str, Any] = {
        "peer": "charon", "child_rekeys": 1, "ike_rekeys": 1, "sent": 10, "received": 10, "duplicates": 0, "load_share": 0.5,
        "lost_control": 0, "voided": 0,
    }  # fmt: skip
    assert rekey_face.is_clean(Result(**(row | change))) is clean


class FakeGround:
    """Stands for Ground: the controls and the main run lose what `losses` says, in turn."""

    def __init__(self, *losses: int) -> None:
        self.losses = list(losses)

    def measure(self, packets_per_s: int, during: Any, *, limit_s: float) -> Count:
        lost = self.losses.pop(0)
        return Count(1000, 1000 - lost, 0, 1.0, 0)

    def overflows(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("losses", "voided", "lost_control", "received"),
    [
        ((0, 0, 0), 0, 0, 1000),
        ((0, 5, 0), 0, 0, 995),  # lost while rekeying: counts, and is never repeated
        ((1, 5, 0, 0, 0, 0), 1, 0, 1000),
        ((0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0), 3, 0, 1000),
        ((1, 0, 0) * 4, 3, 1, 1000),
    ],
)
def test_a_trial_whose_control_loses_is_repeated_three_times_at_most(
    losses: tuple[int, ...], voided: int, lost_control: int, received: int
) -> None:
    ground = FakeGround(*losses)
    case = Case("ipsec_fast", 0.5, 1, 0, Wire())
    result = rekey.run_trials(case, ground, None, 1000, 1.0, lambda text: None)  # type: ignore[arg-type]
    assert (result.voided, result.lost_control, result.received) == (voided, lost_control, received)
    assert ground.losses == []


class CarriesUpTo:
    """Stands for Ground: nothing is lost up to a rate."""

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def measure(self, packets_per_s: int, during: Any, *, limit_s: float) -> Count:
        sent = 2 * packets_per_s * (limit_s - 5)
        return Count(int(sent), int(sent) - (packets_per_s > self.rate), 0, 1.0, 0)


@pytest.mark.parametrize("highest", [150, 4000, 5000, 77_777, 400_000])
def test_the_rate_that_is_found_is_carried_and_near_the_highest(highest: int) -> None:
    found = rekey.find_rate(CarriesUpTo(highest), 1.0, lambda text: None)  # type: ignore[arg-type]
    assert highest * 0.8 <= found <= highest


def test_a_host_that_was_busy_at_first_is_measured_when_it_is_not() -> None:
    ground = CarriesUpTo(4000)

    def busy(packets_per_s: int, during: Any, *, limit_s: float) -> Count:
        if limit_s > 5 + rekey.PROBE_S:  # the long run after the probes
            ground.rate = 100_000
        return CarriesUpTo(ground.rate).measure(packets_per_s, during, limit_s=limit_s)

    found = rekey.find_rate(type("Busy", (), {"measure": staticmethod(busy)})(), 1.0, lambda text: None)
    assert found > 50_000


def test_a_host_that_carries_nothing_is_an_error() -> None:
    with pytest.raises(HostError, match="too busy"):
        rekey.find_rate(CarriesUpTo(0), 1.0, lambda text: None)  # type: ignore[arg-type]


def check_no_loss(case: Case) -> None:
    said: list[str] = []
    result = run_case(case, 1.5, said.append)
    if result.lost_control:
        pytest.skip(f"nothing to tell: without any rekey this host loses packets too, four times in a row: {said[-1]}")
    assert (result.received, result.duplicates) == (result.sent, 0), said
    assert result.sent > 1000


@pytest.mark.alone
@pytest.mark.netns
@pytest.mark.timeout(100)
@pytest.mark.parametrize("wire", [rekey_face.SLOW, rekey_face.BAD], ids=["delay", "delay-reorder-duplicate"])
def test_no_packet_is_lost_over_44_rekeys_between_two_of_ours(wire: Wire) -> None:
    check_no_loss(Case("ipsec_fast", 0.5, 40, 4, wire))


@pytest.mark.alone
@pytest.mark.interop
@pytest.mark.timeout(100)
def test_no_packet_is_lost_over_44_rekeys_with_charon() -> None:
    check_no_loss(Case("charon", 0.5, 40, 4, rekey_face.SLOW))


@pytest.mark.netns
@pytest.mark.timeout(100)
def test_the_command_prints_one_document_and_leaves_nothing() -> None:
    words = "bench rekey --json --peer ours --child 3 --ike 1 --seconds 0.5 --rate 2000"
    done = subprocess.run([sys.executable, "-m", "ipsec_fast", *words.split()], capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert set(document) == {"machine", "results"}
    assert [set(row) for row in document["results"]] == [FIELDS, FIELDS]
    clean = all(row["sent"] == row["received"] for row in document["results"])
    assert done.returncode == (0 if clean else 1), done.stderr
    assert all(row["sent"] > 0 for row in document["results"])


@pytest.mark.netns
def test_another_process_gets_room_in_its_udp_sockets() -> None:
    script = "import socket, sys\ns = socket.socket(2, 2)\ns.bind(('127.0.0.1', 0))\nprint(s.getsockname(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert charon.give_room(process.pid) == 1
        finally:
            process.kill()
