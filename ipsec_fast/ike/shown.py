"""What our own open IKE_SA_INIT attempts have sent, so that a peer that shows
the same can be refused (v2/reflection.py).
"""

from __future__ import annotations


class Shown:
    """Nonces and KE values that our open attempts have sent, each with its attempt."""

    def __init__(self) -> None:
        self._owners: dict[bytes, int] = {}
        self._of: dict[int, set[bytes]] = {}

    def add(self, ike_id: int, *values: bytes) -> None:
        for value in values:
            self._owners[value] = ike_id
        self._of.setdefault(ike_id, set()).update(values)

    def forget(self, ike_id: int) -> None:
        for value in self._of.pop(ike_id, ()):
            if self._owners.get(value) == ike_id:
                del self._owners[value]

    def owner(self, value: bytes) -> int | None:
        return self._owners.get(value)

    def __len__(self) -> int:
        return len(self._owners)
