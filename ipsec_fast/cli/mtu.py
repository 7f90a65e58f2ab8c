"""`mtu`: the arithmetic of an SA as a table, for given properties or for the Child SAs of a running gateway.

Called by main.py, which imports it for this command alone; the arithmetic is control.mtu's, what a gateway knows its control socket's.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..algorithms import AhSuite, EspSuite, ah_suite, ah_suite_names, esp_suite, esp_suite_names
from ..control.mtu import IP_HEADER_BYTES, IPV6_MIN_MTU, MAX_MTU, MIN_MTU, Encapsulation, Mode, TunnelMtu
from ..errors import AlgorithmError, UsageError
from ..gateway.vici.client import ViciClient
from ..gateway.vici.status import collect
from .control import add_socket, choose, socket_path
from .table import duration

Tree = dict[str, Any]
DEFAULT_ALGORITHM, DEFAULT_PATH_MTU = "aes128gcm16", 1500
VERSIONS = {"ipv4": 4, "ipv6": 6}
FINDINGS = {
    "computed": "from the route and its device",
    "learned": "from ICMP",
    "probed": "by packets that came through",
}
WIDTH = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what fits through an SA: of the given properties, or of those that run under NAME."
    parser.add_argument("name", metavar="NAME", nargs="?", help="a child, a connection, or CONNECTION/CHILD that is up")
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    what = parser.add_argument_group("properties, without NAME")
    what.add_argument("--algorithm", metavar="WORD", help=f"as in esp_proposals (default: {DEFAULT_ALGORITHM})")
    what.add_argument("--protocol", choices=("esp", "ah"), help="default: esp")
    what.add_argument("--mode", choices=("tunnel", "transport", "beet"), help="default: tunnel")
    what.add_argument("--outer", choices=tuple(VERSIONS), help="the packets between the gateways (default: ipv4)")
    what.add_argument(
        "--inner", choices=tuple(VERSIONS), help="the packets inside (default: ipv4; transport: as outside)"
    )
    what.add_argument(
        "--encap", choices=("none", "udp"), help="ESP in UDP (RFC 3948) or alone (default: udp; AH: none)"
    )
    what.add_argument("--path-mtu", metavar="N", help=f"bytes that the path carries (default: {DEFAULT_PATH_MTU})")
    what.add_argument("--tfc", metavar="N", help="shorter inner packets are padded to so many bytes (default: 0)")
    what.add_argument("--packet", metavar="N", help="show an inner packet of so many bytes, not the largest")


def main(arguments: argparse.Namespace) -> int:
    given = [word for word in PROPERTIES if getattr(arguments, word) is not None]
    if arguments.name is not None:
        if given:
            raise UsageError(
                f"--{given[0].replace('_', '-')} is for the arithmetic alone: leave it out, or leave out {arguments.name!r}"
            )
        return _show_running(arguments)
    wraps, path_mtu, algorithm = _read(arguments)
    inner = _packet_bytes(arguments.packet, wraps)
    found = wraps.figures(path_mtu)
    if not found.max_inner_bytes:
        tfc = f"with TFC padding to {wraps.tfc} bytes " if wraps.tfc else ""
        raise UsageError(
            f"{tfc}no inner packet fits a path MTU of {path_mtu}: it takes {wraps.sealed_bytes(wraps.kept_bytes)} bytes at least"
        )
    document = _document(wraps, path_mtu, algorithm, inner)
    print(
        json.dumps(document, indent=2)
        if arguments.json
        else "\n".join((*_lines(wraps, path_mtu, algorithm, found, inner), *_ipv6_note(wraps, found)))
    )
    return 0


PROPERTIES = ("algorithm", "protocol", "mode", "outer", "inner", "encap", "path_mtu", "tfc", "packet")


# --- given properties


def _read(arguments: argparse.Namespace) -> tuple[Encapsulation, int, str]:
    protocol = arguments.protocol or "esp"
    default = "sha256" if protocol == "ah" else DEFAULT_ALGORITHM
    suite = _suite(default if arguments.algorithm is None else arguments.algorithm, protocol)
    outer, mode = arguments.outer or "ipv4", _mode(arguments.mode or "tunnel")
    inner = arguments.inner or (outer if mode == "transport" else "ipv4")
    encap = arguments.encap or ("none" if protocol == "ah" else "udp")
    path_mtu = _number(
        "--path-mtu", arguments.path_mtu, DEFAULT_PATH_MTU, MIN_MTU[VERSIONS[outer]], MAX_MTU, f" of {_word(outer)}"
    )
    tfc = _number("--tfc", arguments.tfc, 0, 0, 65000)
    wraps = Encapsulation(suite, VERSIONS[outer], encap == "udp", mode, VERSIONS[inner], tfc)
    return wraps, path_mtu, suite.name


def _suite(name: str, protocol: str) -> EspSuite | AhSuite:
    find, names = (ah_suite, ah_suite_names()) if protocol == "ah" else (esp_suite, esp_suite_names())
    try:
        return find(name)
    except AlgorithmError as error:
        known = str(error)
    from difflib import get_close_matches  # late: for a word that is wrong

    if protocol == "esp" and name.lower() in ah_suite_names():
        raise UsageError(f"{name!r} is an algorithm of AH: add --protocol ah, or a cipher, as in aes128-{name.lower()}")
    near = get_close_matches(name.lower(), names, 3) if known.startswith("unknown") else []
    raise UsageError(f"unknown {protocol.upper()} algorithm {name!r}; near: {', '.join(near)}" if near else known)


def _number(option: str, text: str | None, default: int, least: int, most: int, what: str = "") -> int:
    if text is None:
        return default
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not least <= value <= most:
        raise UsageError(f"{option} {text}: it is a number of bytes{what} from {least} to {most}")
    return value


def _packet_bytes(text: str | None, wraps: Encapsulation) -> int | None:
    least = max(wraps.kept_bytes, 20 if wraps.inner_version == 4 else 40)
    return (
        None
        if text is None
        else _number("--packet", text, 0, least, MAX_MTU, f" of an IPv{wraps.inner_version} packet")
    )


def _document(wraps: Encapsulation, path_mtu: int, algorithm: str, packet: int | None = None) -> Tree:
    found = wraps.figures(path_mtu)
    inner = found.max_inner_bytes if packet is None else packet
    sealed = wraps.sealed_bytes(inner)
    return {
        **_figures(wraps, found),
        "algorithm": algorithm,
        "protocol": "ah" if wraps.is_ah else "esp",
        "mode": wraps.mode,
        "outer": f"ipv{wraps.outer_version}",
        "inner": f"ipv{wraps.inner_version}",
        "encap": "udp" if wraps.encap else "none",
        "tfc": wraps.tfc,
        "path_mtu": path_mtu,
        "packet": {
            "inner_bytes": inner,
            "padding_bytes": wraps.padding_bytes(inner),
            "sealed_bytes": sealed,
            "fits": sealed <= path_mtu,
            "parts": [{"name": part.name, "bytes": part.size} for part in wraps.parts(inner)],
        },
    }


def _figures(wraps: Encapsulation, found: TunnelMtu) -> Tree:
    """The keys that are fixed; an MSS is null where this SA has no packets of that version."""
    mss = {f"mss_ipv{v}{stamps}": _mss(wraps, found, v, stamps) for stamps in ("", "_timestamps") for v in (4, 6)}
    return {"overhead_bytes": found.overhead_bytes, "max_inner_bytes": found.max_inner_bytes, **mss}


def _mss(wraps: Encapsulation, found: TunnelMtu, version: int, stamps: str) -> int | None:
    carries = wraps.mode == "tunnel" or wraps.inner_version == version
    return int(getattr(found, f"mss_ipv{version}{stamps}")) if carries else None


# --- the table


def _lines(
    wraps: Encapsulation, path_mtu: int, algorithm: str, found: TunnelMtu, packet: int | None = None
) -> list[str]:
    inner = found.max_inner_bytes if packet is None else packet
    return [
        _title(wraps, path_mtu, algorithm),
        "",
        *_sum_lines(wraps, path_mtu, inner),
        "",
        _row("largest inner packet", found.max_inner_bytes),
        _row("overhead, what it grows by", found.overhead_bytes),
        "",
        *_mss_lines(wraps, found),
    ]


def _title(wraps: Encapsulation, path_mtu: int, algorithm: str) -> str:
    wire = "AH" if wraps.is_ah else "ESP in UDP" if wraps.encap else "ESP"
    versions = "" if wraps.mode == "transport" else f"IPv{wraps.inner_version} in "
    mode = "BEET" if wraps.mode == "beet" else wraps.mode
    return f"{algorithm}, {wire}, {mode} mode, {versions}IPv{wraps.outer_version}, path MTU {path_mtu}"


def _sum_lines(wraps: Encapsulation, path_mtu: int, inner: int) -> list[str]:
    total = wraps.sealed_bytes(inner)
    rest = f"{path_mtu - total} left: less than another block" if total <= path_mtu else f"{total - path_mtu} too many"
    if inner != wraps.max_inner_bytes(path_mtu) and total <= path_mtu:
        rest = f"{path_mtu - total} left"
    return [
        *(_row(part.name, part.size) for part in wraps.parts(inner)),
        f"{'':{WIDTH}}{'-----':>7}",
        _row("on the wire", total) + (f"   of {path_mtu}" if total == path_mtu else f"   of {path_mtu}, {rest}"),
    ]


def _row(name: str, size: int) -> str:
    return f"{name:{WIDTH}}{size:7}"


def _mss_lines(wraps: Encapsulation, found: TunnelMtu) -> list[str]:
    versions = [v for v in (4, 6) if wraps.mode == "tunnel" or wraps.inner_version == v]
    heads = "".join(f"{f'IPv{v}':>7}" for v in versions)
    less = " or ".join(str(IP_HEADER_BYTES[v]) for v in versions)

    def row(name: str, stamps: str, why: str) -> str:
        return f"{name:{WIDTH}}" + "".join(f"{getattr(found, f'mss_ipv{v}{stamps}'):7}" for v in versions) + f"   {why}"

    return [
        f"{'TCP':{WIDTH}}{heads}",
        row("MSS, as SYNs are clamped to it", "", f"largest inner packet less IP header ({less}) and TCP header (20)"),
        row("data of a segment with timestamps", "_timestamps", "MSS less 12"),
    ]


def _ipv6_note(wraps: Encapsulation, found: TunnelMtu, cuts: bool = True) -> list[str]:
    if wraps.mode != "tunnel" or found.max_inner_bytes >= IPV6_MIN_MTU:
        return []
    how = (
        "are sealed whole and leave in outer fragments"
        if cuts
        else "are dropped: this gateway has no raw sockets (CAP_NET_RAW)"
    )
    return ["", f"IPv6 packets of {found.max_inner_bytes + 1} to {IPV6_MIN_MTU} bytes {how}."]


# --- what runs


def _show_running(arguments: argparse.Namespace) -> int:
    with ViciClient(socket_path(arguments)) as client:
        known: dict[str, list[str]] = {}
        found = [section for _, section in collect(client, "list-mtus", "list-mtu")]
        for section in found:
            known.setdefault(section["ike"], []).append(section["name"])
    wanted = choose(arguments.name, known, "nothing named {!r} is up")
    chosen = [one for one in found if wanted["ike"] == one["ike"] and wanted.get("child", one["name"]) == one["name"]]
    children = [_running(section) for section in chosen]
    if arguments.json:
        print(json.dumps({"name": arguments.name, "children": children}, indent=2))
    else:
        print("\n\n".join(_folded(children)))
    return 0


def _folded(children: list[Tree]) -> list[str]:
    """A block for each child; those that differ in their numbers alone (one for each worker) are one block under all of them."""
    heads: dict[str, list[str]] = {}
    for child in children:
        head, *body = _running_lines(child)
        heads.setdefault("\n".join([head.partition(" #")[0], *body]), []).append(f"#{child['uniqueid']}")
    blocks = []
    for block, numbers in heads.items():
        name, _, rest = block.partition("\n")
        blocks.append(f"{name} {' '.join(numbers)}\n{rest}")
    return blocks


def _running(section: Tree) -> Tree:
    """One child: the document of the arithmetic with what is in force in it, and what was found when."""
    wraps, path_mtu = _wraps(section), int(section["path-mtu"])
    document = _document(wraps, path_mtu, section["algorithm"])
    in_force = {key: int(section[key]) for key in ("max_inner_bytes", "mss_ipv4", "mss_ipv6")}
    stamps = {f"{key}_timestamps": max(0, in_force[key] - 12) for key in ("mss_ipv4", "mss_ipv6")}
    return {
        "connection": section["ike"],
        "child": section["name"],
        "uniqueid": int(section["uniqueid"]),
        **document,
        **in_force,
        **stamps,
        "copy_df": section["copy_df"] == "yes",
        "carries_ipv6": section.get("ipv6") == "yes",
        "cuts_outside": section["cuts"] == "yes",
        **{name: _finding(section.get(name)) for name in FINDINGS},
    }


def _wraps(section: Tree) -> Encapsulation:
    encap, mode = section.get("encap") == "yes", _mode(section["mode"])
    return Encapsulation(esp_suite(section["algorithm"]), int(section["outer"]), encap, mode, int(section["inner"]))


def _mode(text: str) -> Mode:
    return "transport" if text.lower() == "transport" else "beet" if text.lower() == "beet" else "tunnel"


def _finding(section: Tree | None) -> Tree | None:
    return None if section is None else {"path_mtu": int(section["path-mtu"]), "seconds_ago": int(section["age"])}


def _running_lines(child: Tree) -> list[str]:
    suite, outer, inner = esp_suite(child["algorithm"]), int(child["outer"][-1]), int(child["inner"][-1])
    wraps = Encapsulation(suite, outer, child["encap"] == "udp", child["mode"], inner)
    in_force = TunnelMtu(child["overhead_bytes"], child["max_inner_bytes"], child["mss_ipv4"], child["mss_ipv6"])
    lines = [f"{child['connection']}/{child['child']} #{child['uniqueid']}"]
    lines += _lines(wraps, child["path_mtu"], child["algorithm"], in_force, wraps.max_inner_bytes(child["path_mtu"]))
    if child["carries_ipv6"]:
        lines += _ipv6_note(wraps, in_force, child["cuts_outside"])
    if not child["copy_df"]:
        lines += ["", "copy_df = false: inner packets up to the path MTU are let in, and leave in outer fragments."]
    if not child["mss_ipv4"]:
        lines += ["", "mss = off: SYNs are left alone."]
    lines += ["", f"{'path MTU':{WIDTH}}{child['path_mtu']:7}"]
    for name, source in FINDINGS.items():
        found = child[name]
        when = f"{found['path_mtu']:7}   {source}, {duration(found['seconds_ago'])} ago" if found else f"{'-':>7}"
        if found and name != "computed" and found["path_mtu"] > child["path_mtu"]:
            when += ", superseded"
        lines.append(f"{'  ' + name:{WIDTH}}{when}")
    return lines


def _word(version: str) -> str:
    return "IPv4" if version == "ipv4" else "IPv6"
