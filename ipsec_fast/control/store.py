"""Where an IKE SA's record is kept so that it outlives the process (ARCHITECTURE.md, rule
1): the interface, and the store in memory.

The order is the guarantee: a grant may be used, and a datagram may leave, only once `put` or `put_grants` has returned.
The directory is store_directory.py, what opens either store_open.py. Called by the daemon and by control/grants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from ..ike.records import IkeRecord


@dataclass(frozen=True, slots=True)
class GrantMark:
    """Of one Child SA: no outbound number above `out_end` was used, none above `in_highest` accepted when this was written."""

    out_end: int
    in_highest: int

    def merged(self, other: GrantMark) -> GrantMark:
        """Both only ever grow, so the higher one is the newer one, and the safe one."""
        return GrantMark(max(self.out_end, other.out_end), max(self.in_highest, other.in_highest))


@dataclass(frozen=True, slots=True)
class StoredIke:
    """`grants`: by child_id."""

    record: IkeRecord
    grants: Mapping[int, GrantMark]


class StateStore(Protocol):
    """One thread, the daemon's; an `ike_id` means the same IKE SA over a restart."""

    def load(self) -> list[StoredIke]:
        """What the process before us stored, once, before anything is put. The files stay until they are put again or removed.

        StateError, one line, where it must not be used (foreign, truncated, rolled back); the store is empty then, and usable.
        """

    def put(self, record: IkeRecord, grants: Mapping[int, GrantMark]) -> None:
        """Survives us once this returns. HostError (a full disk) leaves what was stored before."""

    def put_grants(self, ike_id: int, grants: Mapping[int, GrantMark]) -> None:
        """The marks of some children of an IKE SA that was put: one small write. Raises as `put` does."""

    def remove(self, ike_id: int) -> None:
        """Nothing where there is no such record."""

    def close(self, keep: bool) -> None:
        """`keep` false, an orderly stop, leaves nothing; true leaves everything for the next process."""

    @property
    def keeps(self) -> str:
        """Where, for the status: `memory`, or `directory /run/ipsec-fast.state`."""


class MemoryStore:
    """Ends with the process. Its records are handles on the secrets of the SAs themselves, nothing is copied.

    `reason`, for the status: why it is not a directory.
    """

    def __init__(self, reason: str = "") -> None:
        self.keeps = f"memory ({reason})" if reason else "memory"
        self._stored: dict[int, StoredIke] = {}

    def load(self) -> list[StoredIke]:
        return list(self._stored.values())

    def put(self, record: IkeRecord, grants: Mapping[int, GrantMark]) -> None:
        self._stored[record.ike_id] = StoredIke(record, MappingProxyType(dict(grants)))

    def put_grants(self, ike_id: int, grants: Mapping[int, GrantMark]) -> None:
        stored = self._stored.get(ike_id)
        if stored is not None:
            self._stored[ike_id] = replace(stored, grants=MappingProxyType(merge_grants(stored.grants, grants)))

    def remove(self, ike_id: int) -> None:
        self._stored.pop(ike_id, None)

    def close(self, keep: bool) -> None:
        if not keep:
            self._stored.clear()


def merge_grants(older: Mapping[int, GrantMark], newer: Mapping[int, GrantMark]) -> dict[int, GrantMark]:
    return {**older, **{key: mark.merged(older[key]) if key in older else mark for key, mark in newer.items()}}
