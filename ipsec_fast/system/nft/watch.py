"""Tells when somebody else changed our nftables table, ip rules or routes (`nft flush ruleset`, systemd-networkd), at once.

nf_tables ends the news of each transaction with the thread that made it, rtnetlink names the socket; what we did ourselves is no
news. Called by host_policy.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Collection

from ...errors import HostError
from .netlink import INET, NETLINK_NETFILTER, NETLINK_ROUTE, NEWGEN, SUBSYSTEM, NetlinkSocket, attributes
from .rules import DELROUTE, DELRULE

GROUP_NFTABLES = 7
GROUPS_ROUTE = (7, 8, 11, 19)  # IPv4 routes and rules, IPv6 routes and rules
_TABLE_NAME, _GEN_PID, _GEN_NAME = 1, 2, 3
_FRA_PRIORITY, _RTA_TABLE = 6, 15
KEPT = 4096  # messages of one transaction that are kept until its maker is known


class PolicyWatch:
    """`fds` are readable while `take_table` or `take_rules` may have something."""

    def __init__(self, table: str) -> None:
        self._table = table.encode()
        self._nft = NetlinkSocket(NETLINK_NETFILTER, (GROUP_NFTABLES,))
        try:
            self._route = NetlinkSocket(NETLINK_ROUTE, GROUPS_ROUTE)
        except HostError:
            self._nft.close()
            raise
        self._touched = False

    @property
    def fds(self) -> tuple[int, int]:
        return self._nft.fd, self._route.fd

    def take_table(self) -> str:
        """Who else changed our table since the last call ("nft" for the program's name); empty if nobody."""
        heard = self._nft.hear()
        if heard is None:
            return "too many changes to follow"
        culprit = ""
        for kind, _, body in heard:
            if kind == SUBSYSTEM << 8 | NEWGEN:
                maker = attributes(body[4:])
                (pid,) = struct.unpack("!I", maker.get(_GEN_PID, bytes(4)))
                if self._touched and pid not in (os.getpid(), threading.get_native_id()):
                    culprit = maker.get(_GEN_NAME, b"?").rstrip(b"\0").decode(errors="replace")
                self._touched = False
            elif not self._touched and body[:1] == bytes((INET,)):
                self._touched = attributes(body[4:]).get(_TABLE_NAME, b"").rstrip(b"\0") == self._table
        return culprit

    def take_rules(self, ports: Collection[int], priorities: range, tables: Collection[int]) -> bool:
        """Whether others than the sockets `ports` removed a rule or route of ours since the last call."""
        heard = self._route.hear()
        if heard is None:
            return True
        return any(
            port not in ports and self._removes_ours(kind, body, priorities, tables) for kind, port, body in heard
        )

    def _removes_ours(self, kind: int, body: bytes, priorities: range, tables: Collection[int]) -> bool:
        if kind not in (DELRULE, DELROUTE) or len(body) < 12:
            return False
        wanted, range_ = (_FRA_PRIORITY, priorities) if kind == DELRULE else (_RTA_TABLE, tables)
        value = attributes(body[12:]).get(wanted, b"")
        return len(value) == 4 and struct.unpack("=I", value)[0] in range_

    def close(self) -> None:
        self._nft.close()
        self._route.close()
