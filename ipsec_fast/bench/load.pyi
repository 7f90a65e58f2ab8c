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
    def start(self) -> None: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...
    def stop(self) -> int: ...

class Receiver:
    """Counts the datagrams of `run` that a bound socket receives, numbers 0 to `limit` - 1. Raises UsageError."""

    received: int  # different numbers
    duplicates: int
    overtaken: int
    strays: int  # of another run
    def __init__(self, sock: socket.socket, *, run: int, limit: int) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def missing(self, sent: int, most: int = 1000) -> list[int]: ...
