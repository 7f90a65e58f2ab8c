"""Routes and policies that wait for an SA follow a configuration that changes; a host that refuses leaves them as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ipsec_fast.control.children import Children, Host
from ipsec_fast.control.grants import Grants, MemoryGrantStore
from ipsec_fast.control.routing import Routing
from ipsec_fast.control.spi import SpiPool
from ipsec_fast.errors import ConfigError, HostError, StateError
from ipsec_fast.gateway.config import load_config
from ipsec_fast.gateway.configuration import Configuration, Surroundings
from ipsec_fast.gateway.waiting import Change, Waiting
from ipsec_fast.ike.config import Action, ChildConfig, ConnectionConfig
from ipsec_fast.model import TrafficSelector
from ipsec_fast.system.routes import Network


class Table:
    """What the kernel would have: networks refused, and those routed into the TUN."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.routed: set[str] = set()
        self.fails: str | None = None

    def adopt(self, wanted: Iterable[Network]) -> list[Network]:
        return []

    def prohibit(self, network: Network) -> None:
        if str(network) == self.fails:
            raise HostError(f"add the prohibit route of {network}: no buffer space")
        self.refused.add(str(network))

    def add(self, network: Network, index: int, source: object = None, around: Iterable[Network] = ()) -> None:
        self.prohibit(network)
        self.routed.add(str(network))

    def remove(self, network: Network, *, keep_prohibit: bool) -> None:
        self.routed.discard(str(network))
        if not keep_prohibit:
            self.refused.discard(str(network))


class Site:
    def __init__(self) -> None:
        self.table = Table()
        routing = Routing(self.table, 1, lambda: [])
        host = Host(lambda address: 0, lambda address: 1500, lambda name: "auto")
        self.children = Children(host, routing, SpiPool(os.urandom), Grants(MemoryGrantStore()))
        self.waiting = Waiting(self.children, routing)

    def policies(self) -> list[str]:
        return sorted(str(policy.remote) for policy in self.children.tables().policies)


def connection(name: str, remote: str, action: Action) -> ConnectionConfig:
    child = ChildConfig(
        "net", (TrafficSelector.parse("10.1.0.0/24"),), (TrafficSelector.parse(remote),), start_action=action
    )
    return ConnectionConfig(name, remote_addrs=(ip_address("192.0.2.9"),), children=(child,))


STARTED = connection("a", "10.2.0.0/24", Action.START)
TRAPPED = connection("b", "10.3.0.0/24", Action.TRAP)
PLAIN = connection("c", "10.4.0.0/24", Action.NONE)


def started_site(*connections: ConnectionConfig) -> Site:
    site = Site()
    site.waiting.start(connections)
    return site


def test_a_refusal_in_the_middle_is_undone_by_the_reverse() -> None:
    site = started_site(STARTED)
    moved = connection("a", "10.5.0.0/24", Action.START)
    change = Change(gone=[STARTED], fresh=[moved, TRAPPED], all=[moved, TRAPPED])
    site.table.fails = "10.3.0.0/24"
    with pytest.raises(HostError):
        site.waiting.apply(change)
    site.waiting.apply(change.reverse)
    assert site.table.refused == {"10.2.0.0/24"}
    assert site.table.routed == set()
    assert site.policies() == ["10.2.0.0/24"]


def test_what_is_started_or_trapped_is_refused_in_clear_and_nothing_else() -> None:
    site = started_site(STARTED, TRAPPED, PLAIN)
    assert site.table.refused == {"10.2.0.0/24", "10.3.0.0/24"}
    assert site.table.routed == {"10.3.0.0/24"}
    assert site.policies() == ["10.2.0.0/24", "10.3.0.0/24"]


def test_what_goes_is_free_again_and_what_stays_is_never_open_meanwhile() -> None:
    site = started_site(STARTED, TRAPPED)
    removed: list[str] = []
    remove = site.table.remove
    site.table.remove = lambda network, *, keep_prohibit: (  # type: ignore[method-assign]
        removed.append(str(network)) if not keep_prohibit else None, remove(network, keep_prohibit=keep_prohibit)
    )[1]  # fmt: skip
    changed = connection("b", "10.3.0.0/24", Action.TRAP_START)
    site.waiting.apply(Change(gone=[STARTED, TRAPPED], fresh=[changed], all=[changed]))
    assert removed == ["10.2.0.0/24"]
    assert site.table.routed == site.table.refused == {"10.3.0.0/24"}


def test_install_and_uninstall() -> None:
    site = started_site(PLAIN, TRAPPED)
    (plain,), (trapped,) = PLAIN.children, TRAPPED.children
    with pytest.raises(StateError, match="no trap policy for c/net"):
        site.waiting.uninstall(PLAIN, plain)
    with pytest.raises(StateError, match="no remote_addrs"):
        site.waiting.install(ConnectionConfig("d", children=(plain,)), plain)
    site.waiting.install(PLAIN, plain)
    site.waiting.install(PLAIN, plain)
    assert [one.name for one, _ in site.waiting.trapped()] == ["c", "b"]
    site.waiting.uninstall(TRAPPED, trapped)
    assert site.table.routed == site.table.refused == {"10.4.0.0/24"}
    site.waiting.apply(
        Change(gone=[PLAIN], fresh=[], all=[TRAPPED])
    )  # of another connection: what was uninstalled stays so
    assert site.table.refused == set()
    site.waiting.apply(Change(gone=[TRAPPED], fresh=[TRAPPED], all=[TRAPPED]))
    assert site.table.routed == {"10.3.0.0/24"}


def test_uninstall_of_a_child_that_is_started_too_leaves_it_closed() -> None:
    both = connection("b", "10.3.0.0/24", Action.TRAP_START)
    site = started_site(both)
    site.waiting.uninstall(both, both.children[0])
    assert site.table.routed == set()
    assert site.table.refused == {"10.3.0.0/24"}
    assert site.policies() == ["10.3.0.0/24"]


# --- the file, read again


def write(folder: Path, *names: str, start: str = "none", more: str = "") -> Path:
    sides = 'local = { auth = "psk" }\nremote = { auth = "psk" }\nremote_addrs = ["192.0.2.9"]'
    (folder / "x.psk").write_text("0123456789abcdef")
    (folder / "x.psk").chmod(0o600)
    file = folder / "x.toml"
    sections = [
        f'[connections.{name}]\n{sides}\n[connections.{name}.children.net]\nremote_ts = ["10.2.0.0/24"]\nstart_action = "{start}"'
        for name in names
    ]
    file.write_text("\n".join([*sections, '[secrets.ike]\nfile = "x.psk"', more]))
    return file


def test_reload_tells_what_changed_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    changes: list[Change] = []
    file = write(tmp_path, "one", "two")
    configuration = Configuration(
        load_config(file), Surroundings(lambda one: None, changes.append, lambda change: None)
    )
    loaded = configuration.parse_connection(
        "three", {"local": {"auth": "psk"}, "remote": {"auth": "psk", "id": "%any"}}
    )
    configuration.load_connection(loaded)
    write(tmp_path, "one", more="nonsense = 1")
    with pytest.raises(ConfigError, match="nonsense"):
        configuration.reload()
    write(tmp_path, "one", "three")
    with pytest.raises(StateError, match="three was loaded over the control socket"):
        configuration.reload()
    assert [one.name for one in configuration.connections] == ["one", "two", "three"]
    secret = configuration.credentials._keys[0].secret
    write(tmp_path, "two", "four", start="start", more='[gateway]\ntun = "ipsec7"')
    lines = configuration.reload()
    assert lines[-1] == "what changed under [gateway] takes effect at the next start"
    assert [one.name for one in configuration.connections] == ["two", "four", "three"]
    assert ([one.name for one in changes[-1].gone], [one.name for one in changes[-1].fresh]) == (
        ["one", "two"],
        ["two", "four"],
    )
    assert secret.closed
    assert not configuration.credentials._keys[0].secret.closed
    assert ip_network("10.2.0.0/24") in changes[-1].fresh[0].children[0].remote_ts[0].networks()
    configuration.close()
