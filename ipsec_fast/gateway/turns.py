"""Which of a peer's addresses the next attempt goes to: after a failure, by silence or by refusal, the next one.

The address that served last is tried first. Stored are a number for each connection whose first address has failed, and
one for each attempt under way. Called by operations.py.
"""

from __future__ import annotations

from ..ike.config import ConnectionConfig
from ..ike.events import ChildUp, IkeDown, IkeUp, Notice


class Turns:
    def __init__(self) -> None:
        self._turns: dict[str, int] = {}  # by connection; without an entry: the first address
        self._attempts: dict[int, tuple[str, int]] = {}  # by IKE SA: its connection, and the turn it was begun at

    def place(self, connection: ConnectionConfig) -> int:
        """The place in `remote_addrs`, which may have become shorter since."""
        return self._turns.get(connection.name, 0) % max(1, len(connection.remote_addrs))

    def hand_over(self, connection: ConnectionConfig, place: int) -> None:
        """An attempt at that place has failed; its IKE SA may still exist."""
        if len(connection.remote_addrs) > 1 and self.place(connection) == place:
            self._turns[connection.name] = place + 1

    def forget(self, connection: str) -> None:
        """Its addresses are others now, or there are none. What is under way hands over to nobody."""
        self._turns.pop(connection, None)
        self._attempts = {ike_id: one for ike_id, one in self._attempts.items() if one[0] != connection}

    def begin(self, ike_id: int, connection: ConnectionConfig) -> None:
        """An attempt with this IKE SA goes to the address whose turn it is."""
        if len(connection.remote_addrs) > 1:
            self._attempts[ike_id] = (connection.name, self._turns.get(connection.name, 0))

    def hear(self, notice: Notice) -> None:
        match notice:
            case IkeUp(replaces=replaced) if replaced in self._attempts:
                self._attempts[notice.ike_id] = self._attempts.pop(replaced)
            case ChildUp():
                self._attempts.pop(notice.ike_id, None)
            case IkeDown():
                name, turn = self._attempts.pop(notice.ike_id, ("", -1))
                if notice.failed and self._turns.get(name, 0) == turn:
                    self._turns[name] = turn + 1
            case _:
                pass
