"""From a configuration file to frozen, checked values for the daemon; every problem of the file at once.

The file is swanctl.conf's tree written in TOML, plus `[gateway]`. Steps: TOML, one shape (config_tree.py), models
(config_model.py), secrets (config_secrets.py), what spans sections (config_check.py). Never a secret in a repr or an
error text. Called by cli.py (`gateway`, `check-config`).
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..crypto.secret import Secret
from ..dataplane.offload import Offload
from ..errors import ConfigError, Problem, SecretError
from ..ike.config import ConnectionConfig
from ..policy.credentials import SharedKey
from .config_check import check_connections, serves, warn_connections, warn_sections
from .config_keys import did_you_mean
from .config_model import ConnectionSection, GatewaySection, Mss, MtuProbe, SecretSection, section_at
from .config_secrets import (
    SHORT_SECRET_BYTES,
    check_private,
    decode_inline_secret,
    read_secret_file,
    refuse_short,
    warn_of_weakness,
)
from .config_state import DEFAULT_STATE_DIR, default_state_dir, read_state_key
from .config_tree import Location, Tree, fold_tree
from .vici import DEFAULT_SOCKET

__all__ = ["DEFAULT_SOCKET", "GatewaySettings", "LoadedConfig", "Mss", "Offload", "SharedKey", "load_config"]

MAX_CONFIG_BYTES = 16 * 1024 * 1024
NUMBERS = "whole numbers go from -9223372036854775808 to 9223372036854775807"
SectionT = TypeVar("SectionT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    socket: str = DEFAULT_SOCKET
    tun: str = "ipsec0"
    workers: int = 0  # 0: one for each processor
    engine: str = "auto"
    offload: Offload = field(default_factory=Offload)
    state_dir: str = DEFAULT_STATE_DIR
    state_mark: str | None = None
    ike_fragment_bytes: int = 1280


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """`start`: (connection, child) pairs to initiate at once; `trap`: those that packets begin. `mss`, `mtu_probe`: by connection name.

    `warnings`: one line each. `state_key`: None where no state is to be written. `path`: its file.
    """

    settings: GatewaySettings
    connections: tuple[ConnectionConfig, ...]
    start: tuple[tuple[str, str], ...]
    trap: tuple[tuple[str, str], ...]
    mss: Mapping[str, Mss]
    mtu_probe: Mapping[str, MtuProbe]
    secrets: tuple[SharedKey, ...]
    warnings: tuple[str, ...] = ()
    state_key: Secret | None = None
    path: Path | None = None


def load_config(path: Path) -> LoadedConfig:
    """Read, check and convert; ConfigError holds every problem with its path in the tree."""
    text, status = _read_text(path)
    document = _parse_toml(text)
    check_numbers(document)
    tree = fold_tree(document)
    gateway = _validate(tree, ("gateway",), GatewaySection, tree.gateway)
    connections = validate_all(tree, "connections", ConnectionSection, tree.connections)
    sections = validate_all(tree, "secrets", SecretSection, tree.secrets)
    if tree.inline_secrets:
        _check_inline_allowed(tree, status, path)
    secrets = _load_secrets(tree, sections, connections, path.absolute().parent)
    state_key = _load_state_key(tree, gateway, path.absolute().parent)
    secrets_known = len(sections) == len(tree.secrets) and not any(p.path.startswith("secrets") for p in tree.problems)
    secret_ids = {name: section.id for name, section in sections.items()}
    weak = {entry.name for entry in secrets if entry.needs_allow_weak}
    for location, message in check_connections(connections, secret_ids, secrets_known, weak):
        tree.blame(location, message)
    if tree.problems or gateway is None:
        for entry in secrets:
            entry.secret.close()
        if state_key is not None:
            state_key.close()
        raise ConfigError(tree.problems)
    for location, message in warn_sections(connections):
        tree.warn(location, message)
    return _build(tree, gateway, connections, secrets, state_key, path)


def _build(
    tree: Tree,
    gateway: GatewaySection,
    connections: Mapping[str, ConnectionSection],
    secrets: tuple[SharedKey, ...],
    state_key: Secret | None,
    path: Path,
) -> LoadedConfig:
    built = tuple(section.build(name) for name, section in connections.items())
    warnings = [str(one) for one in tree.warnings]
    warnings += [str(Problem(tree.path_text(where), message)) for where, message in warn_connections(built)]
    if tree.inline_secrets:
        names = ", ".join(f"secrets.{name}" for name in tree.inline_secrets)
        warnings.append(f'{names}: secret = "..." leaves copies of the secret in memory; file = "..." does not')
    return LoadedConfig(
        settings=GatewaySettings(
            socket=gateway.socket,
            tun=gateway.tun,
            workers=gateway.workers,
            engine=gateway.engine,
            offload=gateway.offload.build(),
            state_dir=gateway.state_dir or default_state_dir(gateway.socket),
            state_mark=gateway.state_mark,
            ike_fragment_bytes=gateway.ike_fragment_bytes,
        ),
        connections=built,
        start=tuple(
            (name, child_name)
            for name, section in connections.items()
            for child_name, child in section.children.items()
            if child.start_action.starts
        ),
        trap=tuple((one.name, child.name) for one in built for child in one.children if child.start_action.traps),
        mss={name: section.mss for name, section in connections.items()},
        mtu_probe={name: section.mtu_probe for name, section in connections.items()},
        secrets=secrets,
        warnings=tuple(warnings),
        state_key=state_key,
        path=path,
    )


def _read_text(path: Path) -> tuple[str, os.stat_result]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"is longer than {MAX_CONFIG_BYTES} bytes: not a configuration file")
    try:
        return data.decode(), status
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})") from None


def _parse_toml(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = ""
        if re.search(r"^\s*(connections|secrets|children|include)\s*(\{|\S+\.conf)", text, re.MULTILINE):
            hint = "; this looks like swanctl.conf: write the same tree in TOML, [connections.paris] for its sections"
        raise ConfigError(f"not TOML: {error}{hint}") from None
    except ValueError:  # a number of more digits than int() takes
        line = next(
            (n for n, one in enumerate(text.splitlines(), 1) if re.search(r"\d{4000}", one.replace("_", ""))), 0
        )
        raise ConfigError(f"line {line}: a number of thousands of digits; {NUMBERS}") from None
    except RecursionError:
        raise ConfigError("not a configuration: nested too deeply") from None


def check_numbers(document: Mapping[str, object]) -> None:
    """ConfigError for what no key can mean: whole numbers that TOML does not have, nan and inf."""
    problems: list[Problem] = []
    waiting: list[tuple[Location, object]] = [((), document)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [((*where, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [((*where, place), item) for place, item in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            problems.append(Problem(Tree().path_text(where), f"is no number that TOML has; {NUMBERS}"))
        elif isinstance(value, float) and math.isnan(value):
            problems.append(Problem(Tree().path_text(where), "nan is no number; write one, such as 5"))
    if problems:
        raise ConfigError(problems)


def validate_all(
    tree: Tree, kind: str, model: type[SectionT], sections: Mapping[str, dict[str, object]]
) -> dict[str, SectionT]:
    found = ((name, _validate(tree, (kind, name), model, section)) for name, section in sections.items())
    return {name: section for name, section in found if section is not None}


def _validate(tree: Tree, location: Location, model: type[SectionT], section: Mapping[str, object]) -> SectionT | None:
    try:
        return model.model_validate(section)
    except ValidationError as error:
        for detail in error.errors(include_input=False, include_url=False):
            where = (*location, *detail["loc"])
            tree.blame(where, _explain(detail["type"], detail.get("ctx", {}), detail["msg"], where))
        return None


def _explain(kind: str, context: Mapping[str, object], message: str, where: Location) -> str:
    """pydantic's error in the user's words, without the value."""
    match kind:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            model = section_at(where[:-1])
            return "unknown key" + (did_you_mean(str(where[-1]), _known_keys(model)) if model else "")
        case "missing" if where[-1] in ("local", "remote"):
            return f'missing; add {where[-1]} = {{ auth = "psk", id = "{where[-1]}.example" }}'
        case "missing" if where[-1] == "auth":
            return 'missing; swanctl.conf then means pubkey, which this version does not support; write auth = "psk"'
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a section, written as a TOML table"
    return message


def _known_keys(model: type[BaseModel]) -> list[str]:
    # `secret` is known too, though no model ever sees it
    return [*model.model_fields, *(["secret"] if model is SecretSection else [])]


def _check_inline_allowed(tree: Tree, status: os.stat_result, path: Path) -> None:
    try:
        check_private(status, path)
    except SecretError as error:
        first = next(iter(tree.inline_secrets))
        tree.blame(("secrets", first, "secret"), f"stands in a file that is not private: {error}")


def _load_state_key(tree: Tree, gateway: GatewaySection | None, folder: Path) -> Secret | None:
    if gateway is None:
        return None
    state_dir = gateway.state_dir or default_state_dir(gateway.socket)
    if gateway.state_mark is not None and Path(gateway.state_mark).is_relative_to(state_dir):
        tree.blame(("gateway", "state_mark"), "must not lie in state_dir: a copy of the directory would hold it")
    try:
        return read_state_key(gateway.state_key, folder)
    except SecretError as error:
        tree.blame(("gateway", "state_key"), str(error))
        return None


def _load_secrets(
    tree: Tree, sections: Mapping[str, SecretSection], connections: Mapping[str, ConnectionSection], folder: Path
) -> tuple[SharedKey, ...]:
    entries = []
    weak = [one.build(name) for name, one in connections.items() if one.allow_weak]
    for name, section in sections.items():
        inline = name in tree.inline_secrets
        where: Location = ("secrets", name)
        if inline == (section.file is not None):
            both = (
                "has both file and secret; keep one" if inline else 'has neither file nor secret; add file = "NAME.psk"'
            )
            tree.blame(where, both)
            continue
        try:
            if section.file is not None:
                secret, what = read_secret_file(folder / section.file, at_least=0), str(folder / section.file)
            else:
                secret, what = decode_inline_secret(tree.inline_secrets[name]), "the secret"
            is_allowed = section.allow_weak or any(serves(section.id, one) for one in weak)
            if not is_allowed or not len(secret):
                refuse_short(secret, what)
            warning = warn_of_weakness(secret, what)
        except SecretError as error:
            tree.blame((*where, "secret" if inline else "file"), str(error))
            continue
        if warning is not None:
            tree.warn((*where, "secret" if inline else "file"), warning)
        is_short = len(secret) < SHORT_SECRET_BYTES
        entries.append(SharedKey(name, section.id, secret, is_short and not section.allow_weak))
    return tuple(entries)
