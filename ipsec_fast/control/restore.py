"""What the process before us stored becomes IKE SAs and Child SAs again, or is negotiated from scratch.

Outbound numbers continue after the stored end of their block, inbound ones must be above the stored highest
(ARCHITECTURE.md, rule 1). If two records name the same child, a crash fell between two writes of an IKE rekey. If the
request was ours, the answer has arrived and the newer record counts; otherwise our answer has not left and the older
one counts. A record waits for a connection that may still be loaded over the control socket. Called by the daemon,
before the worker runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import IpsecFastError, StateError
from ..ike.config import ConnectionConfig
from ..ike.records import ChildRecord, IkeRecord
from ..ike.v2.states import ChildState
from .children import Children
from .keeper import Keeper
from .store import GrantMark, StoredIke, merge_grants

if TYPE_CHECKING:
    from ..ike.endpoint import Endpoint

CLAIM_S = 60.0  # how long a record waits for its connection to be loaded


@dataclass(slots=True)
class _Unclaimed:
    stored: StoredIke
    until: float


class Restorer:
    """`begin_anew` gets connection and child of what stood and cannot go on; `log` one line for each IKE SA."""

    def __init__(
        self,
        endpoint: Endpoint,
        children: Children,
        keeper: Keeper,
        *,
        begin_anew: Callable[[str, str], None],
        log: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._children = children
        self._keeper = keeper
        self._begin_anew = begin_anew
        self._log = log
        self._unclaimed: list[_Unclaimed] = []

    def restore(self, stored: Iterable[StoredIke], connections: Iterable[ConnectionConfig], now: float) -> None:
        """The endpoint's events are to be drained after it."""
        known = {one.name: one for one in connections}
        for one in self._settled(stored):
            connection = known.get(one.record.connection)
            if connection is None:
                self._log(
                    f"IKE SA {one.record.ike_id} of before the restart: connection {one.record.connection} is not configured; "
                    f"it is kept for {CLAIM_S:.0f} s, in case that it is loaded"
                )
                self._unclaimed.append(_Unclaimed(one, now + CLAIM_S))
            else:
                self._restore(one, connection, now)

    def claim(self, connection: ConnectionConfig, now: float) -> None:
        """A connection has been loaded; what waits for it goes on."""
        mine = [one for one in self._unclaimed if one.stored.record.connection == connection.name]
        for one in mine:
            self._unclaimed.remove(one)
            self._restore(one.stored, connection, now)

    def get_timer(self) -> float | None:
        return min((one.until for one in self._unclaimed), default=None)

    def handle_timer(self, now: float) -> None:
        for one in [one for one in self._unclaimed if one.until <= now]:
            self._unclaimed.remove(one)
            self._drop(one.stored.record, "its connection was not loaded")

    def close(self) -> None:
        for one in self._unclaimed:
            close_secrets(one.stored.record)
        self._unclaimed.clear()

    def _settled(self, stored: Iterable[StoredIke]) -> Iterator[StoredIke]:
        found = sorted(stored, key=lambda one: one.record.ike_id)
        for before, one in zip(found, settle(found), strict=True):
            if _is_unborn(before, one):
                self._drop(one.record, "its peer has not heard of it")
            else:
                yield one

    def _restore(self, one: StoredIke, connection: ConnectionConfig, now: float) -> None:
        record = one.record
        lacking = [child.name for child in record.children if child.child_id not in one.grants]
        try:
            if lacking:
                raise StateError(f"nobody knows which numbers child {lacking[0]} has used")
            self._endpoint.restore(record, connection, now)
        except IpsecFastError as error:
            self._drop(record, str(error))
            for name in dict.fromkeys(child.name for child in record.children if _stood(child)):
                if connection.child(name) is not None:
                    self._begin_anew(connection.name, name)
            return
        self._keeper.adopt(record.ike_id, one.grants)
        for child_id, mark in one.grants.items():
            self._children.resume(child_id, mark)

    def _drop(self, record: IkeRecord, reason: str) -> None:
        self._log(f"IKE SA {record.ike_id} ({record.connection}) of before the restart is not restored: {reason}")
        close_secrets(record)
        self._keeper.drop(record.ike_id)


def settle(stored: Iterable[StoredIke]) -> list[StoredIke]:
    """Every child in one record alone, with the highest of its marks; the oldest IKE SA first."""
    found = sorted(stored, key=lambda one: one.record.ike_id)
    owners: dict[int, StoredIke] = {}
    marks: dict[int, GrantMark] = {}
    for one in found:
        marks = merge_grants(marks, one.grants)
        for child in one.record.children:
            before = owners.get(child.child_id)
            if before is None or before.record.own_outstanding:
                owners[child.child_id] = one
    settled = []
    for one in found:
        children = tuple(child for child in one.record.children if owners[child.child_id] is one)
        known = {child.child_id: marks[child.child_id] for child in children if child.child_id in marks}
        settled.append(StoredIke(replace(one.record, children=children), known))
    return settled


def _is_unborn(one: StoredIke, settled: StoredIke) -> bool:
    """The peer never heard of this one: its children are still those of the IKE SA that it was to replace."""
    return bool(one.record.children) and not settled.record.children and not one.record.own_outstanding


def _stood(child: ChildRecord) -> bool:
    return child.state in (ChildState.INSTALLED, ChildState.REKEYING) and not child.is_redundant


def close_secrets(record: IkeRecord) -> None:
    record.keys.close()
    for child in record.children:
        child.key_in.close()
        child.key_out.close()
