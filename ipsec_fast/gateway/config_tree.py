"""From a parsed TOML file to sections of one shape: suffixes folded, keys of later versions refused, names checked.

`local-1` and `local` both end as `local`, `id-a` and `id-b` of a secret as one `id`; `Tree.renamed` remembers what the
user wrote, so that every problem names the path that stands in the file. Called by config.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import Problem
from . import config_keys as keys

Location = tuple[str | int, ...]
SECTION = "must be a section, written as a TOML table"
NAME = r"[!-~]{1,100}"
NAME_FORBIDDEN = r"""[.,:=#"'{}\[\]]"""
HEAD, TAIL = (
    600,
    300,
)  # characters of a longer message that are shown: it begins with what is wrong and ends with what is right


@dataclass(slots=True)
class Tree:
    """`secrets` holds the sections without their `secret`; `inline_secrets` holds those, by section, never shown."""

    gateway: dict[str, object] = field(default_factory=dict)
    connections: dict[str, dict[str, object]] = field(default_factory=dict)
    secrets: dict[str, dict[str, object]] = field(default_factory=dict)
    inline_secrets: dict[str, object] = field(default_factory=dict, repr=False)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    renamed: dict[Location, str] = field(default_factory=dict)

    def blame(self, location: Location, message: str) -> None:
        self.problems.append(Problem(_one_line(self.path_text(location)), _one_line(message)))

    def warn(self, location: Location, message: str) -> None:
        self.warnings.append(Problem(_one_line(self.path_text(location)), _one_line(message)))

    def path_text(self, location: Location) -> str:
        """`connections.paris.local-1.id`, as the user wrote it; list positions as `[2]`, counted from 0."""
        text = ""
        for depth, part in enumerate(location, 1):
            if isinstance(part, int):
                text += f"[{part}]"
                continue
            name = self.renamed.get(location[:depth], part)
            text += ("." if text else "") + (name if re.fullmatch(r"[\w-]+", name, re.ASCII) else repr(name))
        return text


def _one_line(text: str) -> str:
    """One line of bounded length, whatever a value or a file's name that it quotes holds."""
    more = len(text) - HEAD - TAIL
    if more > 0:
        text = f"{text[:HEAD]}... ({more} characters) ...{text[-TAIL:]}"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def fold_tree(document: Mapping[str, object]) -> Tree:
    tree = Tree()
    for name, value in document.items():
        if name in keys.TOP_LATER:
            tree.blame((name,), "not supported by this version")
        elif name not in ("gateway", "connections", "secrets"):
            tree.blame((name,), "unknown section" + keys.did_you_mean(name, ("gateway", "connections", "secrets")))
        elif not isinstance(value, dict):
            tree.blame((name,), SECTION)
        elif name == "gateway":
            tree.gateway = dict(value)
        else:
            _fold_named(tree, name, value)
    return tree


def _fold_named(tree: Tree, kind: str, sections: Mapping[str, object]) -> None:
    for name, value in sections.items():
        location = (kind, name)
        if not isinstance(value, dict):
            tree.blame(location, f"{SECTION}: [{kind}.{'ike-NAME' if kind == 'secrets' else 'NAME'}]")
        elif kind == "connections":
            if _check_name(tree, location, name):
                tree.connections[name] = _fold_connection(tree, location, dict(value))
        else:
            _fold_secret(tree, location, name, dict(value))


def _fold_connection(tree: Tree, location: Location, section: dict[str, object]) -> dict[str, object]:
    _drop_ignored(tree, section, location, keys.CONNECTION_IGNORED)
    if str(section.get("version", ""))[:8].strip() == "0":
        del section["version"]
        tree.warn((*location, "version"), "0 means IKEv1 and IKEv2; only IKEv2 is spoken")
    for key in ("local_port", "remote_port"):
        if keys.port_ignored(section.get(key)):
            del section[key]
            tree.warn((*location, key), "ignored: IKE begins at port 500 and goes on to 4500 by itself")
    _drop_later(tree, section, location, keys.CONNECTION_LATER)
    for side in ("local", "remote"):
        _fold_rounds(tree, section, location, side)
    children = section.get("children")
    if isinstance(children, dict):
        section["children"] = folded = {}
        for name, child in children.items():
            where = (*location, "children", name)
            if not isinstance(child, dict):
                tree.blame(where, SECTION)
            elif _check_name(tree, where, name):
                folded[name] = dict(child)
                _drop_ignored(tree, folded[name], where, keys.CHILD_IGNORED)
                if keys.is_own_updown(folded[name].get("updown")):
                    del folded[name]["updown"]
                    tree.warn(
                        (*where, "updown"), "ignored: strongSwan's script opens its firewall; this gateway touches none"
                    )
                _drop_later(tree, folded[name], where, keys.CHILD_LATER)
    return section


def _fold_rounds(tree: Tree, section: dict[str, object], location: Location, side: str) -> None:
    """`local`, `local-1`, `local1`: swanctl's sections of authentication rounds, of which we know one."""
    rounds = [name for name, value in section.items() if name.startswith(side) and isinstance(value, dict)]
    for extra in rounds[1:]:
        del section[extra]
        tree.blame((*location, extra), f"a second round of authentication ({rounds[0]} is the first) is not supported")
    if rounds:
        value = section.pop(rounds[0])
        assert isinstance(value, dict)
        section[side] = dict(value)
        tree.renamed[(*location, side)] = rounds[0]
        # the order among rounds: there is one
        if wrong := keys.wrong_value("round", section[side].pop("round", 0)):  # type: ignore[attr-defined]
            tree.blame((*location, side, "round"), wrong)
        _drop_ignored(tree, section[side], (*location, side), keys.AUTH_IGNORED)  # type: ignore[arg-type]
        _drop_later(tree, section[side], (*location, side), keys.AUTH_LATER, prefixes=("cert", "cacert"))  # type: ignore[arg-type]


def _fold_secret(tree: Tree, location: Location, name: str, section: dict[str, object]) -> None:
    if not name.startswith("ike"):
        later = name.startswith(keys.SECRETS_LATER)
        right = "the section of a pre-shared key is named ike or ike-NAME, such as [secrets.ike-paris]"
        tree.blame(location, ("not supported by this version; " if later else "unknown kind of secret; ") + right)
        return
    if "secret" in section:
        tree.inline_secrets[name] = section.pop("secret")
    suffixed = [key for key in section if re.fullmatch(r"id[^a-z].*|id[a-z].*", key) and isinstance(section[key], str)]
    if suffixed:
        given = section.get("id", [])
        identities = [given] if isinstance(given, str) else list(given) if isinstance(given, list) else [given]
        section["id"] = identities + [section.pop(key) for key in suffixed]
    tree.secrets[name] = section


def _drop_ignored(
    tree: Tree,
    section: dict[str, object],
    location: Location,
    ignored: Mapping[str, tuple[frozenset[str], str]],
) -> None:
    for key, (fine, reason) in ignored.items():
        if key not in section:
            continue
        value = section.pop(key)
        if wrong := keys.wrong_value(key, value):
            tree.blame((*location, key), wrong)
        elif not keys.asks_for_what_we_do(value, fine):
            tree.warn((*location, key), f"ignored: {reason}")


def _drop_later(
    tree: Tree,
    section: dict[str, object],
    location: Location,
    later: Mapping[str, frozenset[str]],
    prefixes: tuple[str, ...] = (),
) -> None:
    for key in list(section):
        if key not in later and not (prefixes and key.startswith(prefixes)):
            continue
        fine = later.get(key, frozenset())
        value = section.pop(key)
        if not keys.asks_for_what_we_do(value, fine):
            # of several spellings the one that people use
            ours = next((word for word in ("no", "yes", "0", "none", "clear", *fine) if word in fine), "")
            only = f"; leave it out, or write {key} = {json.dumps(ours)}" if ours else ""
            tree.blame((*location, key), f"not supported by this version{only}")


def _check_name(tree: Tree, location: Location, name: str) -> bool:
    if re.fullmatch(NAME, name) and not re.search(NAME_FORBIDDEN, name):
        return True
    tree.blame(location, "a name is 1 to 100 visible ASCII characters without . , : = # quotes, braces or brackets")
    return False
