"""`ipsec-fast bench crash`: its arguments and what it prints. The measurement is crash.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..errors import UsageError
from .crash import Result, run_crash
from .esp import machine
from .inside import go_inside, say

KILLS = 1000


def main(arguments: argparse.Namespace) -> int:
    """0 where nothing was used twice or seen in clear and no IKE_AUTH was needless, 1 otherwise."""
    kills = KILLS if arguments.kills is None else arguments.kills
    if not 1 <= kills <= 100_000:
        raise UsageError(f"--kills {kills}: 1 to 100000 are possible")
    go_inside(["crash", "--kills", str(kills), *(["--json"] if arguments.json else [])])
    result = run_crash(kills, say)
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": [asdict(result)]}, indent=1))
    else:
        print("\n".join(_rows(result)))
    return 0 if result.is_clean else 1


def _rows(r: Result) -> list[str]:
    return [
        f"{r.kills} kills, {r.kills_with_own_request} of them while a request of the killed one's was outstanding",
        f"{r.new_ike_auths} new authentications, {r.restored} IKE SAs restored",
        f"{r.esp_packets} ESP packets captured, {r.capture_drops} not; {r.repeated_numbers} numbers used twice",
        f"IKE: {r.repeated_ike_ivs} IVs and {r.repeated_message_ids} message IDs used twice; {r.clear_packets} packets in clear",
        f"back after {r.recovery_s_median:.2f} s (median), {r.recovery_s_max:.2f} s at most; "
        f"{r.packets_lost} of {r.packets_sent} packets lost",
    ]
