"""The status for people: one block per IKE SA, one line pair per child. Plain text, no colours, no dependency.

Called by control.py with the document of `status --json`.
"""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]


def render(status: Tree) -> str:
    gateway = status["gateway"]
    workers = gateway.get("workers", 1)
    lines = [
        f"ipsec-fast {status['version']}: {gateway.get('state', 'running')}, engine {gateway.get('engine', 'unknown')}, "
        f"{workers} worker{'' if workers == 1 else 's'}",
        *([f"state of the SAs: {gateway['state_store']}"] if "state_store" in gateway else []),
    ]
    for sa in status["ike_sas"]:
        lines += ["", *_ike_lines(sa)]
        for child in sa["child-sas"]:
            lines += _child_lines(child, workers)
    if not status["ike_sas"]:
        lines.append("no SA is up; `ipsec-fast up NAME` sets one up")
    return "\n".join(lines)


def _ike_lines(sa: Tree) -> list[str]:
    role = "initiator" if sa.get("initiator") == "yes" else "responder"
    times = [f"up {duration(sa['established'])}"] if "established" in sa else []
    times += [f"rekey in {duration(sa['rekey-time'])}"] if "rekey-time" in sa else []
    suite = "/".join(filter(None, (_cipher(sa), sa.get("prf-alg"), sa.get("dh-group"))))
    return [
        f"{sa['name']} #{sa['uniqueid']}  {sa['state']}  IKEv{sa.get('version', 2)} {role}  {', '.join(times)}".rstrip(),
        f"  {sa['local-id']} {sa['local-host']}[{sa['local-port']}] - "
        f"{sa['remote-id']} {sa['remote-host']}[{sa['remote-port']}]",
        *([f"  {suite}"] if suite else []),
    ]


def _child_lines(child: Tree, workers: int) -> list[str]:
    local, remote = (" ".join(child.get(side, ())) for side in ("local-ts", "remote-ts"))
    wire = "ESP in UDP" if child.get("encap") == "yes" else "ESP"
    rekey = f"  rekey in {duration(child['rekey-time'])}" if "rekey-time" in child else ""
    lines = [
        f"  {child['name']} #{child['uniqueid']}  {child['state']}  {local} - {remote}",
        f"    {wire} {_cipher(child)}{'/ESN' if child.get('esn') else ''}  "
        f"in {child['spi-in']} out {child['spi-out']}{rekey}",
    ]
    if "narrowed" in child:
        lines.append(f"    narrowed {child['narrowed']}")
    for name, way in (("received", "in"), ("sent", "out")):
        if f"packets-{way}" in child:
            used = f", last {duration(child[f'use-{way}'])} ago" if f"use-{way}" in child else ""
            count = child[f"packets-{way}"]
            lines.append(f"    {name:8} {size(child.get(f'bytes-{way}', 0)):>10} in {count} packets{used}")
    if workers > 1 and "worker" in child:
        whose = (
            "its own"
            if "cpu" in child
            else "the fallback of all workers"
            if child.get("per-cpu-sas") == "yes"
            else "for all workers"
        )
        lines.append(f"    {child.get('cores', '')}: worker {child['worker']}, {whose}")
    if "mtu" in child:
        lines.append(f"    inner MTU {child['mtu']}, MSS {child.get('mss_ipv4')} (IPv4) {child.get('mss_ipv6')} (IPv6)")
    if "path-mtu" in child:
        lines.append(f"    path MTU {child['path-mtu']}, {_path_words(child)}")
    return lines


PATH_SOURCES = {
    "interface": "of the interface",
    "icmp": "learned from ICMP",
    "probe": "found by probes",
    "fallback": "fallen back to",
}
PATH_PROBING = {
    "off": "not probed",
    "asking": "looking for somebody who answers probes",
    "impossible": "the peer answers no probes",
}


def _path_words(child: Tree) -> str:
    """Where the path's MTU comes from, since when, and whether anybody can say more."""
    since = f" {duration(child['path-mtu-age'])} ago" if "path-mtu-age" in child else ""
    source = PATH_SOURCES.get(child.get("path-mtu-source", ""), child.get("path-mtu-source", ""))
    probing = PATH_PROBING.get(child.get("path-mtu-probing", ""), "")
    return f"{source}{since}" + (f"; {probing}" if probing else "")


def _cipher(section: Tree) -> str:
    bits = f"-{section['encr-keysize']}" if "encr-keysize" in section else ""
    integrity = f"/{section['integ-alg']}" if "integ-alg" in section else ""
    return f"{section['encr-alg']}{bits}{integrity}" if "encr-alg" in section else ""


def duration(seconds: int) -> str:
    """`45s`, `12m 5s`, `3h 50m`, `2d 4h`."""
    for unit, one, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= one:
            rest = seconds % one // part
            return f"{seconds // one}{unit}" + (f" {rest}{below}" if rest else "")
    return f"{seconds}s"


def size(count: int) -> str:
    """`168 B`, `1.5 kB`, `2.3 GB`, in powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
