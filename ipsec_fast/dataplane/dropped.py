"""What an SA keeps of the last packet that it dropped."""

from __future__ import annotations

from typing import NamedTuple


class LastDrop(NamedTuple):
    """`header`: of what arrived the outer headers, SPI, sequence number and IV as they came (74 bytes at most); of what is in clear
    (a packet that leaves, `selector_mismatch`) IP header and ports. Never payload. `seq` is the number of the ESP or AH header, as it is on
    the wire, 0 where there was none to read; of a packet that did not leave, the last number that its SA has used.
    """

    verdict: str  # a counter's name
    seq: int
    header: bytes
    at_s: float | None  # CLOCK_MONOTONIC; None: nobody told the kernel the time
