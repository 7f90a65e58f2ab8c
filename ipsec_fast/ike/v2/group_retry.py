"""INVALID_KE_PAYLOAD in CREATE_CHILD_SA (RFC 7296 section 1.3): the same proposals again with another group of ours.

Used by create_child and rekey_ike. The retry of IKE_SA_INIT, which nobody has authenticated, is sa_init's own; the
reader of the notify's data is here for both.
"""

from __future__ import annotations

from ...errors import NegotiationError
from ...iana import Group, name_of
from .payloads import NotifyPayload

GROUP_RETRIES_MAX = 3
GROUP_BYTES = 2


def group_in(data: bytes) -> int:
    """The group that an INVALID_KE_PAYLOAD names: 2 bytes (section 1.3). NegotiationError for any other length."""
    if len(data) != GROUP_BYTES:
        raise NegotiationError(f"INVALID_KE_PAYLOAD with {len(data)} bytes of data, {GROUP_BYTES} name a group")
    return int.from_bytes(data, "big")


class GroupRetry:
    """Which group our KE payload has, over INVALID_KE_PAYLOAD answers: each group once, at most three in all."""

    def __init__(self) -> None:
        self.group = 0
        self._tried: set[int] = set()

    def first(self, groups: tuple[int, ...]) -> int:
        if not self.group and groups:
            self.group = groups[0]
        self._tried.add(self.group)
        return self.group

    def next(self, notify: NotifyPayload, groups: tuple[int, ...]) -> None:
        group = group_in(notify.data)
        if group not in groups:
            raise NegotiationError(f"the peer wants group {name_of(Group, group)}, which we did not offer")
        if group in self._tried or len(self._tried) > GROUP_RETRIES_MAX:
            raise NegotiationError(f"the peer wants group {name_of(Group, group)} again, or one group after the other")
        self.group = group
