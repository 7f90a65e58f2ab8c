"""What is kept closed, and what is trapped, while a child has no SA: routes and policies that follow a configuration that may change.

Children that the configuration starts or traps are refused in clear; those that it traps, or that `install` does, also take their
packets into the TUN, where the first one begins a negotiation. `uninstall` takes that back until the connection is loaded anew.
Called by daemon.py and operations.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..control.children import Children
from ..control.routing import Routing
from ..errors import StateError
from ..ike.config import ChildConfig, ConnectionConfig

Key = tuple[str, str]  # connection, child


@dataclass(frozen=True, slots=True)
class Change:
    """`gone` as they were, `fresh` as they are now (a changed connection is in both), and `all` that there are now."""

    gone: Sequence[ConnectionConfig]
    fresh: Sequence[ConnectionConfig]
    all: Sequence[ConnectionConfig]

    @property
    def reverse(self) -> Change:
        kept = [one for one in self.all if one not in self.fresh]
        return Change(self.fresh, self.gone, [*kept, *self.gone])


class Waiting:
    def __init__(self, children: Children, routing: Routing) -> None:
        self._children = children
        self._routing = routing
        self._connections: tuple[ConnectionConfig, ...] = ()
        self._uninstalled: set[Key] = set()

    def start(self, connections: Sequence[ConnectionConfig]) -> None:
        """Before the worker runs: adopt what a crash left, close what is started or trapped. HostError."""
        self._connections = tuple(connections)
        self._routing.start(connections, self._closed())
        self._children.arrange(connections)
        self._children.expect(connections, _keys(connections, "start"))
        self._trap_all(connections)

    def apply(self, change: Change) -> None:
        """HostError where the host refuses; `apply` of the reverse undoes the half that was done."""
        for connection in change.gone:
            for child in connection.children:
                # a trap's route goes, its prohibit route stays until it is known below that nobody needs it
                self._children.stop_waiting((connection.name, child.name))
        names = {one.name for one in (*change.gone, *change.fresh)}
        self._uninstalled = {key for key in self._uninstalled if key[0] not in names}
        self._connections = tuple(change.all)
        self._routing.expect(self._connections, self._closed())
        self._children.arrange(self._connections)
        self._children.expect(change.fresh, _keys(change.fresh, "start"))
        self._trap_all(change.fresh)

    def trapped(self) -> list[tuple[ConnectionConfig, ChildConfig]]:
        return [
            (connection, child)
            for connection in self._connections
            for child in connection.children
            if self._children.is_trapped((connection.name, child.name))
        ]

    def install(self, connection: ConnectionConfig, child: ChildConfig) -> None:
        """Nothing where it is trapped already."""
        if not connection.remote_addrs:
            raise StateError(f"connection {connection.name} has no remote_addrs: its children cannot be trapped")
        if not child.local_ts and not connection.local_addrs:
            raise StateError(f"child {child.name} has neither local_ts nor its connection local_addrs: nothing to trap")
        self._uninstalled.discard((connection.name, child.name))
        self._children.trap(connection, child)

    def uninstall(self, connection: ConnectionConfig, child: ChildConfig) -> None:
        """Its packets go where they went before us, unless it is started by itself."""
        key = (connection.name, child.name)
        if not self._children.is_trapped(key):
            raise StateError(f"no trap policy for {connection.name}/{child.name} is installed")
        self._uninstalled.add(key)
        self._children.stop_waiting(key)
        self._routing.expect(self._connections, self._closed())
        if child.start_action.starts:
            self._children.expect([connection], [key])

    def _trap_all(self, connections: Iterable[ConnectionConfig]) -> None:
        for connection in connections:
            for child in connection.children:
                if child.start_action.traps:
                    self._children.trap(connection, child)

    def _closed(self) -> list[Key]:
        trapped = [key for key in _keys(self._connections, "trap") if key not in self._uninstalled]
        return list(dict.fromkeys([*_keys(self._connections, "start"), *trapped]))


def _keys(connections: Iterable[ConnectionConfig], action: str) -> list[Key]:
    """The children whose start_action is this one, or has it in it."""
    return [
        (one.name, child.name)
        for one in connections
        for child in one.children
        if (child.start_action.starts if action == "start" else child.start_action.traps)
    ]
