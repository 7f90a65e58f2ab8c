"""What a configuration file becomes: frozen, checked values for the daemon. Never a secret in a repr or an error text.

`load_config(path)` reads swanctl.conf's tree written in TOML. Called by cli.py (`gateway`, `check-config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..ike.config import ConnectionConfig
from ..model import Identity

if TYPE_CHECKING:
    from ..crypto.secret import Secret

DEFAULT_SOCKET = "/run/ipsec-fast.vici"
Mss = int | Literal["auto", "off"]


@dataclass(frozen=True, slots=True)
class OffloadSettings:
    """Names as in the dataplane's `Offload`: `Offload(**dataclasses.asdict(settings.offload))`."""

    tso: bool = True
    uso: bool = True
    udp_segment: bool = True
    udp_gro: bool = True
    coalesce: bool = True


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    socket: str = DEFAULT_SOCKET
    tun: str = "ipsec0"
    workers: int = 1
    engine: str = "auto"
    offload: OffloadSettings = OffloadSettings()


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """A PSK and whose it is. No `ids`: for every pair of identities that has no better entry."""

    name: str
    ids: tuple[Identity, ...]
    secret: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """`start`: (connection, child) pairs to initiate at once. `mss`: by connection name. `warnings`: one line each."""

    settings: GatewaySettings
    connections: tuple[ConnectionConfig, ...]
    start: tuple[tuple[str, str], ...]
    mss: Mapping[str, Mss]
    secrets: tuple[SecretEntry, ...]
    warnings: tuple[str, ...] = ()


def load_config(path: Path) -> LoadedConfig:
    """Read, check and convert; ConfigError holds every problem with its path."""
    raise NotImplementedError(path)
