"""A peer whose NAT changes its mapping is followed (RFC 7296 section 2.23), by its newest valid message or packet only."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pair import ADDRESS_A, ADDRESS_B, Pair, Sent, connection

from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import AskInstallChild, CheckSource, PathMoved
from ipsec_fast.model import Path

OUTSIDE = ip_address("203.0.113.9")
ELSEWHERE = ip_address("203.0.113.77")
V6 = ip_address("2001:db8::a"), ip_address("2001:db8::b"), ip_address("2001:db8:1::9"), ip_address("2001:db8:1::77")
SILENT_DPD = {"dpd_delay_s": 0.0}


class Natted(Pair):
    """`a` is behind a NAT whose mapping `remap` changes: nothing reaches it by the old one."""

    def __init__(self, *args: object, v6: bool = False, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.inside, self.server = (V6[0], V6[1]) if v6 else (ADDRESS_A, ADDRESS_B)
        self.outside, self.shift = (V6[2] if v6 else OUTSIDE), 30000
        self.is_open = True

    def remap(self, port_shift: int, address: object = None) -> None:
        self.shift = port_shift
        self.outside = address or self.outside

    def _arrival(self, sender: str, path: Path) -> Path:
        back = Path(path.remote, path.remote_port, path.local, path.local_port, path.marker)
        if sender == "a":
            return replace(back, remote=self.outside, remote_port=path.local_port + self.shift)
        if back.local == self.outside and back.local_port in (500 + self.shift, 4500 + self.shift):
            return replace(back, local=self.inside, local_port=back.local_port - self.shift)
        return replace(back, local=ip_address("198.51.100.200"))  # nobody

    def at(self, arrival: Path) -> str | None:
        return {self.inside: "a", self.server: "b"}.get(arrival.local)

    def initiate(self, side: str = "a", *names: str) -> int:
        path = Path(self.inside, 500, self.server, 500)
        ike_id = self.a.endpoint.initiate(self.a.configs[0], names, path, self.now)
        self.flush()
        return ike_id

    @property
    def seen(self) -> tuple[object, int]:
        path = self.b.view.path
        return path.remote, path.remote_port

    def packet(self, remote: object, port: int, at: float | None = None) -> None:
        """The newest ESP packet of b's child came from there."""
        self.call("b", "packet_came_from", self.b.view.children[-1].child_id, remote, port, at or self.now)


def pair(**options: object) -> Natted:
    configs = {"a": connection("a", **SILENT_DPD), "b": connection("b", **SILENT_DPD)}
    return Natted(configs["a"], configs["b"], **options).up()  # type: ignore[return-value]


def ask_child(side: Natted, who: str) -> None:
    side.call(who, "rekey_child", side.shell(who).view.children[-1].child_id)
    side.run(3.0)


@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("other_address", [False, True], ids=["port", "address"])
def test_a_request_from_elsewhere_moves_the_ike_sa_at_once(v6: bool, other_address: bool) -> None:
    net = pair(v6=v6)
    assert net.seen == (net.outside, 34500)
    assert net.b.of(AskInstallChild)[0].follows_peer
    assert not net.a.of(AskInstallChild)[0].follows_peer
    net.remap(30777, (V6[3] if v6 else ELSEWHERE) if other_address else None)
    net.call("a", "rekey_child", net.a.view.children[0].child_id)
    net.run(0.011)  # one way: the request is there, its response under way
    assert net.seen == (net.outside, 35277)
    (moved,) = net.b.of(PathMoved)
    assert moved.before.remote_port == 34500
    assert moved.path == net.b.view.path
    net.run(3.0)
    ask_child(net, "b")  # what b begins reaches a
    net.check_one_pair()
    assert not net.a.of(PathMoved)


def test_a_response_from_elsewhere_moves_the_ike_sa() -> None:
    """b's request still passed by the old mapping; a's answer already comes by the new one."""
    net = pair()
    net.call("b", "rekey_child", net.b.view.children[0].child_id)
    heapq.heapify(net._wire)
    net.remap(30777)
    net.run(3.0)
    assert net.seen == (OUTSIDE, 35277)
    net.check_one_pair()


def test_a_packet_moves_the_ike_sa_and_what_waits_for_an_answer_goes_there_at_once() -> None:
    net = pair()
    net.remap(30777)
    net.call("b", "rekey_child", net.b.view.children[0].child_id)  # leaves for the old mapping
    net.run(0.05)
    net.packet(OUTSIDE, 35277)
    net.run(0.1)  # two round trips: no retransmission was waited for
    assert net.b.view.children[-1].child_id != net.b.of(AskInstallChild)[0].child_id
    assert net.seen == (OUTSIDE, 35277)


def test_repetitions_and_older_messages_move_nothing() -> None:
    net = pair()
    sent: list[Sent] = []
    net.tamper = lambda one: sent.append(one) or one.data
    ask_child(net, "a")
    ask_child(net, "b")
    before = net.b.view.path
    thief = replace(before, remote=ELSEWHERE)
    for one in sent:
        if one.sender == "a":
            net.inject("b", one.data, thief)
    net.run(2.0)
    assert net.b.view.path == before
    assert not net.b.of(PathMoved)


def test_a_forged_message_moves_nothing() -> None:
    net = pair()
    sent: list[Sent] = []
    net.tamper = lambda one: sent.append(one) or one.data
    net.call("a", "rekey_child", net.a.view.children[0].child_id)
    fresh = next(one for one in sent if one.sender == "a")
    before = net.b.view.path
    net.inject("b", fresh.data[:-1] + bytes([fresh.data[-1] ^ 1]), replace(before, remote=ELSEWHERE))
    assert net.b.view.path == before
    net.run(2.0)
    net.check_one_pair()


def test_it_moves_at_most_once_a_second_and_the_last_change_is_not_lost() -> None:
    net = pair()
    net.packet(OUTSIDE, 40001)
    moved_at = net.now
    for n in range(2, 30):
        net.run(0.03)
        net.packet(OUTSIDE, 40000 + n)
    assert [notice.path.remote_port for notice in net.b.of(PathMoved)] == [40001]
    net.run(0.5)
    assert [notice.path.remote_port for notice in net.b.of(PathMoved)] == [40001, 40029]
    assert net.now - moved_at < 1.5
    assert net.b.of(CheckSource)


def test_a_change_that_was_taken_back_within_the_second_is_forgotten() -> None:
    net = pair()
    net.packet(OUTSIDE, 40001)
    net.run(0.2)
    net.packet(OUTSIDE, 40002)
    net.run(0.2)
    net.packet(OUTSIDE, 40001)
    net.run(3.0)
    assert net.seen == (OUTSIDE, 40001)
    assert len(net.b.of(PathMoved)) == 1


def test_what_the_dataplane_saw_last_decides_when_the_second_is_over() -> None:
    net = pair()
    net.packet(OUTSIDE, 40001)
    net.run(0.2)
    net.packet(OUTSIDE, 40002)
    net.run(until=lambda: bool(net.b.of(CheckSource)))
    net.call("b", "source_checked", net.b.view.ike_id, (OUTSIDE, 40003, net.now - 0.1))
    assert net.seen == (OUTSIDE, 40003)
    net.run(3.0)
    assert len(net.b.of(PathMoved)) == 2


def test_an_older_packet_than_the_newest_message_moves_nothing() -> None:
    net = pair()
    early = net.now
    net.run(1.0)
    ask_child(net, "a")
    net.packet(ELSEWHERE, 40001, at=early)
    net.run(2.0)
    assert net.seen == (OUTSIDE, 34500)


def test_a_move_while_both_rekey_the_ike_sa() -> None:
    net = pair()
    net.call("a", "rekey_ike", net.a.view.ike_id)
    net.call("b", "rekey_ike", net.b.view.ike_id)
    net.run(0.011)
    net.remap(30777)
    net.run(150.0)
    assert net.seen == (OUTSIDE, 35277)
    ask_child(net, "b")
    net.check_one_pair()
    assert net.b.records[net.b.view.ike_id].path == net.b.view.path  # type: ignore[attr-defined]


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_move_during_a_rekey_of_the_ike_sa_is_the_new_ones_too(who: str) -> None:
    net = pair()
    net.remap(30777)
    net.packet(OUTSIDE, 35277)
    net.call(who, "rekey_ike", net.shell(who).view.ike_id)
    net.run(0.5)
    assert net.seen == (OUTSIDE, 35277)
    net.packet(OUTSIDE, 40002)  # within the second: the new IKE SA rests as well
    assert net.seen == (OUTSIDE, 35277)
    net.run(2.0)
    assert net.seen == (OUTSIDE, 40002)


def test_the_thief_of_an_ike_auth_loses_the_path_at_the_next_packet() -> None:
    """An attacker that delivers the victim's IKE_AUTH first, from elsewhere, is followed until anything newer comes."""
    net = Natted(connection("a", **SILENT_DPD), connection("b", **SILENT_DPD))

    def steal(sent: Sent) -> bytes:
        if sent.sender == "a" and sent.data[18] == 35:
            seen = net._arrival("a", sent.path)
            net.tamper = None
            net.inject("b", sent.data, replace(seen, remote=ELSEWHERE, remote_port=4444))
        return sent.data

    net.tamper = steal
    net.initiate()
    net.run(2.0)
    assert net.seen == (ELSEWHERE, 4444)
    net.packet(OUTSIDE, 34500)
    net.run(0.1)
    assert net.seen == (OUTSIDE, 34500)
    ask_child(net, "b")
    net.check_one_pair()


def test_without_a_nat_a_stolen_ike_auth_gives_nobody_the_path() -> None:
    net = Pair(connection("a", encap=False), connection("b", encap=False))

    def steal(sent: Sent) -> bytes:
        if sent.sender == "a" and sent.data[18] == 35:
            net.tamper = None
            net.inject("b", sent.data, replace(net._arrival("a", sent.path), remote=ELSEWHERE))
        return sent.data

    net.tamper = steal
    net.initiate()
    net.run(2.0)
    assert net.b.view.path.remote == ADDRESS_A
    net.call("b", "rekey_child", net.b.view.children[0].child_id)
    net.run(3.0)
    net.check_one_pair()


@pytest.mark.parametrize("behind", ["nobody", "b too"])
def test_who_is_not_behind_a_nat_or_sits_behind_one_itself_is_not_followed(behind: str) -> None:
    """Address updates of these need MOBIKE: sections 2.23 and RFC 4555."""
    configs = connection("a", encap=False), connection("b", encap=False)
    net: Pair = Pair(*configs).up() if behind == "nobody" else _both_behind()
    before = net.b.view.path
    assert not net.b.of(AskInstallChild)[0].follows_peer
    net.call("b", "packet_came_from", net.b.view.children[0].child_id, ELSEWHERE, 4500, net.now)
    sent: list[Sent] = []
    net.tamper = lambda one: sent.append(one) or one.data
    net.network = lambda one: () if one.sender == "a" else (0.01,)
    net.call("a", "rekey_child", net.a.view.children[0].child_id)
    net.inject("b", sent[0].data, replace(before, remote=ELSEWHERE))
    assert net.b.view.path == before
    assert not net.b.of(PathMoved)


def _both_behind() -> Pair:
    class Both(Natted):
        """b's own address is another one to a: a port forwarding."""

        def _arrival(self, sender: str, path: Path) -> Path:
            public = ip_address("198.51.100.2")
            if sender == "a" and path.remote == public:
                path = replace(path, remote=self.server)
            arrival = super()._arrival(sender, path)
            return replace(arrival, remote=public) if sender == "b" else arrival

        def initiate(self, side: str = "a", *names: str) -> int:
            path = Path(self.inside, 500, ip_address("198.51.100.2"), 500)
            ike_id = self.a.endpoint.initiate(self.a.configs[0], names, path, self.now)
            self.flush()
            return ike_id

    return Both(connection("a", **SILENT_DPD), connection("b", **SILENT_DPD)).up()


def test_two_clients_that_swap_ports_are_told_apart() -> None:
    """Two IKE SAs of one gateway behind one NAT address: each follows its own keys, whatever port the other had."""
    settings = EndpointSettings()
    one, other = pair(settings=settings), pair(seed=2, settings=settings)
    other.remap(31000)
    other.packet(OUTSIDE, 35500)
    assert (one.seen[1], other.seen[1]) == (34500, 35500)
    one.remap(31000)
    other.remap(30000)
    ask: Callable[[Natted], None] = lambda net: ask_child(net, "a")  # noqa: E731
    other.run(1.5)
    ask(one)
    ask(other)
    assert (one.seen[1], other.seen[1]) == (35500, 34500)
    for net in (one, other):
        ask_child(net, "b")
        net.check_one_pair()


def test_a_move_costs_the_same_with_many_ike_sas() -> None:
    """Nothing is looked for: the Child SA knows its IKE SA, and the event names what moves."""
    net = pair()
    core = net.b.endpoint._core
    looked: list[int] = []

    class Watched(dict):  # type: ignore[type-arg]
        def values(self):  # type: ignore[no-untyped-def]
            looked.append(1)
            return super().values()

    core.sas = Watched(core.sas)
    child_id = next(iter(core.owners))
    net.b.endpoint.packet_came_from(child_id, OUTSIDE, 40001, net.now, net.now)
    net.b.drain(net.now)
    assert len(net.b.of(PathMoved)) == 1
    assert not looked
