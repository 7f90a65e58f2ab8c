"""All workers of a gateway as one: each has a TUN queue and sockets of its own, and hands to the others what their SAs carry.

Which worker owns an inbound SA is its SPI modulo their number; the kernel steers by the same rule (system/steering), so that handing
over is the exception; it is what keeps every packet right where the kernel cannot know. One worker is the ordinary case and costs
nothing. Called by gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ..errors import StateError
from .crew import Crew
from .notice import Notice, Punted
from .spd import Tables
from .worker import Worker


class Workers:
    """`make` gets (index, count, crew) and returns the worker; descriptors stay the caller's.

    The crew, one thread less than there are workers, helps whichever owns an SA that all packets go to.
    """

    def __init__(self, count: int, make: Callable[[int, int, Crew | None], Worker]) -> None:
        self.crew = Crew(count - 1) if count > 1 else None
        self.all: Sequence[Worker] = tuple(make(index, count, self.crew) for index in range(count))
        for one in self.all:
            for other in self.all:
                if one is not other:
                    one.receive_from(other)

    @property
    def count(self) -> int:
        return len(self.all)

    @property
    def engine(self) -> str:
        return self.all[0].engine

    def start(self) -> None:
        if self.crew is not None:
            self.crew.start()
        for one in self.all:
            one.start()

    def stop(self) -> None:
        """Twice is fine."""
        for one in self.all:
            one.stop()
        if self.crew is not None:
            self.crew.stop()

    def publish(self, tables: Callable[[int], Tables]) -> None:
        """Each worker gets its own; what is under way between two of them is not lost meanwhile."""
        left = [(one, tables(index)) for index, one in enumerate(self.all)]
        while left:
            refused: StateError | None = None
            again = []
            for one, its in left:
                try:
                    one.publish(its)
                except StateError as error:  # another worker still holds one of the SAs, and its turn comes later
                    refused = error
                    again.append((one, its))
            if refused is not None and len(again) == len(left):
                raise refused
            left = again

    def resume_inner(self) -> None:
        """To be called after every TUN queue was attached again."""
        for one in self.all:
            one.resume_inner()

    def inject(self, owner: int, tag: int, packet: bytes) -> bool:
        """See Worker.inject; the worker must own the SA."""
        return self.all[owner].inject(tag, packet)

    @property
    def fds(self) -> list[tuple[int, int]]:
        """(punt_fd, notify_fd) of each."""
        return [(one.punt_fd, one.notify_fd) for one in self.all]

    def take_punted(self) -> list[Punted]:
        return [punted for one in self.all for punted in one.take_punted()]

    def take_notices(self) -> list[Notice]:
        return [notice for one in self.all for notice in one.take_notices()]

    def counters(self) -> dict[str, int]:
        """Sums over all of them, by name."""
        total: Counter[str] = Counter()
        for one in self.all:
            total.update(one.counters())
        if self.crew is not None:
            total.update(self.crew.counters())
        return dict(total)
