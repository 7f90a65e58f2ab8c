"""`ipsec-fast bench crypto|esp|gateway|sa-scale|rekey|crash [--json]`: the arguments, and what esp prints.

The measurements: crypto, esp, gateway, scale, rekey, crash. Called by: cli.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import AlgorithmError, UsageError

if TYPE_CHECKING:
    from .esp import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ipsec-fast bench`."""
    parser.description = (
        "crypto: the bare cipher and ICV of a packet on every engine, in turn. "
        "esp: ESP on one core, tunnel mode, no I/O: ns per packet called from Python, beside the bare engine (raw) in the same run. "
        "ratio = ours / raw; 1.0 would mean that all but the cipher is free. "
        "gateway: TCP, UDP and round trips of two hosts through two gateways: a plain route (veth), ours without cipher (null), ours on "
        "each engine, wireguard-go and charon where they are installed, in turn in one run. "
        "sa-scale: what finding its SA, and ESP, costs a packet among 10, 1000 and 100000 SAs in random order. "
        "rekey: numbered packets between two gateways while their keys change, ours with ours and ours with charon; what was lost. "
        "crash: kill -9 of either gateway again and again under traffic; whether a number or a nonce was ever used twice."
    )
    parser.add_argument(
        "what", choices=["crypto", "esp", "gateway", "sa-scale", "rekey", "crash"], help="what to measure"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="crypto, esp: for each row (default 0.1, 0.2); gateway: for each figure (default 3); sa-scale: in all (default 5); "
        "rekey: for each control (default 10)",
    )
    parser.add_argument(
        "--algorithm",
        action="append",
        default=[],
        metavar="NAME",
        help="esp: may be repeated, or all; left out: the usual ones; sa-scale: one, default aes128gcm16",
    )
    parser.add_argument(
        "--size",
        action="append",
        type=int,
        default=[],
        metavar="BYTES",
        help="esp: inner packet; may be repeated; sa-scale: one, default 256",
    )
    parser.add_argument(
        "--batch", action="append", type=int, default=[], metavar="N", help="esp: packets per call; may be repeated"
    )
    parser.add_argument(
        "--sas", action="append", type=int, default=[], metavar="N", help="sa-scale: so many SAs; may be repeated"
    )
    parser.add_argument("--engine", default="auto", help="esp, sa-scale: auto (default) or an engine's name")
    parser.add_argument("--peer", choices=["ours", "charon"], help="rekey: this peer only (default both)")
    parser.add_argument("--child", type=int, metavar="N", help="rekey: Child SA rekeys (default 1000, charon 200)")
    parser.add_argument("--ike", type=int, metavar="N", help="rekey: IKE SA rekeys (default 100, charon 20)")
    parser.add_argument("--rate", type=int, metavar="PPS", help="rekey: packets/s each way, instead of finding it")
    parser.add_argument("--rounds", type=int, metavar="N", help="gateway: so many (default 5); medians are over them")
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        choices=["veth", "null", "ipsec_fast", "wireguard-go", "charon"],
        help="gateway: this one only; may be repeated",
    )
    parser.add_argument("--layout", choices=["pinned", "free"], help="gateway: this one only (default both)")
    parser.add_argument("--kills", type=int, metavar="N", help="crash: so many (default 1000)")


def main(args: argparse.Namespace) -> int:
    """Run what the arguments say; errors are raised for the face to print."""
    if args.what == "rekey":
        from . import rekey_face  # late: namespaces and gateways, which esp does not need

        return rekey_face.main(args)
    if args.what == "crypto":
        from . import crypto

        return crypto.main(args)
    if args.what == "gateway":
        from . import gateway_face

        return gateway_face.main(args)
    if args.what == "sa-scale":
        from . import scale_face

        return scale_face.main(args)
    if args.what == "crash":
        from . import crash_face

        return crash_face.main(args)
    from .esp import (
        DEFAULT_BATCHES,
        DEFAULT_SIZES,
        machine,
        run_bench_esp,
    )  # late: numpy and the kernels, which no other command needs

    where = machine()
    sizes, batches = args.size or DEFAULT_SIZES, args.batch or DEFAULT_BATCHES
    shown = None if args.json else _Table(where).add
    try:
        results = run_bench_esp(
            args.algorithm, sizes, batches, 0.2 if args.seconds is None else args.seconds, args.engine, on_result=shown
        )
    except AlgorithmError as error:
        raise UsageError(str(error)) from None  # here it is an argument of the command
    if args.json:
        print(json.dumps({"machine": where, "results": [asdict(result) for result in results]}, indent=1))
    return 0


class _Table:
    """Rows as they come; the head is printed with the first one, so that an error stands alone."""

    def __init__(self, where: dict[str, Any]) -> None:
        self.where: dict[str, Any] | None = where

    def add(self, row: Result) -> None:
        if self.where is not None:
            _print_head(self.where)
            self.where = None
        _print_row(row)


def _print_head(where: dict[str, Any]) -> None:
    print(
        f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}, Python {where['python']}, {where['openssl']}"
    )
    print(
        f"{'':3} {'algorithm':14} {'engine':8} {'bytes':>5} {'batch':>5} {'ns/packet':>10} {'raw ns':>8} {'ratio':>6} {'Gbit/s':>7}"
    )


def _print_row(row: Result) -> None:
    gbit = row.packet_bytes * 8 / row.ns_per_packet
    print(
        f"{row.direction:3} {row.algorithm:14} {row.engine:8} {row.packet_bytes:5} {row.batch:5} "
        f"{row.ns_per_packet:10.1f} {row.raw_ns_per_packet:8.1f} {row.ratio:6.2f} {gbit:7.2f}",
        flush=True,
    )
