"""Peers of one connection never take each other's traffic, have limits, and the configuration orders overlaps."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
import test_manager
from test_manager import PATH, THEM, Site

from ipsec_fast.control import separation
from ipsec_fast.control.policy_order import PolicyOrder
from ipsec_fast.control.separation import Separation
from ipsec_fast.errors import NegotiationError
from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import AskInstallChild, ChildDown
from ipsec_fast.model import Identity, TrafficSelector

parse = TrafficSelector.parse


def ask(number: int, remote: str, *, who: str = "", local: str = "10.1.0.0/24", **more) -> AskInstallChild:
    """A Child SA of a peer with an identity, or known by its address alone."""
    peer = Identity.parse(who) if who else None
    path = replace(PATH, remote=ip_address("198.51.100.0") + number)
    given = {"local_ts": tuple(map(parse, local.split())), "remote_ts": tuple(map(parse, remote.split()))} | more
    return replace(test_manager.ask(number), peer=peer, path=path, **given)


ONE = ask(1, "10.2.0.0/24")


def like(number: int, remote: str, who: str) -> AskInstallChild:
    """As `ask`, without keys of its own."""
    return replace(ONE, child_id=number, remote_ts=(parse(remote),), peer=Identity.parse(who))


def refused(answer: object, *words: str) -> bool:
    if answer is None:
        return False
    assert isinstance(answer, NegotiationError)
    assert answer.notify == NotifyType.TS_UNACCEPTABLE
    assert all(word in str(answer) for word in words), str(answer)
    return True


# --- overlaps


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("10.2.0.5/32", "10.2.0.5/32", True),
        ("10.2.0.0/24", "10.2.0.5/32", True),
        ("10.2.0.5/32", "10.2.0.0/24", True),
        ("10.2.0.0/24", "10.2.0.0/16", True),
        ("10.2.0.1-10.2.0.9", "10.2.0.9-10.2.0.20", True),
        ("10.9.0.0/16 10.2.0.5/32", "10.3.0.0/16 10.2.0.4-10.2.0.6", True),
        ("0.0.0.0/0", "203.0.113.7/32", True),
        ("2001:db8::/64", "2001:db8::5/128", True),
        ("10.2.0.5[tcp/80]", "10.2.0.5[tcp/1-100]", True),
        ("10.2.0.5[tcp]", "10.2.0.5", True),
        ("10.2.0.5/32", "10.2.0.6/32", False),
        ("10.2.0.0/25", "10.2.0.128/25", False),
        ("10.2.0.5[tcp/80]", "10.2.0.5[tcp/443]", False),
        ("10.2.0.5[tcp]", "10.2.0.5[udp]", False),
        ("0.0.0.0/0", "::/0", False),
    ],
)
def test_two_peers_never_hold_the_same(first: str, second: str, overlap: bool) -> None:
    site = Site()
    assert site.hear(ask(1, first, who="alice@example.org", local="10.1.0.0/24 2001:db8:1::/64")) is None
    before = (site.policies(), dict(site.routes.routed))
    answer = site.hear(ask(2, second, who="mallory@example.org", local="10.1.0.0/24 2001:db8:1::/64"))
    assert refused(answer, "alice@example.org", 'overlap = "allow"') is overlap
    if overlap:
        assert (site.policies(), site.routes.routed) == before
        site.hear(ChildDown(1, 1, "paris", "net", "gone", 5.0))
        assert site.hear(ask(3, second, who="mallory@example.org")) is None, "it is free again, also in alice's grace"


def test_peers_without_identity_are_told_apart_by_their_address() -> None:
    site = Site()
    assert site.hear(ask(1, "10.2.0.5/32")) is None
    assert refused(site.hear(ask(2, "10.2.0.5/32")), "198.51.100.1")
    assert site.hear(replace(ask(3, "10.2.0.5/32"), path=ask(1, "10.2.0.5/32").path)) is None


@pytest.mark.parametrize("again", ["alice.example", "ALICE.example"])
@pytest.mark.parametrize("replaces", [None, 1])
def test_the_same_peer_may_come_again_from_anywhere(again: str, replaces: int | None) -> None:
    """A reconnection, a rekey, a reauthentication."""
    site = Site()
    site.hear(ask(1, "10.2.0.0/24", who="alice.example"))
    assert site.hear(ask(2, "10.2.0.0/24", who=again, replaces=replaces)) is None
    assert refused(site.hear(ask(3, "10.2.0.0/24", who="bob.example")))


def test_a_child_may_allow_it_and_other_networks_of_ours_are_no_overlap() -> None:
    site = Site()
    site.hear(ask(1, "10.2.0.0/24", who="alice.example", overlap=True))
    assert site.hear(ask(2, "10.2.0.5/32", who="bob.example", overlap=True)) is None
    site.hear(ask(3, "10.3.0.0/24", who="alice.example", local="10.1.0.0/25"))
    assert site.hear(ask(4, "10.3.0.0/24", who="bob.example", local="10.1.0.128/25")) is None
    assert site.hear(ask(5, "10.3.0.0/24", who="bob.example", name="other")) is None, "another configured child"


def test_a_failed_installation_holds_nothing() -> None:
    site = Site()
    site.routes.refuse = True
    site.hear(ask(1, "10.2.0.5/32", who="alice.example"))
    site.routes.refuse = False
    assert site.hear(ask(2, "10.2.0.5/32", who="bob.example")) is None


@pytest.mark.parametrize("second", ["10.2.0.5/32", "10.0.0.0/8", "172.16.0.1/32"])
def test_the_look_up_costs_the_same_among_ten_peers_and_ten_thousand(second: str) -> None:
    steps = []
    for peers in (10, 10_000):
        apart = Separation()
        for number in range(peers):
            apart.admit(like(number + 1, str(ip_address("10.2.0.0") + number), f"p{number}.example"))
        before = apart.steps
        try:
            apart.admit(ask(99_999, second, who="mallory.example"))
        except NegotiationError:
            assert second.startswith("10.")
        steps.append(apart.steps - before)
        for number in (*range(peers), 99_998):
            apart.leave(number + 1)
        assert not apart._held
        assert not apart._spaces
        assert not apart._peers
        assert not apart._connections
    assert steps[0] == steps[1] <= 5


def test_a_look_among_thousands_that_only_share_addresses_ends_and_refuses() -> None:
    apart = Separation()
    for number in range(2000):
        apart.admit(like(number + 1, f"{ip_address('10.2.0.0') + number}[tcp/22]", f"p{number}.example"))
    before = apart.steps
    with pytest.raises(NegotiationError, match="more than 1024 selectors"):
        apart.admit(ask(9999, "10.0.0.0/8[udp]", who="mallory.example"))
    assert apart.steps - before < 2 * separation.LOOKED_AT_MAX + 100


# --- limits


def many(number: int, each: int = 32) -> dict[str, tuple[TrafficSelector, ...]]:
    return {
        "local_ts": tuple(parse(f"10.1.{i}.0/24") for i in range(each)),
        "remote_ts": tuple(parse(f"10.{100 + number}.{i}.1/32") for i in range(each)),
    }


def test_the_policies_of_one_peer_are_bounded_over_all_its_children() -> None:
    site = Site()
    answers = [site.hear(ask(n, "10.2.0.0/24", who="alice.example", **many(n))) for n in range(1, 5)]
    assert [refused(one) for one in answers] == [False, False, True, True]
    assert "at most 2048 and 2048" in str(answers[-1])
    assert len(site.tables[-1].policies) == 2048
    assert site.hear(ask(9, "10.2.0.0/24", who="bob.example", **many(9))) is None, "another peer has its own"
    assert site.hear(ask(10, "", who="alice.example", replaces=1, **many(1))) is None, "a rekey at the limit"
    assert site.hear(ask(11, "", who="alice.example", **many(2))) is None, "a reauthentication at the limit"
    site.hear(ChildDown(1, 2, "paris", "net", "gone", 0.0), ChildDown(1, 11, "paris", "net", "gone", 0.0))
    assert site.hear(ask(12, "", who="alice.example", **many(12))) is None


def test_the_routes_of_one_peer_are_bounded_too() -> None:
    apart = Separation()
    crumbs = "10.{}.0.1-10.{}.255.254"  # 30 prefixes
    for number in range(68):
        apart.admit(ask(number + 1, crumbs.format(number, number), who="alice.example"))
    with pytest.raises(NegotiationError, match="2070 routes"):
        apart.admit(ask(99, crumbs.format(99, 99), who="alice.example"))


@pytest.mark.parametrize("expected", [None, Identity.parse("*.example")])
@pytest.mark.parametrize("what", ["policies", "children"])
def test_a_holder_of_a_secret_that_invents_identities_is_bounded_by_the_connection(
    monkeypatch, what: str, expected: Identity | None
) -> None:
    monkeypatch.setattr(separation, "PER_CONNECTION", 100)
    apart = Separation()
    apart.expect([ConnectionConfig("paris", remote_id=expected)])
    each = 10 if what == "policies" else 1
    for number in range(1, 100 // each + 1):
        networks = " ".join(f"10.{number}.{i}.0/24" for i in range(each))
        apart.admit(ask(number, networks, who=f"x{number}.example"))
    with pytest.raises(NegotiationError, match="whose peers may have any identity"):
        apart.admit(ask(999, "10.200.0.0/24", who="y.example"))
    apart.leave(1)
    apart.admit(ask(999, "10.200.0.0/24", who="y.example"))
    named = Separation()
    named.expect([ConnectionConfig("paris", remote_id=Identity.parse("alice.example"))])
    for number in range(1, 120):
        named.admit(ask(number, f"10.{number}.0.0/24", who="alice.example"))


# --- the order of policies


class Sites(Site):
    """Two or more configured children, each `name: remote`, in this order."""

    def __init__(self, *started: str, **children: str) -> None:
        super().__init__()
        self.connections = [
            ConnectionConfig(
                name,
                remote_addrs=(THEM,),
                children=(ChildConfig("net", (parse("10.1.0.0/24"),), tuple(map(parse, remote.split()))),),
            )
            for name, remote in children.items()
        ]
        self.children.arrange(self.connections)
        self.children.expect(self.connections, [(name, "net") for name in started])

    def add(self, number: int, connection: str, remote: str, **more) -> None:
        assert self.hear(ask(number, remote, who=f"{connection}.example", connection=connection, **more)) is None

    def order(self) -> list[int | None]:
        return [spi and spi - 2000 for _, spi in self.policies()]


def test_a_narrower_site_keeps_its_network_whatever_the_wider_ones_peer_narrows_to() -> None:
    for wide_first in (True, False):
        children = {"hq": "10.0.0.0/8", "branch": "10.2.0.0/24"}
        site = Sites(**(children if wide_first else dict(reversed(children.items()))))
        site.add(1, "branch", "10.2.0.0/24")
        site.add(2, "hq", "10.2.0.0/25 10.3.0.0/16")
        site.add(3, "hq", "10.2.0.7/32")
        assert site.policies()[0] == ("10.2.0.0/24", 2001)
        assert site.order() == [1, 3, 2, 2]


@pytest.mark.parametrize("first_up", ["one", "two"])
def test_of_two_tunnels_for_the_same_networks_the_configured_order_decides(first_up: str) -> None:
    site = Sites(one="10.2.0.0/24", two="10.2.0.0/24")
    numbers = {"one": 1, "two": 2}
    for name in (first_up, "two" if first_up == "one" else "one"):
        site.add(numbers[name], name, "10.2.0.0/24")
    assert site.order() == [1, 2]
    site.add(3, "two", "10.2.0.5/32")
    assert site.order()[0] == 1, "narrowing does not change the order"
    site.hear(ChildDown(1, 1, "one", "net", "gone", 0.0))
    assert site.order() == [3, 2]


def test_a_child_that_waits_gives_way_to_one_for_the_same_networks_and_to_no_wider_one() -> None:
    site = Sites("one", one="10.2.0.0/24", wide="10.0.0.0/8", two="10.2.0.0/24")
    site.add(1, "wide", "10.0.0.0/8")
    assert site.order() == [None, 1]
    site.add(2, "two", "10.2.0.0/24")
    assert site.order() == [2, None, 1]
    site.add(3, "one", "10.2.0.0/24")
    assert site.order() == [3, 2, None, 1]


def test_a_child_whose_peer_is_silent_gives_way_to_one_for_the_same_networks() -> None:
    site = Sites(one="10.2.0.0/24", two="10.2.0.0/24", wide="10.0.0.0/8")
    for number, (name, remote) in enumerate(
        (("one", "10.2.0.0/24"), ("two", "10.2.0.0/24"), ("wide", "10.0.0.0/8")), 1
    ):
        site.add(number, name, remote)
    for is_silent, order in ((True, [2, 1, 3]), (False, [1, 2, 3])):
        site.children.set_silent([1], is_silent=is_silent)
        site.hear(ChildDown(1, 77, "one", "net", "nobody", 0.0))
        assert site.order() == order


def test_another_order_of_the_file_is_another_order_of_the_policies() -> None:
    site = Sites(one="10.2.0.0/24", two="10.2.0.0/24")
    site.add(1, "one", "10.2.0.0/24")
    site.add(2, "two", "10.2.0.0/24")
    assert site.order() == [1, 2]
    site.children.arrange(site.connections[::-1])
    site.hear(ChildDown(1, 77, "one", "net", "nobody", 0.0))
    assert site.order() == [2, 1]
    site.children.arrange(site.connections[1:])
    site.hear(ChildDown(1, 77, "one", "net", "nobody", 0.0))
    assert site.order() == [2, 1], "a child that is not configured any more comes last"


def test_a_connection_that_is_loaded_leaves_the_ranks_of_the_others_alone() -> None:
    order = PolicyOrder()
    selectors = {(f"c{i}", "net"): ((parse("10.1.0.0/24"),), (parse(f"10.2.{i}.0/24"),)) for i in range(5)}
    order.arrange(selectors)
    stamps = {key: order.stamp(key) for key in selectors}
    more = {("new", "net"): ((parse("10.1.0.0/24"),), (parse("10.2.1.0/24"),))}
    order.arrange({**selectors, **more})
    assert {key: order.stamp(key) for key in selectors} == stamps
    assert order.stamp(("new", "net")) != (0, 0)
    order.arrange({**more, **selectors})
    assert all(order.stamp(key) != stamp for key, stamp in stamps.items())
