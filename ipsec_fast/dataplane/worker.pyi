from collections.abc import Sequence

from .crew import Crew
from .inner import InnerPort
from .notice import Notice, Punted
from .offload import Offload
from .raw_socket import RawSocket
from .spd import Tables
from .udp import UdpSocket

class Worker:
    """One thread without the GIL between a `Tun` or `PacketSocket` and some sockets (indexes as in `set_endpoint`).

    `engine` is only shown: SAs bring theirs. Descriptors stay the caller's, who closes them after `stop`; until then
    `close` of a port raises StateError. `index` of `count`: each worker has its own queue and sockets, in the same
    order (see dataplane.workers). A `crew` does its part of large batches of SAs that have keys for it.

    From `publish` on the worker holds the SAs that it sends or receives on: every other user of one gets a
    StateError. It lets go when it stops, or has passed a quiescent point with tables without that SA. `tables` are
    those published last. A child of fork has no worker: there every method but `stop`, `counters` and `running`
    raises StateError; the parent's goes on.
    """

    punt_fd: int  # readable when take_punted has something
    notify_fd: int  # readable when take_notices has something
    engine: str
    tables: Tables
    running: bool
    def __init__(
        self,
        tun: InnerPort,
        sockets: Sequence[UdpSocket | RawSocket],
        *,
        engine: str = "auto",
        offload: Offload = ...,
        index: int = 0,
        count: int = 1,
        crew: Crew | None = None,
    ) -> None: ...
    def receive_from(self, other: Worker) -> None:
        """Let `other` hand over what this worker's SAs carry; before either starts."""

    def start(self) -> None:
        """Start the thread, once. StateError if a port is closed, or somebody else uses an SA of the tables."""

    def stop(self) -> None:
        """Ends the thread (within 100 ms) and waits for it; twice is fine."""

    def publish(self, tables: Tables) -> None:
        """Swap in new tables; the old ones are freed after the worker has passed a quiescent point.

        Raises StateError, and leaves everything as it was, if another worker or a call uses an SA of
        the tables that would be this worker's, or an SA was made before a fork. UsageError for an SA
        without an owner if there are several workers.
        """

    def resume_inner(self) -> None:
        """Read from the inner port again after TUN_LOST, once its device exists again (`Tun.reattach`)."""

    def inject(self, tag: int, packet: bytes) -> bool:
        """An inner packet to leave on the outbound SA with this tag, whatever `max_inner` is. False: no room; it is as good as lost."""

    def take_punted(self) -> list[Punted]:
        """Datagrams that are not ESP (IKE), oldest first."""

    def take_notices(self) -> list[Notice]:
        """What control must know, oldest first."""

    def counters(self) -> dict[str, int]:
        """Every counter by name (port.COUNTER_NAMES); a drop is `drop_` and the name of its verdict."""
