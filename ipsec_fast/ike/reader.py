"""A cursor over received bytes that cannot leave them. Every length of an IKE message is checked here and nowhere else.

A short read raises ParseError and names what was being read. Used by header.py and by the payload codecs of v2/.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from ..errors import ParseError


class Reader:
    """Reads `data[start:end]`; `what` names the structure in errors."""

    __slots__ = ("_data", "_end", "_position", "what")

    def __init__(self, data: bytes, what: str, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end
        self.what = what
        if not 0 <= start <= self._end <= len(data):
            raise ParseError(f"{what}: {start}..{self._end} lies outside of {len(data)} bytes")

    @property
    def position(self) -> int:
        return self._position

    @property
    def remaining(self) -> int:
        return self._end - self._position

    def u8(self) -> int:
        position = self._advance(1)
        return self._data[position]

    def u16(self) -> int:
        position = self._advance(2)
        return int.from_bytes(self._data[position : position + 2], "big")

    def u32(self) -> int:
        position = self._advance(4)
        return int.from_bytes(self._data[position : position + 4], "big")

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The fields of a fixed layout at once: for structures that come by the thousand."""
        return layout.unpack_from(self._data, self._advance(layout.size))

    def take(self, count: int) -> bytes:
        position = self._advance(count)
        return self._data[position : position + count]

    def skip(self, count: int) -> None:
        self._advance(count)

    def rest(self) -> bytes:
        return self.take(self.remaining)

    def sub(self, count: int, what: str) -> Reader:
        """A reader for the next `count` bytes, which this one steps over."""
        position = self._advance(count)
        return Reader(self._data, what, position, position + count)

    def expect_end(self) -> None:
        if self.remaining:
            raise ParseError(f"{self.what}: {self.remaining} bytes behind its last field")

    def _advance(self, count: int) -> int:
        position = self._position
        if count < 0 or count > self._end - position:
            raise ParseError(f"{self.what}: {count} bytes wanted, {self._end - position} left")
        self._position = position + count
        return position
