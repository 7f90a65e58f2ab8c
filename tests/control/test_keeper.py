"""The keeper: what is stored before what, and what happens to an IKE SA whose state cannot be stored."""

from __future__ import annotations

import pytest
from state_samples import ike_record

from ipsec_fast.control.keeper import STEADY_S, Keeper
from ipsec_fast.control.store import GrantMark, MemoryStore
from ipsec_fast.errors import HostError
from ipsec_fast.ike.records import IkeGone


class Disk(MemoryStore):
    """A real store that may be full, or refuse to forget; it notes the order of what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.full = self.stuck = False
        self.done: list[tuple] = []

    def put(self, record, grants):
        self._check("put", record.ike_id)
        super().put(record, grants)

    def put_grants(self, ike_id, grants):
        self._check("put_grants", ike_id)
        super().put_grants(ike_id, grants)

    def remove(self, ike_id):
        if self.stuck:
            raise HostError("/run/x: read-only file system")
        self.done.append(("remove", ike_id))
        super().remove(ike_id)

    def _check(self, what, ike_id):
        if self.full:
            raise HostError("/run/x: no space left on device")
        self.done.append((what, ike_id))


class Host:
    def __init__(self) -> None:
        self.disk = Disk()
        self.lines: list[str] = []
        self.marks = {100: GrantMark(1000, 5), 101: GrantMark(2000, 6), 200: GrantMark(1, 1), 201: GrantMark(1, 1)}
        self.keeper = Keeper(self.disk, lambda child: child // 100, self.marks.get, self.lines.append)

    def stored(self, ike_id=1):
        return {one.record.ike_id: one.grants for one in self.disk.load()}[ike_id]


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_record_is_stored_with_the_numbers_of_its_children(host):
    assert host.keeper.store([ike_record(1)]) == frozenset()
    assert dict(host.stored()) == {100: GrantMark(1000, 5), 101: GrantMark(2000, 6)}


def test_a_new_ike_sa_is_stored_before_the_one_that_it_replaces_and_what_is_gone_goes_last(host):
    host.keeper.store([IkeGone(7), ike_record(1), ike_record(2)])
    assert host.disk.done == [("put", 2), ("put", 1), ("remove", 7)]


def test_the_end_of_a_block_is_stored_and_the_inbound_number_with_it(host):
    host.keeper.store([ike_record(1)])
    host.keeper.store_end(100, 5000)
    assert host.stored()[100] == GrantMark(5000, 5)


def test_a_child_that_no_record_names_needs_no_word_of_its_block(host):
    host.keeper.store_end(100, 5000)
    assert host.disk.done == []


def test_inbound_numbers_are_stored_once_a_second_and_only_where_they_moved(host):
    host.keeper.store([ike_record(1)])
    host.keeper.handle_timer(10.0)
    assert host.disk.done == [("put", 1)]
    host.marks[101] = GrantMark(2000, 99)
    host.keeper.handle_timer(10.9)
    assert host.disk.done == [("put", 1)]
    host.keeper.handle_timer(11.0)
    assert host.disk.done == [("put", 1), ("put_grants", 1)]
    assert host.stored()[101] == GrantMark(2000, 99)


def test_a_full_disk_takes_the_record_out_and_the_ike_sa_goes_on(host):
    host.keeper.store([ike_record(1)])
    host.disk.full = True
    assert host.keeper.store([ike_record(1)]) == frozenset()
    assert host.disk.load() == []
    host.keeper.store_end(100, 9000)
    (line,) = host.lines
    assert "no space left on device" in line
    assert "after a crash it would be negotiated anew" in line
    assert "1 IKE SA could not be stored" in host.keeper.keeps
    host.keeper.store([ike_record(1)])
    assert len(host.lines) == 1


def test_it_is_tried_again_once_a_second_and_told_when_it_works(host):
    host.disk.full = True
    host.keeper.store([ike_record(1)])
    assert host.keeper.handle_timer(10.0) == (1,)
    host.disk.full = False
    host.keeper.store([ike_record(1)])
    assert host.keeper.handle_timer(12.0) == ()
    assert len(host.lines) == 1
    host.keeper.handle_timer(12.0 + STEADY_S)
    assert host.lines[1:] == ["IKE SA 1 is stored again"]
    assert host.keeper.keeps == "memory"


def test_luck_that_changes_with_every_write_is_one_line(host):
    """On a full disk the room of a record that is taken out is enough for the next one, but not for a second file."""
    for second in range(10, 40):
        host.disk.full = False
        host.keeper.store([ike_record(1)])
        host.disk.full = True
        host.keeper.store_end(100, 9000 + second)
        assert host.keeper.handle_timer(float(second)) == (1,)
    assert len(host.lines) == 1
    assert "1 IKE SA could not be stored" in host.keeper.keeps


def test_where_an_older_record_cannot_be_taken_out_its_messages_are_withheld_and_no_block_is_granted(host):
    host.keeper.store([ike_record(1), ike_record(2)])
    host.disk.full = host.disk.stuck = True
    assert host.keeper.store([ike_record(1), IkeGone(2)]) == {1, 2}
    with pytest.raises(HostError):
        host.keeper.store_end(100, 9000)
    assert any("nothing is sent that it would not know" in line for line in host.lines)
    host.disk.full = host.disk.stuck = False
    assert host.keeper.store([ike_record(1)]) == frozenset()
    host.keeper.store_end(100, 9000)
    assert host.stored()[100].out_end == 9000


def test_what_could_never_be_stored_needs_no_withholding(host):
    host.disk.full = host.disk.stuck = True
    assert host.keeper.store([ike_record(1)]) == frozenset()


def test_a_record_that_could_not_be_removed_is_removed_later(host):
    host.keeper.store([ike_record(1)])
    host.disk.stuck = True
    host.keeper.store([IkeGone(1)])
    assert len(host.disk.load()) == 1
    host.disk.stuck = False
    host.keeper.handle_timer(10.0)
    assert host.disk.load() == []


def test_what_was_there_before_a_restart_is_kept_up_to_date(host):
    host.disk.put(ike_record(1), {100: GrantMark(10, 0)})
    host.keeper.adopt(1, {100: GrantMark(10, 0)})
    host.keeper.store_end(100, 7777)
    assert host.stored()[100] == GrantMark(7777, 5)
