"""Which packets of this host go into the TUN, and what happens to them while it is not there (design.md decision 12).

All routes stand in tables of ours and carry `protocol 73`. Per prefix there are two: `dev TUN` while a Child SA can carry
it, and `prohibit` with a worse metric, which answers "administratively prohibited" once the device is gone. Rules before main
lead there, except for packets with the SO_MARK of our own sockets:

    priority p      not fwmark MARK lookup 4500
    priority p + 1  not fwmark MARK lookup main suppress_prefixlength 0     these two only while there is a /0: connected networks
    priority p + 2  not fwmark MARK lookup 4501                             (and all that main knows better) come before it

A /0 has a table of its own: behind the main table it must not drag our other prefixes with it, before it a lone `prohibit`
would cut off the connected networks. A network of ours inside a peer's larger one gets a `throw` route, so that it stays local.
`p` and the metrics are made from the TUN's name, so that two gateways on one host know their own.

A crash takes the TUN and its routes away, the rest stays and fails closed: `adopt` at the next start keeps what is still
configured, `close` at an orderly stop removes all.

Left out: packets that arrive in clear from outside are no matter of routes; strict rp_filter on the outer device drops them.
Called by control.manager and the gateway.
"""

from __future__ import annotations

import errno
import ipaddress
import zlib
from collections.abc import Iterable
from typing import Any

from ..model import Address
from .netlink import Netlink

TABLE = 4500
MAIN_TABLE = 254
DEFAULT_TABLE = 4501  # of 0.0.0.0/0 and ::/0
PROTOCOL = 73
MARK = 0x49505346  # "IPSF"
TUN_METRIC = 0x1000
FIRST_PRIORITY = 4500
PROHIBIT_METRIC = 0x49500000
_FAMILY = {4: 2, 6: 10}
_UNICAST, _PROHIBIT, _THROW, _LOOKUP = 1, 8, 9, 1
_KIND_TEXT = {_UNICAST: "", _PROHIBIT: "prohibit ", _THROW: "throw "}
_FIB_RULE_INVERT = 2

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def tag_of(tun: str) -> int:
    """12 bits that stand for a TUN's name in priorities and metrics."""
    return zlib.crc32(tun.encode()) & 0xFFF


class Routes:
    """The routes and rules of one gateway. `add` and `remove` of a prefix may be repeated."""

    def __init__(self, netlink: Netlink, tun: str, *, mark: int = MARK) -> None:
        self._netlink = netlink
        self._tun = tun
        self._mark = mark
        self._tag = tag_of(tun)
        self._priority = FIRST_PRIORITY + 3 * self._tag
        self._metric = PROHIBIT_METRIC | self._tag
        self._prohibited: set[Network] = set()
        self._routed: dict[Network, tuple[int, Address | None]] = {}  # TUN, source

    @property
    def prefixes(self) -> frozenset[Network]:
        """What is routed into the TUN now."""
        return frozenset(self._routed)

    def adopt(self, wanted: Iterable[Network]) -> list[Network]:
        """Take over what an earlier run left: kept where it lies in a wanted prefix, removed elsewhere. Returns what was kept."""
        wanted = list(wanted)
        for network in self._left_behind():
            if any(_lies_in(network, one) for one in wanted):
                self._prohibited.add(network)
                self._ensure_rules(network)
            else:
                self._route("del", network, _PROHIBIT)
        self._drop_unneeded_rules()
        return sorted(self._prohibited, key=str)

    def prohibit(self, network: Network) -> None:
        """From now on nothing for this prefix leaves in clear."""
        if network not in self._prohibited:
            self._route("replace", network, _PROHIBIT)
            self._prohibited.add(network)
        self._ensure_rules(network)

    def add(self, network: Network, index: int, source: Address | None = None, around: Iterable[Network] = ()) -> None:
        """Route the prefix into the TUN (by its index).

        `source` is what this host's own packets should come from, `around` our own networks: those inside the prefix stay out of the TUN.
        """
        self.prohibit(network)
        self._route("replace", network, _UNICAST, index, source)
        self._routed[network] = index, source
        for one in around:
            if network.prefixlen and _lies_in(one, network) and one != network:
                self._route("replace", one, _THROW)

    def set_mtu(self, network: Network, mtu: int) -> None:
        """What this host sends through the TUN for the prefix, or forwards to it, is at most so long."""
        if network in self._routed:
            index, source = self._routed[network]
            self._route("replace", network, _UNICAST, index, source, mtu)

    def remove(self, network: Network, *, keep_prohibit: bool) -> None:
        """Take the prefix out of the TUN; with `keep_prohibit` its packets are refused, otherwise they go where they went before us."""
        if network in self._routed:
            self._route("del", network, _UNICAST)
            del self._routed[network]
        if not keep_prohibit and network in self._prohibited:
            self._route("del", network, _PROHIBIT)
            self._prohibited.discard(network)
            for thrown in self._left_behind(_THROW):
                if not any(_lies_in(thrown, other) for other in self._prohibited):
                    self._route("del", thrown, _THROW)
            self._drop_unneeded_rules()

    def close(self) -> None:
        """An orderly stop: everything of ours goes, also what an earlier run left."""
        for network in tuple(self._routed):
            self.remove(network, keep_prohibit=True)
        for network in {*self._prohibited, *self._left_behind()}:
            self._route("del", network, _PROHIBIT)
        for network in self._left_behind(_THROW):
            self._route("del", network, _THROW)
        self._prohibited.clear()
        self._drop_unneeded_rules()

    # --- the kernel's side

    def _left_behind(self, kind: int = _PROHIBIT) -> list[Network]:
        def dump(ip: Any) -> list[Network]:
            return [
                _network(route)
                for family in _FAMILY.values()
                for table in (TABLE, DEFAULT_TABLE)
                for route in ip.get_routes(family=family, table=table)
                if route["proto"] == PROTOCOL
                and route["type"] == kind
                and route.get_attr("RTA_PRIORITY") == self._metric
            ]

        return self._netlink.call("list our routes", dump) or []

    def _route(
        self,
        verb: str,
        network: Network,
        kind: int,
        index: int | None = None,
        source: Address | None = None,
        mtu: int | None = None,
    ) -> None:
        request: dict[str, Any] = {
            "dst": str(network),
            "family": _FAMILY[network.version],
            "table": TABLE if network.prefixlen else DEFAULT_TABLE,
            "proto": PROTOCOL,
            "type": kind,
            "priority": (TUN_METRIC | self._tag) if kind == _UNICAST else self._metric,
        }
        if index is not None:
            request["oif"] = index
        if source is not None:
            request["prefsrc"] = str(source)
        if mtu is not None:
            request["metrics"] = {"mtu": mtu}
        gone = (errno.ESRCH, errno.ENOENT, errno.ENODEV) if verb == "del" else ()
        what = f"{verb} the {_KIND_TEXT[kind]}route of {network}"
        self._netlink.call(what, lambda ip: ip.route(verb, **request), ignore=gone)

    def _ensure_rules(self, network: Network) -> None:
        for step in (0,) if network.prefixlen else (1, 2):
            self._rule("add", network.version, step)

    def _drop_unneeded_rules(self) -> None:
        for version in (4, 6):
            lengths = [one.prefixlen for one in self._prohibited | self._routed.keys() if one.version == version]
            for step in (0, 1, 2):
                if not any((length > 0) == (step == 0) for length in lengths):
                    self._rule("del", version, step)

    def _rule(self, verb: str, version: int, step: int) -> None:
        """Add or delete the rule of priority p + step; the kernel tells us by EEXIST and ENOENT that there was nothing to do."""
        request: dict[str, Any] = {
            "family": _FAMILY[version],
            "priority": self._priority + step,
            "table": (TABLE, MAIN_TABLE, DEFAULT_TABLE)[step],
            "fwmark": self._mark,
            "fwmask": 0xFFFFFFFF,
            "flags": _FIB_RULE_INVERT,
            "action": _LOOKUP,
            "protocol": PROTOCOL,
        }
        if step == 1:
            request["suppress_prefixlen"] = 0
        ignore = (errno.EEXIST,) if verb == "add" else (errno.ENOENT, errno.EAFNOSUPPORT)
        self._netlink.call(
            f"{verb} the rule for table {request['table']}", lambda ip: ip.rule(verb, **request), ignore=ignore
        )


def _lies_in(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _network(route: Any) -> Network:
    address = route.get_attr("RTA_DST") or ("0.0.0.0" if route["family"] == _FAMILY[4] else "::")
    return ipaddress.ip_network(f"{address}/{route['dst_len']}")
