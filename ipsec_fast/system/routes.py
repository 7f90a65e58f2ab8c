"""Which packets of this host go into the TUN, and what happens to them while it is not there (ARCHITECTURE.md, rule 6).

All routes are in tables of our own and carry `protocol 73`. Each prefix has two: `dev TUN` while a Child SA can carry
it, and `prohibit` with a worse metric, which answers "administratively prohibited" once the device is gone. Rules
before the main table select our tables, except for packets with the SO_MARK of our own sockets:

    priority p      not fwmark MARK lookup 4500
    priority p + 1  not fwmark MARK lookup main suppress_prefixlength 0     these two only while there is a /0: connected networks
    priority p + 2  not fwmark MARK lookup 4501                             (and all that main knows better) come before it

A /0 has a table of its own. After the main table, one table would pull our other prefixes there too; before it, a
`prohibit` of /0 alone would cut off the connected networks. A local network inside a peer's larger one gets a `throw`
route, so that it stays local. `p` and the metrics derive from the TUN's name, so that two gateways on one host tell
their routes apart.

A crash removes the TUN and its routes; the rest stays and fails closed. `adopt` at the next start keeps what is still
configured, `close` at an orderly stop removes all.

We keep books of our routes and rules; only `adopt` (once, at the start) and `close` read the kernel's tables.
Changes leave in batches. A deletion may be repeated, because deleting what does not exist is no error.

Left out: packets that arrive in clear from outside, which routes do not see; strict rp_filter on the outer device drops
them. Called by control.manager and the gateway.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..errors import HostError
from ..model import Address
from .netlink import Netlink
from .route_messages import FAMILY, PROHIBIT, THROW, UNICAST, Message, refusal, route_message, rule_message

TABLE = 4500
MAIN_TABLE = 254
DEFAULT_TABLE = 4501  # of 0.0.0.0/0 and ::/0
PROTOCOL = 73
MARK = 0x49505346  # "IPSF"
TUN_METRIC = 0x1000
FIRST_PRIORITY = 4500
PROHIBIT_METRIC = 0x49500000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def tag_of(tun: str) -> int:
    """12 bits that stand for a TUN's name in priorities and metrics."""
    return zlib.crc32(tun.encode()) & 0xFFF


@dataclass(frozen=True, slots=True)
class _Step:
    """A change and its prefix; `thrown` if it deletes a throw route, `closes` if it adds a prohibit route."""

    message: Message
    network: Network
    thrown: Network | None = None
    closes: bool = False


class Removal:
    """A removal of prefixes that the kernel may not have answered yet."""

    def __init__(self, routes: Routes, steps: list[_Step], answers: Future[list[int]]) -> None:
        self._routes, self._steps, self._answers = routes, steps, answers

    def is_done(self, wait_s: float = 0.0) -> bool:
        """Whether the kernel has answered, after at most `wait_s`."""
        try:
            self._answers.exception(wait_s)
        except TimeoutError:
            return self._answers.done()
        return True

    def refused(self) -> dict[Network, str]:
        """The prefixes that are not wholly removed, each with the reason; they
        may be removed again. Only after `is_done`.
        """
        try:
            codes = self._answers.result(0)
        except HostError as error:
            return {step.network: str(error) for step in self._steps}
        bad = [(step, code) for step, code in zip(self._steps, codes, strict=True) if code]
        for step, _ in bad:
            if step.thrown is not None:
                self._routes.note_throw(step.thrown, step.network)
        return {step.network: refusal(step.message, code) for step, code in reversed(bad)}


class Routes:
    """The routes and rules of one gateway. `add` and `remove` of a prefix may be repeated."""

    def __init__(self, netlink: Netlink, tun: str, *, mark: int = MARK) -> None:
        self._netlink = netlink
        self._mark = mark
        self._tag = tag_of(tun)
        self._priority = FIRST_PRIORITY + 3 * self._tag
        self._metric = PROHIBIT_METRIC | self._tag
        self._prohibited: set[Network] = set()
        self._adopted: set[Network] = set()  # of these, what an earlier run left
        self._lengths: Counter[tuple[int, bool]] = Counter()  # of these, by version and whether it is a /0
        self._routed: dict[Network, tuple[int, Address | None]] = {}  # TUN, source
        self._thrown: dict[Network, set[Network]] = {}  # throw routes, and the prefixes that each lies in
        self._throws_of: dict[Network, set[Network]] = {}

    @property
    def prefixes(self) -> frozenset[Network]:
        """What is routed into the TUN now."""
        return frozenset(self._routed)

    def adopt(self, wanted: Iterable[Network]) -> list[Network]:
        """Take over what an earlier run left: kept where it lies in a wanted prefix, removed elsewhere. Returns what was kept."""
        wanted = list(wanted)
        left = self._left_behind()
        kept = [network for network in left[PROHIBIT] if any(_lies_in(network, one) for one in wanted)]
        self._adopted.update(kept)
        self._note_prohibited(kept)
        steps = [_Step(rule, network) for network in kept for rule in self._rules("add", network)]
        for thrown in left[THROW]:
            around = [network for network in kept if _lies_in(thrown, network)]
            for network in around:
                self.note_throw(thrown, network)
            if not around:
                steps.append(_Step(self._route("del", thrown, THROW), thrown))
        for network in left[PROHIBIT]:
            if network not in self._prohibited:
                steps.append(_Step(self._route("del", network, PROHIBIT), network))
        steps += self._unneeded_rules(left[PROHIBIT])
        self._carry_out(steps)
        return sorted(self._prohibited, key=str)

    # --- one prefix

    def prohibit(self, network: Network) -> None:
        """From now on nothing for this prefix leaves in clear."""
        self.prohibit_all([network])

    def add(self, network: Network, index: int, source: Address | None = None, around: Iterable[Network] = ()) -> None:
        """Route the prefix into the TUN (by its index).

        `source` is what this host's own packets should come from, `around` our own networks: those inside the prefix stay out of the TUN.
        """
        self.add_all({network: source}, index, around)

    def set_mtu(self, network: Network, mtu: int) -> None:
        """What this host sends through the TUN for the prefix, or forwards to it, is at most so long."""
        self.set_mtus({network: mtu})

    def remove(self, network: Network, *, keep_prohibit: bool) -> None:
        """Take the prefix out of the TUN; with `keep_prohibit` its packets are refused, otherwise they go where they went before us."""
        self._carry_out(self._removal_of({network: keep_prohibit}))

    # --- many at once

    def prohibit_all(self, networks: Iterable[Network]) -> None:
        """HostError names the first prefix that the kernel refused; the others are done."""
        self._carry_out(self._prohibition_of(list(networks)))

    def add_all(self, sources: Mapping[Network, Address | None], index: int, around: Iterable[Network] = ()) -> None:
        """As `add`, for prefixes with their sources. After a HostError remove them all."""
        steps = self._prohibition_of(list(sources))
        for network, source in sources.items():
            steps.append(_Step(self._route("replace", network, UNICAST, index=index, source=source), network))
            self._routed[network] = index, source
        for one in around:
            for network in sources:
                if network.prefixlen and _lies_in(one, network) and one != network:
                    steps.append(_Step(self._route("replace", one, THROW), network))
                    self.note_throw(one, network)
        self._carry_out(steps)

    def set_mtus(self, mtus: Mapping[Network, int]) -> None:
        """As `set_mtu`; nothing for a prefix that is not routed into the TUN."""
        steps = []
        for network, mtu in mtus.items():
            if network in self._routed:
                index, source = self._routed[network]
                route = self._route("replace", network, UNICAST, index=index, source=source, mtu=mtu)
                steps.append(_Step(route, network))
        self._carry_out(steps)

    def remove_all(self, networks: Mapping[Network, bool]) -> Removal:
        """As `remove`, for prefixes with their `keep_prohibit`, and without waiting for the kernel."""
        steps = self._removal_of(networks)
        return Removal(self, steps, self._netlink.post([step.message for step in steps]))

    def close(self, *, keep_adopted: bool = False) -> None:
        """Remove everything of ours, also what an earlier run left, unless a failed start has to keep that."""
        kept = self._adopted if keep_adopted else set()
        left = self._left_behind()
        networks = dict.fromkeys((*self._routed, *self._prohibited, *left[PROHIBIT]))
        steps = [
            _Step(self._route("del", thrown, THROW), thrown)
            for thrown in left[THROW]
            if not any(_lies_in(thrown, network) for network in kept)
        ]
        steps += self._removal_of({network: network in kept for network in networks})
        self._carry_out(steps)

    # --- the books

    def note_throw(self, thrown: Network, network: Network) -> None:
        """Note a throw route for `thrown`, because it lies in `network`."""
        self._thrown.setdefault(thrown, set()).add(network)
        self._throws_of.setdefault(network, set()).add(thrown)

    def _note_prohibited(self, networks: Iterable[Network]) -> None:
        for network in networks:
            if network not in self._prohibited:
                self._prohibited.add(network)
                self._lengths[_length(network)] += 1

    def _forget_prohibited(self, network: Network) -> None:
        if network in self._prohibited:
            self._prohibited.discard(network)
            self._lengths[_length(network)] -= 1

    def _prohibition_of(self, networks: list[Network]) -> list[_Step]:
        steps = [
            _Step(self._route("replace", network, PROHIBIT), network, closes=True)
            for network in networks
            if network not in self._prohibited
        ]
        self._note_prohibited(networks)
        kinds = {_length(network): network for network in networks}  # the rules of each kind once
        return steps + [_Step(rule, network) for network in kinds.values() for rule in self._rules("add", network)]

    def _removal_of(self, networks: Mapping[Network, bool]) -> list[_Step]:
        """Delete regardless of the books: what was refused before may exist, and deleting what does not is no error."""
        steps: list[_Step] = []
        for network, keep_prohibit in networks.items():
            self._routed.pop(network, None)
            steps.append(_Step(self._route("del", network, UNICAST), network))
            if keep_prohibit:
                continue
            steps.append(_Step(self._route("del", network, PROHIBIT), network))
            steps += self._without_throws(network)
            self._adopted.discard(network)
            self._forget_prohibited(network)
        return steps + self._unneeded_rules(network for network, keep in networks.items() if not keep)

    def _without_throws(self, network: Network) -> list[_Step]:
        steps = []
        for thrown in self._throws_of.pop(network, ()):
            users = self._thrown[thrown]
            users.discard(network)
            if not users:
                del self._thrown[thrown]
                steps.append(_Step(self._route("del", thrown, THROW), network, thrown))
        return steps

    def _unneeded_rules(self, networks: Iterable[Network]) -> list[_Step]:
        """Of the kinds that these prefixes are of, if there is no prefix left."""
        kinds = {_length(network): network for network in networks}
        unneeded = [network for kind, network in kinds.items() if not self._lengths[kind]]
        return [_Step(rule, network) for network in unneeded for rule in self._rules("del", network)]

    # --- the kernel's side

    def _carry_out(self, steps: list[_Step]) -> None:
        if not steps:
            return
        try:
            codes = self._netlink.batch([step.message for step in steps])
        except HostError:
            self._note_open(steps)
            raise
        refused = [(step, code) for step, code in zip(steps, codes, strict=True) if code]
        self._note_open([step for step, _ in refused])
        bad = [refusal(step.message, code) for step, code in refused]
        if bad:
            raise HostError(bad[0] if len(bad) == 1 else f"{bad[0]} ({len(bad) - 1} more were refused)")

    def _note_open(self, steps: list[_Step]) -> None:
        """Forget prefixes whose prohibit route was refused, so that the next attempt adds it."""
        for step in steps:
            if step.closes:
                self._forget_prohibited(step.network)

    def _left_behind(self) -> dict[int, list[Network]]:
        """Everything of ours in the kernel's tables, by kind."""

        def dump(ip: Any) -> dict[int, list[Network]]:
            found: dict[int, list[Network]] = {PROHIBIT: [], THROW: []}
            for family in FAMILY.values():
                for table in (TABLE, DEFAULT_TABLE):
                    for route in ip.get_routes(family=family, table=table):
                        is_ours = route["proto"] == PROTOCOL and route.get_attr("RTA_PRIORITY") == self._metric
                        if is_ours and route["type"] in found:
                            found[route["type"]].append(_network(route))
            return found

        return self._netlink.call("list our routes", dump) or {PROHIBIT: [], THROW: []}

    def _route(
        self,
        verb: str,
        network: Network,
        kind: int,
        *,
        index: int | None = None,
        source: Address | None = None,
        mtu: int | None = None,
    ) -> Message:
        return route_message(
            verb,
            network,
            kind,
            table=TABLE if network.prefixlen else DEFAULT_TABLE,
            protocol=PROTOCOL,
            metric=(TUN_METRIC | self._tag) if kind == UNICAST else self._metric,
            index=index,
            source=source,
            mtu=mtu,
        )

    def _rules(self, verb: str, network: Network) -> list[Message]:
        """The rule of priority p + step, or the two of a /0."""
        return [
            rule_message(
                verb,
                network.version,
                table=(TABLE, MAIN_TABLE, DEFAULT_TABLE)[step],
                protocol=PROTOCOL,
                priority=self._priority + step,
                unmarked=self._mark,
                suppress=step == 1,
            )
            for step in ((0,) if network.prefixlen else (1, 2))
        ]


def _length(network: Network) -> tuple[int, bool]:
    return network.version, network.prefixlen == 0


def _lies_in(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _network(route: Any) -> Network:
    address = route.get_attr("RTA_DST") or ("0.0.0.0" if route["family"] == FAMILY[4] else "::")
    return ipaddress.ip_network(f"{address}/{route['dst_len']}")
