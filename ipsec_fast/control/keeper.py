"""Stores what must be stored before something may happen (ARCHITECTURE.md, rule 1), and acts if the store fails.

A record is stored before its datagrams leave, the end of a block of sequence numbers before the first of them is used,
the highest inbound numbers once a second. If a write fails (a full disk), the IKE SA's record is removed from the
store: the IKE SA continues, and would be negotiated from scratch after a crash. The write is retried every second. On
a full disk, writes may succeed and fail in turn, so nothing more is logged until they have succeeded for STEADY_S. If
the record cannot be removed either, an older one could come back; then its datagrams are withheld and its grants end.
Left out: reading the store (restore.py). Called by the daemon and by grants.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..errors import HostError
from ..ike.records import IkeGone, IkeRecord
from .store import GrantMark, StateStore

EVERY_S = 1.0
STEADY_S = 10.0  # stored for that long, an IKE SA counts as stored again


class Keeper:
    """`owner_of` gives the IKE SA of a child, `mark_of` its numbers now (None: it is not installed); `log` one line per change of luck."""

    def __init__(
        self,
        store: StateStore,
        owner_of: Callable[[int], int | None],
        mark_of: Callable[[int], GrantMark | None],
        log: Callable[[str], None],
    ) -> None:
        self._store = store
        self._owner_of = owner_of
        self._mark_of = mark_of
        self._log = log
        self._kept: dict[int, dict[int, GrantMark]] = {}  # what the store has, as far as we know
        self._failed: dict[int, bool] = {}  # not stored; whether an older record is still there
        self._told: dict[int, float | None] = {}  # of these the log says that they are not stored; since when they are
        self._doomed: set[int] = set()
        self._next = 0.0

    @property
    def keeps(self) -> str:
        """Where, and how much of it is not there, for the status."""
        if not self._told:
            return self._store.keeps
        return f"{self._store.keeps}; {len(self._told)} IKE SA{'s' * (len(self._told) > 1)} could not be stored"

    def adopt(self, ike_id: int, marks: Mapping[int, GrantMark]) -> None:
        """The store has this one from before we began."""
        self._kept[ike_id] = dict(marks)

    # --- before datagrams leave

    def store(self, records: Iterable[IkeRecord | IkeGone]) -> frozenset[int]:
        """New IKE SAs before those that they replace, what is gone last. Returns the IKE SAs whose datagrams must not leave."""
        records = tuple(records)
        changed = [record for record in records if isinstance(record, IkeRecord)]
        for record in sorted(changed, key=lambda record: -record.ike_id):
            self._put(record)
        for gone in (record for record in records if isinstance(record, IkeGone)):
            self.drop(gone.ike_id)
        if any(self._failed.get(record.ike_id) for record in changed):
            # what one of them says may need what another of them has become
            return frozenset(record.ike_id for record in records)
        return frozenset()

    def _put(self, record: IkeRecord) -> None:
        marks = {one.child_id: mark for one in record.children if (mark := self._mark_of(one.child_id)) is not None}
        if self._try(record.ike_id, lambda: self._store.put(record, marks)):
            self._kept[record.ike_id] = marks
            self._failed.pop(record.ike_id, None)

    def drop(self, ike_id: int) -> None:
        """It is gone, or does not come back."""
        self._kept.pop(ike_id, None)
        self._failed.pop(ike_id, None)
        self._told.pop(ike_id, None)
        try:
            self._store.remove(ike_id)
        except HostError as error:  # nothing is used any more of what it says; it may wait
            self._log(f"the record of IKE SA {ike_id} cannot be removed: {error}")
            self._doomed.add(ike_id)

    # --- before numbers are used

    def store_end(self, child_id: int, end: int) -> None:
        """Of a child that the store does not have yet nothing comes back, so its first block needs no word. HostError: not granted."""
        ike_id = self._owner_of(child_id)
        if ike_id is None or child_id not in self._kept.get(ike_id, {}):
            return
        mark = self._mark_of(child_id) or self._kept[ike_id][child_id]
        self._put_grants(ike_id, {child_id: GrantMark(end, mark.in_highest)})
        if self._failed.get(ike_id):
            raise HostError("the end of a block of sequence numbers could not be stored")

    def forget(self, child_id: int) -> None:
        """Its record goes with the next record of its IKE SA."""

    # --- once a second

    def get_timer(self) -> float | None:
        return self._next if self._kept or self._failed or self._doomed else None

    def handle_timer(self, now: float) -> tuple[int, ...]:
        """The IKE SAs whose records should be put again."""
        if now < self._next:
            return ()
        self._next = now + EVERY_S
        for ike_id in tuple(self._doomed):
            self._doomed.discard(ike_id)
            self.drop(ike_id)
        for ike_id, kept in tuple(self._kept.items()):
            marks = {child_id: mark for child_id in kept if (mark := self._mark_of(child_id)) is not None}
            moved = {child_id: mark for child_id, mark in marks.items() if mark.in_highest > kept[child_id].in_highest}
            if moved:
                self._put_grants(ike_id, moved)
        for ike_id, since in tuple(self._told.items()):
            self._tell_again(ike_id, since, now)
        return tuple(self._failed)

    def _tell_again(self, ike_id: int, since: float | None, now: float) -> None:
        if ike_id in self._failed:
            self._told[ike_id] = None
        elif since is None:
            self._told[ike_id] = now
        elif now - since >= STEADY_S:
            del self._told[ike_id]
            self._log(f"IKE SA {ike_id} is stored again")

    # --- a store that fails

    def _put_grants(self, ike_id: int, marks: Mapping[int, GrantMark]) -> None:
        if self._try(ike_id, lambda: self._store.put_grants(ike_id, marks)):
            self._kept[ike_id].update(marks)

    def _try(self, ike_id: int, write: Callable[[], None]) -> bool:
        try:
            write()
            return True
        except HostError as error:
            self._give_up(ike_id, str(error))
            return False

    def _give_up(self, ike_id: int, reason: str) -> None:
        was_told = ike_id in self._told
        try:
            self._store.remove(ike_id)
            is_stale = False
        except HostError:
            is_stale = ike_id in self._kept or self._failed.get(ike_id, False)
        if not is_stale:
            self._kept.pop(ike_id, None)
        self._failed[ike_id], self._told[ike_id] = is_stale, None
        if was_told:
            return
        end = "nothing is sent that it would not know" if is_stale else "after a crash it would be negotiated anew"
        self._log(f"the state of IKE SA {ike_id} cannot be stored ({reason}); {end}")
