"""`ipsec-fast bench crash`: its arguments and what it prints. The measurement is crash.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from .arguments import command_words, within
from .crash import Result, run_crash
from .inside import go_inside
from .machine import describe, machine
from .progress import Meter
from .report import Bar, Chart, Report, check_outside_run, check_report, write_report

KILLS = 1000


def main(arguments: argparse.Namespace) -> int:
    """0 where nothing was used twice or seen in clear and no IKE_AUTH was needless, 1 otherwise."""
    kills = KILLS if arguments.kills is None else arguments.kills
    within("kills", kills, 1, 100_000)
    check_outside_run(arguments)
    check_report(arguments)
    go_inside(command_words(arguments))
    with Meter(arguments, min(kills, 10), ticking=True) as meter:

        def say(text: str) -> None:  # after every tenth part of the kills
            meter.tell(text)
            meter.step()

        result = run_crash(kills, say)
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": [asdict(result)]}, indent=1))
    else:
        print("\n".join([describe(machine()), *_rows(result)]))
    write_report(arguments, report_of(result), machine())
    return 0 if result.is_clean else 1


def report_of(r: Result) -> Report:
    bad = {
        "numbers used twice": r.repeated_numbers,
        "IKE IVs used twice": r.repeated_ike_ivs,
        "message IDs used twice": r.repeated_message_ids,
        "packets in clear": r.clear_packets,
        "missing in the capture": r.capture_drops,
    }
    ends = {"median": r.recovery_s_median, "longest": r.recovery_s_max}
    return Report(
        "kill -9 of either gateway under traffic, again and again",
        f"{r.kills:,} kills at random moments, {r.kills_with_own_request:,} of them during a request of the killed gateway's; "
        f"{r.esp_packets:,} ESP packets captured.",
        [
            Chart(
                "What must not be",
                "times, 0 is wanted",
                list(bad),
                {"seen": [Bar(value) for value in bad.values()]},
                digits=0,
            ),
            Chart(
                "Back after a kill", "seconds", list(ends), {"time": [Bar(value) for value in ends.values()]}, digits=2
            ),
        ],
        ["field", "value"],
        [[name, value] for name, value in asdict(r).items()],
    )


def _rows(r: Result) -> list[str]:
    return [
        f"{r.kills} kills, {r.kills_with_own_request} of them while a request of the killed one's was outstanding",
        f"{r.new_ike_auths} new authentications, {r.restored} IKE SAs restored",
        f"{r.esp_packets} ESP packets captured, {r.capture_drops} not; {r.repeated_numbers} numbers used twice",
        f"IKE: {r.repeated_ike_ivs} IVs and {r.repeated_message_ids} message IDs used twice; {r.clear_packets} packets in clear",
        f"back after {r.recovery_s_median:.2f} s (median), {r.recovery_s_max:.2f} s at most; "
        f"{r.packets_lost} of {r.packets_sent} packets lost",
    ]
