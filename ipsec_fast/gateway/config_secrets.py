"""The secrets of a configuration: read from files straight into the arena, or, warned about, from the TOML itself.

A file must be a regular file that only its owner may read, the owner being us or root, checked on the descriptor
that is then read. No text made here holds any part of a secret. Called by config.py.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from ..crypto.secret import Secret, secret_from_buffer, secret_from_fd
from ..errors import IpsecFastError, SecretError

MIN_SECRET_BYTES = 16  # fewer are warned about
SHORT_SECRET_BYTES = 8  # fewer are accepted only with `allow_weak`
MAX_SECRET_BYTES = 4096
HOW_TO_MAKE = "make one with: (umask 077; openssl rand -base64 32 > FILE)"


def read_secret_file(path: Path, *, at_least: int = MIN_SECRET_BYTES, group_may_read: bool = False) -> Secret:
    """The bytes of a file, less one newline at the end. SecretError says what is wrong with the file."""
    try:
        # O_NONBLOCK: a FIFO must not hold us up before fstat has unmasked it
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        hint = f"; {HOW_TO_MAKE}" if isinstance(error, FileNotFoundError) else ""
        raise SecretError(f"cannot read {path}: {error.strerror}{hint}") from None
    try:
        check_private(os.fstat(fd), path, group_may_read=group_may_read)
        secret = secret_from_fd(fd, limit=MAX_SECRET_BYTES)
    except OSError as error:
        raise SecretError(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    return check_length(secret, str(path), at_least)


def check_private(status: os.stat_result, path: Path, *, group_may_read: bool = False) -> None:
    """SecretError unless this is a regular file of ours (or root's) that nobody else may read or write."""
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(f"{path} is not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise SecretError(f"{path} belongs to user {status.st_uid}; it must belong to us (user {os.geteuid()}) or root")
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o037 if group_may_read else 0o077):
        raise SecretError(f"{path} may be read or changed by others (mode {mode:04o}); run: chmod 600 {path}")


def decode_inline_secret(value: object) -> Secret:
    """swanctl's spellings: plain text, `0x` or `0X` and hex digits, `0s` or `0S`
    and base64. Copies of the text stay behind.

    If the number of hex digits is odd, the first is a byte of its own, as in swanctl. Base64 without padding
    is refused, because swanctl drops its end.
    """
    if not isinstance(value, str):
        raise SecretError("must be a string")
    spelling = value[:2].lower()
    try:
        if spelling == "0x":
            digits = value[2:].replace(":", "")
            data = bytearray(bytes.fromhex("0" * (len(digits) % 2) + digits))
        elif spelling == "0s":
            data = bytearray(base64.b64decode(value[2:], validate=True))
        else:
            data = bytearray(value.encode())
    except (ValueError, binascii.Error):
        hexed, based = "must be followed by hex digits", "must be followed by base64 with its = at the end"
        raise SecretError(f"{value[:2]} {hexed if spelling == '0x' else based}") from None
    if not data:
        raise SecretError(f"is empty; it must hold at least {MIN_SECRET_BYTES} bytes")
    if len(data) > MAX_SECRET_BYTES:
        raise SecretError(f"is longer than {MAX_SECRET_BYTES} bytes")
    try:
        return secret_from_buffer(data, wipe=True)
    except IpsecFastError as error:
        raise SecretError(str(error)) from None


def warn_of_weakness(secret: Secret, where: str) -> str | None:
    """What to say of a pre-shared key that is short, or whose text can be guessed, and taken nevertheless."""
    size = len(secret)
    how = f"who sees one handshake of it can try secrets until one fits; {HOW_TO_MAKE}"
    if size < MIN_SECRET_BYTES:
        return f"{where} holds {size} bytes, and at least {MIN_SECRET_BYTES} are right: {how}"
    if secret.guessable:
        return f"{where} can be guessed, for it is made of few characters, repetitions, rows or common words: {how}"
    return None


def refuse_short(secret: Secret, where: str, order: str = "") -> None:
    """SecretError for a pre-shared key that needs `allow_weak`, which is then closed."""
    size = len(secret)
    if size < SHORT_SECRET_BYTES:
        secret.close()
        raise SecretError(
            f"{where} holds {size} bytes; it must hold at least {MIN_SECRET_BYTES} (from {SHORT_SECRET_BYTES} on with a warning; "
            f"fewer need allow_weak = true in the connection{order}); {HOW_TO_MAKE}"
        )


def check_length(secret: Secret, where: str, at_least: int = MIN_SECRET_BYTES) -> Secret:
    """The secret; closed, and SecretError, where it is too short to resist guessing."""
    size = len(secret)
    if size >= at_least:
        return secret
    secret.close()
    raise SecretError(f"{where} holds {size} bytes; it must hold at least {at_least}; {HOW_TO_MAKE}")
