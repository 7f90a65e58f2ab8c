"""NAT keepalives: only behind a NAT, only after 20 s in which nothing left."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from ipsec_fast.gateway.keepalive import Keepalives
from ipsec_fast.ike.events import IkeView
from ipsec_fast.model import Path

PATH = Path(ip_address("10.0.0.2"), 4500, ip_address("192.0.2.2"), 4500, marker=True)
VIEW = IkeView(
    1, "paris", "ESTABLISHED", True, bytes(8), bytes(8), PATH, None, None, None, True, False, False, 0.0, None
)


class Site:
    def __init__(self, view: IkeView) -> None:
        self.view, self.esp, self.sent = view, None, []
        self.keepalives = Keepalives(lambda: [self.view], lambda children: self.esp, self.sent.append)


def test_without_a_nat_before_us_nothing_is_ever_sent():
    site = Site(replace(VIEW, nat_local=False, nat_remote=True))
    site.keepalives.plan(0.0)
    assert site.keepalives.get_timer() is None


def test_an_idle_path_gets_a_byte_every_20_seconds():
    site = Site(VIEW)
    site.keepalives.plan(0.0)
    for now in range(0, 61):
        if site.keepalives.get_timer() <= now:
            site.keepalives.handle_timer(float(now))
    assert site.sent == [PATH] * 3


def test_esp_and_ike_that_left_postpone_it():
    site = Site(VIEW)
    site.keepalives.plan(0.0)
    site.esp = 15.0
    site.keepalives.handle_timer(20.0)
    assert (site.sent, site.keepalives.get_timer()) == ([], 35.0)
    site.keepalives.note_sent(PATH, 30.0)
    site.keepalives.handle_timer(35.0)
    assert (site.sent, site.keepalives.get_timer()) == ([], 50.0)
    site.keepalives.handle_timer(50.0)
    assert site.sent == [PATH]


def test_an_ike_sa_that_is_gone_ends_it():
    site = Site(VIEW)
    site.keepalives.plan(0.0)
    site.view = replace(VIEW, state="DELETING")
    site.keepalives.plan(1.0)
    assert site.keepalives.get_timer() is None


def test_answers_to_strangers_are_not_remembered():
    for view in (VIEW, replace(VIEW, nat_local=False)):
        site = Site(view)
        site.keepalives.plan(0.0)
        for port in range(1000):
            site.keepalives.note_sent(replace(PATH, remote_port=port), 1.0)
        assert len(site.keepalives._sent) <= 1
