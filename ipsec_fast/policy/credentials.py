"""Which pre-shared key belongs to a pair of identities (RFC 4301 section 4.4.3, the PAD's authentication data).

The keys are handles of the arena; this file never sees their bytes. Called by control.answers for AskCredential.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import SecretError
from ..model import Identity

if TYPE_CHECKING:
    from ..crypto.secret import Secret

SHOWN = 6  # secrets, or identities of one, in the text of a refusal


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A PSK and whose it is. No `ids`: for every pair of identities that has no better entry.

    `needs_allow_weak`: so short that only a connection that allows it may use it.
    """

    name: str
    ids: tuple[Identity, ...]
    secret: Secret = field(repr=False)
    needs_allow_weak: bool = False


class Credentials:
    """The PSKs of a gateway. The best entry wins, among equals the first.

    One that names the peer goes before one that means it by a wildcard (`*.example.org`), and each of them before itself without our
    own identity; then one that names nobody but ourselves, so every peer of this identity; then one that names nobody.
    An entry that names the peer's neighbours but not the peer is none of these and never used.
    """

    def __init__(self, keys: Iterable[SharedKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[SharedKey]) -> None:
        """From now on these. Who calls wipes those that are in no use any more."""
        self._keys = tuple(keys)
        self._index: _Index | None = None  # made for the first look-up: secrets are loaded one by one

    def shared_key(self, local: Identity, remote: Identity, *, allow_weak: bool = False) -> Secret:
        """SecretError, with both identities, where no entry fits, or where the best one is too short for this connection."""
        if self._index is None:
            self._index = _Index(self._keys)
        best = self._index.best(local, remote)
        if best is None:
            named = ", ".join(f"{key.name} ({_few(map(str, key.ids), len(key.ids))})" for key in self._keys[:SHOWN])
            more = f" and {len(self._keys) - SHOWN} more" if len(self._keys) > SHOWN else ""
            raise SecretError(f"no secret for {local} with {remote}; the configuration has {named or 'none'}{more}")
        if best.needs_allow_weak and not allow_weak:
            raise SecretError(
                f"the secret {best.name} is too short; a longer one, or allow_weak = true in the connection"
            )
        return best.secret

    def close(self) -> None:
        """Wipe every key."""
        for key in self._keys:
            key.secret.close()


class _Index:
    """A stranger who shows an identity makes us look for its secret, so the look-up walks only those that may be meant.

    These are the entries that name the peer, those with a wildcard, those that name one identity alone, and those that name nobody.
    """

    def __init__(self, keys: Sequence[SharedKey]) -> None:
        self._keys = keys
        self._ids = [frozenset(one.folded for one in key.ids) for key in keys]
        self._naming: dict[tuple[int, bytes], list[int]] = {}
        self._alone: dict[tuple[int, bytes], list[int]] = {}
        self._wild = [i for i, key in enumerate(keys) if any(one.is_pattern for one in key.ids)]
        self._nameless = [i for i, key in enumerate(keys) if not key.ids]
        for i, ids in enumerate(self._ids):
            for one in ids:
                self._naming.setdefault(one, []).append(i)
            if len(ids) == 1:
                self._alone.setdefault(next(iter(ids)), []).append(i)

    def best(self, local: Identity, remote: Identity) -> SharedKey | None:
        """By how well it means the peer, then by whether it names us; strongSwan compares in this order too."""
        own, theirs = local.folded, remote.folded
        scores = [((2, own in self._ids[i]), -i) for i in self._naming.get(theirs, ())]
        if not scores:
            scores = [
                ((1, own in self._ids[i]), -i)
                for i in self._wild
                if any(one.covers(remote) for one in self._keys[i].ids)
            ]
        if not scores:
            scores = [((0, True), -i) for i in self._alone.get(own, ())[:1]]
        if not scores:
            scores = [((0, False), -i) for i in self._nameless[:1]]
        return self._keys[-max(scores)[1]] if scores else None


def _few(words: Iterable[str], count: int) -> str:
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return " ".join(islice(words, SHOWN)) + more
