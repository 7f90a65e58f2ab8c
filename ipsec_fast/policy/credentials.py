"""Which pre-shared key belongs to a pair of identities (RFC 4301 section 4.4.3, the PAD's authentication data).

The keys are handles of the arena; this file never sees their bytes. Called by control.answers for AskCredential.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import SecretError
from ..model import Identity

if TYPE_CHECKING:
    from ..crypto.secret import Secret


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
        self._keys = tuple(keys)

    def replace(self, keys: Iterable[SharedKey]) -> None:
        """From now on these. Who calls wipes those that are in no use any more."""
        self._keys = tuple(keys)

    def shared_key(self, local: Identity, remote: Identity, *, allow_weak: bool = False) -> Secret:
        """SecretError, with both identities, if no entry fits, or if the best one is too short for this connection."""
        best: tuple[tuple[int, int], SharedKey] | None = None
        for key in self._keys:
            score = _score(key.ids, local, remote)
            if score is not None and (best is None or score > best[0]):
                best = (score, key)
        if best is None:
            named = ", ".join(f"{key.name} ({' '.join(str(one) for one in key.ids)})" for key in self._keys)
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
