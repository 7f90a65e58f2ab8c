"""Tells the IKE endpoint once a second when ESP was last sent and received, so that who is heard is not asked (RFC 7296 section 2.4).

The packet path only writes two times per SA; what they mean is ike/v2/liveness's business. Called by gateway.daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataplane.spd import last_received_s, last_sent_s
from .children import Children

if TYPE_CHECKING:
    from ..ike.endpoint import Endpoint

LOOK_EVERY_S = 1.0


class TrafficWatch:
    def __init__(self, endpoint: Endpoint, children: Children) -> None:
        self._endpoint = endpoint
        self._children = children
        self._next = 0.0

    def get_timer(self) -> float | None:
        return self._next if self._children.all() else None

    def handle_timer(self, now: float) -> None:
        if now < self._next:
            return
        self._next = now + LOOK_EVERY_S
        seen: dict[int, list[float | None]] = {}  # by IKE SA: last sent, last received
        for child in self._children.all():
            ike_id = self._endpoint.owner_of(child.child_id)
            if ike_id is not None:
                times = seen.setdefault(ike_id, [None, None])
                times[0] = _later(times[0], last_sent_s(child.sa_out))
                times[1] = _later(times[1], last_received_s(child.sa_in))
        for ike_id, (sent_at, received_at) in seen.items():
            self._endpoint.note_traffic(ike_id, sent_at, received_at, now)


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
