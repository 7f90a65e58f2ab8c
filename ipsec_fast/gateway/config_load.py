"""One connection or secret as vici's load-conn and load-shared bring it: swanctl.conf's keys with strings and lists of strings.

The same steps, models and texts as for the file (config.py); every problem at once, in one ConfigError. Called by configuration.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..crypto.secret import Secret
from ..errors import ConfigError, Problem, SecretError
from ..ike.config import ConnectionConfig
from ..model import Identity
from .config import validate_all
from .config_check import check_connections, warn_connections, warn_sections
from .config_fields import parse_seconds
from .config_model import ConnectionSection, Mss, MtuProbe, SecretSection
from .config_secrets import MAX_SECRET_BYTES, refuse_short, warn_of_weakness
from .config_tree import fold_tree

SECRET_TYPES_LATER = ("eap", "xauth", "ntlm", "ppk")


@dataclass(frozen=True, slots=True)
class LoadedConnection:
    connection: ConnectionConfig
    mss: Mss
    mtu_probe: MtuProbe = "auto"
    warnings: tuple[str, ...] = field(default=(), compare=False)


def parse_connection(name: str, section: Mapping[str, object]) -> LoadedConnection:
    tree = fold_tree({"connections": {name: dict(section)}})
    folded = tree.connections.get(name, {})
    if (timeout := folded.pop("dpd_timeout", None)) is not None:  # swanctl's own users mean what it does: nothing
        try:
            parse_seconds(timeout)
        except ValueError as error:
            tree.blame(("connections", name, "dpd_timeout"), str(error))
        tree.warn(
            ("connections", name, "dpd_timeout"),
            "ignored: in strongSwan it is of IKEv1; set it in the gateway's own file",
        )
    sections = validate_all(tree, "connections", ConnectionSection, tree.connections)
    # its secret may be loaded later, so nothing is said about one that is missing
    for location, message in check_connections(sections, {}, all_secrets_known=False):
        tree.blame(location, message)
    if tree.problems:
        raise ConfigError(tree.problems)
    model = sections[name]
    connection = model.build(name)
    for location, message in (*warn_sections(sections), *warn_connections([connection])):
        tree.warn(location, message)
    return LoadedConnection(connection, model.mss, model.mtu_probe, tuple(map(str, tree.warnings)))


def parse_owners(name: str, owners: Sequence[str]) -> tuple[Identity, ...]:
    """Whose secret it is; none for everybody's."""
    if not owners:
        return ()
    tree = fold_tree({"secrets": {"ike": {"id": list(owners)}}})
    sections = validate_all(tree, "secrets", SecretSection, tree.secrets)
    if tree.problems:
        raise ConfigError([Problem(f"secrets.{name}.id", problem.message) for problem in tree.problems])
    return sections["ike"].id


def check_secret(name: str, kind: str, secret: Secret, *, allow_weak: bool) -> str | None:
    """The warnings; ConfigError for a kind that we do not know, and for a pre-shared key
    that can be guessed, which is then closed.
    """
    word = kind.strip().lower()
    try:
        if word != "ike":
            later = word in SECRET_TYPES_LATER
            what = "secrets of this type are not supported by this version" if later else "unknown type of secret"
            raise SecretError(f"{what}; write ike for a pre-shared key")
        if len(secret) > MAX_SECRET_BYTES:
            raise SecretError(f"is longer than {MAX_SECRET_BYTES} bytes")
        if not allow_weak or not len(secret):
            refuse_short(secret, "it", ", which is loaded first: swanctl --load-conns, then --load-creds")
        warning = warn_of_weakness(secret, "it")
        return None if warning is None else str(Problem(f"secrets.{name}", warning))
    except SecretError as error:
        secret.close()
        raise ConfigError([Problem(f"secrets.{name}", str(error))]) from None
