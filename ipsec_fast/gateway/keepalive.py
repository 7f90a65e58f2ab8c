"""NAT keepalives (RFC 3948 section 2.3): one byte 0xFF where we are behind a NAT and nothing else left for 20 s.

Called by gateway.daemon; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..ike.events import IkeView
from ..model import Path

KEEPALIVE_S = 20.0


class Keepalives:
    """`views` are the IKE SAs; `last_sent_s` tells when ESP last left on some children; `send` sends the byte."""

    def __init__(
        self,
        views: Callable[[], Sequence[IkeView]],
        last_sent_s: Callable[[Iterable[int]], float | None],
        send: Callable[[Path], None],
        interval_s: float = KEEPALIVE_S,
    ) -> None:
        self._views = views
        self._last_sent_s = last_sent_s
        self._send = send
        self._interval_s = interval_s
        self._sent: dict[Path, float] = {}  # only of paths that need keepalives: strangers choose where answers go to
        self._paths: frozenset[Path] = frozenset()
        self._next: float | None = None

    def note_sent(self, path: Path, now: float) -> None:
        """An IKE message left on this path."""
        if path in self._paths:
            self._sent[path] = now

    def get_timer(self) -> float | None:
        return self._next

    def plan(self, now: float) -> None:
        """After IKE SAs came or went: is there a NAT to keep open?"""
        self._keep(view.path for view in self._views() if _needs(view))
        self._next = (self._next or now + self._interval_s) if self._paths else None

    def handle_timer(self, now: float) -> None:
        if self._next is None or now < self._next:
            return
        self._next = now + self._interval_s
        paths: dict[Path, float] = {}
        for view in self._views():
            if _needs(view):
                esp = self._last_sent_s(child.child_id for child in view.children)
                latest = max(self._sent.get(view.path, now - self._interval_s), esp if esp is not None else 0.0)
                paths[view.path] = max(latest, paths.get(view.path, 0.0))
        for path, latest in paths.items():
            if now - latest >= self._interval_s:
                self._send(path)
                latest = now
            self._next = min(self._next, latest + self._interval_s)
        self._keep(paths)

    def _keep(self, paths: Iterable[Path]) -> None:
        self._paths = frozenset(paths)
        self._sent = {path: at for path, at in self._sent.items() if path in self._paths}


def _needs(view: IkeView) -> bool:
    return view.nat_local and view.path.marker and view.state in ("ESTABLISHED", "REKEYING", "REKEYED")
