"""What the control socket needs of the gateway behind it: `GatewayControl`, implemented by the daemon.

Everything runs in the daemon's event loop; nothing here blocks. Errors are IpsecFastError with one clear line, which
becomes `errmsg`. Called by commands.py and announce.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

from ...control.paths import PathNews, PathView
from ...ike.config import ChildConfig, ConnectionConfig
from ...ike.events import ChildView, IkeView, Notice, Progress
from .codec import Decoded, Encodable

if TYPE_CHECKING:
    from ...crypto.secret import Secret
    from ..config_load import LoadedConnection

ControlLog = Callable[[Progress], None]
# a notice, with the IKE SA it is about: as it is now, or, for a *Down notice, as it was last seen (None: not known)
Listener = Callable[[Notice, IkeView | None], None]
PathListener = Callable[[PathNews], None]


class ChildCounters(TypedDict, total=False):
    """`use_in_s`, `use_out_s`: seconds since the last packet; left out where there was none."""

    bytes_in: int
    packets_in: int
    use_in_s: float
    bytes_out: int
    packets_out: int
    crew: int
    use_out_s: float


class ChildMtu(TypedDict):
    """The largest inner packet, and the MSS that the clamp writes (0: no clamp)."""

    mtu: int
    mss_ipv4: int
    mss_ipv6: int


class PathFinding(TypedDict):
    """`at`: on the views' clock; None: when the child was installed."""

    path_mtu: int
    at: float | None


class ChildPath(TypedDict):
    """What a child's figures come from. `copy_df` False: inner packets up to the path MTU are let in.

    `cuts`: IPv6 packets of up to 1280 bytes that do not fit leave in outer fragments.
    """

    path_mtu: int
    inner_version: int
    outer_version: int
    max_inner_bytes: int
    mss_ipv4: int
    mss_ipv6: int
    copy_df: bool
    cuts: bool
    findings: dict[str, PathFinding]  # computed, learned, probed


class GatewayStats(TypedDict, total=False):
    """`counters`: every counter of workers and endpoint, by name."""

    state: str  # "running" or "stopping"
    engine: str
    workers: int
    uptime_s: float
    scheduled: int
    half_open: int  # IKE SAs begun by peers and not authenticated; `views` shows only some of them
    state_store: str  # "directory /run/ipsec-fast.state", or "memory (why)"
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which SAs a command means; what is None does not restrict. At least one field is set."""

    ike: str | None = None
    ike_id: int | None = None
    child: str | None = None
    child_id: int | None = None

    @property
    def names_child(self) -> bool:
        """A child is named: the command means Child SAs, otherwise whole IKE SAs."""
        return self.child is not None or self.child_id is not None

    def matches_ike(self, view: IkeView) -> bool:
        return (self.ike is None or self.ike == view.connection) and (self.ike_id is None or self.ike_id == view.ike_id)

    def matches_child(self, view: ChildView) -> bool:
        return (self.child is None or self.child == view.name) and (
            self.child_id is None or self.child_id == view.child_id
        )

    def pick(self, views: Sequence[IkeView]) -> list[tuple[IkeView, tuple[ChildView, ...]]]:
        """The matching IKE SAs with their matching children; where a child is named, only IKE SAs that have one."""
        found = [(view, tuple(filter(self.matches_child, view.children))) for view in views if self.matches_ike(view)]
        return [(view, children) for view, children in found if children or not self.names_child]


class Session(Protocol):
    """The connection that a command came from."""

    async def send_event(self, name: str, message: Encodable) -> None:
        """An event of a streamed command; waits while the client is slow. Nothing where it did not register."""

    def post_event(self, name: str, message: Encodable) -> None:
        """An event that nobody waits for. Nothing where the client did not register."""


Handler = Callable[[Decoded, Session], Awaitable[Encodable]]


class Configurable(Protocol):
    """What was loaded over the socket, and how it changes; the file's connections and secrets are not its own."""

    def parse_connection(self, name: str, section: Mapping[str, object]) -> LoadedConnection:
        """ConfigError names every problem with its path."""

    def load_connection(self, new: LoadedConnection) -> bool:
        """Add or replace it; False where just that was loaded already."""

    def unload_connection(self, name: str) -> None: ...

    def loaded_connections(self) -> list[str]: ...

    def load_secret(self, name: str, kind: str, owners: Sequence[str], secret: Secret) -> None:
        """The secret is the gateway's from now on, also where this raises."""

    def unload_secret(self, name: str) -> None: ...

    def loaded_secrets(self) -> list[str]: ...

    def clear_secrets(self) -> None: ...


class Counting(Protocol):
    """IKE messages and rekeys under charon's names, per connection; "" means all connections together."""

    def connections(self) -> list[str]: ...

    def read(self, connection: str) -> dict[str, int]: ...

    def reset(self, connection: str) -> None: ...


class GatewayControl(Protocol):
    """The daemon, seen from its control socket."""

    @property
    def configuration(self) -> Configurable: ...

    @property
    def exchange_counters(self) -> Counting: ...

    @property
    def workers(self) -> int: ...

    def reload(self) -> None:
        """Read the gateway's file again."""

    def views(self) -> Sequence[IkeView]:
        """Every IKE SA with its children."""

    def child_counters(self, child_id: int) -> ChildCounters:
        """Empty where the dataplane has no such child (any more)."""

    def child_mtu(self, child_id: int) -> ChildMtu | None: ...

    def child_path(self, child_id: int) -> ChildPath | None: ...

    def path_view(self, child_id: int) -> PathView | None:
        """What is believed of the path that a Child SA takes, and why."""

    def probe_mtu(self, selection: Selection) -> int:
        """Look now whether the paths of these Child SAs carry more; return how many Child SAs."""

    def subscribe_paths(self, listener: PathListener) -> Callable[[], None]:
        """Every step of a path's MTU goes to `listener`; the returned call ends it."""

    def connections(self) -> Sequence[ConnectionConfig]: ...

    async def initiate(self, ike: str | None, child: str | None, log: ControlLog) -> None:
        """Set up a child (or, without one, the connection with all its children).

        Returns when it stands, raises with the reason.
        Up already counts as done. Cancelling the call ends the waiting, not the attempt.
        """

    async def terminate(self, selection: Selection, force: bool, log: ControlLog) -> int:
        """Delete what `selection` means, return how many are gone (0: nothing matched).

        `force`: do not wait for the peer's answer.
        """

    def rekey(self, selection: Selection, reauth: bool) -> int:
        """Start a rekey of what `selection` means, or a reauthentication of its IKE SAs; return how many."""

    def trapped(self) -> Sequence[tuple[ConnectionConfig, ChildConfig]]:
        """The children whose packets begin them."""

    def install(self, ike: str | None, child: str) -> None:
        """Trap a child; nothing where it is trapped already."""

    def uninstall(self, ike: str | None, child: str) -> None: ...

    def stats(self) -> GatewayStats: ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Every notice from now on goes to `listener`; the returned call ends it. A listener never raises."""

    def now(self) -> float:
        """The clock that the views' times are on."""
