"""What one path carries, as a state machine without I/O or clock (RFC 8899 in spirit; RFC 1191 section 6.3, RFC 8201 section 4).

A path starts with the MTU of its interface. Probes of several sizes at once then show what passes end to end: `wanted` is the set
of sizes to try, `answered` and `lost` are their fates. Between the largest that passed and the smallest that did not, finer rounds
follow until no packet of the SA has a length in between. `learned` is ICMP that was believed (path_learning.py), `suspect` a stall
(path_stall.py). Sizes are of whole outer packets. A size counts as lost only after all tries of it; that is the prober's business.

    start  : interface's MTU, for at most the time that a first round takes; then what passed, or, where nobody answers, the safe size
    in use : the size in use is lost while a smaller one passes -> at once the largest that passed, then upwards from there
    later  : upwards again, at growing intervals up to 10 minutes, and after an interface change

Why not the safe size until the first answer: the MSS that is written into a SYN holds for the life of its connection, so a connection
begun in that moment would stay slow; one that meets a smaller path is put right by a too-big answer as soon as the round is over.
Called by control.paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

MIN_MTU = {4: 576, 6: 1280}  # nothing that anybody says moves a path below this
SAFE_MTU = 1280  # passes nearly everywhere
PLATEAUS = (576, 1006, 1280, 1300, 1400, 1420, 1452, 1480, 1492, 1500, 2048, 4352, 8192, 9000)
FINER = 12  # sizes of one finer round; where they are asked for one at a time it is halved
SEARCH_TRIES, SUSPECT_TRIES, CONFIRM_TRIES = 3, 2, 1  # of each size: a single loss says little, a stall is in a hurry
AGE_S = 600.0  # RFC 1191 and RFC 8201: not sooner than 5 minutes, 10 recommended
LATER_S = (
    1.0,
    5.0,
    30.0,
    120.0,
    AGE_S,
)  # a search that ended below the interface is made again: what was lost may have been so by chance

SURE_AFTER = 3  # of these

Source = Literal["interface", "icmp", "probe", "fallback"]


class Probing(Enum):
    """Whether the peer's answers can be counted on."""

    OFF = "off"  # the configuration does not want it, or outer fragments make it pointless
    ASKING = "asking"  # is there anybody who answers?
    ON = "on"
    IMPOSSIBLE = "impossible"  # nobody does


@dataclass(frozen=True, slots=True)
class PathEvent:
    """A step: `kind` is interface, learned, settled, fell, raised, aged or unprobeable; `before` and `mtu` as they were and are."""

    kind: str
    before: int
    mtu: int
    source: Source


class PathMtu:
    """`fit` rounds a size down to a length that packets of the path's SA can have (0: none can)."""

    def __init__(self, version: int, interface_mtu: int, now: float, *, probing: bool, age_s: float = AGE_S) -> None:
        self.interface = interface_mtu
        self.mtu = interface_mtu
        self.source: Source = "interface"
        self.since = now
        self.probing = Probing.ASKING if probing else Probing.OFF
        self.is_settled = not probing
        self.fit: Callable[[int], int] = lambda size: size
        self.wanted: frozenset[int] = frozenset()
        self.tries = SEARCH_TRIES
        self.one_at_a_time = False
        self.search = 0  # counts them: what was sent for an earlier one says nothing in the next
        self._age_s = age_s
        self._least = MIN_MTU[version]
        self._good = 0  # the largest that passed in this search
        self._bad = 0  # the smallest that did not; 0: none
        self._began = interface_mtu  # what the search began with
        self._told = 0  # what ICMP said, while it is taken for exact
        self._next: float | None = None
        self.is_overdue = False
        self._later = 0  # searches that have found nothing more
        self._events: list[PathEvent] = []

    @property
    def least(self) -> int:
        """The smallest MTU that this path may be given."""
        return min(self._least, self.interface)

    @property
    def safe(self) -> int:
        return min(SAFE_MTU, self.interface)

    @property
    def is_in_a_hurry(self) -> bool:
        """It is about a stall: who sends waits."""
        return self.tries == SUSPECT_TRIES

    @property
    def is_searching(self) -> bool:
        return bool(self.wanted)

    def take_events(self) -> list[PathEvent]:
        events, self._events = self._events, []
        return events

    # --- who answers

    def begin(self, now: float, *, one_at_a_time: bool = False) -> None:
        """Somebody answers; to several sizes at once, or to one at a time."""
        if self.probing is Probing.OFF:
            return
        self.one_at_a_time = one_at_a_time
        self.probing = Probing.ON
        if not self.is_settled:
            self._search(self._plateaus(self.least, self.interface))
        else:
            self.search_up(now)

    def give_up(self, now: float) -> None:
        """Nobody answers. What probes showed before stays; without that nothing above the safe size can be vouched for."""
        if self.probing is not Probing.ASKING:
            return
        self.probing, self.wanted = Probing.IMPOSSIBLE, frozenset()
        if not self.is_settled:
            self.is_settled = True
            if self.mtu > self.safe:
                self._become(self.safe, "fallback", "unprobeable", now)
            else:
                self._events.append(PathEvent("unprobeable", self.mtu, self.mtu, self.source))

    def ask_again(self) -> None:
        """Look for somebody who answers, anew."""
        if self.probing is not Probing.OFF:
            self.probing, self.wanted = Probing.ASKING, frozenset()

    def switch(self, probing: bool, now: float) -> None:
        """The configuration says something else now."""
        if probing and self.probing is Probing.OFF:
            self.is_settled, self.probing = False, Probing.ASKING
        elif not probing and self.probing is not Probing.OFF:
            self.is_settled, self.probing, self.wanted = True, Probing.OFF, frozenset()
            if self.source != "icmp":
                self._become(self.interface, "interface", "interface", now)

    # --- the fates of probes

    def answered(self, size: int, now: float) -> None:
        """A packet of this size came through; so do smaller ones."""
        if not self.wanted:
            return
        self._good = max(self._good, size)
        if self._bad and self._bad <= size:  # it was lost for another reason
            self._bad = 0
        self.wanted = frozenset(other for other in self.wanted if other > size)
        if size > self.fit(self.mtu):
            self._become(self._whole(size), "probe", "", now)
        elif self._bad and self._bad <= self.fit(self.mtu):
            self._fall(now)
        self._go_on(now)

    def lost(self, size: int, now: float) -> None:
        """None of the tries of this size was answered, while the peer answers others."""
        if size not in self.wanted:
            return
        self.wanted -= {size}
        if self.tries == CONFIRM_TRIES:
            self.suspect(now)
            return
        if size > self._good and (not self._bad or size < self._bad):
            self._bad = size
        if self._good and self._bad and self._bad <= self.fit(self.mtu):
            self._fall(now)
        self._go_on(now)

    def silent(self, now: float) -> None:
        """Not even the small probe beside them was answered: this says nothing about sizes."""
        self.wanted = frozenset()
        if self.probing is Probing.ON:
            self.probing = Probing.ASKING
            self._plan(now)

    # --- other news

    def learned(self, mtu: int, now: float) -> None:
        """ICMP that was believed; the caller has seen that `least` <= mtu < self.mtu."""
        before = self.mtu
        self._become(mtu, "icmp", "learned", now)
        self._plan(now)
        if self.probing is Probing.ON:  # if it was wrong, the old size still passes
            self._search({self.least, self.safe, mtu, before})
            self._told = mtu

    def set_interface(self, mtu: int, now: float) -> None:
        """The device, or the route, towards the peer has this MTU now."""
        if mtu == self.interface:
            return
        before, self.interface = self.interface, mtu
        if mtu < self.mtu or self.probing is Probing.OFF or (mtu > before and not self.is_settled):
            most = self.safe if self.probing is Probing.IMPOSSIBLE else mtu
            self._become(most, "interface", "interface", now)
        self.search_up(now)

    def suspect(self, now: float) -> None:
        """Data goes out and nothing comes back, or it is time to look whether the size in use still passes."""
        if self.probing is Probing.ON and not self.wanted:
            between = () if self.one_at_a_time else self._plateaus(self.least, self.mtu)  # for want of time
            self._search({self.least, self.safe, *between, self.mtu}, SUSPECT_TRIES)

    def confirm(self, now: float) -> None:
        """Only whether the size in use still passes."""
        if self.probing is Probing.ON and not self.wanted:
            self._search({self.mtu}, CONFIRM_TRIES)

    def search_up(self, now: float) -> None:
        """Does more pass than what is in use? Ends a search that is under way."""
        self.is_overdue = False
        self._plan(now)
        if self.probing is Probing.ON:
            self._search({self.mtu, *self._plateaus(self.mtu, self.interface)})

    def get_timer(self) -> float | None:
        return self._next

    def handle_timer(self, now: float) -> None:
        """What was learned or fallen back to grows old."""
        if self._next is None or now < self._next:
            return
        self._next = None
        if self.probing is Probing.ON:
            if not self.wanted:
                self.search_up(now)
            else:
                self._plan(now)
        elif self.source == "icmp":
            most = self.interface if self.probing is Probing.OFF else self.safe
            if most > self.mtu:
                self._become(most, "interface" if self.probing is Probing.OFF else "fallback", "aged", now)

    @property
    def may_rest(self) -> bool:
        """The same was found several times: it can wait until somebody uses the path."""
        return self._later > SURE_AFTER

    def put_off(self) -> None:
        """Nobody uses the path: `search_up` when somebody does."""
        self._next, self.is_overdue = None, True

    # --- the search

    def _plateaus(self, above: int, upto: int) -> set[int]:
        return {size for size in (*PLATEAUS, above, upto) if above <= size <= upto}

    def _search(self, sizes: Iterable[int], tries: int = SEARCH_TRIES) -> None:
        self._good = self._bad = self._told = 0
        self._began, self.tries = self.mtu, tries
        self.search += 1
        self.wanted = self._fitted(sizes)

    def _fitted(self, sizes: Iterable[int]) -> frozenset[int]:
        return frozenset(size for size in (self.fit(min(one, self.interface)) for one in sizes) if size)

    def _go_on(self, now: float) -> None:
        """After a round: a finer one, or the end of the search."""
        if self.wanted:
            return
        if not self._good:  # not one of these sizes, though small packets pass
            lower = {size for size in self._plateaus(self.least, self.safe) if self.fit(size) < (self._bad or 1)}
            if lower and self._bad > self.fit(self.least):
                self.wanted = self._fitted(lower)
            elif self.mtu > self.least:
                self._become(self.least, "fallback", "fell", now)
                self._end(now)
            return
        if self._told and self._good == self.fit(self._told):
            self._end(now)
            return
        if self._bad:
            steps = 1 if self.one_at_a_time else FINER
            step = max(1, (self._bad - self._good) // (steps + 1))
            between = self._fitted(self._good + step * k for k in range(1, steps + 1))
            finer = frozenset(size for size in between if self._good < size < self._bad)
            last = self.fit(self._bad - 1)
            if last > self._good and (not self.one_at_a_time or not finer):
                finer |= {last}
            self.wanted = finer
        if not self.wanted:
            self._end(now)

    def _end(self, now: float) -> None:
        first, self.is_settled = not self.is_settled, True
        if first or self.mtu > self._began:
            self._events.append(PathEvent("settled" if first else "raised", self._began, self.mtu, self.source))
        if first and self.source == "interface":
            self.source, self.since = "probe", now
        self._plan(now)
        self._later += 1

    def _fall(self, now: float) -> None:
        """At once, to the largest that passed."""
        if not self.is_settled:
            self._become(self._good, "probe", "", now)
            return
        self._become(self._good, "fallback", "fell", now)
        self._began = self.mtu

    def _whole(self, size: int) -> int:
        """The longest packet that the SA can make stands for the interface's MTU."""
        return self.interface if size >= self.fit(self.interface) else size

    def _become(self, mtu: int, source: Source, kind: str, now: float) -> None:
        before, self.mtu = self.mtu, mtu
        self.source, self.since = source, now
        self._later = 0
        if kind:
            self._events.append(PathEvent(kind, before, mtu, source))

    def _plan(self, now: float) -> None:
        wait_s = LATER_S[min(self._later, len(LATER_S) - 1)] if self.probing is Probing.ON else self._age_s
        self._next = now + wait_s if self.mtu < self.interface else None
