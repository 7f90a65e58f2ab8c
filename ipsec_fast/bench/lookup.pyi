from numpy import uint32
from numpy.typing import NDArray

from ..dataplane.sad_table import SAD

def lookup_ns(sad: SAD, spis_be: NDArray[uint32], one_by_one: bool) -> int:
    """Nanoseconds for one pass over SPIs as they stand on the wire, each of which must be there."""
