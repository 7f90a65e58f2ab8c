import socket

class Sender:
    """Sends numbered datagrams on a connected socket, `segments` in one send, until `stop()` or `limit`. Raises UsageError."""

    sent: int
    refused: int  # sends that the kernel did not take at once
    late: int  # times it was kept from the CPU for more than 2 ms
    def __init__(
        self,
        sock: socket.socket,
        *,
        run: int,
        packets_per_s: int,
        size_bytes: int = 1000,
        segments: int = 8,
        limit: int = ...,
    ) -> None: ...
    def start(self) -> None:
        """Start the thread."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the limit; whether it was reached in time."""

    def stop(self) -> int:
        """Ends it; how many were sent."""

class Receiver:
    """Counts the datagrams of `run` that a bound socket receives, numbers 0 to `limit` - 1. Raises UsageError."""

    received: int  # different numbers
    duplicates: int
    overtaken: int
    strays: int  # of another run
    def __init__(self, sock: socket.socket, *, run: int, limit: int) -> None: ...
    def start(self) -> None:
        """Start the thread."""

    def stop(self) -> None:
        """Takes what lies in the socket along, then ends."""

    def missing(self, sent: int, most: int = 1000) -> list[int]:
        """The numbers below `sent` that did not come, the first `most` of them."""
