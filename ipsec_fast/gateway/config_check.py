"""What spans sections: a secret for every connection, an address to initiate to, names that a user could mix up.

Called by config.py when every section is sound by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ..algorithms import weak_groups, weak_words
from ..control.children import POLICIES_MAX, ROUTES_MAX
from ..iana import IdType
from ..ike.config import Action, ConnectionConfig
from ..ike.v2.narrow import PAYLOAD_SELECTORS, foldable
from ..model import DynamicSelector, Identity, TrafficSelector
from .config_lifetimes import check_child_lifetimes, check_ike_lifetimes, warn_child_lifetimes
from .config_model import ChildSection, ConnectionSection
from .config_tree import Location

Blame = tuple[Location, str]
ADDRESS_TYPES = (IdType.IPV4_ADDR, IdType.IPV6_ADDR)


def check_connections(
    connections: Mapping[str, ConnectionSection],
    secret_ids: Mapping[str, tuple[Identity, ...]],
    all_secrets_known: bool,
    weak_secrets: Collection[str] = (),
) -> Iterator[Blame]:
    """Problems. Where some secret section is broken, nothing is said about secrets that seem missing.

    `weak_secrets`: the names of those that only a connection with `allow_weak` may use.
    """
    for name, section in connections.items():
        connection = section.build(name)
        usable = [ids for key, ids in secret_ids.items() if section.allow_weak or key not in weak_secrets]
        if all_secrets_known and not _has_secret(connection, usable):
            if _has_secret(connection, secret_ids.values()):
                text = "its secret is too short for it; make a longer one, or write allow_weak = true here too"
            else:
                text = f"no secret for it; {_wanted_secret(connection)}"
            yield ("connections", name), text
        yield from _check_who(name, connection)
        yield from check_ike_lifetimes(("connections", name), section)
        yield from _check_weak(("connections", name), section)
        for child_name, child in section.children.items():
            where = ("connections", name, "children", child_name)
            yield from check_child_lifetimes(where, child)
            for key, action in _actions(child):
                if action is not Action.NONE and not connection.remote_addrs:
                    text = f"{action.value} needs an address to go to; add remote_addrs to the connection"
                    yield (*where, key), text
                elif action.traps and child.build(child_name).needs_local_address and not connection.local_addrs:
                    yield (*where, key), "trap with local_ts = dynamic needs local_addrs in the connection"
            sides = (child.local_ts, child.remote_ts)
            versions = [{ts.version for ts in side if isinstance(ts, TrafficSelector)} for side in sides]
            is_fixed = not any(isinstance(ts, DynamicSelector) for side in sides for ts in side)
            if is_fixed and all(versions) and not versions[0] & versions[1]:
                yield where, "local_ts and remote_ts have no IP version in common"
            yield from _check_selectors(where, child, trapped=any(action.traps for _, action in _actions(child)))
            policies = max(1, len(child.local_ts)) * max(1, len(child.remote_ts))
            routes = sum(len(ts.networks()) if isinstance(ts, TrafficSelector) else 1 for ts in child.remote_ts)
            if policies > POLICIES_MAX or routes > ROUTES_MAX:
                needs = f"needs {policies} policies (local_ts times remote_ts) and {routes} routes"
                yield (
                    where,
                    f"{needs}; at most {POLICIES_MAX} and {ROUTES_MAX} are possible: split it into several children",
                )
        if connection.local_addrs and connection.remote_addrs:
            local, remote = ({a.version for a in side} for side in (connection.local_addrs, connection.remote_addrs))
            if not local & remote:
                yield ("connections", name), "local_addrs and remote_addrs have no IP version in common"
        yield from _check_probed(name, section)
        if set(connection.local_addrs) & set(connection.remote_addrs):
            yield ("connections", name, "remote_addrs"), "holds an address of local_addrs; the peer's is meant"
    yield from _check_doubles(secret_ids)


def _check_who(name: str, connection: ConnectionConfig) -> Iterator[Blame]:
    """A PSK does not say which of its holders a peer is, so an identity may be missing only on purpose."""
    local, remote = connection.local_id, connection.remote_id
    is_own = remote is not None and local is not None and remote.matches(local)
    if remote is not None and local is None:
        is_own = any(remote.matches(Identity.of_address(address)) for address in connection.local_addrs)
    if is_own:
        yield ("connections", name, "remote", "id"), f"{remote} is our own identity (local.id); write the peer's"
    if remote is None and not connection.remote_addrs and not connection.any_identity:
        yield (
            ("connections", name, "remote"),
            "without an id and without remote_addrs any holder of any of our secrets could be this peer; "
            'add id = "peer.example", or remote_addrs = ["192.0.2.2"], or, if that is meant, id = "%any"',
        )


def _check_weak(where: Location, section: ConnectionSection) -> Iterator[Blame]:
    """Groups that need `allow_weak`; one problem for each key that names some."""
    if section.allow_weak:
        return
    keys = [((*where, "proposals"), section.proposals)]
    keys += [((*where, "children", name, "esp_proposals"), one.esp_proposals) for name, one in section.children.items()]
    for key, proposals in keys:
        if words := weak_groups(proposals):
            yield (
                key,
                f"{', '.join(words)} can be broken by whoever records the exchange (RFC 8247 section 2.4); write modp2048 or "
                "x25519, or allow_weak = true in the connection",
            )


def _check_probed(name: str, section: ConnectionSection) -> Iterator[Blame]:
    """An echo to an address that no child may send to would never leave; `dynamic` may turn out to be any."""
    remote = [ts for child in section.children.values() for ts in child.remote_ts if isinstance(ts, TrafficSelector)]
    dynamic = any(child.build("").needs_remote_address for child in section.children.values())
    if isinstance(section.mtu_probe, str) or dynamic:
        return
    for address in section.mtu_probe:
        if not any(ts.version == address.version and int(ts.start) <= int(address) <= int(ts.end) for ts in remote):
            yield (
                ("connections", name, "mtu_probe"),
                f"{address} lies in no remote_ts of its children; name addresses behind the peer",
            )


def _check_selectors(where: Location, child: ChildSection, *, trapped: bool) -> Iterator[Blame]:
    """Sides with more selectors than one Child SA can be offered with, even after adjacent ones are joined."""
    most = PAYLOAD_SELECTORS - trapped
    for key, side in (("local_ts", child.local_ts), ("remote_ts", child.remote_ts)):
        fixed = [ts for ts in side if isinstance(ts, TrafficSelector)]
        dynamic = len(side) - len(fixed)
        count = len(foldable(fixed, most - dynamic)) + dynamic
        if count > most:
            joined = f", {count} where neighbours are joined" if count < len(side) else ""
            place = "; one more place is for the packet that a trap tells of" if trapped else ""
            text = f"has {len(side)} selectors{joined}; at most {most} fit into one Child SA (RFC 7296 section 3.13){place}"
            yield (*where, key), f"{text}: split it into several children"


def _actions(child: ChildSection) -> Iterator[tuple[str, Action]]:
    yield "start_action", child.start_action
    yield "dpd_action", child.dpd_action
    yield "close_action", child.close_action


def warn_sections(connections: Mapping[str, ConnectionSection]) -> Iterator[Blame]:
    """Warnings that need the words as they were written."""
    for name, section in connections.items():
        for child_name, child in section.children.items():
            yield from warn_child_lifetimes(("connections", name, "children", child_name), child)


def serves(ids: Sequence[Identity], connection: ConnectionConfig) -> bool:
    """Whether a secret of these identities may be the one of this connection."""
    return _has_secret(connection, [tuple(ids)])


def warn_connections(connections: Sequence[ConnectionConfig]) -> Iterator[Blame]:
    if not connections:
        yield (), "no connections: this gateway waits until `swanctl --load-all` loads some; or add [connections.paris]"
    owner: dict[str, str] = {}
    for connection in connections:
        if not connection.children:
            yield ("connections", connection.name), "has no children, so it carries no traffic"
        for word in weak_words(connection.proposals):
            yield ("connections", connection.name, "proposals"), f"{word} is weak (RFC 8247 section 2); sha256 is right"
        weak = [*weak_groups(connection.proposals), *(g for c in connection.children for g in weak_groups(c.proposals))]
        if weak:
            text = f"allow_weak: {', '.join(dict.fromkeys(weak))} can be broken; modp2048 or x25519 is right"
            yield ("connections", connection.name), text
        for child in connection.children:
            where = ("connections", connection.name, "children", child.name)
            first = owner.setdefault(child.name, connection.name)
            if first != connection.name:
                yield where, f"{first!r} has a child of that name too; `ipsec-fast up {child.name}` means that one"
            for word in weak_words(child.proposals):
                yield (
                    (*where, "esp_proposals"),
                    f"{word} is weak, and there for peers that know nothing better; sha256 is right",
                )


def _has_secret(connection: ConnectionConfig, all_ids: Iterable[tuple[Identity, ...]]) -> bool:
    """As policy.credentials looks them up, but generous: an identity that is left out may turn out to be anyone."""
    local, remote = connection.local_id, connection.remote_id
    for ids in all_ids:
        if not ids or remote is None or any(remote.covers(one) or one.covers(remote) for one in ids):
            return True
        if all(local.matches(one) if local else one.type in ADDRESS_TYPES for one in ids):
            return True
    return False


def _wanted_secret(connection: ConnectionConfig) -> str:
    ids = [f'"{identity}"' for identity in (connection.local_id, connection.remote_id) if identity is not None]
    with_ids = f" with id = [{', '.join(ids)}]" if ids else ""
    return f"add a section [secrets.ike-{connection.name}]{with_ids} and file = ..."


def _check_doubles(secret_ids: Mapping[str, tuple[Identity, ...]]) -> Iterator[Blame]:
    seen: dict[frozenset[str], str] = {}
    for name, ids in secret_ids.items():
        first = seen.setdefault(frozenset(str(identity).lower() for identity in ids), name)
        if first != name:
            whom = "the same identities" if ids else "everybody (neither has an id)"
            yield ("secrets", name), f"is a second secret for {whom}; the first is secrets.{first}"
