"""Traps: policies and routes without an SA, and which child a dropped packet wanted; what the endpoint is told of traffic."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from control.test_manager import LOCAL, REMOTE, SITE, THEM, US, Site, ask

from ipsec_fast.control.liveness import TrafficWatch
from ipsec_fast.dataplane.notice import Notice, NoticeKind
from ipsec_fast.errors import HostError
from ipsec_fast.ike.config import ChildConfig, ConnectionConfig
from ipsec_fast.ike.events import ChildDown

NET = ChildConfig("net", local_ts=(LOCAL,), remote_ts=(REMOTE,))
PARIS = ConnectionConfig("paris", local_addrs=(US,), remote_addrs=(THEM,), children=(NET,))


def test_a_trap_is_routed_to_the_worker_and_drops_there():
    site = Site()
    site.children.trap(PARIS, NET)
    site.manager.drain(0.0)
    assert SITE in site.routes.routed
    assert site.policies() == [(str(REMOTE), None)]


def test_a_trap_that_the_host_refuses_leaves_nothing():
    site = Site()
    site.routes.refuse = True
    with pytest.raises(HostError):
        site.children.trap(PARIS, NET)
    assert not site.routes.routed
    assert not site.children.changed or site.children.tables().policies == ()
    site.routes.refuse = False
    site.children.trap(PARIS, NET)
    assert SITE in site.routes.routed


def test_a_trap_keeps_its_routes_when_its_sa_goes():
    site = Site()
    site.children.trap(PARIS, NET)
    site.hear(ask(1))
    site.hear(ChildDown(1, 1, "paris", "net", "deleted by the peer"), now=1.0)
    site.manager.drain(10.0)
    assert SITE in site.routes.routed
    assert site.policies() == [(str(REMOTE), None)]
    site.children.stop_waiting(("paris", "net"))
    site.manager.drain(11.0)
    assert SITE not in site.routes.routed
    assert site.policies() == []


def test_a_dynamic_selector_of_a_trap_is_the_connections_address():
    site = Site()
    site.children.trap(PARIS, ChildConfig("host"))
    site.manager.drain(0.0)
    assert site.policies() == [(f"{THEM}/32", None)]


def test_a_dropped_packet_names_the_child_that_it_wanted():
    site = Site()
    wanted: list[tuple[str, str]] = []
    site.manager._acquire = lambda *key: wanted.append(key)
    site.children.expect([PARIS], [("paris", "net")])
    site.children.trap(PARIS, ChildConfig("host"))
    site.manager.drain(0.0)
    for policy in site.tables[-1].policies:
        site.manager.take_notices([Notice(NoticeKind.NO_SA, policy.tag)], 0.0)
    assert sorted(wanted) == [("paris", "host"), ("paris", "net")]
    site.manager.take_notices([Notice(NoticeKind.NO_SA, 99), Notice(NoticeKind.NO_SA, 0)], 0.0)
    assert len(wanted) == 2


def test_the_selectors_of_the_dropped_packet_go_with_it():
    site = Site()
    wanted: list[tuple] = []
    site.manager._acquire = lambda *what: wanted.append(what)
    site.children.expect([PARIS], [("paris", "net")])
    site.manager.drain(0.0)
    (policy,) = site.tables[-1].policies
    local, remote = ip_address("10.1.0.7"), ip_address("10.2.0.5")
    for ports in ((50000, 443), None):
        told = Notice(NoticeKind.NO_SA, policy.tag, remote, local=local, protocol=6, ports=ports)
        site.manager.take_notices([told], 0.0)
    texts = [(connection, child, *map(str, packet)) for connection, child, packet in wanted]
    assert texts == [
        ("paris", "net", "10.1.0.7/32[tcp/50000]", "10.2.0.5/32[tcp/443]"),
        ("paris", "net", "10.1.0.7/32[tcp]", "10.2.0.5/32[tcp]"),
    ]


def test_esp_for_an_unknown_spi_is_told_of_with_its_address():
    site = Site()
    told: list[tuple] = []
    site.endpoint.note_unknown_spi = lambda *what: told.append(what)
    site.manager.take_notices([Notice(NoticeKind.UNKNOWN_SPI, 7, THEM), Notice(NoticeKind.UNKNOWN_SPI, 8)], 5.0)
    assert told == [(7, THEM, 5.0)]


@dataclass
class Endpoint:
    owners: dict[int, int]
    told: list[tuple] = field(default_factory=list)

    def owner_of(self, child_id):
        return self.owners.get(child_id)

    def note_traffic(self, *what):
        self.told.append(what)


def test_each_ike_sa_is_told_of_once_a_second_and_nobody_without_children():
    site = Site()
    endpoint = Endpoint({1: 10, 2: 10})
    watch = TrafficWatch(endpoint, site.children)
    assert watch.get_timer() is None
    site.hear(ask(1), ask(2), ask(3))
    for now in (5.0, 5.5, 5.9, 6.0):
        watch.handle_timer(now)
    assert endpoint.told == [(10, None, None, 5.0), (10, None, None, 6.0)]
    assert watch.get_timer() == 7.0
