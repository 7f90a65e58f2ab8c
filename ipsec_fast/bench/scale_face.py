"""`ipsec-fast bench sa-scale`: its arguments, what it prints. The measurement is scale.py. Called by bench/__init__."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from ..errors import AlgorithmError, UsageError
from .esp import machine
from .scale import DEFAULT_ALGORITHM, DEFAULT_COUNTS, run_bench_sa_scale

HEAD = f"{'SAs':>7} {'lookup ns':>9} {'ratio':>6} {'one by one':>10} {'ratio':>6} {'ESP ns':>7} {'ratio':>6} {'bytes/SA':>8} {'rows':>4}"


def main(arguments: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the face to print."""
    if len(arguments.algorithm) > 1 or len(arguments.size) > 1 or arguments.batch:
        raise UsageError("bench sa-scale takes one --algorithm, one --size and no --batch")
    where = machine()
    try:
        results = run_bench_sa_scale(
            tuple(arguments.sas) or DEFAULT_COUNTS,
            arguments.algorithm[0] if arguments.algorithm else DEFAULT_ALGORITHM,
            packet_bytes=arguments.size[0] if arguments.size else 256,
            seconds=5.0 if arguments.seconds is None else arguments.seconds,
            engine=arguments.engine,
            on_progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except AlgorithmError as error:
        raise UsageError(str(error)) from None  # here it is an argument of the command
    if arguments.json:
        print(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=1))
        return 0
    print(f"{where['cpu']}, {results[0].algorithm} on {results[0].engine}, {results[0].packet_bytes} bytes a packet")
    print(HEAD)
    for row in results:
        print(
            f"{row.sas:7} {row.lookup_ns:9.2f} {row.lookup_ratio:6.2f} {row.single_lookup_ns:10.2f} {row.single_lookup_ratio:6.2f} "
            f"{row.esp_ns_per_packet:7.1f} {row.esp_ratio:6.2f} {row.bytes_per_sa or '-':>8} {row.longest_search:4}"
        )
    return 0
