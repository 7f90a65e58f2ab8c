"""The `ip rule`s, and the routes that they lead to: one default route per family into the TUN, a `prohibit` after it, and source routes.

    p      fwmark OWN            goto end      what carries the tunnel
    p + 1  fwmark MAIN           goto end      a local packet that no PROTECT policy covers
    p + 2  iif TUN fwmark PROTECTED or DECRYPTED goto end
    p + 3  iif lo fwmark PROTECTED             goto end
    p + 4  fwmark PROTECTED, AGAIN, DECRYPTED  lookup T
    p + 5  (IPv4) from 0.0.0.0 iif lo lookup U; (IPv6) from ::/1 goto end, from 8000::/1 goto end, iif lo lookup U
    p + 9  nop                   the end

The kernel's reverse-path look-up goes from a packet's source back: with the device that the packet will leave by as `iif` if it is
forwarded, with `lo` if an nftables `fib` expression asks, as firewalld does. Rule p + 2 so means two things: a decrypted packet is
forwarded by the main table, and the reverse look-up of a protected packet finds the inside; p + 3 is the same for `fib`. The reverse
look-up of a decrypted packet goes on to p + 4 and finds the TUN, which strict `rp_filter` wants to see.

Table U gives this host's own packets a source: only a look-up that has none yet meets it, so no reverse look-up does.
Table numbers and priorities follow from the mark, so that two gateways with marks of their own have rules of their own.
Called by host_policy.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from ...errors import HostError
from ...model import Address
from .marks import Marks
from .netlink import CREATE, EXCLUSIVE, NETLINK_ROUTE, REPLACE, NetlinkSocket, Refused, attribute, attributes, text

PROTOCOL = 73
FIRST_PRIORITY, FIRST_TABLE = 4100, 4100
TUN_METRIC, PROHIBIT_METRIC = 1, 1000
RULES = 10  # priorities that we use
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NEWROUTE, DELROUTE, GETROUTE, NEWRULE, DELRULE, GETRULE = 24, 25, 26, 32, 33, 34
_TO_TABLE, _GOTO, _NOP = 1, 2, 3
_UNICAST, _PROHIBIT = 1, 8
_DST, _OIF, _PRIORITY, _PREFSRC, _TABLE = 1, 4, 6, 7, 15
_FRA_SRC, _FRA_IIF, _FRA_GOTO, _FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK, _FRA_PROTOCOL = (
    2,
    3,
    4,
    6,
    10,
    15,
    16,
    21,
)
GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rules:
    """`open` and `close` may be repeated; whatever an earlier run left at our priorities is replaced or stays as it should be."""

    def __init__(self, tun: str, marks: Marks) -> None:
        self._tun, self._marks = tun, marks
        number = marks.base // marks.unit // 8
        self.priority = FIRST_PRIORITY + RULES * number
        self.table, self.sources = FIRST_TABLE + 2 * number, FIRST_TABLE + 2 * number + 1
        self._netlink = NetlinkSocket(NETLINK_ROUTE)
        self._index = 0
        self._wanted: dict[Network, dict[str, Address]] = {}  # by policy, the first one's is in the table

    @property
    def port(self) -> int:
        return self._netlink.port

    def open(self, index: int | None = None) -> None:
        """`index` of the TUN; None (a table alone): everything that is to be protected is prohibited."""
        self._index = index or 0
        for version in (4, 6):
            self._ensure(version)
        if index is not None:
            # without it the reverse-path look-up of a decrypted packet has no mark, and strict rp_filter drops the packet
            with contextlib.suppress(OSError):
                Path(f"/proc/sys/net/ipv4/conf/{self._tun}/src_valid_mark").write_text("1")

    def restore(self) -> bool:
        """After somebody removed some of it. False: the TUN is gone or down, so that what is protected is refused."""
        index = self._index
        try:
            self._index = 0  # what closes comes first
            self._restore()
            self._index = index
            self._restore()
        except Refused as error:
            if error.number not in (errno.ENODEV, errno.ENETDOWN):
                raise
            return False
        finally:
            self._index = index
        return True

    def move(self, index: int) -> None:
        """The TUN was made anew."""
        self.open(index)
        self._restore()

    def _restore(self) -> None:
        for version in (4, 6):
            self._ensure(version)
        for network, by_name in self._wanted.items():
            self._source_route(network, next(iter(by_name.values())))

    def set_sources(self, name: str, sources: Iterable[tuple[Network, Address]]) -> None:
        """From now on unbound packets of this host to these networks have these sources. HostError: nothing of it is left."""
        try:
            for network, source in sources:
                by_name = self._wanted.setdefault(network, {})
                by_name[name] = source
                if len(by_name) == 1:
                    self._source_route(network, source)
        except HostError:
            self.drop_sources(name, [network for network, _ in sources])
            raise

    def drop_sources(self, name: str, networks: Iterable[Network]) -> None:
        for network in networks:
            by_name = self._wanted.get(network, {})
            if name not in by_name:
                continue
            was_first = next(iter(by_name)) == name
            del by_name[name]
            if not by_name:
                del self._wanted[network]
                for kind, metric in ((_UNICAST, TUN_METRIC), (_PROHIBIT, PROHIBIT_METRIC)):
                    self._remove_route(network, kind, metric, self.sources)
            elif was_first:
                self._source_route(network, next(iter(by_name.values())))

    def close(self, *, remove: bool) -> None:
        if remove:
            self.remove()
        self._netlink.close()

    def remove(self) -> None:
        """All rules and routes of ours, also those of an earlier run."""
        for version in (4, 6):
            for number in range(RULES):
                self._remove_rules(version, self.priority + number)
            for row in self._routes(version):
                self._call(f"remove a route of table {self.table}", DELROUTE, 0, row, GONE)

    # --- rules

    def _ensure(self, version: int) -> None:
        default = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
        try:
            self._route(default, _PROHIBIT, PROHIBIT_METRIC, self.table)
        except Refused as error:
            if version == 6 and error.number in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                return  # a kernel without IPv6
            raise
        if self._index:
            self._route(default, _UNICAST, TUN_METRIC, self.table, self._index)
        for body in self._rule_bodies(version):
            self._call("add an ip rule", NEWRULE, CREATE | EXCLUSIVE, body, {errno.EEXIST})

    def _rule_bodies(self, version: int) -> list[bytes]:
        """The target of a goto first, and a look-up that captures before nothing that it needs."""
        marks, first, end = self._marks, self.priority, self.priority + RULES - 1
        masked, tun_mask = marks.to_tun
        both = marks.mask & ~(2 * marks.unit)  # PROTECTED and DECRYPTED
        rule = _RuleBody(version)
        bodies = [
            rule(end, _NOP),
            rule(first, _GOTO, goto=end, mark=(marks.own, marks.mask)),
            rule(first + 1, _GOTO, goto=end, mark=(marks.main, marks.mask)),
            rule(first + 2, _GOTO, goto=end, mark=(marks.protected, both), iif=self._tun),
            rule(first + 3, _GOTO, goto=end, mark=(marks.protected, marks.mask), iif="lo"),
            rule(first + 4, _TO_TABLE, table=self.table, mark=(masked, tun_mask)),
        ]
        if version == 4:
            bodies.append(rule(first + 5, _TO_TABLE, table=self.sources, iif="lo", source=(bytes(4), 32)))
        else:
            bodies += [
                rule(first + 5, _GOTO, goto=end, source=(bytes(16), 1)),
                rule(first + 6, _GOTO, goto=end, source=(b"\x80" + bytes(15), 1)),
                rule(first + 7, _TO_TABLE, table=self.sources, iif="lo"),
            ]
        return bodies

    def _remove_rules(self, version: int, priority: int) -> None:
        body = struct.pack("=BBBBBBBBI", FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0) + _number(_FRA_PRIORITY, priority)
        for _ in range(RULES):  # one call removes one rule of that priority
            try:
                self._netlink.request(DELRULE, 0, body)
            except Refused as error:
                if error.number in GONE:
                    return
                raise HostError(f"cannot remove an ip rule: {error}") from None

    # --- routes

    def _source_route(self, network: Network, source: Address) -> None:
        """Its prohibit twin stays when the TUN goes: then an unbound packet is refused instead of getting another source."""
        self._route(network, _PROHIBIT, PROHIBIT_METRIC, self.sources)
        if self._index:
            self._route(network, _UNICAST, TUN_METRIC, self.sources, self._index, source)

    def _route(
        self,
        network: Network,
        kind: int,
        metric: int,
        table: int,
        index: int | None = None,
        source: Address | None = None,
    ) -> None:
        body = _route_body(network, kind, metric, table, index, source)
        self._call(f"add the route of {network} in table {table}", NEWROUTE, CREATE | REPLACE, body)

    def _remove_route(self, network: Network, kind: int, metric: int, table: int) -> None:
        self._call(
            f"remove the route of {network} in table {table}",
            DELROUTE,
            0,
            _route_body(network, kind, metric, table),
            GONE,
        )

    def _routes(self, version: int) -> list[bytes]:
        """What stands in our tables, as requests to remove it."""
        head = struct.pack("=BBBBBBBBI", FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0)
        found = []
        try:
            rows = self._netlink.dump(GETROUTE, head)
        except Refused:
            return []
        for row in rows:
            kinds = attributes(row[12:])
            table = struct.unpack("=I", kinds.get(_TABLE, struct.pack("=I", row[4])))[0]
            if row[5] == PROTOCOL and table in (self.table, self.sources):
                found.append(row)
        return found

    def _call(self, what: str, kind: int, flags: int, body: bytes, ignore: Iterable[int] = ()) -> None:
        try:
            self._netlink.request(kind, flags, body)
        except Refused as error:
            if error.number not in ignore:
                raise Refused(error.number, error.sequence, f"cannot {what}") from None


class _RuleBody:
    def __init__(self, version: int) -> None:
        self._family = FAMILY[version]

    def __call__(
        self,
        priority: int,
        action: int,
        *,
        goto: int = 0,
        table: int = 0,
        mark: tuple[int, int] | None = None,
        iif: str = "",
        source: tuple[bytes, int] | None = None,
    ) -> bytes:
        head = struct.pack("=BBBBBBBBI", self._family, 0, source[1] if source else 0, 0, 0, 0, 0, action, 0)
        parts = [_number(_FRA_PRIORITY, priority), attribute(_FRA_PROTOCOL, bytes((PROTOCOL,)))]
        if goto:
            parts.append(_number(_FRA_GOTO, goto))
        if table:
            parts.append(_number(_FRA_TABLE, table))
        if mark:
            parts += [_number(_FRA_MARK, mark[0]), _number(_FRA_MASK, mark[1])]
        if iif:
            parts.append(text(_FRA_IIF, iif))
        if source:
            parts.append(attribute(_FRA_SRC, source[0]))
        return head + b"".join(parts)


def _route_body(
    network: Network, kind: int, metric: int, table: int, index: int | None = None, source: Address | None = None
) -> bytes:
    scope = 253 if kind == _UNICAST and network.version == 4 else 0
    head = struct.pack("=BBBBBBBBI", FAMILY[network.version], network.prefixlen, 0, 0, 0, PROTOCOL, scope, kind, 0)
    parts = [_number(_TABLE, table), _number(_PRIORITY, metric)]
    if network.prefixlen:
        parts.append(attribute(_DST, network.network_address.packed))
    if index:
        parts.append(_number(_OIF, index))
    if source is not None:
        parts.append(attribute(_PREFSRC, source.packed))
    return head + b"".join(parts)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))
