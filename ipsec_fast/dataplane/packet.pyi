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

    `sas` is one SA for all packets, or one per packet. Before each call write offsets and lengths; after it they
    are the result's, `verdicts` is 0 where that is good, and a dropped packet has length 0. A slot of length 0 is
    empty: it is not counted, neither in what a call returns nor in the SA, and its verdict is not 0. Sealing needs
    `sa.headroom` bytes before and `sa.tailroom` behind each packet. A SAD in place of `sas` finds the SA of each
    packet that arrives (`unknown_spi` where there is none); `tags` u64[n] then takes the tag of the SA that a
    packet came on, 0 where there is none. A `crew` does its part of large batches of SAs that have keys for it
    (`SA(crew=crew.size)`). Raises BufferError (read-only, no room, overlap) and UsageError (element types, lengths
    of the arrays) before anything is written.
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

def protect(batch: PacketBatch, n: int | None = None) -> int:
    """Seal every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok.

    `n`: only the first `n` packets; the other slots stay as they are. A packet that is refused stays as it is, with
    length 0; only one that the crypto library failed to seal (`crypto_failed`) is zeroed. Raises StateError, and
    touches no packet, if another thread or a worker uses one of these SAs, or if an SA was made before a fork.
    """

def protect_dummies(batch: PacketBatch, n: int | None = None) -> int:
    """Make a dummy packet (RFC 4303 section 2.6) of each length in place: the slot
    is overwritten by zeros and sealed.

    The receiver authenticates and drops it (verdict `dummy`). A length of 0 is a dummy without data, not an empty slot.
    Raises as protect does, UsageError for an SA not in tunnel mode.
    """

def unprotect(batch: PacketBatch, n: int | None = None) -> int:
    """Open every packet in place, rewrite offsets and lengths, give verdicts; returns how many are ok.

    `n`: only the first `n` packets. A packet that is dropped at or after the integrity check is zeroed, whatever the
    reason (`bad_icv`, `bad_padding`, `replay_seen` inside one batch, `lifetime`, ...); one that is dropped before stays
    as it is. Raises StateError as protect does.
    """
