"""What one authenticated peer may have and make us do (docs/attacks.md, row 49): children, rekeys, exchanges, IKE SAs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pair import Pair, child, connection
from test_hostile_peer import Ask

from ipsec_fast.iana import NotifyType
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import ChildFailed
from ipsec_fast.ike.limiter import Allowance
from ipsec_fast.ike.v2 import child_setup, outbound
from ipsec_fast.ike.v2.create_child import CreateChild
from ipsec_fast.ike.v2.informational import Liveness
from ipsec_fast.ike.v2.outbound import submit
from ipsec_fast.ike.v2.payloads import NotifyPayload
from ipsec_fast.ike.v2.rekey_child import RekeyChild
from ipsec_fast.ike.v2.states import ChildState
from ipsec_fast.model import Identity


def full(count: int = 64, **more) -> Pair:
    """As many children as one IKE SA may have."""
    local = tuple(child(f"c{i}", local=f"10.1.{i}.0/24", remote=f"10.2.{i}.0/24") for i in range(count + 1))
    remote = tuple(child(f"c{i}", local=f"10.2.{i}.0/24", remote=f"10.1.{i}.0/24") for i in range(count + 1))
    pair = Pair(a=connection("a", children=local), b=connection("b", children=remote), **more)
    pair.initiate("a", *[one.name for one in local[:count]])
    pair.run(20.0)
    assert len(pair.a.view.children) == len(pair.b.view.children) == count
    return pair


def only(pair: Pair, side: str):
    (sa,) = pair.shell(side).endpoint._core.sas.values()
    return sa


# --- children


def test_at_the_limit_both_sides_rekey_and_nobody_gets_one_more() -> None:
    pair = full()
    for side in ("a", "b"):
        before = {one.child_id for one in pair.shell(side).view.children}
        for one in list(before)[:5]:
            pair.call(side, "rekey_child", one)
        pair.run(10.0)
        assert len({one.child_id for one in pair.shell(side).view.children} - before) == 5
    assert "NO_ADDITIONAL_SAS" not in pair.a.log + pair.b.log
    pair.call("a", "initiate_child", pair.a.view.ike_id, pair.a.configs[0].children[-1])
    pair.run(3.0)
    assert "NO_ADDITIONAL_SAS" in pair.a.of(ChildFailed)[-1].reason
    assert len(pair.a.view.children) == len(pair.b.view.children) == 64


def test_replaced_children_take_no_room_from_new_ones() -> None:
    pair = full(3)
    sa = only(pair, "b")
    first = next(iter(sa.children.values()))
    first.state = ChildState.REKEYED
    assert child_setup.count_children(sa, in_group=False) == 2


def test_a_peer_that_never_deletes_what_it_has_replaced_comes_to_an_end(monkeypatch) -> None:
    monkeypatch.setattr(child_setup, "CHILDREN_MAX", 4)
    pair = full(4)
    only(pair, "b").peers_rekeys = Allowance(10_000, 10_000.0)
    pair.network = lambda sent: (0.001,)
    for _ in range(40):
        last = pair.a.view.children[-1].child_id
        pair.call("a", "rekey_child", last)
        only(pair, "a").queue.clear()
        pair.run(0.05)
        only(pair, "a").queue.clear()
    assert len(pair.b.view.children) <= 12


def test_the_children_of_one_peer_are_bounded_over_all_its_ike_sas(monkeypatch) -> None:
    monkeypatch.setattr(child_setup, "CHILDREN_PER_PEER", 6)
    children = tuple(child(f"c{i}", local=f"10.1.{i}.0/24", remote=f"10.2.{i}.0/24") for i in range(4))
    mirror = tuple(child(f"c{i}", local=f"10.2.{i}.0/24", remote=f"10.1.{i}.0/24") for i in range(4))
    pair = Pair(a=connection("a", children=children), b=connection("b", children=mirror))
    for _ in range(3):
        pair.initiate("a", *[one.name for one in children])
        pair.run(2.0)
    views = pair.b.views("ESTABLISHED")
    assert sum(len(view.children) for view in views) <= 6 + len(views) - 1
    assert "over all its IKE SAs, the most" in pair.b.log
    other = replace(pair.a.configs[0], local_id=Identity.parse("c.example"))
    pair.a.configs[0] = other
    pair.b.configs[0] = replace(pair.b.configs[0], remote_id=None)
    failures = len(pair.a.of(ChildFailed))
    pair.initiate("a", *[one.name for one in children])
    pair.run(2.0)
    assert len(pair.a.of(ChildFailed)) == failures, "another peer has room of its own"


# --- the queue


def deaf_peer() -> Pair:
    """b answers nothing of a's, whose window stays closed."""
    pair = Pair().up()
    pair.run(11.0)  # the child is old enough for INVALID_SPI
    pair.network = lambda sent: () if sent.sender == "b" and sent.data[19] & 0x20 else (0.0001,)
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    return pair


def test_however_often_a_peer_says_invalid_spi_one_rekey_waits_and_one_line_is_logged() -> None:
    pair = deaf_peer()
    spi = pair.b.view.children[0].spi_in
    lines = len(pair.a.log.splitlines())
    core = pair.b.endpoint._core
    for _ in range(100):
        core.now = pair.now
        submit(only(pair, "b"), Ask(NotifyPayload(NotifyType.INVALID_SPI, spi.to_bytes(4, "big"))))
        pair.run(0.002)
    assert [type(one) for one in only(pair, "a").queue] == [RekeyChild]
    new = pair.a.log.splitlines()[lines:]
    assert sum("it is rekeyed" in line for line in new) == 1


@pytest.mark.parametrize("what", ["rekey_child", "rekey_ike", "liveness", "unknown_spi", "delete"])
def test_of_like_exchanges_one_waits(what: str) -> None:
    pair = deaf_peer()
    sa = only(pair, "a")
    for _ in range(50):
        match what:
            case "rekey_child":
                pair.call("a", "rekey_child", pair.a.view.children[0].child_id)
            case "rekey_ike":
                pair.call("a", "rekey_ike", sa.ike_id)
            case "liveness":
                submit(sa, Liveness())
            case "unknown_spi":
                pair.call("a", "note_unknown_spi", 0x1234, sa.path.remote)
            case "delete":
                pair.call("a", "terminate_child", pair.a.view.children[0].child_id)
    assert len(sa.queue) <= 1


def test_the_queue_has_an_end_for_one_ike_sa_and_for_all_of_a_peer(monkeypatch) -> None:
    monkeypatch.setattr(outbound, "QUEUE_MAX", 100)
    pair = Pair()
    pair.initiate("a")
    pair.initiate("a")
    pair.run(2.0)
    one, two = pair.a.endpoint._core.sas.values()
    pair.network = lambda sent: ()
    for sa in (one, two):
        for _ in range(300):
            submit(sa, CreateChild(sa.config.children[0]))
    pair.flush()
    assert len(one.queue) == 100
    assert len(two.queue) == outbound.QUEUE_COUNTED
    assert pair.a.endpoint.counters["queue_full"] == 300 * 2 - 100 - outbound.QUEUE_COUNTED - 2
    assert "exchanges wait for b.example already" in pair.a.of(ChildFailed)[-1].reason
    pair.call("a", "terminate_ike", one.ike_id)
    assert one.queue[0].name == "IKE_DELETE", "what makes room is never refused"


# --- IKE SAs


@pytest.mark.parametrize("expected", [None, Identity.parse("*.example")])
def test_a_holder_of_a_secret_that_invents_identities_is_bounded_by_the_connection(expected) -> None:
    settings = EndpointSettings(ike_sas_per_connection=10)
    pair = Pair(b=connection("b", remote_id=expected), settings_b=settings)
    for number in range(15):
        pair.a.configs[0] = connection("a", local_id=Identity.parse(f"x{number}.example"))
        pair.initiate("a")
        pair.run(0.5)
    assert len(pair.b.views("ESTABLISHED")) == 10
    assert "whose peers may have any identity, has 10 IKE SAs already" in pair.b.log
    pair.a.configs[0] = connection("a", local_id=Identity.parse("x3.example"))
    pair.initiate("a")
    pair.run(0.5)
    assert len(pair.b.views("ESTABLISHED")) == 11, "a reauthentication of one that is there"
    for view in pair.b.views("ESTABLISHED")[:4]:
        pair.call("b", "terminate_ike", view.ike_id)
    pair.run(3.0)
    assert pair.b.endpoint._core.count_anybody("to-a") == 7


def test_who_belongs_to_a_peer_is_found_without_walking_all_ike_sas(monkeypatch) -> None:
    pair = Pair(b=connection("b", remote_id=None))
    for number in range(30):
        pair.a.configs[0] = connection("a", local_id=Identity.parse(f"x{number}.example"))
        pair.initiate("a")
        pair.run(0.2)
    core = pair.b.endpoint._core
    assert len(core.sas) == 30
    assert all(core.with_peer(sa) == [sa] for sa in core.sas.values())
    for sa in tuple(core.sas.values()):
        sa.close("test", failed=False)
    assert not core._peers
    assert not any(core._anybody.values())


def test_two_hosts_with_one_identity_are_a_line_in_the_log() -> None:
    pair = Pair().up()
    pair.run(30.0)
    (first,) = pair.b.endpoint._core.sas.values()
    first.path = replace(first.path, remote=first.path.local)  # as if the first one were somewhere else
    pair.initiate("a")
    pair.run(2.0)
    assert pair.b.log.count("a.example has an IKE SA at 192.0.2.2 too") == 1
