"""After a NAT moved the peer: the Child SAs' endpoints, their path, and which packet says where the peer is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
import test_manager
from test_manager import PATH, Site, ask

from ipsec_fast.control import children as children_module
from ipsec_fast.control.paths import PathHost, Paths
from ipsec_fast.dataplane.notice import Notice, NoticeKind
from ipsec_fast.dataplane.udp import endpoint
from ipsec_fast.ike.events import CheckSource, PathMoved

NEW_PORT = replace(PATH, remote_port=40001)
NEW_PLACE = replace(PATH, remote=ip_address("203.0.113.7"), remote_port=40002)


class Endpoint(test_manager.FakeEndpoint):
    def __init__(self) -> None:
        super().__init__()
        self.siblings: dict[int, tuple[int, ...]] = {}
        self.resting: set[int] = set()
        self.came: list[tuple] = []
        self.checked: list[tuple] = []

    def children_beside(self, child_id):
        return self.siblings.get(child_id, ())

    def path_rests(self, child_id):
        return child_id in self.resting

    def packet_came_from(self, child_id, remote, port, at, now):
        self.came.append((child_id, str(remote), port, at))

    def source_checked(self, ike_id, source, now):
        self.checked.append((ike_id, source))

    def view_of(self, ike_id):
        return None


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The sources that workers noted, by inbound SPI, and the SPIs that may report again."""
    noted: dict = {"again": []}
    monkeypatch.setattr(children_module, "newest_source", lambda sa: noted.get(sa.spi))
    monkeypatch.setattr(children_module, "tell_source_again", lambda sa: noted["again"].append(sa.spi))
    return noted


def site_of(*child_ids: int, **more: object) -> Site:
    site = Site(**more)
    site.endpoint = Endpoint()
    site.manager._endpoint = site.endpoint
    for child_id in child_ids:
        site.hear(replace(ask(child_id), follows_peer=True))
        site.endpoint.siblings[child_id] = child_ids
    return site


def ends(site: Site, child_id: int) -> tuple:
    child = site.children.get(child_id)
    return endpoint(child.sa_out), endpoint(child.sa_in)


def test_only_a_followed_child_is_watched():
    site = site_of(1)
    site.hear(ask(2))
    assert ends(site, 1)[1] == (0, PATH.local, PATH.remote, 4500)
    assert ends(site, 2)[1] is None


@pytest.mark.parametrize("path", [NEW_PORT, NEW_PLACE], ids=["port", "address"])
def test_all_children_of_the_ike_sa_are_aimed_anew_and_no_table_is_published(path):
    site = site_of(1, 2, 3)
    published = len(site.tables)
    site.hear(PathMoved(1, "paris", PATH, path, (1, 2)))
    for child_id in (1, 2):
        assert [end[2:] for end in ends(site, child_id)] == [(path.remote, path.remote_port)] * 2
        assert site.children.get(child_id).path == path
    assert ends(site, 3)[0][2:] == (PATH.remote, 4500)
    assert len(site.tables) == published


def test_a_child_whose_sa_writes_its_own_header_is_aimed_by_its_driver():
    site = site_of(1, raw_socket_index=lambda local: 3, copies_df=lambda connection, child: False)
    out = site.children.get(1).sa_out
    assert out.encap == (4500, 4500)
    site.hear(PathMoved(1, "paris", PATH, NEW_PLACE, (1,)))
    assert endpoint(out) == (3, PATH.local, NEW_PLACE.remote, NEW_PLACE.remote_port)
    site.hear(PathMoved(1, "paris", NEW_PLACE, PATH, (1,)))  # and back to where the SA itself sends
    assert endpoint(out) == (3, PATH.local, PATH.remote, 0)


def test_another_address_has_the_mtu_of_its_own_interface():
    site = site_of(1)
    site.children._host = replace(site.children._host, path_mtu=lambda remote: 1400)
    before = site.children.get(1).mtu.max_inner_bytes
    site.hear(PathMoved(1, "paris", PATH, NEW_PORT, (1,)))
    assert site.children.get(1).path_mtu == 1500  # another port is no other path
    site.hear(PathMoved(1, "paris", NEW_PORT, NEW_PLACE, (1,)))
    child = site.children.get(1)
    assert child.path_mtu == 1400
    assert child.sa_out.max_inner == child.mtu.max_inner_bytes < before


def test_the_newest_packet_of_all_children_decides(sources):
    site = site_of(1, 2)
    sources[1001] = (NEW_PLACE.remote, 40002, 10.0)
    sources[1002] = (PATH.remote, 4500, 11.0)
    site.manager.take_notices([Notice(NoticeKind.PEER_MOVED, 1)], 12.0)
    assert site.endpoint.came == [(1, str(PATH.remote), 4500, 11.0)]
    assert sorted(sources["again"]) == [1001, 1002]


def test_while_the_path_rests_the_worker_waits_and_is_asked_when_it_is_over(sources):
    site = site_of(1)
    site.endpoint.resting.add(1)
    sources[1001] = (NEW_PLACE.remote, 40002, 10.0)
    site.manager.take_notices([Notice(NoticeKind.PEER_MOVED, 1)], 10.0)
    assert not site.endpoint.came
    assert not sources["again"]
    site.hear(CheckSource(1, (1,)))
    assert site.endpoint.checked == [(1, (NEW_PLACE.remote, 40002, 10.0))]
    assert sources["again"] == [1001]


def test_a_late_packet_of_a_replaced_child_says_nothing(sources, monkeypatch):
    site = site_of(1)
    site.hear(replace(ask(2, replaces=1), follows_peer=True))
    sources[1001] = (NEW_PLACE.remote, 40002, 10.0)
    assert site.children.newest_source((1, 2)) == sources[1001]  # the new one is not used yet
    monkeypatch.setattr(children_module, "last_received_s", lambda sa: 9.0 if sa.spi == 1002 else None)
    assert site.children.newest_source((1, 2)) is None
    sources[1002] = (PATH.remote, 4500, 9.0)
    assert site.children.newest_source((1, 2)) == sources[1002]


def test_a_notice_of_a_child_that_is_gone_is_nothing(sources):
    site = site_of(1)
    site.manager.take_notices([Notice(NoticeKind.PEER_MOVED, 77)], 1.0)
    site.hear(PathMoved(1, "paris", PATH, NEW_PLACE, (77,)))
    assert not site.endpoint.came


def paths_of(site: Site) -> Paths:
    host = PathHost(
        lambda remote: 1500, lambda: [], lambda name: "off", lambda *a: True, lambda *a: None, lambda child_id: 1
    )
    paths = Paths(site.children, host, lambda news: None)
    paths.sync(1.0)
    return paths


def test_the_path_follows_and_an_empty_one_ends():
    site = site_of(1, 2, 3)
    paths = paths_of(site)
    old = paths._of[1]
    site.hear(PathMoved(1, "paris", PATH, NEW_PLACE, (1, 2)))
    paths.moved((1, 2), 2.0)
    new = paths._of[1]
    assert new is paths._of[2] is not old
    assert new.key[1] == NEW_PLACE.remote
    assert [child.child_id for child in new.children] == [1, 2]
    assert [child.child_id for child in old.children] == [3]
    site.hear(PathMoved(1, "paris", PATH, NEW_PLACE, (3,)))
    paths.moved((3,), 3.0)
    assert [child.child_id for child in new.children] == [1, 2, 3]
    assert list(paths._by_remote) == [NEW_PLACE.remote]
    books = (dict(paths._of), {key: path.children for key, path in paths._paths.items()})
    paths.sync(4.0)  # comes to the same
    assert books == (dict(paths._of), {key: path.children for key, path in paths._paths.items()})


def test_another_port_is_the_same_path():
    site = site_of(1)
    paths = paths_of(site)
    old = paths._of[1]
    site.hear(PathMoved(1, "paris", PATH, NEW_PORT, (1,)))
    paths.moved((1,), 2.0)
    assert paths._of[1] is old
