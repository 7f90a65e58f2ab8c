"""The error tree. The control plane raises; the dataplane never does (it gives each packet a verdict).

    IpsecFastError
    |-- LocalError            our caller misused us, or this host lacks something
    |   |-- ConfigError       one or many problems of a configuration, each with its path
    |   |-- UsageError        an argument of a call or a command is wrong
    |   |-- SecretError       a secret is missing, too short, or readable by others
    |   |-- AlgorithmError    an algorithm we do not know or do not carry
    |   |-- HostError         a port in use, no TUN device, no right to do it
    |   `-- StateError        there is no such SA, or not in this state
    `-- RemoteError           the peer broke the RFC, or refuses; carries the notify to answer with
        |-- ParseError        a message that cannot be read (INVALID_SYNTAX)
        |-- IntegrityError    an ICV or AUTH payload that does not verify
        `-- NegotiationError  no common proposal, selectors, identity or group

Every message says what was wrong, where, and what would be right. None ever holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class IpsecFastError(Exception):
    """The root of everything this package raises on purpose."""


class LocalError(IpsecFastError):
    """Our caller misused us, or this host lacks something."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: where it stands (`connections.paris.children.net.mtu`) and what would be right."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(LocalError):
    """A configuration that cannot be used; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = (Problem("", problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class UsageError(LocalError, ValueError):
    """An argument of a call or a command is wrong; a ValueError too, for who knows nothing of this tree."""


class SecretError(LocalError):
    """A secret is missing, too short, or readable by others."""


class AlgorithmError(LocalError):
    """An algorithm that we do not know or do not carry."""


class HostError(LocalError):
    """This host does not let us: a port in use, no TUN device, a missing right."""


class StateError(LocalError):
    """No such SA, or it is not in a state that allows this."""


class RemoteError(IpsecFastError):
    """The peer broke the RFC or refuses us.

    `notify` is the IANA number of the notify that answers it (None: answer nothing), `data` that notify's data.
    """

    def __init__(self, message: str, notify: int | None = None, data: bytes = b"") -> None:
        super().__init__(message)
        self.notify = notify
        self.data = data


class ParseError(RemoteError):
    """Bytes that are no message of the protocol (RFC 7296 section 2.21, INVALID_SYNTAX)."""

    def __init__(self, message: str, notify: int | None = 7, data: bytes = b"") -> None:
        super().__init__(message, notify, data)


class IntegrityError(RemoteError):
    """An integrity check that failed; nothing is ever answered to it."""


class NegotiationError(RemoteError):
    """Both sides are sound, but have nothing in common; the message names what was offered and what was wanted."""
