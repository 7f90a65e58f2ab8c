from collections.abc import Sequence

class RawBatch:
    """`batch` operations of the bare engine, of the size that an inner packet of `packet_bytes` has under ESP, or AH.

    `packet_bytes` may be a sequence, a size for each operation; ValueError where it has another length than `batch`.
    """

    def __init__(
        self,
        algorithm: str,
        packet_bytes: int | Sequence[int],
        batch: int,
        seal: bool,
        engine: str = "auto",
        ah: bool = False,
    ) -> None: ...
    def run(self) -> int:
        """One pass over the batch, in nanoseconds; what it works on is put back first, off the clock."""
