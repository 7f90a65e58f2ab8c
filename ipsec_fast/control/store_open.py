"""Which store the gateway gets, and what the process before it left there. Never a reason not to start: the tunnel matters more.

Without a key nothing is written. A directory that cannot be used (of somebody else, in use, on a full disk) means a store in memory; what
is in it but must not be used (foreign, cut off, rolled back) means an empty one. Each is one line. Leaves out: reading the key,
which the configuration does (gateway/config_state.py). Called by the daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..crypto.secret import Secret
from ..errors import HostError, StateError
from .store import MemoryStore, StateStore, StoredIke
from .store_directory import DirectoryStore

NO_KEY = "no state_key: nothing is written"


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """`stored`: what `load` gave; `line`: for the log."""

    store: StateStore
    stored: tuple[StoredIke, ...]
    line: str


def open_store(directory: Path | str, key: Secret | None, mark: Path | str | None = None) -> OpenedStore:
    """The key is copied; it may be closed afterwards."""
    if key is None:
        return OpenedStore(MemoryStore(NO_KEY), (), f"state is kept in memory, {NO_KEY}")
    try:
        store = DirectoryStore(Path(directory), key, mark=Path(mark) if mark is not None else None)
    except HostError as error:
        return OpenedStore(MemoryStore(str(error)), (), f"state is kept in memory: {error}")
    try:
        stored = tuple(store.load())
    except StateError as error:
        return OpenedStore(store, (), str(error))
    except HostError as error:
        store.close(keep=True)
        return OpenedStore(MemoryStore(str(error)), (), f"state is kept in memory: {error}")
    count = f"{len(stored) or 'no'} IKE SA{'' if len(stored) == 1 else 's'}"
    return OpenedStore(store, stored, f"state directory {directory}: {count} stored")
