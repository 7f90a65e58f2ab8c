"""Which stored IKE SAs go on, which are begun anew, and with which numbers their children start."""

from __future__ import annotations

import dataclasses

import pytest
from pair import Pair, connection
from state_samples import child_record, ike_record

from ipsec_fast.control.grants import BLOCK
from ipsec_fast.control.keeper import Keeper
from ipsec_fast.control.restore import CLAIM_S, Restorer, settle
from ipsec_fast.control.store import GrantMark, MemoryStore, StoredIke
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.endpoint import Endpoint
from ipsec_fast.ike.records import IkeRecord
from ipsec_fast.ike.v2.states import ChildState


def shared(*, outstanding: bool) -> list[StoredIke]:
    """Two records that name the same child: a crash fell between the two writes of an IKE rekey."""
    child = child_record(5)
    old = ike_record(1, children=0, own_outstanding=outstanding)
    new = ike_record(2, children=0)
    return [
        StoredIke(dataclasses.replace(old, children=(child,)), {5: GrantMark(10, 9)}),
        StoredIke(dataclasses.replace(new, children=(child,)), {5: GrantMark(20, 3)}),
    ]


def test_a_child_of_two_records_stays_with_the_old_one_if_the_peer_asked():
    old, new = settle(shared(outstanding=False))
    assert [len(one.record.children) for one in (old, new)] == [1, 0]


def test_a_child_of_two_records_goes_to_the_new_one_if_we_asked():
    old, new = settle(shared(outstanding=True))
    assert [len(one.record.children) for one in (old, new)] == [0, 1]


@pytest.mark.parametrize("outstanding", [False, True])
def test_the_highest_marks_of_both_count(outstanding):
    (grants,) = [one.grants for one in settle(shared(outstanding=outstanding)) if one.grants]
    assert grants == {5: GrantMark(20, 9)}


class Host:
    """A real endpoint and keeper; what the children are told is noted."""

    def __init__(self) -> None:
        self.resumed: dict[int, GrantMark] = {}
        self.anew: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.store = MemoryStore()
        self.endpoint = Endpoint(EndpointSettings(), lambda n: bytes(range(1, n + 1)))
        keeper = Keeper(self.store, self.endpoint.owner_of, lambda child_id: None, self.lines.append)
        self.restorer = Restorer(
            self.endpoint,
            self,
            keeper,
            begin_anew=lambda *key: self.anew.append(key),
            log=self.lines.append,
        )

    def resume(self, child_id: int, mark: GrantMark) -> None:
        self.resumed[child_id] = mark

    def restore(self, record: IkeRecord, *connections, grants=None) -> None:
        marks = {child.child_id: GrantMark(BLOCK, 77) for child in record.children} if grants is None else grants
        self.store.put(record, marks)
        self.restorer.restore(self.store.load(), connections, 100.0)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def record() -> IkeRecord:
    """Of an IKE SA that a real exchange has made."""
    pair = Pair().up()
    (record,) = pair.a.records.values()
    return record


def test_what_goes_on_starts_behind_its_granted_end_and_above_its_highest_inbound_number(host, record):
    host.restore(record, connection("a"))
    (child,) = record.children
    assert host.resumed == {child.child_id: GrantMark(BLOCK, 77)}
    assert host.endpoint.views()[0].spi_i == record.spi_i
    assert host.anew == []
    assert host.lines == []


def test_a_request_outstanding_is_one_line_no_record_and_a_new_beginning(host, record):
    host.restore(dataclasses.replace(record, own_outstanding=True), connection("a"))
    assert host.lines == ["IKE SA 1 (to-b) of before the restart is not restored: a request of ours was outstanding"]
    assert host.anew == [("to-b", "net")]
    assert host.store.load() == []
    assert host.endpoint.views() == []
    assert record.keys.sk_d.closed


def test_a_child_that_was_replaced_is_not_begun_anew(host, record):
    (child,) = record.children
    children = (dataclasses.replace(child, state=ChildState.REKEYED),)
    host.restore(dataclasses.replace(record, own_outstanding=True, children=children), connection("a"))
    assert host.anew == []


def test_a_connection_that_was_changed_is_begun_anew_as_it_is_now(host, record):
    host.restore(record, connection("a", dpd_delay_s=7.0))
    assert "connection to-b was changed meanwhile" in host.lines[0]
    assert host.anew == [("to-b", "net")]


def test_a_child_without_a_mark_may_have_used_any_number(host, record):
    host.restore(record, connection("a"), grants={})
    assert "nobody knows which numbers child net has used" in host.lines[0]
    assert host.endpoint.views() == []


def test_an_ike_sa_that_its_peer_never_heard_of_is_dropped(host):
    for one in shared(outstanding=False):
        host.store.put(one.record, one.grants)
    host.restorer.restore(host.store.load(), (), 100.0)
    assert "IKE SA 2 (paris) of before the restart is not restored: its peer has not heard of it" in host.lines
    assert [one.record.ike_id for one in host.store.load()] == [1]


def test_a_connection_that_is_loaded_later_gets_its_ike_sa(host, record):
    host.restore(record)
    assert "is kept for 60 s" in host.lines[0]
    assert host.restorer.get_timer() == 100.0 + CLAIM_S
    host.restorer.claim(connection("b"), 101.0)
    assert host.endpoint.views() == []
    host.restorer.claim(connection("a"), 102.0)
    assert len(host.endpoint.views()) == 1
    assert host.restorer.get_timer() is None


def test_a_connection_that_nobody_loads_is_given_up(host, record):
    host.restore(record)
    host.restorer.handle_timer(100.0 + CLAIM_S)
    assert host.store.load() == []
    assert record.keys.sk_d.closed
    assert host.restorer.get_timer() is None
    assert host.anew == []
