"""What the kernel enforces of the SPD outside of the TUN (RFC 4301 sections 4.4.1, 5.1 and 5.2): the face of this package.

    policy = HostPolicy("ipsec0", Marks())
    policy.open(configured, tun_index)       closed from here on; adopts what a killed gateway left, without a gap
    policy.load([Policy(...)], now)          queued; `flush` commits what is queued, at most once per REST_S
    policy.unload(["site/net"], now)
    policy.replace(Policy(...), now)         a selector that is known only now, or has changed
    policy.get_timer(), policy.flush(now)    {name: HostError} of those that the kernel refused
    policy.fds, policy.take_news()           puts back what others removed; lines for the log
    policy.counters(), policy.entries()      for `status` and `list-pols`
    policy.move(tun_index)                   the TUN was made anew
    policy.close("closed" | "open")

A Child SA that comes, goes or is replaced needs none of these calls. A transaction that the kernel refuses changes nothing; it is
halved until only the guilty policy is left. Called by control and the gateway.
"""

from __future__ import annotations

import re
import socket
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...errors import HostError, UsageError
from .dumps import Counter, read_counters, read_policies, table_comment
from .elements import Stored, element_text, mark_of, requests_of
from .library import NftLibrary
from .marks import Marks
from .netlink import NETLINK_NETFILTER, NetlinkSocket
from .policies import Book, Box, Changes, Loaded, Place, Placed, Policy, boxes_of
from .rules import RULES, Network, Rules
from .table import OWNER, MapKey, more_maps_text, table_text
from .watch import PolicyWatch

TABLE = "ipsec_fast"
TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
REST_S = 0.02  # between two transactions: the kernel copies a map for each
HASHES_MAX = 4  # hash maps of one layer: each costs every packet a look-up
DELETE_S = 2.5e-6  # in a map of intervals, for each element in it
ADD_S = 1.5e-4


@dataclass(frozen=True, slots=True)
class _Change:
    """One queued step: what has this name goes, then `policy` comes, if there is one."""

    name: str
    policy: Policy | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(slots=True)
class _Entered:
    """A step that the book has taken, with what undoes it."""

    change: _Change
    removed: list[Loaded]


class HostPolicy:
    """One gateway's table, rules and routes. `log` gets single lines. HostError where nftables or netlink cannot be had."""

    def __init__(
        self,
        tun: str,
        marks: Marks | None = None,
        *,
        table: str = TABLE,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        if not TABLE_NAME.fullmatch(table):
            raise UsageError(f"nftables table {table!r}: a letter, then letters, digits and _, 63 at most")
        self._tun, self._marks, self._table, self._log = tun, marks or Marks(), table, log
        self._book = Book()
        self._maps: set[MapKey] = set()
        self._hashed: set[MapKey] = set()
        self._sizes: Tally[MapKey] = Tally()  # of the maps of intervals
        self._inside: dict[int, tuple[Network, ...]] = {4: (), 6: ()}
        self._sources: dict[str, tuple[Network, ...]] = {}
        self._left_behind: set[str] = set()
        self._queue: list[_Change] = []
        self._queued_at, self._flushed_at = 0.0, float("-inf")
        self._library = NftLibrary()
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)
        self._rules = Rules(tun, self._marks)
        self._watch: PolicyWatch | None = None
        self._culprit, self._is_changed = "", False

    # --- life

    def open(self, policies: Iterable[Policy] = (), index: int | None = None) -> list[str]:
        """Close what these policies cover, and what an earlier run left closed that they do not name; returns those names.

        `index` is the TUN's; None writes the policy alone (before the network at boot): protected packets are refused. HostError,
        and what stood before stands, where the kernel says no; UsageError of a policy that covers nothing.
        """
        policies = tuple(policies)
        left = read_policies(self._netlink, self._table) if self._is_there() else {}
        self._watch = PolicyWatch(self._table)
        for one in policies:
            self._book.add(one.name, one.action, boxes_of(one), one.priority)
        configured = {mark_of(one.name) for one in policies}
        for name, found in left.items():
            if name not in configured:
                self._book.add(name, found.action, found.boxes, found.priority)
                self._left_behind.add(name)
        self._rules.open(index)
        self._write_table("write the nftables table")
        for one in policies:
            self._set_sources(one)
        return sorted(self._left_behind)

    def close(self, on_stop: str = "closed") -> None:
        """ "open" takes table, rules and routes away; "closed" leaves them to the next start or to `release`. Twice is fine."""
        if self._watch is None:
            return
        self._watch.close()
        self._watch = None
        try:
            if on_stop == "open":
                _remove_table(self._library, self._table)
        finally:
            self._rules.close(remove=on_stop == "open")
            self._netlink.close()

    def move(self, index: int) -> None:
        """The TUN was made anew, or came up again."""
        self._rules.move(index)

    # --- policies

    @property
    def names(self) -> list[str]:
        """Of all that are loaded, those that an earlier run left included."""
        return self._book.names

    @property
    def left_behind(self) -> frozenset[str]:
        """Closed because an earlier run had loaded them; `load` takes them over, `unload` opens them."""
        return frozenset(self._left_behind)

    def load(self, policies: Iterable[Policy], now: float) -> None:
        """One that is loaded already is replaced, in one transaction. UsageError: one covers nothing, and none is queued."""
        self._enqueue([_Change(one.name, one, tuple(boxes_of(one))) for one in policies], now)

    def unload(self, names: Iterable[str], now: float) -> None:
        """What they cover goes its own way again; names that are not loaded are ignored."""
        self._enqueue([_Change(name) for name in names], now)

    def get_timer(self) -> float | None:
        """When `flush` is due."""
        return max(self._queued_at, self._flushed_at + REST_S) if self._queue else None

    def flush(self, now: float) -> dict[str, HostError]:
        """Commit what is queued, due or not; what was refused, by name. The rest is in the kernel when it returns."""
        queue, self._queue = self._queue, []
        refused: dict[str, HostError] = {}
        if queue:
            self._flushed_at = now
            self._apply(queue, refused)
        return refused

    def set_inside(self, networks: Iterable[Network]) -> None:
        """The networks of our own side: a decrypted packet for one of them is delivered, however wide a selector is."""
        found = tuple(dict.fromkeys(networks))
        wanted = {version: tuple(one for one in found if one.version == version) for version in (4, 6)}
        if wanted == self._inside:
            return
        if self._watch is not None:
            self._library.run("set our own networks", "".join(self._inside_commands(wanted)))
        self._inside = wanted

    def entries(self) -> list[Placed]:
        """In the order in which they apply; `layer` is None where those before take all packets."""
        return sorted(self._book.placed(), key=lambda one: one.rank)

    def counters(self) -> dict[str, Counter]:
        """Packets that were dropped, by the names of table.COUNTERS."""
        return read_counters(self._netlink, self._table)

    # --- what others do to it

    @property
    def fds(self) -> tuple[int, ...]:
        """Readable while `take_news` may have something to do."""
        return self._watch.fds if self._watch is not None else ()

    def take_news(self) -> list[str]:
        """Put back what somebody removed or changed; a line for each. HostError where the kernel refuses that."""
        if self._watch is None:
            return []
        lines, rules = [], self._rules
        if self._put_back():
            lines.append(f"the nftables table {self._table} was changed by {self._culprit}: put back")
        priorities = range(rules.priority, rules.priority + RULES)
        if self._watch.take_rules((rules.port,), priorities, (rules.table, rules.sources)):
            if rules.restore():
                lines.append("ip rules or routes of ours were removed: put back")
            else:
                lines.append(f"the device {self._tun} is gone or down: what is protected is refused")
        for line in lines:
            self._log(line)
        return lines

    def _put_back(self, *, refused_already: bool = False) -> bool:
        """Write the table anew if others changed it. What fails is tried again at the next call."""
        assert self._watch is not None
        culprit = self._watch.take_table()
        if culprit:
            self._culprit, self._is_changed = culprit, True
        if not self._is_changed:
            return False
        try:
            self._write_table("put the nftables table back")
        except HostError:
            if not refused_already:
                raise
            return False
        self._is_changed = False
        return True

    # --- transactions

    def _enqueue(self, changes: list[_Change], now: float) -> None:
        if changes and not self._queue:
            self._queued_at = now
        self._queue += changes

    def _apply(self, queue: list[_Change], refused: dict[str, HostError]) -> None:
        """Halved where the kernel refuses: what it took in one transaction is as if each had been alone."""
        entered = []
        for change in queue:
            try:
                entered.append(self._enter(change))
            except UsageError as error:
                refused[change.name] = HostError(str(error))
        try:
            self._commit(self._book.settle())
        except HostError as error:
            if self._put_back(refused_already=True):  # written anew with what is being loaded
                for one in entered:
                    self._finish(one, refused)
                return
            for one in reversed(entered):
                self._undo(one)
            self._book.settle()  # back where the kernel is
            if len(entered) == 1:
                refused[entered[0].change.name] = HostError(f"cannot load or unload {entered[0].change.name}: {error}")
                return
            middle = len(entered) // 2
            self._apply([one.change for one in entered[:middle]], refused)
            self._apply([one.change for one in entered[middle:]], refused)
            return
        for one in entered:
            self._finish(one, refused)

    def _enter(self, change: _Change) -> _Entered:
        """UsageError, and the book as before."""
        removed = [
            self._book.remove(name) for name in dict.fromkeys((change.name, mark_of(change.name))) if name in self._book
        ]
        entered = _Entered(change, removed)
        if change.policy is not None:
            try:
                self._book.add(change.name, change.policy.action, change.boxes, change.policy.priority)
            except UsageError:
                self._undo(entered)
                raise
        return entered

    def _undo(self, one: _Entered) -> None:
        if one.change.policy is not None and one.change.name in self._book:
            self._book.remove(one.change.name)
        for loaded in reversed(one.removed):
            self._book.restore(loaded)

    def _finish(self, one: _Entered, refused: dict[str, HostError]) -> None:
        """Sources come last and go last: without a policy they only choose an address."""
        name = one.change.name
        self._left_behind -= {name, mark_of(name)}
        try:
            if name in self._sources:
                self._rules.drop_sources(name, self._sources.pop(name))
            if one.change.policy is not None:
                self._set_sources(one.change.policy)
        except (
            HostError
        ) as error:  # the policy stands: closed, and this host's own packets have the source they had before
            refused[name] = error

    def _set_sources(self, policy: Policy) -> None:
        if policy.sources:
            self._rules.set_sources(policy.name, policy.sources)
            self._sources[policy.name] = tuple(network for network, _ in policy.sources)

    def _commit(self, changes: Changes) -> None:
        if not changes.remove and not changes.add:
            return
        removed: list[Stored] = [(one, self._map_of(one, layer)) for one, layer in changes.remove]
        added: list[Stored] = [(one, self._map_of(one, layer)) for one, layer in changes.add]
        if self._is_dear(removed):
            self._write_table("write the nftables table anew")
            return
        self._make_maps({key for _, key in added})
        self._netlink.commit(requests_of(self._table, removed, added))
        self._sizes.update(key for _, key in added)
        self._sizes.subtract(key for _, key in removed)

    def _map_of(self, one: Placed, layer: int) -> MapKey:
        """The same for as long as the table is not written anew: pairs of lengths are added until there are HASHES_MAX."""
        version, kind, lengths = one.box.version, one.box.kind, one.box.lengths
        if kind != "nets" or lengths is None:
            return version, layer, kind
        key = version, layer, f"{lengths[0]}_{lengths[1]}"
        if key not in self._hashed:
            if sum(other[:2] == key[:2] for other in self._hashed) >= HASHES_MAX:
                return version, layer, kind
            self._hashed.add(key)
        return key

    def _is_dear(self, removed: Iterable[Stored]) -> bool:
        """Whether deletions from maps of intervals would cost more than all elements anew."""
        cost = sum(self._sizes[key] for _, key in removed if key not in self._hashed) * DELETE_S
        return cost > 0.05 + ADD_S * len(self._book)

    def _make_maps(self, wanted: set[MapKey]) -> None:
        """Empty maps and their look-ups, before the first element: a transaction of its own that changes no verdict."""
        if wanted <= self._maps:
            return
        maps = self._maps | wanted
        added = wanted - self._maps
        self._library.run("add maps", more_maps_text(self._table, self._tun, self._marks, added, maps))
        self._maps = maps

    # --- the table as a whole

    def _is_there(self) -> bool:
        comment = table_comment(self._netlink, self._table)
        _check_owner(comment, self._table)
        tun = (comment or "").split(" ")[-1]
        if comment is not None and tun != self._tun and tun in (name for _, name in socket.if_nameindex()):
            raise HostError(
                f"the nftables table inet {self._table} is that of the gateway with the device {tun}: this one needs a name "
                "and a mark of its own"
            )
        return comment is not None

    def _write_table(self, what: str) -> None:
        """In one transaction, in the place of whatever has its name."""
        placed = [(one, one.layer) for one in self._book.placed() if one.layer is not None]
        hashed = self._hashed
        self._hashed = _most_common_lengths(placed)
        elements: dict[MapKey, list[str]] = {}
        for one, layer in placed:
            key = self._map_of(one, layer)
            elements.setdefault(key, []).append(element_text(one, key[2]))
        maps = {key: ", ".join(found) for key, found in elements.items()}
        inside = {version: _listed(networks) for version, networks in self._inside.items()}
        table = table_text(self._table, self._tun, self._marks, maps, inside)
        try:
            self._library.run(what, f"add table inet {self._table}\ndelete table inet {self._table}\n{table}")
        except HostError:
            self._hashed = hashed
            raise
        self._book.settle()
        self._maps = set(elements)
        self._sizes = Tally({key: len(found) for key, found in elements.items()})

    def _inside_commands(self, wanted: dict[int, tuple[Network, ...]]) -> Iterable[str]:
        for version, networks in wanted.items():
            name = f"inet {self._table} inside{version}"
            yield f"flush set {name}\n"
            if networks:
                yield f"add element {name} {{ {_listed(networks)} }}\n"


def release(tun: str, marks: Marks | None = None, *, table: str = TABLE) -> bool:
    """Remove what a gateway left closed; whether there was a table. HostError where it is not ours, or the kernel refuses."""
    library, rules = NftLibrary(), Rules(tun, marks or Marks())
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    try:
        comment = table_comment(netlink, table)
        _check_owner(comment, table)
        _remove_table(library, table)
    finally:
        netlink.close()
        rules.close(remove=True)
    return comment is not None


def _check_owner(comment: str | None, table: str) -> None:
    if comment is not None and comment.split(" ")[0] != OWNER:
        raise HostError(
            f"the nftables table inet {table} is not ours: give ours another name, or type: nft delete table inet {table}"
        )


def _remove_table(library: NftLibrary, table: str) -> None:
    library.run("remove the nftables table", f"add table inet {table}\ndelete table inet {table}\n")


def _most_common_lengths(placed: Iterable[Place]) -> set[MapKey]:
    """The pairs of prefix lengths that most boxes of a layer have, HASHES_MAX of each."""
    pairs = Tally(
        (one.box.version, layer, f"{lengths[0]}_{lengths[1]}")
        for one, layer in placed
        if one.box.kind == "nets" and (lengths := one.box.lengths) is not None
    )
    chosen: Tally[tuple[int, int]] = Tally()
    found: set[MapKey] = set()
    for key, _ in pairs.most_common():
        if chosen[key[:2]] < HASHES_MAX:
            chosen[key[:2]] += 1
            found.add(key)
    return found


def _listed(networks: Iterable[Network]) -> str:
    return ", ".join(str(one) for one in networks)
