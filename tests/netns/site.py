"""One description of a gateway's site, written for either side: our TOML and charon's swanctl.conf are the same tree."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

Tree = dict[str, Any]
PSK = "correct horse battery staple, and then some"


@dataclass(frozen=True)
class Site:
    """One connection called t with children; `children` maps a name to (local_ts, remote_ts)."""

    local: str
    remote: str
    local_id: str
    remote_id: str
    children: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    ike: tuple[str, ...] = ("aes128gcm16-prfsha256-x25519",)
    esp: tuple[str, ...] = ("aes128gcm16",)
    psk: str = PSK
    options: tuple[tuple[str, str], ...] = ()
    child_options: tuple[tuple[str, str], ...] = ()
    gateway: tuple[tuple[str, int], ...] = ()  # keys of our [gateway]; charon has its own file for such

    def but(self, **changes: Any) -> Site:
        return replace(self, **changes)

    def tree(self) -> Tree:
        connection: Tree = {"local_addrs": [self.local], "remote_addrs": [self.remote]}
        if self.ike:
            connection["proposals"] = list(self.ike)
        connection |= dict(self.options)
        connection["local"] = {"auth": "psk", "id": self.local_id}
        connection["remote"] = {"auth": "psk", "id": self.remote_id}
        connection["children"] = {
            name: {"local_ts": list(local_ts), "remote_ts": list(remote_ts)}
            | ({"esp_proposals": list(self.esp)} if self.esp else {})
            | dict(self.child_options)
            for name, local_ts, remote_ts in self.children
        }
        secret = {"id": [self.local_id, self.remote_id], "secret": self.psk}
        return {"connections": {"t": connection}, "secrets": {"ike-t": secret}}


LEFT = Site("192.0.2.1", "192.0.2.2", "a.example", "b.example", (("net", ("10.1.0.0/24",), ("10.2.0.0/24",)),))
RIGHT = Site("192.0.2.2", "192.0.2.1", "b.example", "a.example", (("net", ("10.2.0.0/24",), ("10.1.0.0/24",)),))


def swanctl_conf(tree: Tree, indent: str = "") -> str:
    """One setting per line; a list of identities becomes id-1, id-2."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key} {{", swanctl_conf(value, indent + "  "), f"{indent}}}"]
        elif key == "id" and isinstance(value, list):
            lines += [f"{indent}id-{number} = {identity}" for number, identity in enumerate(value, 1)]
        elif key == "secret":
            lines.append(f'{indent}secret = "{value}"')
        else:
            lines.append(f"{indent}{key} = {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines)


def toml(tree: Tree, path: str = "") -> str:
    """JSON's strings and lists are TOML's too."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    lines = [f"[{path}]"] if plain and path else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    lines += [toml(value, f"{path}.{key}" if path else key) for key, value in tree.items() if isinstance(value, dict)]
    return "\n".join(lines)
