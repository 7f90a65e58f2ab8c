from typing import final

from typing_extensions import Buffer

__all__ = [
    "Secret",
    "arena_report",
    "harden_process",
    "random_secret",
    "reveal_for_test",
    "secret_from_buffer",
    "secret_from_fd",
    "wipe",
]

@final
class Secret:
    """A handle on bytes in the arena; `repr` shows their number only. Not picklable, not comparable, no buffer."""

    def __len__(self) -> int: ...
    def slice(self, start: int, stop: int) -> Secret:
        """A copy of bytes `start` to `stop`, inside the arena."""

    @property
    def closed(self) -> bool:
        """Whether the bytes are gone."""

    @property
    def guessable(self) -> bool:
        """Whether it is a text that can be guessed: of few characters, repetitions, rows (`12345`) or common words."""

    def close(self) -> None:
        """Wipe and free; a second call does nothing, any later use raises StateError."""

    def __enter__(self) -> Secret: ...
    def __exit__(self, *exc: object) -> None: ...

def secret_from_buffer(buffer: Buffer, wipe: bool = False) -> Secret:
    """The bytes of `buffer` in the arena; `wipe` zeroes the source afterwards (BufferError where it is read-only)."""

def secret_from_fd(fd: int, limit: int = 4096, strip_newline: bool = True) -> Secret:
    """All of a file, read straight into the arena; SecretError where it holds more than `limit` bytes."""

def random_secret(n: int) -> Secret:
    """`n` bytes of OpenSSL's private random generator."""

def wipe(buffer: Buffer) -> None:
    """Overwrite a buffer with zeros: a writable one, or the `bytes` of a library that cannot do without (2 bytes and more)."""

def arena_report() -> dict[str, int]:
    """`bytes` mapped for secrets, `locked_bytes` of them locked, `used_bytes` of secrets now alive."""

def harden_process() -> list[str]:
    """No core dumps and no ptrace by others (PR_SET_DUMPABLE 0, RLIMIT_CORE 0); returns what the system refused, one line each."""

def reveal_for_test(secret: Secret) -> bytes:
    """The bytes themselves, as a copy that nobody wipes: for tests against vectors, never for the product."""
