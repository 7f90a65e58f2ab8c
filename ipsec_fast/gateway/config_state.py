"""`[gateway] state_dir`, `state_mark`, `state_key`: where the state of the SAs is kept, and the key that seals it.

The key is a file that only its owner may read, or the service manager's credential `ipsec-fast.state-key` (systemd: LoadCredential=),
which counts where `state_key` is left out. It is read straight into the arena. Without one nothing is ever written. Leaves out:
opening the directory (control/store_open.py). Called by config.py and config_model.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..crypto.rest import MIN_KEY_BYTES
from ..crypto.secret import Secret
from .config_secrets import read_secret_file
from .vici import DEFAULT_SOCKET

DEFAULT_STATE_DIR = "/run/ipsec-fast.state"
CREDENTIAL = "ipsec-fast.state-key"


def parse_state_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("must be an absolute path, for example " + DEFAULT_STATE_DIR)
    path = os.path.normpath(value)
    if path == "/" or len(path.encode()) > 4000:
        raise ValueError("must name a directory of its own, for example " + DEFAULT_STATE_DIR)
    return path


def parse_key_file(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be the path of a file that holds the key, seen from this file's folder")
    return value


def default_state_dir(socket: str) -> str:
    """Two gateways on one host have two control sockets, and so two directories: /run/b.vici goes with /run/b.state."""
    if socket == DEFAULT_SOCKET:
        return DEFAULT_STATE_DIR
    return socket.removesuffix(".vici") + ".state"


def read_state_key(file: str | None, folder: Path, environment: Mapping[str, str] = os.environ) -> Secret | None:
    """None where neither a file nor a credential is given; SecretError where the one that is given cannot be used."""
    if file is not None:
        return read_secret_file(folder / file, at_least=MIN_KEY_BYTES)
    credentials = environment.get("CREDENTIALS_DIRECTORY", "")
    path = Path(credentials, CREDENTIAL)
    if not credentials or not path.exists():
        return None
    # the service manager lets our user in by an access list, which shows as a group's right to read
    return read_secret_file(path, at_least=MIN_KEY_BYTES, group_may_read=True)
