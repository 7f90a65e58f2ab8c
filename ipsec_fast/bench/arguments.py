"""The arguments of `ipsec-fast bench`, one set for each benchmark; nothing heavy is imported for them. Called by the package's face.

What a benchmark can run with is checked by its face (`within`), before anything is made or measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Bench:
    """One benchmark: the module of this package whose `main` runs it, its line of help, what it does, its own arguments."""

    face: str
    line: str
    text: str
    add: Callable[[argparse.ArgumentParser], None]


def add_benches(parser: argparse.ArgumentParser) -> None:
    """A sub-command for each, with its own arguments and those that all have."""
    parser.description = (
        "Speed as ratios taken within one run, and what is lost when keys change or a gateway dies. "
        "`ipsec-fast bench WHAT --help` has the arguments of each; docs/performance.md says how to read them."
    )
    kinds = parser.add_subparsers(title="benchmarks", metavar="WHAT", dest="what", required=True)
    for name, bench in BENCHES.items():
        one = kinds.add_parser(name, help=bench.line, description=bench.text, epilog=parser.epilog)
        bench.add(one)
        one.add_argument("--json", action="store_true", help="one JSON document on stdout, and nothing else there")
        if name != "gate":
            one.add_argument(
                "--report",
                metavar="FILE",
                help="plots as well: FILE.png, or FILE.html with table and machine (needs matplotlib)",
            )


def command_words(arguments: argparse.Namespace) -> list[str]:
    """The words behind `ipsec-fast bench` that mean the same as these arguments."""
    words = [str(arguments.what)]
    for name, value in vars(arguments).items():
        option = f"--{name.replace('_', '-')}"
        if name in ("what", "run") or value is None or value is False:
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        else:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def within(option: str, value: float, low: float, high: float) -> None:
    """UsageError that says what is possible; not-a-number is not."""
    if not low <= value <= high:
        raise UsageError(f"--{option} {value:g}: {low:g} to {high:g} are possible")


def _many(parser: argparse.ArgumentParser, option: str, metavar: str, text: str, kind: type = str) -> None:
    parser.add_argument(f"--{option}", action="append", type=kind, default=[], metavar=metavar, help=text)


def _seconds(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--seconds", type=float, metavar="S", help=text)


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", metavar="NAME", default="auto", help="auto (default), or an engine's name")


def _rounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, metavar="N", help="so many (default 5); medians are over them")


_ALGORITHM = "may be repeated, or all; left out: the usual ones"


def _crypto(parser: argparse.ArgumentParser) -> None:
    _many(parser, "algorithm", "NAME", _ALGORITHM)
    _many(parser, "size", "BYTES", "inner packet; may be repeated (default 64, 256, 1400)", int)
    _many(parser, "batch", "N", "packets per call; may be repeated (default 64)", int)
    parser.add_argument("--engine", metavar="NAME", default="auto", help="this one only (default all that there are)")
    _seconds(parser, "for each engine of a row (default 0.1)")


def _esp(parser: argparse.ArgumentParser) -> None:
    _many(parser, "algorithm", "NAME", _ALGORITHM)
    _many(parser, "size", "BYTES", "inner packet; may be repeated (default 64, 256, 1400)", int)
    _many(parser, "batch", "N", "packets per call; may be repeated (default 32, 64)", int)
    _engine(parser)
    _seconds(parser, "for each row (default 0.2)")


def _imix(parser: argparse.ArgumentParser) -> None:
    _many(parser, "algorithm", "NAME", _ALGORITHM)
    parser.add_argument(
        "--mix",
        metavar="NxBYTES,...",
        help="how many inner packets of which size (default 7x40,4x576,1x1500: Ethernet frames of 64, 594 and 1518 bytes)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="packets per call (default 64)")
    _engine(parser)
    _seconds(parser, "for each row (default 0.5)")


def _gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        choices=["veth", "null", "ipsec_fast", "wireguard-go", "charon"],
        help="this one only; may be repeated",
    )
    parser.add_argument("--layout", choices=["pinned", "free"], help="this one only (default both)")
    _rounds(parser)
    _seconds(parser, "for each figure (default 3)")


def _ike(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        choices=["endpoints", "gateways"],
        help="this one only: two endpoints in memory, or our initiator against a gateway",
    )
    parser.add_argument("--responder", choices=["ipsec_fast", "charon"], help="gateways: this one only (default both)")
    _many(parser, "proposal", "NAME", "IKE proposal; may be repeated (default AES-128-GCM with each group)")
    parser.add_argument("--parallel", type=int, metavar="N", help="handshakes under way at once (default 8)")
    _rounds(parser)
    _seconds(parser, "for each figure (default 1)")


def _sa_scale(parser: argparse.ArgumentParser) -> None:
    _many(parser, "sas", "N", "so many SAs; may be repeated (default 10, 1000, 100000)", int)
    _many(parser, "algorithm", "NAME", "one (default aes128gcm16)")
    _many(parser, "size", "BYTES", "inner packet, one (default 256)", int)
    _engine(parser)
    _seconds(parser, "in all (default 5)")


def _rekey(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", choices=["ours", "charon"], help="this peer only (default both)")
    parser.add_argument("--child", type=int, metavar="N", help="Child SA rekeys (default 1000, charon 200)")
    parser.add_argument("--ike", type=int, metavar="N", help="IKE SA rekeys (default 100, charon 20)")
    parser.add_argument("--rate", type=int, metavar="PPS", help="packets/s each way, instead of finding it")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of each of our gateways (default 1)")
    _seconds(parser, "for each control (default 10)")


def _crash(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, metavar="N", help="so many (default 1000)")


def _mtu(parser: argparse.ArgumentParser) -> None:
    _rounds(parser)


def _flood(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        choices=["refused", "half-open", "junk", "bad-icv", "bad-icv-library"],
        help="this one only, next to the idle run; may be repeated",
    )
    parser.add_argument(
        "--rate", type=int, metavar="N", help="datagrams/s (default 2000; 0: as fast as a socket takes them)"
    )
    _seconds(parser, "for each kind (default 8)")


def _gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", metavar="FILE", help="recorded ratios (default bench/baseline.json)")
    parser.add_argument("--record", metavar="FILE", help="measure, and write them there instead of comparing")


BENCHES = {
    "crypto": Bench(
        "crypto_face",
        "the bare cipher and ICV of a packet on every engine, in turn",
        "The bare cipher and ICV of a packet on every engine, in turn: the limit that `esp` is held against.",
        _crypto,
    ),
    "esp": Bench(
        "esp_face",
        "ESP on one core called from Python, beside the bare engine",
        "ESP on one core, tunnel mode, no I/O: ns per packet called from Python, beside the bare engine (raw) in the same run. "
        "ratio = ours / raw; 1.0 would mean that all but the cipher is free.",
        _esp,
    ),
    "imix": Bench(
        "imix_face",
        "as esp, with a mix of packet sizes in every batch",
        "As esp, with a mix of packet sizes in every batch: the simple IMIX, 7 packets of 40 bytes, 4 of 576 and 1 of 1500 "
        "(RFC 6985 says how mixes are described), or one of your own.",
        _imix,
    ),
    "gateway": Bench(
        "gateway_face",
        "two hosts through two gateways: ours, and others in the same run",
        "TCP, UDP and round trips of two hosts through two gateways: a plain route (veth), ours without cipher (null), ours on each "
        "engine, wireguard-go and charon where they are installed, in turn in one run.",
        _gateway,
    ),
    "ike": Bench(
        "ike_face",
        "IKE handshakes: two endpoints in memory, and against a gateway",
        "IKE_SA_INIT, IKE_AUTH and the first Child SA, again and again: two endpoints in memory, then a real initiator against our "
        "gateway and against charon (where it is installed) over UDP, in turn in one run. Handshakes/s, and CPU ms of each side.",
        _ike,
    ),
    "sa-scale": Bench(
        "scale_face",
        "the same packet among many SAs: lookup, ESP, memory",
        "What finding its SA, and ESP, costs a packet among 10, 1000 and 100000 SAs in random order.",
        _sa_scale,
    ),
    "rekey": Bench(
        "rekey_face",
        "packets lost while keys change under load",
        "Numbered packets between two gateways while their keys change, ours with ours and ours with charon; what was lost.",
        _rekey,
    ),
    "crash": Bench(
        "crash_face",
        "kill -9 under traffic: is a number ever used twice",
        "kill -9 of either gateway again and again under traffic; whether a number or a nonce was ever used twice.",
        _crash,
    ),
    "mtu": Bench(
        "mtu_face",
        "how long TCP stands still when its path's MTU changes",
        "A TCP transfer between two gateways with a router between them whose MTU changes, with the router's ICMP and without; the "
        "longest time without a byte. 1 where one stood still for more than a second in the median.",
        _mtu,
    ),
    "flood": Bench(
        "flood_face",
        "good peers, status, memory and CPU while strangers flood a gateway",
        "Refused offers, half-open IKE SAs, junk and bad ICVs against a gateway; meanwhile a good peer sets up one IKE SA after the other "
        "and asks for the status. Ratios to the idle run. 1 where no good peer came up.",
        _flood,
    ),
    "gate": Bench(
        "gate_face",
        "fails where a kernel got slower against its raw limit",
        "Ratios ours / raw of the usual algorithms, held against recorded ones: 1 where one is worse by more than noise explains. "
        "Ratios, not times, so that a busy machine does not matter.",
        _gate,
    ),
}
