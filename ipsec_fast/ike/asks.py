"""How an exchange asks its shell and rests: a generator yields an ask and is sent the answer.

A step function is written top-down, `key_pair = yield from ask_key_pair(group)`; `Core.run` drives it and gives each
ask its ticket. An answer that is an exception is raised at the `yield`. Half-done steps are never stored anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..iana import ProtocolId
from ..model import Identity, Path
from .config import ConnectionConfig
from .events import (
    Ask,
    AskConfig,
    AskConnection,
    AskCredential,
    AskInstallChild,
    AskKeyPair,
    AskSharedSecret,
    AskSpi,
)

if TYPE_CHECKING:
    from ..crypto.exchange import KeyPair
    from ..crypto.secret import Secret

T = TypeVar("T")
MakeAsk = Callable[[int], Ask]
Steps = Generator[MakeAsk, Any, T]


def ask_config(path: Path) -> Steps[Sequence[ConnectionConfig]]:
    answer: Sequence[ConnectionConfig] = yield lambda ticket: AskConfig(ticket, path)
    return answer


def ask_connection(
    path: Path, candidates: Sequence[ConnectionConfig], remote_id: Identity, local_id: Identity | None
) -> Steps[ConnectionConfig]:
    answer: ConnectionConfig = yield lambda ticket: AskConnection(ticket, path, candidates, remote_id, local_id)
    return answer


def ask_credential(connection: str, local_id: Identity, remote_id: Identity) -> Steps[Secret]:
    answer: Secret = yield lambda ticket: AskCredential(ticket, connection, local_id, remote_id)
    return answer


def ask_key_pair(group: int) -> Steps[KeyPair]:
    answer: KeyPair = yield lambda ticket: AskKeyPair(ticket, group)
    return answer


def ask_shared_secret(key_pair: KeyPair, peer_public: bytes) -> Steps[Secret]:
    answer: Secret = yield lambda ticket: AskSharedSecret(ticket, key_pair, peer_public)
    return answer


def ask_spi(resource: int | None = None, replaces: int | None = None) -> Steps[int]:
    answer: int = yield lambda ticket: AskSpi(ticket, ProtocolId.ESP, resource, replaces)
    return answer


def ask_install(make: Callable[[int], AskInstallChild]) -> Steps[None]:
    yield make
