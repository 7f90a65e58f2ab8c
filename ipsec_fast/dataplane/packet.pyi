from collections.abc import Sequence
from typing import Any, final

from numpy.typing import NDArray
from typing_extensions import Buffer

from .crew import Crew
from .sad import SA
from .sad_table import SAD

_Array = Buffer | NDArray[Any]

@final
class PacketBatch:
    """Packets in a buffer, bound once to their SAs.

    `buffer` u8, `offsets` and `lengths` u32[n], `verdicts` u8[n]: all writable and contiguous.

    `sas` is one SA for all packets, or one per packet. Before each call write offsets and lengths; after it they are
    the result's, `verdicts` is 0 where that is good, and a dropped packet has length 0. Sealing needs `sa.headroom`
    bytes before and `sa.tailroom` behind each packet. A SAD in place of `sas` finds the SA of each packet that arrives
    (`unknown_spi` where there is none); `tags` u64[n] then takes the tag of the SA that a packet came on, 0 where there is none.
    A `crew` does its part of large batches of SAs that have keys for it (`SA(crew=crew.size)`).
    Raises BufferError (read-only, no room, overlap) and UsageError (element types, lengths of the arrays) before anything is written.
    """

    def __init__(
        self,
        buffer: _Array,
        offsets: _Array,
        lengths: _Array,
        sas: SA | Sequence[SA] | SAD,
        verdicts: _Array,
        *,
        tags: _Array | None = None,
        crew: Crew | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...

def protect(batch: PacketBatch) -> int:
    """Seal every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok.

    Raises StateError where another thread is inside a batch with one of these SAs.
    """

def protect_dummies(batch: PacketBatch) -> int:
    """Make a dummy packet (RFC 4303 section 2.6) of each length in place: what stands there is overwritten by zeros and sealed.

    The receiver authenticates and drops it (verdict `dummy`). Raises as protect does, UsageError for an SA not in tunnel mode.
    """

def unprotect(batch: PacketBatch) -> int:
    """Open every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok."""
