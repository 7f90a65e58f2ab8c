"""The connections and secrets of a running gateway: those of its file, and those that were loaded over the control socket.

Both stand side by side. A name of the file cannot be loaded, replaced or unloaded over the socket; `reload` reads the file again and
leaves alone what was loaded. A changed connection replaces the old one for what is set up from now on: SAs go on as they were made.
Of secrets the last loaded one goes first, the file's come last. Called by the daemon, and by vici's commands through its protocol.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..crypto.secret import Secret
from ..errors import ConfigError, HostError, Problem, StateError, UsageError
from ..ike.config import ConnectionConfig
from ..policy.credentials import Credentials, SharedKey
from ..policy.peers import Peers
from .config import LoadedConfig, load_config
from .config_check import serves
from .config_load import LoadedConnection, check_secret, parse_connection, parse_owners
from .config_model import Mss, MtuProbe
from .config_secrets import SHORT_SECRET_BYTES
from .waiting import Change

MAX_CONNECTIONS, MAX_CHILDREN, MAX_SECRETS = 4096, 256, 4096  # that may be loaded; so a list of names fits one message
MAX_NAME_BYTES = 100
log = logging.getLogger("ipsec_fast.configuration")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a change touches. `check` refuses what the host cannot do; `apply` makes routes and policies follow (HostError).

    `begin` then ends what went and begins what came.
    """

    check: Callable[[ConnectionConfig], None]
    apply: Callable[[Change], None]
    begin: Callable[[Change], None]


class Configuration:
    """Owns the secrets: `close` wipes them all."""

    def __init__(self, config: LoadedConfig, around: Surroundings) -> None:
        self._around = around
        self._path = config.path
        self._settings = config.settings
        self._file = _of_file(config)
        self._file_keys = config.secrets
        self._loaded: dict[str, LoadedConnection] = {}
        self._loaded_keys: dict[str, SharedKey] = {}
        self._unnamed = 0
        self.peers = Peers(config.connections)
        self.credentials = Credentials(config.secrets)

    # --- looking

    @property
    def connections(self) -> tuple[ConnectionConfig, ...]:
        return self.peers.connections

    def mss(self, connection: str) -> Mss:
        one = self._file.get(connection) or self._loaded.get(connection)
        return one.mss if one is not None else "auto"

    def mtu_probe(self, connection: str) -> MtuProbe:
        one = self._file.get(connection) or self._loaded.get(connection)
        return one.mtu_probe if one is not None else "auto"

    def copies_df(self, connection: str, child: str) -> bool:
        one = self._file.get(connection) or self._loaded.get(connection)
        return one is None or all(c.copy_df for c in one.connection.children if c.name == child)

    def loaded_connections(self) -> list[str]:
        return list(self._loaded)

    def loaded_secrets(self) -> list[str]:
        """Those that have a name, which is how they can be unloaded one by one."""
        return [name for name in self._loaded_keys if not name.startswith("\0")]

    # --- connections

    def parse_connection(self, name: str, section: Mapping[str, object]) -> LoadedConnection:
        """ConfigError names every problem with its path."""
        new = parse_connection(name, section)
        if len(new.connection.children) > MAX_CHILDREN:
            too_many = f"has {len(new.connection.children)}, at most {MAX_CHILDREN} may be loaded"
            raise ConfigError([Problem(f"connections.{name}.children", too_many)])
        return new

    def load_connection(self, new: LoadedConnection) -> bool:
        """False where it was loaded already, and just so."""
        name = new.connection.name
        if name in self._file:
            raise StateError(f"connection {name} stands in the gateway's own file; change it there and reload the file")
        if name not in self._loaded and len(self._loaded) >= MAX_CONNECTIONS:
            raise StateError(f"{MAX_CONNECTIONS} connections are loaded already; unload some")
        self._around.check(new.connection)
        if self._loaded.get(name) == new:
            return False
        self._change({**self._loaded, name: new}, self._file)
        for line in new.warnings:
            log.warning("%s", line)
        return True

    def unload_connection(self, name: str) -> None:
        """Its SAs stay; nothing brings them back."""
        if name not in self._loaded:
            where = "it stands in the gateway's own file" if name in self._file else "nothing of that name is loaded"
            raise StateError(f"connection {name} cannot be unloaded: {where}")
        self._change({key: one for key, one in self._loaded.items() if key != name}, self._file)

    def _change(self, loaded: Mapping[str, LoadedConnection], file: Mapping[str, LoadedConnection]) -> None:
        """All of it or, where the host refuses, nothing."""
        old, new = {**self._file, **self._loaded}, {**file, **loaded}
        change = Change(
            gone=[one.connection for name, one in old.items() if new.get(name) != one],
            fresh=[one.connection for name, one in new.items() if old.get(name) != one],
            all=[one.connection for one in new.values()],
        )
        try:
            self._around.apply(change)
        except HostError:
            with contextlib.suppress(HostError):
                self._around.apply(change.reverse)
            raise
        self._loaded, self._file = dict(loaded), dict(file)
        self.peers.replace(change.all)
        self._around.begin(change)

    # --- secrets

    def load_secret(self, name: str, kind: str, owners: Sequence[str], secret: Secret) -> None:
        """The secret is ours from now on. Without a name it can only be cleared with all others."""
        try:
            if len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
                raise UsageError(f"id must be at most {MAX_NAME_BYTES} bytes of printable text")
            if name not in self._loaded_keys and len(self._loaded_keys) >= MAX_SECRETS:
                raise StateError(f"{MAX_SECRETS} secrets are loaded already; clear-creds drops them")
            ids = parse_owners(name or "ike", owners)
            weak = any(one.allow_weak and serves(ids, one) for one in self.connections)
            warning = check_secret(name or "ike", kind, secret, allow_weak=weak)
        except Exception:
            secret.close()
            raise
        if not name:
            self._unnamed += 1
        key = name or f"\0{self._unnamed}"
        self._drop_secret(key)
        is_short = len(secret) < SHORT_SECRET_BYTES
        self._loaded_keys[key] = SharedKey(name or "(loaded without a name)", ids, secret, is_short)
        self._publish_secrets()
        if warning is not None:
            log.warning("%s", warning)

    def unload_secret(self, name: str) -> None:
        if not name or name not in self._loaded_keys:
            raise StateError(f"no secret with the id {name!r} is loaded")
        self._drop_secret(name)
        self._publish_secrets()

    def clear_secrets(self) -> None:
        """Everything that was loaded; the file's stay."""
        for name in tuple(self._loaded_keys):
            self._drop_secret(name)
        self._publish_secrets()

    def _drop_secret(self, key: str) -> None:
        old = self._loaded_keys.pop(key, None)
        if old is not None:
            old.secret.close()

    def _publish_secrets(self) -> None:
        self.credentials.replace([*reversed(self._loaded_keys.values()), *self._file_keys])

    # --- the file

    def reload(self) -> list[str]:
        """Read the file again; the lines to log. ConfigError, and nothing changed, where it is not sound."""
        if self._path is None:
            raise StateError("this gateway was started without a file")
        config = load_config(self._path)
        if config.state_key is not None:
            config.state_key.close()  # the store keeps the one that it was opened with
        try:
            self._check_reload(config)
            file = _of_file(config)
            self._change(self._loaded, file)
        except Exception:
            for key in config.secrets:
                key.secret.close()
            raise
        old, self._file_keys = self._file_keys, config.secrets
        self._publish_secrets()
        for key in old:
            key.secret.close()
        lines = [*config.warnings, f"{self._path} read again: {len(file)} connections, {len(config.secrets)} secrets"]
        if config.settings != self._settings:
            lines.append("what changed under [gateway] takes effect at the next start")
        return lines

    def _check_reload(self, config: LoadedConfig) -> None:
        for one in config.connections:
            if one.name in self._loaded:
                raise StateError(f"connection {one.name} was loaded over the control socket; unload it there first")
            self._around.check(one)

    def close(self) -> None:
        self.clear_secrets()
        self.credentials.close()


def _of_file(config: LoadedConfig) -> dict[str, LoadedConnection]:
    return {
        one.name: LoadedConnection(one, config.mss.get(one.name, "auto"), config.mtu_probe.get(one.name, "auto"))
        for one in config.connections
    }
