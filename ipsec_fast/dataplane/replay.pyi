from typing import Literal

class ReplayWindow:
    """The anti-replay window of the kernels, for tests: `size` numbers (32 to 1048576), all up to `top` seen."""

    def __init__(self, size: int, top: int = 0) -> None: ...
    @property
    def top(self) -> int:
        """The highest number that was seen."""

    def check(self, seq: int) -> Literal["new", "old", "seen"]:
        """What this number would be, without taking it."""

    def advance(self, seq: int) -> Literal["new", "old", "seen"]:
        """Check and, where it is new, mark as seen."""

    def infer(self, low: int) -> int:
        """The 64-bit number of a low half (RFC 4303 A2.2); 0 where there is none."""

    def failed(self, low: int) -> int:
        """A packet with this low half had no good ICV; the number to try it
        under once more, or 0 (RFC 4303 appendix A3).
        """
