"""Keeps up the children that the configuration starts by itself: at once, and again 30 s after an attempt or an SA failed.

What the operator took down, and what the peer deleted in order, stays down. Called by gateway.daemon; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import IpsecFastError
from ..ike.events import ChildFailed, ChildUp, IkeDown, IkeView, Notice

RETRY_S = 30.0

Key = tuple[str, str]  # connection, child


class Starter:
    """`initiate` starts one child and raises if that cannot even begin; `is_up` says whether it stands already."""

    def __init__(
        self,
        started: Iterable[Key],
        initiate: Callable[[str, str], None],
        is_up: Callable[[str, str], bool],
        log: Callable[[str], None],
    ) -> None:
        self._started = tuple(started)
        self._initiate = initiate
        self._is_up = is_up
        self._log = log
        self._due: dict[Key, float] = {}
        self._now = 0.0

    def start(self, now: float) -> None:
        self._now = now
        self._due = dict.fromkeys(self._started, now)

    def get_timer(self) -> float | None:
        return min(self._due.values(), default=None)

    def handle_timer(self, now: float) -> None:
        self._now = now
        for key in [key for key, at in self._due.items() if at <= now]:
            del self._due[key]
            if self._is_up(*key):
                continue
            try:
                self._initiate(*key)
            except IpsecFastError as error:
                self._log(f"{key[0]} {key[1]} failed: {error}")
                self._due[key] = now + RETRY_S

    def tell(self, notice: Notice, view: IkeView | None, now: float) -> None:
        match notice:
            case ChildUp():
                self._due.pop((notice.connection, notice.name), None)
            case ChildFailed():
                self._retry((notice.connection, notice.name), now)
            case IkeDown(failed=True):
                for key in self._started:
                    if key[0] == notice.connection:
                        self._retry(key, now)
            case _:
                pass

    def forget(self, connection: str, child: str | None = None) -> None:
        """The operator took it down."""
        for key in [key for key in self._due if key[0] == connection and child in (None, key[1])]:
            del self._due[key]

    def _retry(self, key: Key, now: float) -> None:
        if key in self._started and not self._is_up(*key):
            self._due.setdefault(key, now + RETRY_S)
