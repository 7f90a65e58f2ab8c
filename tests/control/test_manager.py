"""From an endpoint's events to the dataplane's tables: asks answered, handover of a rekey, grace, grants, failures that stay small."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ipsec_fast.algorithms import esp_suite
from ipsec_fast.control.answers import Answers
from ipsec_fast.control.children import Children, Host
from ipsec_fast.control.grants import BLOCK, Grants, MemoryGrantStore
from ipsec_fast.control.manager import Manager
from ipsec_fast.control.routing import Routing
from ipsec_fast.control.spi import SpiPool
from ipsec_fast.crypto.exchange import generate
from ipsec_fast.crypto.secret import random_secret
from ipsec_fast.dataplane.notice import Notice, NoticeKind
from ipsec_fast.dataplane.udp import endpoint
from ipsec_fast.errors import HostError, NegotiationError, SecretError
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import (
    AskConfig,
    AskCredential,
    AskInstallChild,
    AskKeyPair,
    AskSharedSecret,
    AskSpi,
    CheckIdle,
    ChildDown,
    ChildUp,
    SwitchOutbound,
)
from ipsec_fast.ike.lifetimes import NO_LIMITS, TrafficLimits
from ipsec_fast.model import Identity, Path, TrafficSelector
from ipsec_fast.policy.credentials import Credentials
from ipsec_fast.policy.peers import Peers

US, THEM = ip_address("192.0.2.1"), ip_address("192.0.2.2")
PATH = Path(US, 4500, THEM, 4500, marker=True)
LOCAL, REMOTE = TrafficSelector.parse("10.1.0.0/24"), TrafficSelector.parse("10.2.0.0/24")
SITE = ip_network("10.2.0.0/24")


class FakeEndpoint:
    def __init__(self) -> None:
        self.events: deque = deque()
        self.answers: dict[int, object] = {}
        self.seen: list[int] = []
        self.rekeyed: list[int] = []
        self.expired: list[int] = []
        self.used: list[tuple] = []

    def next_event(self):
        return self.events.popleft() if self.events else None

    def answer(self, ticket, value, now):
        self.answers[ticket] = value

    def inbound_seen(self, child_id, now):
        self.seen.append(child_id)

    def rekey_child(self, child_id, now):
        self.rekeyed.append(child_id)

    def child_expired(self, child_id, reason, now):
        self.expired.append(child_id)

    def child_used(self, child_id, used_at, now):
        self.used.append((child_id, used_at))

    def views(self):
        return []


class FakeRoutes:
    """system.routes without a kernel; `log` is what the kernel would have been told."""

    def __init__(self) -> None:
        self.routed: dict = {}
        self.closed: set = set()
        self.refuse = False

    def adopt(self, wanted):
        return []

    def prohibit(self, network):
        self.closed.add(network)

    def add(self, network, index, source=None, around=()):
        if self.refuse:
            raise HostError("cannot replace the route")
        self.closed.add(network)
        self.routed[network] = source

    def remove(self, network, *, keep_prohibit):
        self.routed.pop(network, None)
        if not keep_prohibit:
            self.closed.discard(network)


class Site:
    def __init__(self, started: tuple[tuple[str, str], ...] = (), **host_of: Any) -> None:
        self.endpoint, self.routes, self.store = FakeEndpoint(), FakeRoutes(), MemoryGrantStore()
        self.tables: list = []
        self.lines: list[str] = []
        self.sizes: list[list[int]] = []
        connection = ConnectionConfig(
            "paris", remote_addrs=(THEM,), children=(ChildConfig("net", local_ts=(LOCAL,), remote_ts=(REMOTE,)),)
        )
        routing = Routing(self.routes, 7, lambda: [US, ip_address("10.1.0.1")])
        host = Host(lambda local: 0, lambda remote: 1500, lambda name: "auto", "openssl", **host_of)
        spis = SpiPool(os.urandom)
        self.children = Children(host, routing, spis, Grants(self.store))
        routing.start([connection], started)
        self.children.expect([connection], started)
        answers = Answers(Peers([connection]), Credentials([]), spis)
        self.manager = Manager(
            self.endpoint,
            answers,
            self.children,
            self,
            log=self.lines.append,
            resize=self.sizes.append,  # type: ignore[arg-type]
        )

    def publish(self, tables) -> None:
        self.tables.append(tables(0))

    def hear(self, *events, now: float = 0.0):
        """Let the endpoint say this; the answer to the last ask among it."""
        self.endpoint.events.extend(events)
        self.manager.drain(now)
        return self.endpoint.answers.get(events[-1].ticket) if hasattr(events[-1], "ticket") else None

    def policies(self) -> list[tuple[str, int | None]]:
        return [(str(p.remote), p.outbound.spi if p.outbound else None) for p in self.tables[-1].policies]

    def inbound(self) -> set[int]:
        return {sa.spi for sa in self.tables[-1].inbound}


def ask(
    child_id: int, *, deferred: bool = False, encap: bool = True, suite: str = "aes128gcm16", **more
) -> AskInstallChild:
    row = esp_suite(suite)
    values = {"replaces": None, "remote_ts": (REMOTE,), "name": "net", "limits": NO_LIMITS} | more
    return AskInstallChild(
        100 + child_id, 1, child_id, "paris", values["name"], row, True, 1000 + child_id, 2000 + child_id,
        random_secret(row.keymat_bytes), random_secret(row.keymat_bytes), (LOCAL,), values["remote_ts"],
        PATH, encap, True, deferred, values["replaces"], values["limits"],
    )  # fmt: skip


def told(kind: NoticeKind, child_id: int) -> Notice:
    """What a worker reports of this child's SAs, here with an SPI that every child has."""
    return Notice(kind, 2001, tag=child_id)


def test_what_cannot_be_answered_becomes_an_error_of_that_ask_alone():
    site = Site()
    nobody = Identity.parse("rome.example")
    assert isinstance(site.hear(AskCredential(1, "paris", nobody, nobody)), SecretError)
    assert isinstance(site.hear(AskConfig(2, Path(US, 500, ip_address("192.0.2.77"), 500))), NegotiationError)
    with generate_pair() as pair:
        assert isinstance(site.hear(AskSharedSecret(3, pair, bytes(32))), NegotiationError)
    assert [one.name for one in site.hear(AskConfig(4, PATH))] == ["paris"]
    assert site.hear(AskKeyPair(5, 31)).group == 31
    assert site.hear(AskSpi(6, 3)) > 255


class generate_pair:  # noqa: N801
    def __enter__(self):
        self.pair = generate(31)
        return self.pair

    def __exit__(self, *error):
        self.pair.close()


def test_a_mistake_of_ours_ends_one_exchange_and_is_logged():
    site = Site()
    broken = ask(1)
    object.__setattr__(broken, "path", None)
    assert isinstance(site.hear(broken), AttributeError)
    assert "AskInstallChild" in site.lines[0]


@pytest.mark.parametrize(
    ("whole", "encap", "words"),
    [
        (True, False, "does not encapsulate ESP in UDP, and no CAP_NET_RAW"),
        (False, True, "its outer packets shall be cut, and no CAP"),
    ],
)
def test_what_needs_a_raw_socket_is_refused_in_words_where_there_is_none(whole, encap, words):
    def none(local):
        raise HostError("no CAP_NET_RAW")

    site = Site(raw_socket_index=none, copies_df=lambda connection, child: whole)
    refused = site.hear(ask(1, encap=encap))
    assert isinstance(refused, NegotiationError)
    assert words in str(refused)
    assert not site.routes.routed


def test_without_encapsulation_the_outbound_sa_writes_its_own_header_and_leaves_by_the_raw_socket():
    site = Site(raw_socket_index=lambda local: 3)
    site.hear(ask(1, encap=False))
    (sa,) = {p.outbound for p in site.tables[-1].policies}
    assert (sa.src, sa.dst, sa.encap, sa.header.df, endpoint(sa)) == (
        US,
        PATH.remote,
        None,
        "set",
        (3, US, PATH.remote, 0),
    )
    assert sa.sealed_length(sa.max_inner) <= 1500 < sa.sealed_length(sa.max_inner + 4)


def test_where_df_is_not_copied_packets_of_the_paths_mtu_are_let_in_and_leave_without_df():
    site = Site(raw_socket_index=lambda local: 3, copies_df=lambda connection, child: False)
    site.hear(ask(1))
    (sa,) = {p.outbound for p in site.tables[-1].policies}
    assert (sa.max_inner, sa.header.df, sa.encap) == (1500, "clear", (4500, PATH.remote_port))
    assert sa.mss_ipv4 < 1400
    assert site.sizes[-1] == [1500]


@pytest.mark.parametrize("path_mtu", [-5, 0, 68, 90, 576, 65535, 1 << 20])
def test_whatever_the_route_says_of_its_mtu_the_outbound_sa_has_a_limit(path_mtu):
    """0 would be none: on a path that nothing fits through, whole packets would leave and be lost without a word."""
    site = Site()
    site.hear(ask(1, suite="aes256-sha512"))
    site.children.set_path_mtu(1, path_mtu, "computed", 5.0)
    child = site.children.get(1)
    assert 68 <= child.path_mtu <= 65535
    assert 1 <= child.sa_out.max_inner <= max(1, child.path_mtu - child.mtu.overhead_bytes)
    assert 0 <= child.mtu.mss_ipv6 <= child.mtu.mss_ipv4 <= child.mtu.max_inner_bytes


def test_a_route_that_the_host_refuses_fails_the_installation_and_leaves_nothing():
    site = Site()
    site.routes.refuse = True
    assert isinstance(site.hear(ask(1)), HostError)
    assert site.children.all() == ()
    assert site.tables == [] or (site.policies() == [] and site.inbound() == set())


@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256gcm16", "aes128-sha256", "aes256-sha256"])
def test_an_installed_child_receives_sends_is_routed_and_is_sized(suite):
    site = Site()
    assert site.hear(ask(1, suite=suite)) is None
    assert site.inbound() == {1001}
    assert site.policies() == [("10.2.0.0/24", 2001)]
    assert site.routes.routed == {SITE: ip_address("10.1.0.1")}
    child = site.children.get(1)
    assert site.sizes[-1] == [child.mtu.max_inner_bytes]
    assert (child.sa_out.mss_ipv4, child.sa_in.mss_ipv6) == (child.mtu.mss_ipv4, child.mtu.mss_ipv6)
    assert child.sa_out.granted == BLOCK == site.store.ends[1]


def test_a_deferred_child_receives_at_once_and_sends_when_told():
    site = Site()
    site.hear(ask(1), ask(2, deferred=True, replaces=1))
    assert site.inbound() == {1001, 1002}
    assert site.policies() == [("10.2.0.0/24", 2001)]
    site.manager.take_notices([told(NoticeKind.FIRST_INBOUND, 2), told(NoticeKind.FIRST_INBOUND, 9)], 1.0)
    assert site.endpoint.seen == [2]
    site.hear(SwitchOutbound(2))
    assert site.policies()[0] == ("10.2.0.0/24", 2002)


def test_the_old_child_of_a_rekey_stops_sending_at_once_and_receives_for_its_grace():
    site = Site()
    site.hear(ask(1), ask(2, replaces=1))
    assert site.policies()[0] == ("10.2.0.0/24", 2002)
    site.hear(ChildDown(1, 1, "paris", "net", "rekeyed", 5.0, replaced_by=2), now=10.0)
    assert site.policies() == [("10.2.0.0/24", 2002)]
    assert site.inbound() == {1001, 1002}
    assert site.children.get_timer() == 15.0
    assert SITE in site.routes.routed
    site.manager.drain(15.0)
    assert site.inbound() == {1002}
    assert site.children.get_timer() is None


def test_a_delete_before_the_switch_still_moves_the_traffic():
    site = Site()
    site.hear(ask(1), ask(2, deferred=True, replaces=1))
    site.hear(ChildDown(1, 1, "paris", "net", "deleted by the peer", 5.0, replaced_by=2))
    assert site.policies() == [("10.2.0.0/24", 2002)]


def test_the_loser_of_a_collision_hands_back_to_the_other():
    site = Site()
    site.hear(ask(1), ask(2, replaces=1), ask(3, replaces=1))
    site.hear(ChildDown(1, 3, "paris", "net", "collision", 5.0))
    assert site.policies()[0] == ("10.2.0.0/24", 2002)


def test_without_a_child_a_started_prefix_is_refused_and_another_is_free():
    for started, closed in (((("paris", "net"),), {SITE}), ((), set())):
        site = Site(started)
        assert site.routes.closed == closed
        site.hear(ask(1))
        site.hear(ChildDown(1, 1, "paris", "net", "gone", 0.0))
        assert (site.routes.routed, site.routes.closed) == ({}, closed)
        assert site.policies() == ([("10.2.0.0/24", None)] if started else [])
        assert site.inbound() == set()


def test_narrow_selectors_come_before_wide_ones_and_an_sa_before_none():
    site = Site((("paris", "net"),))
    wide, narrow = TrafficSelector.parse("0.0.0.0/0"), TrafficSelector.parse("10.2.0.7[tcp/443]")
    site.hear(ask(1, name="all", remote_ts=(wide,)), ask(2, name="web", remote_ts=(narrow,)), ask(3))
    assert site.policies() == [
        ("10.2.0.7/32[tcp/443]", 2002),
        ("10.2.0.0/24", 2003),
        ("10.2.0.0/24", None),
        ("0.0.0.0/0", 2001),
    ]


def test_numbers_used_up_bring_grants_and_a_rekey():
    site = Site()
    site.hear(ask(1), ChildUp(1, 1, "paris", "net"))
    site.manager.take_notices([told(NoticeKind.GRANT_WANTED, 1), told(NoticeKind.GRANT_WANTED, 77)], 0.0)
    assert site.children.get(1).sa_out.granted == 2 * BLOCK == site.store.ends[1]
    site.manager.take_notices([told(NoticeKind.REKEY_SOON, 1)], 0.0)
    site.manager.take_notices([told(NoticeKind.SEQ_EXHAUSTED, 1)], 0.0)
    assert site.endpoint.rekeyed == [1, 1]
    assert "no sequence number left" in site.lines[-1]


def test_lifetimes_reach_both_sas_and_come_back_as_rekeys_and_ends():
    site = Site()
    site.hear(ask(1, limits=TrafficLimits(10, 20, 3, 4)), ChildUp(1, 1, "paris", "net"))
    child = site.children.get(1)
    assert [(sa.soft_limit, sa.hard_limit) for sa in (child.sa_in, child.sa_out)] == [(3, 4), (3, 4)]
    kinds = (NoticeKind.REKEY_SOON, NoticeKind.LIFE_OVER), (NoticeKind.IN_REKEY_SOON, NoticeKind.IN_LIFE_OVER)
    for soft, hard in kinds:
        site.manager.take_notices([told(soft, 1), told(hard, 1), told(soft, 77), told(hard, 77)], 0.0)
    assert site.endpoint.rekeyed == site.endpoint.expired == [1, 1]
    site.hear(ChildDown(1, 1, "paris", "net", "replaced", 5.0))
    site.manager.take_notices([told(soft, 1)], 0.0)
    assert site.endpoint.rekeyed == [1, 1], "a child in its grace is not rekeyed"


@pytest.mark.parametrize(
    "kind", [one for one in NoticeKind if one.name.endswith(("REKEY_SOON", "LIFE_OVER", "EXHAUSTED", "GRANT_WANTED"))]
)
def test_a_peer_that_chose_the_spi_of_another_one_ends_and_rekeys_nothing_of_it(kind):
    """The outbound SPI can be seen on the wire, and is whatever the peer says."""
    site = Site()
    theirs = replace(ask(2), spi_out=2001, remote_ts=(TrafficSelector.parse("10.66.0.0/24"),))
    site.hear(ask(1), theirs, ChildUp(1, 1, "paris", "net"), ChildUp(2, 2, "paris", "net"))
    assert {child.sa_out.spi for child in site.children.all()} == {2001}
    before = site.children.get(1).sa_out.granted
    site.manager.take_notices([Notice(kind, 2001, tag=2)], 0.0)
    assert {*site.endpoint.rekeyed, *site.endpoint.expired} <= {2}
    assert site.children.get(1).sa_out.granted == before
    assert site.endpoint.rekeyed or site.endpoint.expired or site.children.get(2).sa_out.granted > before
    assert all(site.children.get(child_id).sa_in.tag == child_id for child_id in (1, 2))


def test_the_endpoint_is_told_when_a_child_was_used():
    site = Site()
    site.hear(ask(1), CheckIdle(1), CheckIdle(9))
    assert site.endpoint.used == [(1, None), (9, None)]


def test_a_listener_hears_every_notice_until_it_ends():
    site = Site()
    heard: list = []
    end = site.manager.subscribe(lambda notice, view: heard.append(notice))
    up = ChildUp(1, 1, "paris", "net")
    site.hear(up)
    end()
    end()
    site.hear(up)
    assert heard == [up]


def test_a_dynamic_child_that_is_started_closes_the_way_to_its_peer():
    site = Site()
    connection = ConnectionConfig("rome", remote_addrs=(THEM,), children=(ChildConfig("host"),))
    routing = Routing(site.routes, 7, lambda: [])
    routing.start([connection], [("rome", "host")])
    assert site.routes.closed == {ip_network("192.0.2.2/32")}


def test_a_failed_installation_keeps_neither_spi_nor_grant():
    site = Site()
    site.routes.refuse = True
    spi = site.hear(AskSpi(6, 3))
    refused = ask(1)
    object.__setattr__(refused, "spi_in", spi)
    assert isinstance(site.hear(refused), HostError)
    assert site.store.ends == {}
    assert len(site.children._spis) == 0


def test_selectors_cut_into_thousands_of_routes_or_policies_are_refused():
    site = Site()
    crumbs = TrafficSelector.parse("2001:db8::1-2001:db8:ffff:ffff:ffff:ffff:ffff:fffe")
    many = tuple(TrafficSelector.host(ip_address(number)) for number in range(1000, 4000, 2))
    for remote_ts in ((crumbs,) * 8, many):
        refused = site.hear(ask(1, remote_ts=remote_ts))
        assert isinstance(refused, NegotiationError)
        assert refused.notify == 38
    assert not site.routes.routed


def test_a_group_is_idle_when_nothing_passed_on_any_of_it():
    """RFC 9611: with one Child SA for each worker the fallback is silent all the time."""
    site = Site()
    other = (TrafficSelector.parse("10.9.0.0/24"),)
    site.hear(ask(1))
    site.hear(replace(ask(2), resource=0))
    site.hear(ask(3, remote_ts=other))
    fallback, own, apart = site.children.all()
    own.used_before_s, apart.used_before_s = 50.0, 70.0
    assert [site.children.last_used_s(child_id) for child_id in (1, 2, 3)] == [50.0, 50.0, 70.0]
    assert [child.resource for child in (fallback, own, apart)] == [None, 0, None]
    assert [child.worker(4) for child in (fallback, own, apart)] == [1001 % 4, 1002 % 4, 1003 % 4]
