"""Blocks of outbound sequence numbers (ARCHITECTURE.md, rule 1): a number may be used only
once the store holds the end of its block.

An outbound SA starts with one block and asks for the next at half of it. `GrantStore` is what has to remember the ends:
the keeper, or nobody. Called by control.children.
"""

from __future__ import annotations

from typing import Protocol

BLOCK = 1 << 22


class GrantStore(Protocol):
    def store_end(self, child_id: int, end: int) -> None:
        """Returns only once `end` will survive us; HostError if it will not."""

    def forget(self, child_id: int) -> None: ...


class MemoryGrantStore:
    def __init__(self) -> None:
        self.ends: dict[int, int] = {}

    def store_end(self, child_id: int, end: int) -> None:
        self.ends[child_id] = end

    def forget(self, child_id: int) -> None:
        self.ends.pop(child_id, None)


class Grants:
    """`next_end` is the watermark that `SA.set_grant` may be told, already stored."""

    def __init__(self, store: GrantStore) -> None:
        self._store = store
        self._ends: dict[int, int] = {}

    def next_end(self, child_id: int, highest: int) -> int:
        """One block more, never past `highest` (2^32 - 1 without ESN, 2^64 - 1 with it)."""
        end = min(self._ends.get(child_id, 0) + BLOCK, highest)
        self._store.store_end(child_id, end)
        self._ends[child_id] = end
        return end

    def start_at(self, child_id: int, end: int) -> None:
        """Up to `end` everything may have been used before a restart."""
        self._ends[child_id] = end

    def end_of(self, child_id: int) -> int | None:
        return self._ends.get(child_id)

    def forget(self, child_id: int) -> None:
        self._ends.pop(child_id, None)
        self._store.forget(child_id)
