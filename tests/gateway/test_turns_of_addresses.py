"""Which of a peer's addresses the next attempt goes to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ipsec_fast.errors import HostError
from ipsec_fast.gateway.operations import Operations
from ipsec_fast.gateway.turns import Turns
from ipsec_fast.ike.config import ConnectionConfig
from ipsec_fast.ike.events import ChildUp, IkeDown, IkeUp

THREE = ConnectionConfig("site", remote_addrs=tuple(ip_address(f"192.0.2.{n}") for n in (1, 2, 3)))
ONE = ConnectionConfig("single", remote_addrs=(ip_address("192.0.2.9"),))


def attempt(turns: Turns, ike_id: int, *, serves: bool = False, failed: bool = True) -> int:
    place = turns.place(THREE)
    turns.begin(ike_id, THREE)
    if serves:
        turns.hear(IkeUp(ike_id, "site"))
        turns.hear(ChildUp(ike_id, 1, "site", "net"))
    turns.hear(IkeDown(ike_id, "site", "over", failed=failed))
    return place


def test_every_failed_attempt_hands_over_to_the_next_and_the_last_to_the_first() -> None:
    turns = Turns()
    assert [attempt(turns, n) for n in range(5)] == [0, 1, 2, 0, 1]


def test_an_address_that_served_is_tried_first_again() -> None:
    turns = Turns()
    assert [attempt(turns, 1), attempt(turns, 2, serves=True), attempt(turns, 3)] == [0, 1, 1]
    assert turns.place(THREE) == 2


def test_what_the_operator_took_down_changes_nothing() -> None:
    turns = Turns()
    assert [attempt(turns, 1, failed=False), attempt(turns, 2, failed=False)] == [0, 0]


def test_one_failure_counts_once_whoever_tells_of_it() -> None:
    turns = Turns()
    turns.begin(1, THREE)
    turns.hand_over(THREE, 0)  # the waiting command knows first
    turns.hear(IkeDown(1, "site", "over", failed=True))
    assert turns.place(THREE) == 1


def test_a_failure_without_an_ike_rekey_of_ours_and_a_single_address_leave_nothing_behind() -> None:
    turns = Turns()
    for ike_id in range(100):
        turns.begin(ike_id, ONE)
        turns.hand_over(ONE, 0)
    assert turns.place(ONE) == 0
    assert not turns._attempts
    assert not turns._turns
    shorter = ConnectionConfig("site", remote_addrs=THREE.remote_addrs[:2])
    turns.hand_over(THREE, 0)
    turns.hand_over(THREE, 1)
    assert turns.place(shorter) == 0


def test_another_configuration_begins_at_its_first_address() -> None:
    turns = Turns()
    attempt(turns, 1)
    turns.begin(2, THREE)
    turns.forget("site")
    turns.hear(IkeDown(2, "site", "over", failed=True))  # that attempt was of the old one
    assert turns.place(THREE) == 0
    assert not turns._turns
    assert not turns._attempts


def test_an_address_that_no_local_one_can_reach_has_no_turn() -> None:
    """No socket of ours could send to it."""
    operations = object.__new__(Operations)
    operations._turns = Turns()
    remote = tuple(map(ip_address, ("2001:db8::2", "192.0.2.2")))
    mixed = ConnectionConfig("mixed", local_addrs=(ip_address("192.0.2.1"),), remote_addrs=remote)
    assert operations._path(mixed).remote == remote[1]
    lost = ConnectionConfig("lost", local_addrs=mixed.local_addrs, remote_addrs=remote[:1])
    with pytest.raises(HostError, match="no IPv6 address in local_addrs"):
        operations._path(lost)
