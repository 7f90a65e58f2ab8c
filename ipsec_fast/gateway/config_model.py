"""The pydantic models of swanctl.conf's tree: what each section may hold, with the default of every key.

One model serves the file and, later, vici's load-conn: values may be TOML's types or plain strings. The tree is brought
into one shape first (config_tree.py). What spans sections is checked in config_check.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from ..algorithms import default_esp_proposals, default_ike_proposals
from ..dataplane.offload import Offload
from ..ike.config import Action, ChildConfig, ConnectionConfig, Fragmentation, Unique
from ..ike.lifetimes import ChildLifetimes, IkeLifetimes, count_limits, ike_lifetimes, time_limits
from ..model import Address, DynamicSelector, Identity, TrafficSelector
from .config_actions import (
    CloseAction,
    DpdAction,
    DpdTimeout,
    FragmentationPolicy,
    Overlap,
    PerCpuSas,
    PerCpuSasMax,
    StartAction,
    UniquePolicy,
)
from .config_fields import (
    Addresses,
    Bytes,
    EspProposals,
    IkeProposals,
    MaybeIdentity,
    OwnIdentity,
    Packets,
    Seconds,
    Selectors,
    YesNo,
    parse_identity,
    parse_words,
)
from .config_keys import nearest
from .config_state import parse_key_file, parse_state_path
from .vici import DEFAULT_SOCKET

MAX_SOCKET_PATH_BYTES = 107  # sun_path, less its zero byte
WORKERS_MAX = 64
MSS_MIN, MSS_MAX = 88, 65495
FRAGMENT_MIN, FRAGMENT_MAX = 576, 65535
MTU_PROBES = 8
Mss = int | Literal["auto", "off"]
MtuProbe = Literal["auto", "off"] | tuple[Address, ...]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _parse_socket(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a path")
    path = value.removeprefix("unix://")
    if not path.startswith("/"):
        raise ValueError("must be an absolute path, for example " + DEFAULT_SOCKET)
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES or "\0" in path:
        raise ValueError(f"is longer than the {MAX_SOCKET_PATH_BYTES} bytes that a socket's path may have")
    return path


def _parse_tun(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(?!\.{1,2}$)[^\s/%:]{1,15}", value):
        raise ValueError("must be an interface name of 1 to 15 characters, without / % : or spaces, such as ipsec0")
    return value


def _parse_workers(value: object) -> int:
    """How many; 0 stands for "auto"."""
    text = str(value).strip()
    if text == "auto":
        return 0
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= WORKERS_MAX:
        raise ValueError(f'must be "auto" (one for each processor we may run on) or a number from 1 to {WORKERS_MAX}')
    return int(text)


def _parse_engine(value: object) -> str:
    if value == "null":
        raise ValueError(
            "engine 'null' encrypts nothing and is for `ipsec-fast bench gateway` alone; write auto, openssl or ipsecmb"
        )
    if value not in ("auto", "openssl", "ipsecmb"):
        raise ValueError('must be "auto", "openssl" or "ipsecmb"' + nearest(value, ("auto", "openssl", "ipsecmb")))
    return str(value)


def _parse_version(value: object) -> int:
    word = str(value).strip()
    if isinstance(value, bool) or word not in ("1", "2"):
        raise ValueError("must be 2")
    if word == "1":
        raise ValueError("IKEv1 is not supported by this version; write 2 or leave it out")
    return 2


def _parse_auth(value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else "this"
    if word == "psk":
        return "psk"
    if word.startswith(("pubkey", "eap", "xauth", "ike:", "rsa", "ecdsa", "any")):
        raise ValueError(f'auth {word!r} is not supported by this version; write "psk"')
    raise ValueError('must be "psk"' + nearest(word, ("psk",)))


def _parse_mode(value: object) -> str:
    word = str(value).strip().lower()
    if word == "tunnel":
        return word
    if word in ("transport", "transport_proxy", "beet", "pass", "drop"):
        raise ValueError(f'mode {word!r} is not supported by this version; write "tunnel"')
    raise ValueError('must be "tunnel"' + nearest(word, ("tunnel",)))


def _parse_mss(value: object) -> Mss:
    word = str(value).strip().lower()
    if word == "auto":
        return "auto"
    if word == "off":
        return "off"
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,6}", word) or not MSS_MIN <= int(word) <= MSS_MAX:
        hint = nearest(value, ("auto", "off"))
        raise ValueError(f'must be "auto", "off" or a number from {MSS_MIN} to {MSS_MAX}{hint}')
    return int(word)


def _parse_fragment_bytes(value: object) -> int:
    word = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,6}", word) or not FRAGMENT_MIN <= int(word) <= FRAGMENT_MAX:
        raise ValueError(f"must be the size of an IP datagram, from {FRAGMENT_MIN} to {FRAGMENT_MAX}")
    return int(word)


def _parse_mtu_probe(value: object) -> MtuProbe:
    words = [] if isinstance(value, bool) else [str(word).strip() for word in parse_words(value)]
    if words == ["auto"]:
        return "auto"
    if words == ["off"]:
        return "off"
    try:
        addresses = tuple(ipaddress.ip_address(word) for word in words)
    except ValueError:
        addresses = ()
    if not 0 < len(addresses) <= MTU_PROBES:
        raise ValueError(f'must be "auto", "off" or up to {MTU_PROBES} addresses behind the peer that answer pings')
    return addresses


def _parse_identities(value: object) -> tuple[Identity, ...]:
    words = parse_words(value)
    if not words:
        raise ValueError("must not be empty; leave it out for a secret that serves every pair of identities")
    identities = tuple(identity for identity in map(parse_identity, words) if identity is not None)
    return identities if len(identities) == len(words) else ()  # %any: serves everybody


def _parse_file(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be the path of a file that holds the secret, seen from this file's folder")
    return value


def section_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model of the section that a location such as ("connections", "paris", "local") names."""
    match location:
        case ("gateway",):
            return GatewaySection
        case ("gateway", "offload"):
            return OffloadSection
        case ("connections", _):
            return ConnectionSection
        case ("connections", _, "local" | "remote"):
            return AuthSection
        case ("connections", _, "children", _):
            return ChildSection
        case ("secrets", _):
            return SecretSection
    return None


class OffloadSection(Section):
    tso: YesNo = True
    uso: YesNo = True
    udp_segment: YesNo = True
    udp_gro: YesNo = True
    coalesce: YesNo = True

    def build(self) -> Offload:
        return Offload(**self.model_dump())


class GatewaySection(Section):
    socket: Annotated[str, PlainValidator(_parse_socket)] = DEFAULT_SOCKET
    tun: Annotated[str, PlainValidator(_parse_tun)] = "ipsec0"
    workers: Annotated[int, PlainValidator(_parse_workers)] = 0
    engine: Annotated[str, PlainValidator(_parse_engine)] = "auto"
    offload: OffloadSection = OffloadSection()
    ike_fragment_bytes: Annotated[int, PlainValidator(_parse_fragment_bytes)] = 1280
    state_dir: Annotated[str | None, PlainValidator(parse_state_path)] = None
    state_mark: Annotated[str | None, PlainValidator(parse_state_path)] = None
    state_key: Annotated[str | None, PlainValidator(parse_key_file)] = None


class AuthSection(Section):
    """`local` or `remote`: how that side proves who it is. `id` left out: our address there, anybody here."""

    auth: Annotated[str, PlainValidator(_parse_auth)]
    id: MaybeIdentity = None


class LocalSection(AuthSection):
    id: OwnIdentity = None


class ChildSection(Section):
    local_ts: Selectors = ()  # () is dynamic
    remote_ts: Selectors = ()
    esp_proposals: EspProposals = Field(default_factory=default_esp_proposals)
    mode: Annotated[str, PlainValidator(_parse_mode)] = "tunnel"
    start_action: StartAction = Action.NONE
    dpd_action: DpdAction = Action.NONE
    close_action: CloseAction = Action.NONE
    rekey_time: Seconds = 3600.0
    life_time: Seconds | None = None
    rand_time: Seconds | None = None
    rekey_bytes: Bytes = 0
    life_bytes: Bytes | None = None
    rand_bytes: Bytes | None = None
    rekey_packets: Packets = 0
    life_packets: Packets | None = None
    rand_packets: Packets | None = None
    inactivity: Seconds = 0.0
    copy_df: YesNo = True
    per_cpu_sas: PerCpuSas = None
    per_cpu_sas_max: PerCpuSasMax = 0
    overlap: Overlap = False

    def lifetimes(self) -> ChildLifetimes:
        rekey_s = self.rekey_time
        if self.life_time == rekey_s:  # other products write it so; config_lifetimes warns
            rekey_s = rekey_s * 10 / 11
        return ChildLifetimes(
            time=time_limits(rekey_s, self.life_time, self.rand_time),
            bytes=count_limits(self.rekey_bytes, self.life_bytes, self.rand_bytes),
            packets=count_limits(self.rekey_packets, self.life_packets, self.rand_packets),
            inactivity_s=self.inactivity,
        )

    def build(self, name: str) -> ChildConfig:
        return ChildConfig(
            name,
            _fixed(self.local_ts),
            _fixed(self.remote_ts),
            self.esp_proposals,
            self.lifetimes(),
            start_action=self.start_action,
            dpd_action=self.dpd_action,
            close_action=self.close_action,
            copy_df=self.copy_df,
            per_resource=self.per_cpu_sas,
            per_resource_max=self.per_cpu_sas_max,
            overlap=self.overlap,
            local_dynamic=_dynamic(self.local_ts),
            remote_dynamic=_dynamic(self.remote_ts),
        )


def _fixed(selectors: Iterable[TrafficSelector | DynamicSelector]) -> tuple[TrafficSelector, ...]:
    return tuple(one for one in selectors if isinstance(one, TrafficSelector))


def _dynamic(selectors: Iterable[TrafficSelector | DynamicSelector]) -> tuple[DynamicSelector, ...]:
    return tuple(one for one in selectors if isinstance(one, DynamicSelector))


class ConnectionSection(Section):
    version: Annotated[int, PlainValidator(_parse_version)] = 2
    local_addrs: Addresses = ()
    remote_addrs: Addresses = ()
    proposals: IkeProposals = Field(default_factory=default_ike_proposals)
    encap: YesNo = True
    rekey_time: Seconds | None = None
    reauth_time: Seconds | None = None
    over_time: Seconds | None = None
    rand_time: Seconds | None = None
    dpd_delay: Seconds = 5.0
    dpd_timeout: DpdTimeout = 4.0
    unique: UniquePolicy = Unique.NO
    fragmentation: FragmentationPolicy = Fragmentation.YES
    allow_weak: YesNo = False
    mss: Annotated[Mss, PlainValidator(_parse_mss)] = "auto"
    mtu_probe: Annotated[MtuProbe, PlainValidator(_parse_mtu_probe)] = "auto"
    local: LocalSection
    remote: AuthSection
    children: dict[str, ChildSection] = Field(default_factory=dict)

    def lifetimes(self) -> IkeLifetimes:
        return ike_lifetimes(self.rekey_time, self.reauth_time, self.over_time, self.rand_time)

    def build(self, name: str) -> ConnectionConfig:
        return ConnectionConfig(
            name=name,
            local_addrs=self.local_addrs,
            remote_addrs=self.remote_addrs,
            proposals=self.proposals,
            local_id=self.local.id,
            remote_id=self.remote.id,
            encap=self.encap,
            children=tuple(child.build(child_name) for child_name, child in self.children.items()),
            lifetimes=self.lifetimes(),
            dpd_delay_s=self.dpd_delay,
            dpd_timeout_s=self.dpd_timeout,
            unique=self.unique,
            fragmentation=self.fragmentation,
            any_identity=self.remote.id is None and "id" in self.remote.model_fields_set,
            allow_weak=self.allow_weak,
        )


class SecretSection(Section):
    """`secrets.ike*`. `secret` never reaches a model: config_secrets.py takes it out of the tree first."""

    id: Annotated[tuple[Identity, ...], PlainValidator(_parse_identities)] = ()
    file: Annotated[str | None, PlainValidator(_parse_file)] = None
    allow_weak: YesNo = False
