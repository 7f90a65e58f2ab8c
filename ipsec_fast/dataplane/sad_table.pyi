from collections.abc import Iterator
from typing import final

from ..model import Address
from .sad import SA

@final
class SAD:
    """Inbound SAs as packets find them: RFC 4301 section 4.1, the longest match first. Hand it to a PacketBatch in place of the SAs.

    Packets start at their IP header, ESP may be inside UDP, and SAs have `src` and `dst` or are of transport mode; with `bare`
    packets start at the ESP header, and SAs have neither.
    One thread at a time adds and removes; batches of other threads may run meanwhile, each SA in one of them at a time.
    """

    bare: bool
    longest_search: int
    """The most rows that the search for any SA in here looks at; at most 64."""
    table_bytes: int
    """Memory of the tables, without the SAs themselves."""
    def __init__(self, *, bare: bool = False) -> None: ...
    def add(self, sa: SA, dst: Address | str | None = None, src: Address | str | None = None) -> None:
        """Packets find `sa` from now on: by its SPI, with `dst` only those sent there, with `src` only those from there too.

        Raises UsageError: an outbound SA, a key that is taken, a source without a destination.
        """

    def remove(self, sa: SA) -> None:
        """No packet finds `sa` from now on; it is freed once no batch under way can hold it."""

    def find(
        self, spi: int, dst: Address | str | None = None, src: Address | str | None = None, protocol: int = 50
    ) -> SA | None:
        """The SA that a packet with these would find; None: there is none. `protocol` is 50 (ESP) or 51 (AH)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[SA]: ...
    def __contains__(self, sa: object) -> bool: ...
