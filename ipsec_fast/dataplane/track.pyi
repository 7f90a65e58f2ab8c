from typing import final

from .sad import SA
from .spd import Policy, Tables

@final
class FragmentTracker:
    """Fragments against selectors with ports: later ones follow their first (RFC 4301 section 7.3).

    Of up to `entries` packets in each direction the ports are known for `timeout_s`; then newer ones take their place.
    What is no fragment is judged as ever. Not for several threads at once. Raises UsageError for bounds out of range.
    """

    def __init__(self, *, entries: int = 1024, timeout_s: float = 30.0) -> None: ...
    def find(self, tables: Tables, packet: bytes, now: float) -> tuple[int, Policy | None]:
        """(verdict, policy) of an inner packet that leaves; `now` in seconds of any clock that does not go back."""

    def check(self, sa: SA, packet: bytes, now: float) -> int:
        """The verdict of an inner packet that arrived on this SA."""
