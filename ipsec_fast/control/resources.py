"""One Child SA for each worker, with a peer that speaks RFC 9611: which are asked for and when, and which of them a worker sends on.

The side that initiated the fallback asks for its workers at once; the other one leaves it to that for 5 s and then asks for those of its
workers that none was made for, since both may have different numbers of them (RFC 9611 section 4). What is refused or lost is
asked for again, later each time; what the peer deleted much later (section 6 warns of peers that would go on so for ever); and where
the peer has enough (TS_MAX_QUEUE) nothing more is asked until one of the group is gone. How it is negotiated stands in ike/v2/resources.py.
Called by gateway.daemon (`Resources`) and control.children (`sending_child`); time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import IpsecFastError
from ..ike.events import ChildDown, ChildUp, ChildView, IkeView, Notice, ResourceFailed
from ..model import TrafficSelector
from .spi import worker_of

if TYPE_CHECKING:
    from ..ike.endpoint import Endpoint

RESOURCES_MAX = 64  # per-resource Child SAs that we ask for, of one child
LEAVE_TO_PEER_S = 5.0
FIRST_S, MOST_S, FACTOR = 5.0, 600.0, 2.0  # after a refusal, or the end of one
DELETED_FIRST_S, DELETED_MOST_S = 60.0, 3600.0  # after the peer deleted one
STANDING = ("INSTALLING", "INSTALLED", "REKEYING")
Group = tuple[str, frozenset[TrafficSelector], frozenset[TrafficSelector]]


# --- which one a worker sends on


class Sending(Protocol):
    """What is asked of a Child SA in the dataplane (children.InstalledChild)."""

    @property
    def resource(self) -> int | None: ...

    @property
    def order(self) -> int: ...

    def worker(self, workers: int) -> int: ...


ChildT = TypeVar("ChildT", bound=Sending)


def sending_child(group: Iterable[ChildT], worker: int, workers: int) -> ChildT | None:
    """Of Child SAs for the same traffic the one whose packets this worker sends: its own, else the fallback, else whichever there is.

    Among equals the one switched to last. None where none sends. If `worker` of what comes back is another one, the packets are for that
    one to number and send.
    """
    best, best_rank = None, (-1, -1)
    for child in group:
        if child.order > 0:
            is_own = child.resource is not None and child.worker(workers) == worker
            rank = (2 if is_own else 1 if child.resource is None else 0, child.order)
            if rank > best_rank:
                best, best_rank = child, rank
    return best


# --- what is shown of it


def cores_of(children: Collection[ChildView], workers: int, crew: int = 0) -> str:
    """How the Child SAs of one traffic use several workers: "one worker", "per-resource", or "one owner", which alone numbers and sends.

    "one owner, shared ciphers" where a `crew` of so many threads may seal and open for it (dataplane.crew).
    """
    if workers == 1:
        return "one worker"
    if any(child.resource is not None for child in children):
        return "per-resource"
    return "one owner, shared ciphers" if crew else "one owner"


def group_of(child: ChildView) -> Group:
    """Child SAs of one IKE SA that are equal in this carry the same traffic."""
    return child.name, frozenset(child.local_ts), frozenset(child.remote_ts)


# --- what is asked for


@dataclass(slots=True)
class _Wish:
    """What we want of one fallback, the newest of those that have replaced each other by rekeys."""

    fallback: int
    due: float | None
    wait_s: float = FIRST_S
    deleted_wait_s: float = DELETED_FIRST_S
    has_enough: bool = False
    members: set[int] = field(default_factory=set)  # the per-resource ones
    numbers: set[int] = field(default_factory=set)  # of the fallbacks that exist


class Resources:
    """`tell` hears every notice, `handle_timer` asks. `log` gets one line where a peer refuses."""

    def __init__(self, endpoint: Endpoint, workers: int, log: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._workers = min(workers, RESOURCES_MAX)
        self._residues = workers
        self._log = log
        self._wishes: dict[int, _Wish] = {}  # by the fallback's number
        self._wish_with: dict[int, _Wish] = {}  # by the number of a member

    def tell(self, notice: Notice, view: IkeView | None, now: float) -> None:
        if self._workers < 2:
            return
        match notice:
            case ChildUp(resource=None):
                self._note_fallback(notice, view, now)
            case ChildUp():
                self._note_member(notice, view)
            case ChildDown(resource=None):
                self._note_fallback_gone(notice)
            case ChildDown():
                self._note_lost(notice, now)
            case ResourceFailed():
                self._note_failed(notice, now)
            case _:
                pass

    def get_timer(self) -> float | None:
        return min((wish.due for wish in self._wishes.values() if wish.due is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """The endpoint's events are to be drained after it."""
        for wish in self._unique_wishes():
            if wish.due is not None and wish.due <= now:
                wish.due = None
                if not wish.has_enough:
                    self._ask(wish.fallback, now)

    def _ask(self, child_id: int, now: float) -> None:
        view = self._endpoint.view_of_owner(child_id)
        fallback = _find(view, child_id)
        if view is None or fallback is None or fallback.state not in STANDING:
            return
        group = [c for c in view.children if group_of(c) == group_of(fallback) and c.resource is not None]
        served = {worker_of(child.spi_in, self._residues) for child in group if child.state in STANDING}
        for worker in range(self._workers):
            if worker not in served:
                try:
                    self._endpoint.initiate_resource(child_id, worker, now)
                except IpsecFastError:
                    return  # the fallback went meanwhile

    # --- what happens

    def _note_fallback(self, notice: ChildUp, view: IkeView | None, now: float) -> None:
        before = self._wishes.get(notice.replaces or 0)
        child = _find(view, notice.child_id)
        if before is not None:  # both numbers mean the same wish until the old one is gone
            before.fallback = notice.child_id
            before.numbers.add(notice.child_id)
            self._wishes[notice.child_id] = before
        elif child is not None and child.in_group:
            wish = _Wish(notice.child_id, now if child.initiator else now + LEAVE_TO_PEER_S)
            wish.numbers.add(notice.child_id)
            self._wishes[notice.child_id] = wish
            for member in self._members(view, child):
                self._join(wish, member.child_id)

    def _note_fallback_gone(self, notice: ChildDown) -> None:
        """The loser of crossing rekeys may be the newest one; then another one stands for both."""
        wish = self._wishes.pop(notice.child_id, None)
        if wish is None:
            return
        wish.numbers.discard(notice.child_id)
        if wish.fallback == notice.child_id:
            wish.fallback = next(iter(wish.numbers), notice.child_id)
        if not wish.numbers:
            for member in wish.members:
                self._wish_with.pop(member, None)

    def _note_member(self, notice: ChildUp, view: IkeView | None) -> None:
        child = _find(view, notice.child_id)
        wish = self._wish_of(view, child)
        if wish is not None and child is not None:
            self._join(wish, notice.child_id)
            wish.wait_s = FIRST_S if child.initiator else wish.wait_s

    def _note_lost(self, notice: ChildDown, now: float) -> None:
        wish = self._wish_with.pop(notice.child_id, None)
        if wish is None:
            return
        wish.members.discard(notice.child_id)
        if notice.replaced_by is not None or notice.idle:
            return
        wish.has_enough = False
        if notice.by_peer:
            self._plan(wish, now + wish.deleted_wait_s)
            wish.deleted_wait_s = min(wish.deleted_wait_s * FACTOR, DELETED_MOST_S)
        else:
            self._back_off(wish, now)

    def _note_failed(self, notice: ResourceFailed, now: float) -> None:
        wish = self._wishes.get(notice.child_id)
        if wish is None:
            return
        count = len(wish.members)
        if notice.has_enough:
            wish.due, was_told, wish.has_enough = None, wish.has_enough, True
            if not was_told:
                self._log(
                    f"{notice.connection} {notice.name}: {notice.reason}; it stays at {count} of {self._workers} per-resource SAs, "
                    "the other workers send on the fallback SA"
                )
            return
        if wish.due is None or wish.due <= now:
            self._back_off(wish, now)
            self._log(
                f"{notice.connection} {notice.name}: no per-resource SA for worker {notice.resource}: {notice.reason}; "
                f"again in {(wish.due or now) - now:.0f} s"
            )

    def _back_off(self, wish: _Wish, now: float) -> None:
        self._plan(wish, now + wish.wait_s)
        wish.wait_s = min(wish.wait_s * FACTOR, MOST_S)

    def _plan(self, wish: _Wish, at: float) -> None:
        """An earlier moment that is planned already would ask for this one too soon."""
        wish.due = at if wish.due is None else max(wish.due, at)

    # --- who belongs to whom

    def _join(self, wish: _Wish, child_id: int) -> None:
        wish.members.add(child_id)
        self._wish_with[child_id] = wish

    def _unique_wishes(self) -> list[_Wish]:
        return list({id(wish): wish for wish in self._wishes.values()}.values())

    def _wish_of(self, view: IkeView | None, child: ChildView | None) -> _Wish | None:
        if view is None or child is None:
            return None
        same = (c for c in view.children if c.resource is None and group_of(c) == group_of(child))
        return next((wish for c in same if (wish := self._wishes.get(c.child_id)) is not None), None)

    def _members(self, view: IkeView | None, fallback: ChildView) -> Sequence[ChildView]:
        """After a restart they are installed in the order of their making, so some may have come before."""
        children = view.children if view is not None else ()
        return [c for c in children if c.resource is not None and group_of(c) == group_of(fallback)]


def _find(view: IkeView | None, child_id: int) -> ChildView | None:
    return next((c for c in view.children if c.child_id == child_id), None) if view is not None else None
