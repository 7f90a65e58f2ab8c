"""SAs and connections as list-sas and list-conns show them: charon's keys, charon's values, absent numbers left out.

`mtu`, `mss_ipv4`, `mss_ipv6`, `path-mtu*`, `worker`, `cores` and `narrowed` of a child are ours; so is `silent` of an
IKE SA: seconds since its peer was found silent. `per-cpu-sas` and `cpu` (RFC 9611) are charon's keys; a CPU of theirs
is a worker of ours. Called by commands.py and announce.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...control.resources import cores_of, group_of
from ...control.spi import worker_of
from ...iana import Encr, Group, IdType, Integ, Prf, TransformType, name_of
from ...ike.config import Action, ChildConfig, ConnectionConfig
from ...ike.events import ChildView, IkeView
from ...model import IDENTITY_TEXT, DynamicSelector, Identity, Proposal, TrafficSelector
from .control import ChildCounters, ChildPath, GatewayControl

Section = dict[str, Any]
NOTHING_YET: ChildCounters = {"bytes_in": 0, "packets_in": 0, "bytes_out": 0, "packets_out": 0}  # not in the dataplane


def sa_section(view: IkeView, control: GatewayControl, children: Iterable[ChildView] | None = None) -> Section:
    """One IKE SA with `children` (all of its own where None), without its name round it."""
    section = ike_section(view, control.now())
    shown = view.children if children is None else children
    section["child-sas"] = {f"{c.name}-{c.child_id}": child_section(c, control, view.children) for c in shown}
    return section


def broken_section(view: IkeView, reason: str) -> Section:
    """The entry for an IKE SA that cannot be shown: numbers and addresses only, and the reason."""
    return {
        "uniqueid": view.ike_id,
        "version": 2,
        "state": view.state,
        "local-host": str(view.path.local),
        "local-port": view.path.local_port,
        "local-id": "%any",
        "remote-host": str(view.path.remote),
        "remote-port": view.path.remote_port,
        "remote-id": "%any",
        "error": reason,
        "child-sas": {},
    }


def ike_section(view: IkeView, now: float) -> Section:
    nat = view.nat_local or view.nat_remote or view.nat_fake
    return {
        "uniqueid": view.ike_id,
        "version": 2,
        "state": view.state,
        "local-host": str(view.path.local),
        "local-port": view.path.local_port,
        "local-id": _identity_text(view.local_id),
        "local-id-type": _identity_type(view.local_id),
        "remote-host": str(view.path.remote),
        "remote-port": view.path.remote_port,
        "remote-id": _identity_text(view.remote_id),
        "remote-id-type": _identity_type(view.remote_id),
        "initiator": True if view.initiator else None,
        "initiator-spi": view.spi_i.hex(),
        "responder-spi": view.spi_r.hex(),
        "nat-local": True if view.nat_local else None,
        "nat-remote": True if view.nat_remote else None,
        "nat-fake": True if view.nat_fake else None,
        "nat-any": True if nat else None,
        **(_proposal_keys(view.proposal) if view.proposal else {}),
        "established": _seconds_since(view.established_at, now),
        "rekey-time": _seconds_until(view.rekey_at, now),
        "reauth-time": _seconds_until(view.reauth_at, now),
        "silent": _seconds_since(view.silent_since, now),
        "tasks-queued": list(view.tasks_queued) or None,
        "tasks-active": list(view.tasks_active) or None,
        "tasks-passive": list(view.tasks_passive) or None,
    }


def child_section(child: ChildView, control: GatewayControl, siblings: Iterable[ChildView]) -> Section:
    """`siblings`: the Child SAs of its IKE SA."""
    now = control.now()
    counters = control.child_counters(child.child_id) or NOTHING_YET
    integrity = child.suite.integrity
    return {
        "name": child.name,
        "uniqueid": child.child_id,
        "reqid": child.child_id,
        "state": child.state,
        "mode": "TUNNEL",
        "protocol": "ESP",
        "encap": True if child.encap else None,
        "spi-in": f"{child.spi_in:08x}",
        "spi-out": f"{child.spi_out:08x}",
        "encr-alg": child.suite.encryption.id.name,
        "encr-keysize": child.suite.encryption.key_bits,
        "integ-alg": integrity.id.name if integrity else None,
        "dh-group": name_of(Group, child.group) if child.group else None,
        "esn": 1 if child.esn else None,
        "bytes-in": counters.get("bytes_in"),
        "packets-in": counters.get("packets_in"),
        "use-in": counters.get("use_in_s"),
        "bytes-out": counters.get("bytes_out"),
        "packets-out": counters.get("packets_out"),
        "use-out": counters.get("use_out_s"),
        "rekey-time": _seconds_until(child.rekey_at, now),
        "life-time": _seconds_until(child.life_at, now),
        "install-time": _seconds_since(child.installed_at, now),
        "local-ts": _selector_texts(child.local_ts),
        "remote-ts": _selector_texts(child.remote_ts),
        "narrowed": child.narrowed or None,
        "per-cpu-sas": True if child.in_group else None,
        "cpu": child.resource,
        "worker": worker_of(child.spi_in, control.workers),
        "cores": cores_of(
            [c for c in siblings if group_of(c) == group_of(child)], control.workers, counters.get("crew", 0)
        ),
        **(control.child_mtu(child.child_id) or {}),
        **_path_keys(control, child.child_id, now),
    }


def mtu_section(view: IkeView, child: ChildView, path: ChildPath, now: float) -> Section:
    """One child as list-mtu shows it, without its name round it."""
    return {
        "ike": view.connection,
        "name": child.name,
        "uniqueid": child.child_id,
        "algorithm": child.suite.name,
        "protocol": "ESP",
        "mode": "TUNNEL",
        "outer": path["outer_version"],
        "inner": path["inner_version"],
        "encap": True if child.encap else None,
        "copy_df": path["copy_df"],
        "cuts": path["cuts"],
        "ipv6": True if any(ts.version == 6 for ts in child.remote_ts) else None,
        "path-mtu": path["path_mtu"],
        "max_inner_bytes": path["max_inner_bytes"],
        "mss_ipv4": path["mss_ipv4"],
        "mss_ipv6": path["mss_ipv6"],
        **{
            name: {
                "path-mtu": found["path_mtu"],
                "age": _seconds_since(child.installed_at if found["at"] is None else found["at"], now),
            }
            for name, found in path["findings"].items()
        },
    }


def _path_keys(control: GatewayControl, child_id: int, now: float) -> Section:
    path = control.path_view(child_id)
    if path is None:
        return {}
    return {
        "path-mtu": path.mtu,
        "path-mtu-source": path.source,
        "path-mtu-age": _seconds_since(path.since, now),
        "path-mtu-probing": path.probing,
    }


def connection_section(connection: ConnectionConfig) -> Section:
    """One connection as list-conn shows it, without its name round it."""
    return {
        "local_addrs": [str(address) for address in connection.local_addrs] or ["%any"],
        "remote_addrs": [str(address) for address in connection.remote_addrs] or ["%any"],
        "version": "IKEv2",
        "reauth_time": connection.lifetimes.reauth_time_s,
        "rekey_time": connection.lifetimes.rekey_time_s,
        "unique": f"UNIQUE_{connection.unique.name}",
        "dpd_delay": connection.dpd_delay_s or None,
        "dpd_timeout": connection.dpd_timeout_s if connection.dpd_delay_s else None,
        "local-1": _auth_section(connection.local_id),
        "remote-1": _auth_section(connection.remote_id),
        "children": {child.name: _child_config_section(child) for child in connection.children},
    }


def policy_section(child: ChildConfig) -> Section:
    """A child that is trapped, as list-policy shows it."""
    return {
        "mode": "TUNNEL",
        "local-ts": _configured_texts(child.local_ts, child.local_dynamic),
        "remote-ts": _configured_texts(child.remote_ts, child.remote_dynamic),
    }


def _auth_section(identity: Identity | None) -> Section:
    identity_text = {} if identity is None else {"id": str(identity)}
    return {"class": "pre-shared key", **identity_text, "groups": [], "certs": [], "cacerts": []}


def _child_config_section(child: ChildConfig) -> Section:
    return {
        "mode": "TUNNEL",
        "rekey_time": child.lifetimes.time.rekey,
        "rekey_bytes": child.lifetimes.bytes.rekey,
        "rekey_packets": child.lifetimes.packets.rekey,
        "dpd_action": "clear" if child.dpd_action is Action.NONE else child.dpd_action.value,
        "close_action": child.close_action.value,
        "local-ts": _configured_texts(child.local_ts, child.local_dynamic),
        "remote-ts": _configured_texts(child.remote_ts, child.remote_dynamic),
    }


def _proposal_keys(proposal: Proposal) -> Section:
    keys: Section = {}
    if encr := proposal.one(TransformType.ENCR):
        keys |= {"encr-alg": name_of(Encr, encr.id), "encr-keysize": encr.key_bits}
    integ = proposal.one(TransformType.INTEG)
    if integ and integ.id != Integ.NONE:
        keys["integ-alg"] = name_of(Integ, integ.id)
    if prf := proposal.one(TransformType.PRF):
        keys["prf-alg"] = name_of(Prf, prf.id)
    if group := proposal.one(TransformType.KE):
        keys["dh-group"] = name_of(Group, group.id)
    return keys


def _identity_text(identity: Identity | None) -> str:
    if identity is None:
        return "%any"
    # charon prints a printable KEY_ID as text; with its type as prefix it cannot be mistaken for a name
    if identity.type == IdType.KEY_ID and identity.data.isascii() and identity.data.decode("ascii").isprintable():
        return f"keyid:{identity.data[:IDENTITY_TEXT].decode('ascii')}"
    return str(identity)


def _identity_type(identity: Identity | None) -> str | None:
    return None if identity is None else name_of(IdType, identity.type)


def _selector_texts(selectors: Iterable[TrafficSelector]) -> list[str]:
    return [str(selector) for selector in selectors]


def _configured_texts(fixed: Sequence[TrafficSelector], dynamic: Sequence[DynamicSelector]) -> list[str]:
    return [*map(str, dynamic), *map(str, fixed)] or ["dynamic"]


def _seconds_since(moment: float | None, now: float) -> int | None:
    return None if moment is None else max(0, int(now - moment))


def _seconds_until(moment: float | None, now: float) -> int | None:
    return None if moment is None else max(0, int(moment - now))
