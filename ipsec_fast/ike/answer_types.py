"""Checks that an answer is of the type that its ask names (events.py): a wrong one
is the caller's mistake, not the peer's.

Called by Core for `Endpoint.answer`, before the exchange that asked goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..crypto.exchange import KeyPair
from ..crypto.secret import Secret
from ..errors import UsageError
from .config import ConnectionConfig
from .events import Ask, AskConfig, AskConnection, AskCredential, AskInstallChild, AskKeyPair, AskSharedSecret, AskSpi

FIRST_SPI, LAST_SPI = 256, (1 << 32) - 1  # RFC 4303 section 2.1: below 256 they are reserved


def check_answer(ask: Ask, answer: object) -> None:
    """UsageError: `AskConfig wants Sequence[ConnectionConfig], not ConnectionConfig`."""
    wanted, fits = _WANTED[type(ask)]
    if not isinstance(answer, Exception) and not fits(answer):
        given = str(answer) if isinstance(ask, AskSpi) and type(answer) is int else _type_text(answer)
        raise UsageError(f"{type(ask).__name__} wants {wanted}, not {given}")
    if isinstance(ask, AskKeyPair) and isinstance(answer, KeyPair) and answer.group != ask.group:
        raise UsageError(f"AskKeyPair wants a KeyPair of group {ask.group}, not of group {answer.group}")


def _is_connections(answer: object) -> bool:
    return (
        isinstance(answer, Sequence)
        and not isinstance(answer, str | bytes)
        and all(isinstance(one, ConnectionConfig) for one in answer)
    )


def _is_spi(answer: object) -> bool:
    return isinstance(answer, int) and not isinstance(answer, bool) and FIRST_SPI <= answer <= LAST_SPI


def _is_a(kind: type) -> Callable[[object], bool]:
    return lambda answer: isinstance(answer, kind)


_WANTED: dict[type, tuple[str, Callable[[object], bool]]] = {
    AskConfig: ("Sequence[ConnectionConfig]", _is_connections),
    AskConnection: ("ConnectionConfig", _is_a(ConnectionConfig)),
    AskCredential: ("Secret", _is_a(Secret)),
    AskKeyPair: ("KeyPair", _is_a(KeyPair)),
    AskSharedSecret: ("Secret", _is_a(Secret)),
    AskSpi: (f"int ({FIRST_SPI} to {LAST_SPI})", _is_spi),
    AskInstallChild: ("None", lambda answer: answer is None),
}


def _type_text(answer: object) -> str:
    """The type of a value for an error text, never the value, which may be a key."""
    name = type(answer).__name__
    if isinstance(answer, list | tuple):
        inside = dict.fromkeys(type(one).__name__ for one in answer)
        return f"{name}[{', '.join(list(inside)[:3])}]" if inside else name
    return f"the class {answer.__name__}" if isinstance(answer, type) else name
