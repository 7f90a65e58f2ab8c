"""The text of our nftables table: what is the same for every configuration, and the maps and look-ups of each layer.

A packet is looked up by (remote, local), both cut to their prefixes, in one hash map per pair of prefix lengths, named after them
("24_16"): whatever the size, an element comes and goes in microseconds. What is no prefix, has a protocol or ports, or a fifth pair
of lengths, is in a map of intervals, where the kernel searches for the element that is to be deleted (25 ms among 10,000). There the
remote side comes first, since it tells policies apart: with a shared first field a look-up costs microseconds at 1,000 elements.

The same maps serve both directions, with the addresses exchanged; our byte in the mark says which direction is looked up while the
verdict is sought.

Nothing here needs conntrack, which would cost every packet of the host more than all our look-ups; fragments are joined because a
rule in a chain that no packet reaches names `tproxy`, which makes the kernel join them. Called by host_policy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from .marks import FULL, Marks

TYPE_OF = {4: "ipv4_addr", 6: "ipv6_addr"}
WORD_OF = {4: "ip", 6: "ip6"}
KEY_TYPES = {
    "nets": "",
    "protos": " . inet_proto",
    "types": " . inet_proto . inet_service",
    "ports": " . inet_proto . inet_service . inet_service",
}
MapKey = tuple[int, int, str]  # address family, layer, kind
HOOKED = ("out_of_tun", "prerouting", "input", "forward", "output", "postrouting")  # the chains with look-ups
OWNER = "ipsec-fast"
VERSION = 1
COUNTERS = {
    "clear_in": "arrived in clear, a PROTECT policy covers it",
    "clear_out": "would have left in clear, a PROTECT policy covers it",
    "discarded": "a DISCARD policy covers it",
}


def map_name(version: int, layer: int, kind: str) -> str:
    return f"v{version}_{layer}_{kind}"


def lengths_of(kind: str) -> tuple[int, int] | None:
    """The prefix lengths (remote, local) of a hash map; None of a map of intervals."""
    remote, _, local = kind.partition("_")
    return (int(remote), int(local)) if remote.isdigit() else None


def map_text(version: int, layer: int, kind: str, elements: str = "") -> str:
    address = TYPE_OF[version]
    intervals = "" if lengths_of(kind) else "    flags interval\n"
    inside = f"    elements = {{ {elements} }}\n" if elements else ""
    return (
        f"  map {map_name(version, layer, kind)} {{\n    type {address} . {address}{KEY_TYPES.get(kind, '')} : verdict\n"
        f"{intervals}{inside}  }}\n"
    )


def _lookups(maps: Iterable[MapKey], *, outbound: bool) -> str:
    """One rule per map, in the order of the layers. Outbound, the destination is the remote side."""
    remote, local = ("daddr", "saddr") if outbound else ("saddr", "daddr")
    ports = ("dport", "sport") if outbound else ("sport", "dport")
    rules = []
    for version, layer, kind in sorted(maps):
        word = WORD_OF[version]
        key = f"{word} {remote} . {word} {local}"
        if lengths := lengths_of(kind):
            key = " . ".join(
                f"{word} {field}{_cut(version, length)}" for field, length in zip((remote, local), lengths, strict=True)
            )
        elif kind != "nets":
            key += " . meta l4proto"
        if kind == "types":
            key += " . th sport"  # type and code of ICMP, whatever the direction
        if kind == "ports":
            key += f" . th {ports[0]} . th {ports[1]}"
        rules.append(f"{key} vmap @{map_name(version, layer, kind)}")
    return "\n    ".join(rules)


def _cut(version: int, length: int) -> str:
    bits = 32 if version == 4 else 128
    if length == bits:
        return ""
    address = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return f" & {address((1 << bits) - (1 << (bits - length)))}"


def table_text(name: str, tun: str, marks: Marks, maps: dict[MapKey, str], inside: dict[int, str]) -> str:
    """The whole table; the elements of each map, and of the sets of our own networks."""
    counters = "".join(f'  counter {one} {{\n    comment "{text}"\n  }}\n' for one, text in COUNTERS.items())
    sets = "".join(
        f"  set inside{version} {{\n    type {TYPE_OF[version]}\n    flags interval\n    auto-merge\n"
        + (f"    elements = {{ {inside[version]} }}\n" if inside.get(version) else "")
        + "  }\n"
        for version in (4, 6)
    )
    listed = "".join(map_text(*key, elements) for key, elements in sorted(maps.items()))
    body = counters + sets + listed + _verdicts(tun, marks) + _hooks(tun, marks, maps)
    return f'table inet {name} {{\n  comment "{OWNER} {VERSION} {tun}"\n{body}}}\n'


def more_maps_text(name: str, tun: str, marks: Marks, added: Iterable[MapKey], maps: Iterable[MapKey]) -> str:
    """Adds empty maps, and look-ups of all of them: it changes no verdict."""
    flushed = "".join(f"flush chain inet {name} {chain}\n" for chain in HOOKED)
    listed = "".join(map_text(*key) for key in sorted(added))
    return f"table inet {name} {{\n{listed}}}\n{flushed}table inet {name} {{\n{_hooks(tun, marks, maps)}}}\n"


def _is(marks: Marks, value: int, mask: int | None = None) -> str:
    return f"meta mark & {mask or marks.mask:#010x} == {value:#010x}"


def _set(marks: Marks, value: int) -> str:
    kept = f"meta mark set meta mark & {FULL & ~marks.mask:#010x}"
    return f"{kept} | {value:#010x}" if value else kept


def _verdicts(tun: str, marks: Marks) -> str:
    """What the elements of the maps lead to; the mark says in which direction the packet was looked up.

    The common cases come first; what only some packets need, such as the exceptions, is asked after a hit.
    """
    quoted = "{ destination-unreachable, source-quench, time-exceeded, parameter-problem }"
    quoted6 = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
    not_unicast = "fib daddr type { local, multicast, broadcast, anycast }"
    return f"""\
  chain never_reached {{
    comment "makes the kernel join fragments"
    meta nfproto ipv4 udp dport 9 tproxy ip to :9
    meta nfproto ipv6 udp dport 9 tproxy ip6 to :9
  }}
  chain link_control {{
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} accept
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} accept
    meta l4proto igmp accept
    udp sport . udp dport {{ 67 . 67, 67 . 68, 68 . 67, 546 . 547, 547 . 546 }} accept
  }}
  chain to_us {{
    {_set(marks, 0)}
    meta l4proto {{ esp, ah }} accept
    udp dport {{ 500, 4500 }} accept
    jump link_control
    icmp type {quoted} @th,136,8 {{ 50, 51 }} accept
    icmp type {quoted} @th,136,8 17 @th,224,16 {{ 500, 4500 }} accept
    icmp type {quoted} @th,136,8 17 @th,240,16 {{ 500, 4500 }} accept
    icmpv6 type {quoted6} @th,112,8 {{ 50, 51 }} accept
    icmpv6 type {quoted6} @th,112,8 17 @th,384,16 {{ 500, 4500 }} accept
    icmpv6 type {quoted6} @th,112,8 17 @th,400,16 {{ 500, 4500 }} accept
  }}
  chain inside {{
    ip daddr @inside4 accept
    ip6 daddr @inside6 accept
  }}
  chain clear_in {{
    {not_unicast} jump to_us
    counter name clear_in drop
  }}
  chain clear_out {{
    jump link_control
    counter name clear_out drop
  }}
  chain strayed {{
    counter name clear_out drop
  }}
  chain decrypted {{
    jump inside
    oif != 0 counter name clear_out drop
    {_set(marks, marks.again)} accept
  }}
  chain local_protect {{
    jump link_control
    {_set(marks, marks.again)} accept
  }}
  chain protect {{
    {_is(marks, 0)} oif 0 {_set(marks, marks.protected)} accept
    meta mark & {marks.mask:#010x} vmap {{
      {marks.arriving:#010x} : goto clear_in,
      {marks.sending:#010x} : goto local_protect,
      {marks.decrypted:#010x} : goto decrypted
    }}
    oif != 0 goto clear_out
    {_set(marks, marks.protected)} accept
  }}
  chain bypass {{
    {_is(marks, marks.decrypted)} accept
    {_is(marks, marks.sending)} oifname "{tun}" {_set(marks, marks.main)} accept
    {_set(marks, 0)} accept
  }}
  chain discard {{
    {_is(marks, marks.arriving)} {not_unicast} jump to_us
    {_is(marks, marks.arriving)} counter name discarded drop
    oif 0 fib daddr type local return
    oif != 0 jump link_control
    counter name discarded drop
  }}
"""


def _hooks(tun: str, marks: Marks, maps: Iterable[MapKey]) -> str:
    """The phase in which a packet is looked up is told by our byte in its mark, or, where that is 0, by the outgoing device:

    prerouting has none, postrouting has one.
    """
    maps = tuple(maps)
    outbound, inbound = _lookups(maps, outbound=True), _lookups(maps, outbound=False)
    captured, captured_mask = marks.protected_or_again
    return f"""\
  chain out_of_tun {{
    {_set(marks, marks.decrypted)}
    {outbound}
  }}
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{tun}" goto out_of_tun
    {outbound}
    iif lo accept
    udp dport 4500 fib daddr type local accept
    {_set(marks, marks.arriving)}
    {inbound}
    {_set(marks, 0)}
  }}
  chain input {{
    type filter hook input priority 1000; policy accept;
    udp dport {{ 500, 4500 }} accept
    iifname {{ "lo", "{tun}" }} accept
    {_set(marks, marks.arriving)}
    {inbound}
    {_set(marks, 0)}
  }}
  chain forward {{
    type filter hook forward priority 1000; policy accept;
    {_is(marks, captured, captured_mask)} accept
    iifname "{tun}" accept
    {_set(marks, marks.arriving)}
    {inbound}
    {_set(marks, 0)}
  }}
  chain output {{
    type route hook output priority mangle; policy accept;
    {_is(marks, marks.own)} accept
    oif lo accept
    {_set(marks, marks.sending)}
    {outbound}
    oifname "{tun}" {_set(marks, marks.main)} accept
    {_set(marks, 0)}
  }}
  chain postrouting {{
    type filter hook postrouting priority 1000; policy accept;
    oifname "{tun}" accept
    {_is(marks, marks.own)} accept
    oif lo accept
    {_is(marks, captured, captured_mask)} goto strayed
    {outbound}
  }}
"""
