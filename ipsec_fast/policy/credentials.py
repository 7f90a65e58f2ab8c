"""Which pre-shared key belongs to a pair of identities (RFC 4301 section 4.4.3, the PAD's authentication data).

The keys are handles of the arena; this file never sees their bytes. Called by control.answers for AskCredential.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import SecretError
from ..model import Identity

if TYPE_CHECKING:
    from ..crypto.secret import Secret


SHOWN = 6  # secrets, or identities of one, in the text of a refusal: a stranger may make us write it


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A PSK and its identities. Without `ids` it serves every pair of identities that has no better entry.

    `needs_allow_weak`: it is so short that only a connection with `allow_weak` may use it.
    """

    name: str
    ids: tuple[Identity, ...]
    secret: Secret = field(repr=False)
    needs_allow_weak: bool = False


class Credentials:
    """The PSKs of a gateway. The best entry wins, among equals the first.

    The order: entries that name the peer, those whose wildcard covers it (`*.example.org`), those that name only us,
    those that name nobody. Within the first two, entries that name us too come first. An entry that names the peer's
    neighbours but not the peer is none of these and never used.
    """

    def __init__(self, keys: Iterable[SharedKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[SharedKey]) -> None:
        """From now on these. Who calls wipes those that are in no use any more."""
        self._keys = tuple(keys)
        self._by_id: dict[
            tuple[int, bytes], list[int]
        ] = {}  # places in `_keys`, so that a handshake looks at few of them
        self._for_many: list[int] = []  # places of those that name nobody, or somebody by a wildcard
        for place, key in enumerate(self._keys):
            for folded in dict.fromkeys(one.folded for one in key.ids):
                self._by_id.setdefault(folded, []).append(place)
            if not key.ids or any(one.is_pattern for one in key.ids):
                self._for_many.append(place)
        self._for_ourselves: dict[tuple[int, bytes], int] = {}  # the first that names this identity and no other
        for place, key in enumerate(self._keys):
            if len({one.folded for one in key.ids}) == 1:
                self._for_ourselves.setdefault(key.ids[0].folded, place)

    def _fitting(self, local: Identity, remote: Identity) -> Iterator[SharedKey]:
        """Those that may have a score, in the order of the configuration."""
        places = {*self._for_many, *self._by_id.get(remote.folded, ())}
        if (place := self._for_ourselves.get(local.folded)) is not None:
            places.add(place)
        return (self._keys[place] for place in sorted(places))

    def shared_key(self, local: Identity, remote: Identity, *, allow_weak: bool = False) -> Secret:
        """SecretError, with both identities, if no entry fits, or if the best one is too short for this connection."""
        best: tuple[tuple[int, int], SharedKey] | None = None
        for key in self._fitting(local, remote):
            score = _score(key.ids, local, remote)
            if score is not None and (best is None or score > best[0]):
                best = (score, key)
        if best is None:
            named = ", ".join(
                f"{key.name} ({' '.join(str(one) for one in key.ids[:SHOWN])})" for key in self._keys[:SHOWN]
            )
            named += f" and {len(self._keys) - SHOWN} more" if len(self._keys) > SHOWN else ""
            raise SecretError(f"no secret for {local} with {remote}; the configuration has {named or 'none'}")
        if best[1].needs_allow_weak and not allow_weak:
            raise SecretError(
                f"the secret {best[1].name} is too short; a longer one, or allow_weak = true in the connection"
            )
        return best[1].secret

    def close(self) -> None:
        """Wipe every key."""
        for key in self._keys:
            key.secret.close()


def _score(ids: tuple[Identity, ...], local: Identity, remote: Identity) -> tuple[int, int] | None:
    """(how well it fits the peer, whether it names us); strongSwan compares in this order too."""
    if not ids:
        return 0, 0
    names_local = any(one.matches(local) for one in ids)
    if any(one.matches(remote) for one in ids):
        return 2, names_local
    if any(one.covers(remote) for one in ids):
        return 1, names_local
    return (0, 1) if names_local and all(one.matches(local) for one in ids) else None
