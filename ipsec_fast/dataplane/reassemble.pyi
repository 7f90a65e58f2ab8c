from typing import final

from typing_extensions import Buffer

@final
class Reassembler:
    """Fragments in, whole packets out (RFC 791 section 3.2, RFC 8200 section 4.5), in memory taken once.

    `memory_bytes` holds payload (64 KiB or more; in blocks of 2 KiB), `datagrams` bounds how many are under way; when either
    is full the oldest goes. `timeout_s` counts from a datagram's first fragment. Overlapping, tiny and lying fragments are
    dropped as ext/include/ip_fragment.h says. Not for several threads at once. Raises UsageError for bounds out of range.
    """

    allocated_bytes: int
    """All it ever takes."""
    held: int
    """Datagrams under way, dropped ones whose fragments may still come among them."""
    def __init__(self, *, memory_bytes: int = 4194304, datagrams: int = 256, timeout_s: float = 30.0) -> None: ...
    def push(self, packet: Buffer, now: float) -> bytes | None:
        """The whole packet that `packet` completes, or is; None: kept for later, or dropped.

        `now` is in seconds, of any clock that does not go back.
        """

    def push_for_verdict(self, packet: Buffer, now: float) -> tuple[int, bytes | None]:
        """(verdict, packet) of the same: (0, None) is kept for later."""

    def expire(self, now: float) -> None:
        """Drops what has waited too long; push does it too."""

    def counters(self) -> dict[str, int]:
        """`joined` packets made of `joined_fragments`, `held_fragments`, and `drop_` with the name of each verdict."""
