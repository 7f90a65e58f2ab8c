import socket
from collections.abc import Iterable

class Relay:
    """Carries datagrams between the two connected UDP sockets of each pair; the first pair's are all taken for IKE.

    Shares are 0 to 1 of the packets; `ike_loss` stands for `loss` where a packet is IKE. Raises UsageError.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[socket.socket, socket.socket]],
        *,
        seed: int = 1,
        delay_s: float = 0,
        reorder: float = 0,
        reorder_places: int = 64,
        duplicate: float = 0,
        loss: float = 0,
        ike_loss: float = 0,
    ) -> None: ...
    def start(self) -> None:
        """Start the thread."""

    def stop(self) -> None:
        """Carries what lies in its sockets and its stores, then ends; twice is fine."""

    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of each direction, from the pair's first socket to its second and back: what became of how many packets."""
