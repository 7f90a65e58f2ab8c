"""RFC 9611, several Child SAs for the same traffic: who may have how many, what must be alike, and what outlives what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agreement import come_to_rest
from crash_pair import CrashPair, used_twice
from pair import Pair, child, connection, perfect
from resource_pair import NET_B, ResourcePair, fallback, served, sides, workers

from ipsec_fast.crypto.secret import arena_report
from ipsec_fast.errors import HostError, NegotiationError, StateError
from ipsec_fast.iana import ExchangeType, NotifyType
from ipsec_fast.ike.asks import Steps
from ipsec_fast.ike.config import ChildConfig
from ipsec_fast.ike.events import AskInstallChild, ChildDown, ChildFailed, ResourceFailed
from ipsec_fast.ike.limiter import Allowance
from ipsec_fast.ike.v2 import child_setup, create_child_answer
from ipsec_fast.ike.v2.child_sa import FALLBACK, Place
from ipsec_fast.ike.v2.create_child import CreateChild
from ipsec_fast.ike.v2.create_resource import CreateResourceChild
from ipsec_fast.ike.v2.exchange import Payloads
from ipsec_fast.ike.v2.ike_sa import PEERS_REKEYS, PEERS_REKEYS_PER_S
from ipsec_fast.ike.v2.outbound import submit
from ipsec_fast.ike.v2.payloads import NotifyPayload
from ipsec_fast.ike.v2.resources import limit_of
from ipsec_fast.model import TrafficSelector


def group(count: int = 2, *, up: bool = True, settings=workers(4), **options) -> Pair:
    """A tunnel of the two sides, and so many per-resource Child SAs that a asked for."""
    pair = Pair(*sides(**options), settings=settings)
    if up:
        pair.up()
        for resource in range(count):
            more(pair, resource)
        assert served(pair.a) == [None, *range(count)]
    return pair


def more(pair: Pair, resource: int, side: str = "a") -> None:
    pair.call(side, "initiate_resource", fallback(pair.shell(side)).child_id, resource)
    pair.run(1)


class Forged(CreateResourceChild):
    """Asks, whatever there is already, with a notify of the test's own."""

    def __init__(self, pair: Pair, *notifies: NotifyPayload) -> None:
        config = pair.a.configs[0].children[0]
        super().__init__(config, config.local_ts, config.remote_ts, 0)
        self.notifies = notifies
        self.answer: tuple = ()

    def is_wanted(self, sa) -> bool:
        super().is_wanted(sa)
        return True

    def _proposed(self) -> ChildConfig:
        return self.config

    def request(self, sa) -> Steps[Payloads]:
        payloads = yield from super().request(sa)
        others = (p for p in payloads if not isinstance(p, NotifyPayload))
        return (*self.notifies, *others)

    def response(self, sa, message) -> Steps[None]:
        self.answer = message.payloads
        yield from super().response(sa, message)


def forge(pair: Pair, *notifies: NotifyPayload, seconds: float = 0.1) -> Forged:
    exchange = Forged(pair, *(notifies or (NotifyPayload(NotifyType.SA_RESOURCE_INFO),)))
    core = pair.a.endpoint._core
    core.now = pair.now
    submit(next(iter(core.sas.values())), exchange)
    pair.flush()
    pair.run(seconds)
    return exchange


def errors_of(exchange: Forged) -> list[int]:
    return [p.notify for p in exchange.answer if isinstance(p, NotifyPayload) and p.is_error]


# --- who speaks of it


@pytest.mark.parametrize(
    ("of_a", "of_b", "count_a", "count_b", "agreed"),
    [
        (None, None, 2, 2, True),
        (None, None, 1, 2, False),  # where there is one worker nothing is gained by saying so
        (None, None, 2, 1, False),
        (True, True, 1, 1, True),
        (False, None, 2, 2, False),
        (None, False, 2, 2, False),
        (True, None, 1, 2, True),
    ],
)
def test_a_group_needs_both_sides(of_a, of_b, count_a, count_b, agreed) -> None:
    a, b = sides({"per_resource": of_a}, {"per_resource": of_b})
    pair = Pair(a, b, settings=workers(count_a), settings_b=workers(count_b)).up()
    assert {pair.a.view.children[0].in_group, pair.b.view.children[0].in_group} == {agreed}
    if agreed:
        more(pair, 0)
        pair.check_one_pair(children=2)
    else:
        with pytest.raises(StateError, match="not the fallback"):
            pair.a.endpoint.initiate_resource(1, 0, pair.now)


def test_a_child_by_create_child_sa_becomes_a_group_too() -> None:
    there, back = "10.3.0.0/24", "10.4.0.0/24"
    a = connection("a", children=(child(), child("more", local=there, remote=back)))
    b = connection("b", children=(child(**NET_B), child("more", local=back, remote=there)))
    pair = Pair(a, b, settings=workers(2)).up()
    pair.call("b", "initiate_child", 1, b.children[1])
    pair.run(1)
    pair.check_one_pair(children=2)
    assert all(c.in_group and c.resource is None for c in (*pair.a.view.children, *pair.b.view.children))


def test_a_second_child_for_the_same_traffic_that_nobody_calls_one_more_is_none() -> None:
    pair = group(1)
    pair.call("b", "initiate_child", 1, pair.b.configs[0].children[0])
    pair.run(1)
    pair.check_one_pair(children=3)
    assert [c.in_group for c in pair.a.view.children] == [True, True, False]
    assert [c.in_group for c in pair.b.view.children] == [True, True, False]


# --- one more


def test_each_has_keys_and_spis_of_its_own_and_all_else_alike() -> None:
    pair = group(4)
    pair.check_one_pair(children=5)
    for shell in (pair.a, pair.b):
        views = shell.view.children
        assert len({c.spi_in for c in views}) == 5
        assert len({(c.suite, c.esn, c.encap, c.local_ts, c.remote_ts, c.name) for c in views}) == 1
        assert all(c.spi_in % 4 == c.resource for c in views if c.resource is not None)
        assert served(shell) == [None, 0, 1, 2, 3]
    assert used_twice(pair.sent) == []


def test_the_initiator_sends_on_it_at_once_and_the_responder_when_it_is_used() -> None:
    pair = group(1)
    assert (pair.a.children[2].sends, pair.b.children[2].sends) == (True, False)
    pair.b.endpoint.inbound_seen(2, pair.now)
    pair.flush()
    assert pair.b.children[2].sends
    more(pair, 1)
    pair.run(11)  # whether the peer has packets for that one or not
    assert pair.b.children[3].sends


def test_a_resource_that_is_served_or_asked_for_is_not_asked_for_again() -> None:
    pair = group(1)
    for _ in range(3):
        pair.call("a", "initiate_resource", 1, 1)
    more(pair, 0)
    assert served(pair.a) == [None, 0, 1]


def test_the_responder_gives_it_to_the_worker_with_the_fewest() -> None:
    pair = group(0, settings=workers(3))
    for resource in (2, 0):
        more(pair, resource)
    assert served(pair.b) == [None, 0, 1]
    more(pair, 1)
    for _ in range(3):
        forge(pair, seconds=1)
    assert served(pair.b) == [None, 0, 0, 1, 1, 2, 2]


def test_without_an_install_nothing_is_left_and_the_fallback_stands() -> None:
    pair = group(0)
    pair.b.refuse[AskInstallChild] = HostError("no more room")
    more(pair, 0)
    pair.run(20)  # TEMPORARY_FAILURE is tried again three times
    (failed,) = pair.a.of(ResourceFailed)
    assert (failed.child_id, failed.resource, failed.has_enough) == (1, 0, False)
    assert pair.a.of(ChildFailed) == []
    pair.check_one_pair()


def test_algorithms_of_another_choice_do_not_get_in() -> None:
    """The first of our proposals is what both would choose by themselves; the group has another one."""
    strong, other = "aes256gcm16", "aes128gcm16"
    a, b = sides({"esp": (other,)}, {"esp": (strong, other)})
    pair = Pair(a, b, settings=workers(2)).up()
    pair.a.configs[0] = replace(a, children=(child(esp=(strong, other)),))
    forged = forge(pair)
    assert errors_of(forged) == []
    assert {c.suite.name for c in pair.b.view.children} == {other}
    assert len(pair.b.view.children) == 2
    pair.a.configs[0] = replace(a, children=(child(esp=(strong,)),))
    assert errors_of(forge(pair)) == [NotifyType.NO_PROPOSAL_CHOSEN]
    assert len(pair.b.view.children) == 2


def test_other_selectors_are_a_group_of_their_own() -> None:
    pair = group(1, options_a={"local": "10.1.0.0/24"})
    narrow = child(local="10.1.0.0/25")
    exchange = Forged(pair, NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"\0\0\0\7"))
    exchange._key = (narrow, narrow.local_ts, narrow.remote_ts)
    submit(pair.a.endpoint._core.sas[1], exchange)
    pair.flush()
    pair.run(1)
    third = pair.b.view.children[2]
    assert (third.resource, third.in_group) == (None, True)
    assert third.remote_ts == narrow.local_ts


def test_the_packet_that_caused_it_may_stand_before_the_selectors() -> None:
    """RFC 9611 section 4, RFC 7296 section 2.9: a peer that asks for each CPU's first packet names that one too."""
    pair = group(1)
    exchange = Forged(pair, NotifyPayload(NotifyType.SA_RESOURCE_INFO, bytes(4)))
    config = pair.a.configs[0].children[0]
    trigger = tuple(TrafficSelector.parse(f"{address}[udp/53]") for address in ("10.1.0.7", "10.2.0.9"))
    wide = (config.local_ts, config.remote_ts)
    exchange._selectors = lambda sa: tuple((one, *all) for one, all in zip(trigger, wide, strict=True))
    submit(pair.a.endpoint._core.sas[1], exchange)
    pair.flush()
    pair.run(1)
    pair.check_one_pair(children=3)
    assert served(pair.b) == [None, 0, 1]


# --- what the notify may say


@pytest.mark.parametrize(
    "notify",
    [
        NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"\xff\xff\xff\xff"),
        NotifyPayload(NotifyType.SA_RESOURCE_INFO, bytes(range(256)) * 16),
        NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"cpu \n\x1b[31m of somebody else"),
        NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"x", protocol=3, spi=b"\1\2\3\4"),
        NotifyPayload(NotifyType.SA_RESOURCE_INFO, b"", protocol=200, spi=bytes(255)),
    ],
    ids=["number", "long", "text", "spi", "strange spi"],
)
def test_what_the_peer_says_of_its_resource_decides_nothing(notify: NotifyPayload) -> None:
    pair = group(1)
    assert errors_of(forge(pair, notify)) == []
    assert served(pair.b) == [None, 0, 1]
    line = next(line for line in pair.b.log.splitlines()[::-1] if "one more for resource" in line)
    assert line.isprintable()
    assert len(line) < 150


def test_the_notify_twice_counts_once() -> None:
    pair = group(0)
    forge(pair, *[NotifyPayload(NotifyType.SA_RESOURCE_INFO, bytes([n])) for n in range(20)])
    assert served(pair.b) == [None, 0]


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA])
def test_an_error_of_a_peer_that_knows_nothing_of_it_is_no_group(exchange: ExchangeType, monkeypatch) -> None:
    """TS_MAX_QUEUE for the first of all is an error as any other."""
    pair = Pair(*sides(), settings=workers(2))
    if exchange is ExchangeType.CREATE_CHILD_SA:
        pair.up()
    refusal = (NotifyPayload(NotifyType.TS_MAX_QUEUE),)
    monkeypatch.setattr(child_setup, "speaks", lambda sa, config: _refuse(refusal))
    if exchange is ExchangeType.IKE_AUTH:
        monkeypatch.setattr("ipsec_fast.ike.v2.ike_auth.place_child", lambda *args, **more: _refuse(refusal))
        pair.initiate("a")
        pair.run(5)
        (failed,) = pair.a.of(ChildFailed)
        assert "TS_MAX_QUEUE" in failed.reason
    else:
        more(pair, 0)
        assert pair.a.of(ResourceFailed)[0].has_enough
        pair.check_one_pair()


def _refuse(payloads: tuple[NotifyPayload, ...]) -> object:
    raise NegotiationError("enough", payloads[0].notify)


# --- the limit


def test_at_the_limit_it_is_ts_max_queue_and_other_traffic_is_still_let_in() -> None:
    narrow = {"local": "10.2.0.0/25", "remote": "10.1.0.0/24"}
    a = connection("a", children=(child(), child("more", remote="10.2.0.0/25")))
    b = connection(
        "b", children=(child(local="10.2.0.0/24", remote="10.1.0.0/24", per_resource_max=2), child("more", **narrow))
    )
    pair = Pair(a, b, settings=workers(4)).up()
    for resource in range(4):
        more(pair, resource)
    assert served(pair.a) == [None, 0, 1]
    assert [(f.resource, f.has_enough) for f in pair.a.of(ResourceFailed)] == [(2, True), (3, True)]
    assert pair.b.endpoint.counters["resource_children_refused"] == 2
    pair.call("a", "initiate_child", 1, a.children[1])
    pair.run(1)
    pair.check_one_pair(children=4)
    pair.call("a", "terminate_child", pair.a.view.children[1].child_id)
    pair.run(1)
    more(pair, 3)
    assert served(pair.b).count(None) == 2
    assert len(served(pair.b)) == 4


def test_what_is_replaced_or_being_deleted_takes_nobodys_place() -> None:
    pair = group(2, per_resource_max=3)
    pair.network = lambda sent: () if sent.data[18] == ExchangeType.INFORMATIONAL else perfect(sent)
    pair.call("a", "rekey_child", 2)  # its DELETE is lost for now
    pair.run(0.3)
    assert len(pair.a.view.children) == 4
    more(pair, 2, "b")
    assert pair.b.of(ResourceFailed) == []
    assert len(served(pair.a)) == 4
    pair.network = perfect
    pair.run(5)
    pair.check_one_pair(children=4)


def test_room_in_the_ike_sa_is_ts_max_queue_for_a_group_and_no_additional_sas_for_others(monkeypatch) -> None:
    monkeypatch.setattr(child_setup, "RESOURCE_CHILDREN_MAX", 1)
    monkeypatch.setattr(child_setup, "CHILDREN_MAX", 1)
    pair = group(1)
    assert errors_of(forge(pair)) == [NotifyType.TS_MAX_QUEUE]
    pair.call("a", "initiate_child", 1, pair.a.configs[0].children[0])
    pair.run(1)
    (failed,) = pair.a.of(ChildFailed)
    assert "NO_ADDITIONAL_SAS" in failed.reason
    pair.check_one_pair(children=2)


def test_a_peer_that_asks_for_thousands_gets_a_few_and_costs_nothing_more() -> None:
    pair = group(0, settings=workers(2)).start_traffic(0.05)
    pair.network = lambda sent: (0.0005,)
    for _ in range(50):
        forge(pair, seconds=0.01)
    count, used = len(pair.b.children), arena_report()["used_bytes"]
    assert count == 1 + 16  # twice our workers would be fewer; a peer may have more CPUs than we
    refused = [errors_of(forge(pair, seconds=0.01)) for _ in range(2000)]
    assert refused == [[NotifyType.TS_MAX_QUEUE]] * 2000
    assert len(pair.b.children) == count
    assert arena_report()["used_bytes"] <= used
    assert pair.b.endpoint.counters["resource_children_refused"] >= 2000
    assert (pair.a.gaps, pair.b.gaps) == ([], [])


def test_a_peer_that_makes_and_deletes_one_in_a_loop_leaves_few_behind() -> None:
    """Each is received for 5 s after its end."""
    pair = group(0)
    pair.network = lambda sent: (0.0001,)
    began = pair.now
    for _ in range(3 * PEERS_REKEYS):
        forge(pair, seconds=0.001)
        for one in pair.a.view.children:
            if one.resource is not None:
                pair.call("a", "terminate_child", one.child_id)
        pair.run(0.001)
    left = [c for c in pair.b.children.values() if c.inbound_until is not None and c.inbound_until > pair.now]
    assert PEERS_REKEYS <= len(left) <= PEERS_REKEYS + PEERS_REKEYS_PER_S * (pair.now - began)
    assert pair.b.endpoint.counters["resource_children_refused"] > PEERS_REKEYS
    pair.run(20)
    assert len(served(pair.b)) > 1, "after a while they are let in again"


class OneMoreFallback(CreateChild):
    def _place(self, sa) -> Place:
        return FALLBACK


def test_a_peer_that_makes_many_fallbacks_does_not_make_us_ask_without_end(monkeypatch) -> None:
    pair = ResourcePair(*sides({"per_resource_max": 256}), settings=workers(8), asks="b").up()
    # the peer lets in whatever we ask for
    monkeypatch.setattr(create_child_answer, "check_room", lambda sa, place: None)
    core = pair.a.endpoint._core
    (sa,) = core.sas.values()
    sa.peers_rekeys = Allowance(10000, 1.0)
    for number in range(40):
        core.now = pair.now
        config = replace(sa.config.children[0], local_ts=(TrafficSelector.parse(f"10.1.0.{number}"),))
        submit(sa, OneMoreFallback(config))
        pair.flush()
        pair.run(0.1)
    pair.run(30)
    assert served(pair.b).count(None) == 41
    assert len(pair.b.view.children) - 41 == child_setup.RESOURCE_CHILDREN_MAX


def test_what_we_may_have_at_most_holds_for_what_we_ask_for_too() -> None:
    pair = ResourcePair(*sides({"per_resource_max": 256}, {"per_resource_max": 2}), settings=workers(8), asks="b").up()
    pair.run(30)
    assert len(served(pair.b)) == 1 + 2
    assert pair.a.endpoint.counters["resource_children_refused"] == 0


@pytest.mark.parametrize(("count", "limit"), [(1, 16), (2, 16), (8, 18), (31, 64), (64, 64)])
def test_the_limit_is_at_least_twice_our_workers_up_to_64(count: int, limit: int) -> None:
    pair = group(0, settings=workers(count), per_resource=True)
    sa = pair.b.endpoint._core.sas[1]
    assert limit_of(sa, sa.config.children[0]) == limit


# --- a peer that answers oddly


def test_an_answer_without_the_notify_is_deleted_again_and_nothing_more_is_asked(monkeypatch) -> None:
    pair = group(0)
    monkeypatch.setattr(create_child_answer, "info", lambda resource: NotifyPayload(NotifyType.INITIAL_CONTACT))
    more(pair, 0)
    (failed,) = pair.a.of(ResourceFailed)
    assert failed.has_enough
    assert "without SA_RESOURCE_INFO" in failed.reason
    pair.check_one_pair()


# --- rekeys


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_rekey_keeps_the_resource_and_its_worker_at_both_sides(side: str) -> None:
    pair = group(2).start_traffic(0.005)
    before = {shell.side: {c.resource: c.spi_in for c in shell.view.children} for shell in (pair.a, pair.b)}
    for view in pair.shell(side).view.children:
        pair.call(side, "rekey_child", view.child_id)
    pair.run(3)
    pair.check_one_pair(children=3)
    for shell in (pair.a, pair.b):
        assert served(shell) == [None, 0, 1]
        for view in shell.view.children:
            old = before[shell.side][view.resource]
            assert view.spi_in != old
            assert view.spi_in % 4 == old % 4
            assert view.in_group
    assert (pair.a.gaps, pair.b.gaps) == ([], [])


@pytest.mark.parametrize("seed", range(6))
def test_crossing_rekeys_of_a_per_resource_sa_leave_one(seed: int) -> None:
    pair = Pair(*sides(), settings=workers(2), seed=seed).up().start_traffic(0.005)
    more(pair, 1)
    target = next(c for c in pair.a.view.children if c.resource == 1)
    theirs = next(c for c in pair.b.view.children if c.spi_in == target.spi_out)
    pair.a.endpoint.rekey_child(target.child_id, pair.now)
    pair.b.endpoint.rekey_child(theirs.child_id, pair.now)
    assert come_to_rest(pair) == ""
    pair.start_traffic(0.0)
    pair.check_one_pair(children=2)
    assert served(pair.a) == [None, 1]
    assert served(pair.b) == [None, theirs.resource]
    assert (pair.a.gaps, pair.b.gaps) == ([], [])


def test_both_sides_asking_at_once_serve_every_resource() -> None:
    pair = group(0, settings=workers(2))
    for shell in (pair.a, pair.b):
        for resource in (0, 1):
            shell.endpoint.initiate_resource(1, resource, pair.now)
    pair.run(3)
    assert set(served(pair.a)) == set(served(pair.b)) == {None, 0, 1}
    assert len(served(pair.a)) == len(served(pair.b)) <= 5


def test_an_ike_rekey_takes_them_along_and_what_waits_too() -> None:
    pair = group(2).start_traffic(0.005)
    pair.a.endpoint.rekey_ike(1, pair.now)
    pair.a.endpoint.initiate_resource(1, 2, pair.now)
    pair.run(3)
    assert come_to_rest(pair) == ""
    pair.start_traffic(0.0)
    assert served(pair.a) == served(pair.b) == [None, 0, 1, 2]
    assert (pair.a.gaps, pair.b.gaps) == ([], [])


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_reauthentication_makes_them_anew_before_the_old_ones_go(who: str) -> None:
    pair = group(3).start_traffic(0.003)
    old = {c.spi_in for c in pair.a.view.children}
    pair.call(who, "reauthenticate", pair.shell(who).view.ike_id)
    pair.run(5)
    pair.start_traffic(0.0)
    pair.check_one_pair(children=4)
    assert sorted(served(pair.shell(who)), key=str) == sorted([None, 0, 1, 2], key=str)
    assert not old & {c.spi_in for c in pair.a.view.children}
    assert (pair.a.gaps, pair.b.gaps) == ([], [])
    for shell in (pair.a, pair.b):
        assert {down.inbound_grace_s for down in shell.of(ChildDown)} == {5.0}
        replaced = {d.child_id: d.replaced_by for d in shell.of(ChildDown)}
        assert len(set(replaced.values())) == 4, "each by the one of its own resource"


# --- what ends


def test_the_end_of_one_leaves_the_others_and_receives_for_5_s() -> None:
    pair = group(2)
    gone = next(c for c in pair.a.view.children if c.resource == 0)
    pair.call("a", "terminate_child", gone.child_id)
    pair.run(1)
    assert served(pair.a) == served(pair.b) == [None, 1]
    for shell in (pair.a, pair.b):
        (down,) = shell.of(ChildDown)
        assert (down.resource, down.inbound_grace_s, down.replaced_by) == (0, 5.0, None)
    assert pair.b.of(ChildDown)[0].by_peer


def test_the_end_of_the_fallback_leaves_the_others_and_the_next_one_is_the_fallback() -> None:
    pair = group(2)
    pair.call("b", "terminate_child", fallback(pair.b).child_id)
    pair.run(1)
    assert served(pair.a) == served(pair.b) == [0, 1]
    pair.call("a", "initiate_child", 1, pair.a.configs[0].children[0])
    pair.run(1)
    pair.check_one_pair(children=3)
    assert served(pair.a) == served(pair.b) == [None, 0, 1]
    assert fallback(pair.a).in_group
    more(pair, 2)
    assert served(pair.a) == served(pair.b) == [None, 0, 1, 2]


def test_a_fallback_past_its_life_is_made_anew_and_one_of_a_resource_is_not() -> None:
    pair = group(2)
    pair.call("a", "child_expired", 2, "its lifetime is over")
    pair.run(1)
    assert served(pair.a) == [None, 1]
    pair.call("a", "child_expired", 1, "its lifetime is over")
    pair.run(1)
    assert served(pair.a) == [None, 1]
    assert fallback(pair.a).in_group
    more(pair, 3)
    assert served(pair.a) == [None, 1, 3]
    assert len(served(pair.b)) == 3


def test_what_waits_for_a_fallback_that_is_gone_is_not_asked() -> None:
    pair = group(0)
    pair.a.endpoint.terminate_child(1, pair.now)
    pair.a.endpoint.initiate_resource(1, 0, pair.now)
    pair.run(2)
    assert served(pair.a) == served(pair.b) == []
    assert pair.a.of(ResourceFailed) == []


def test_with_the_ike_sa_all_go_and_nothing_is_told_of_what_was_asked() -> None:
    pair = group(2)
    pair.network = lambda sent: ()
    pair.call("a", "initiate_resource", 1, 2)
    pair.call("a", "terminate_ike", 1)
    pair.a.endpoint.terminate_ike(1, pair.now, True)
    pair.flush()
    assert not pair.a.views()
    assert pair.a.of(ResourceFailed) == []
    pair.network = perfect


# --- after a crash


def crashed(count: int, after: int | None = None) -> CrashPair:
    pair = CrashPair(*sides(), settings=workers(4)).up()
    for resource in range(count):
        more(pair, resource)
    pair.run(12)
    pair.kill("a")
    pair.run(1)
    if after is not None:
        pair.a.endpoint._core.settings = workers(after)
    pair.restart("a")
    pair.run(5)
    return pair


def test_a_crash_forgets_nobodys_resource() -> None:
    pair = crashed(3)
    assert pair.refused == []
    pair.check_one_pair(children=4)
    assert served(pair.a) == [None, 0, 1, 2]
    assert all(c.in_group for c in pair.a.view.children)
    assert all(c.spi_in % 4 == c.resource for c in pair.a.view.children if c.resource is not None)
    more(pair, 3)
    assert served(pair.a) == served(pair.b) == [None, 0, 1, 2, 3]


def test_with_fewer_workers_after_a_crash_each_is_whose_spi_says_so() -> None:
    pair = crashed(4, after=3)
    assert pair.refused == []
    pair.check_one_pair(children=5)
    assert all(c.spi_in % 3 == c.resource for c in pair.a.view.children if c.resource is not None)
