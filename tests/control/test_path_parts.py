"""The parts round the state machine: who is asked, what a lost echo means, ladders of IKE requests, stalls, which ICMP is believed."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from itertools import count, pairwise

import pytest

from ipsec_fast.control.path_echo import GIVE_UP_S, SMALL, WAIT_S, EchoProber, Target
from ipsec_fast.control.path_ike import AGAIN, AGAIN_S, IkeProber
from ipsec_fast.control.path_learning import RECENT_S, Outbound, SequenceWatch, TooBig, judge, whole_number
from ipsec_fast.control.path_stall import CONFIRM_S, IDLE_S, LOOK_EVERY_S, QUIET_S, Look, StallWatch
from ipsec_fast.errors import StateError

PEER, STRANGER = ip_address("192.0.2.2"), ip_address("203.0.113.9")
SOME = [Target(1, ip_address("10.1.0.1"), ip_address(f"10.2.0.{last}")) for last in (1, 2)]


class Wire:
    """What an EchoProber sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[Target, int, int]] = []
        numbers = count(1)
        self.prober = EchoProber(lambda *what: self.sent.append(what), lambda: next(numbers))

    def take(self) -> list[tuple[Target, int, int]]:
        sent, self.sent = self.sent, []
        return sent

    def found(self, rtt_s: float = 0.01) -> Wire:
        self.prober.look_for(SOME, 0.0)
        self.prober.handle_timer(0.0)
        (_, _, number), *_ = self.take()
        assert self.prober.answer(number, rtt_s) == SMALL
        return self


# --- echoes


def test_a_number_that_was_not_asked_or_was_answered_already_is_nothing() -> None:
    wire = Wire().found()
    wire.prober.probe(frozenset({1400}), 2, 1.0)
    number = next(n for _, size, n in wire.take() if size == 1400)
    assert wire.prober.answer(999, 1.01) is None
    assert wire.prober.answer(number, 1.01) == 1400
    assert wire.prober.answer(number, 1.02) is None


def test_the_first_that_answers_is_asked_from_then_on() -> None:
    wire = Wire()
    wire.prober.look_for(SOME, 0.0)
    wire.prober.handle_timer(0.0)
    asked = wire.take()
    assert [(target, size) for target, size, _ in asked] == [(SOME[0], SMALL), (SOME[1], SMALL)]
    wire.prober.answer(asked[1][2], 0.02)
    assert wire.prober.target == SOME[1]
    wire.prober.probe(frozenset({1400, 1500}), 3, 0.02)
    assert [(target, size) for target, size, _ in wire.take()] == [(SOME[1], size) for size in (SMALL, 1500, 1400)]


def test_nobody_answers() -> None:
    wire = Wire()
    wire.prober.look_for(SOME, 0.0)
    now = 0.0
    while (found := wire.prober.handle_timer(now)) == []:
        at = wire.prober.get_timer()
        assert at is not None
        now = at
    assert found is None
    assert now == GIVE_UP_S
    assert len(wire.take()) == 6
    assert not wire.prober.is_looking


def test_without_targets_it_is_known_at_once() -> None:
    wire = Wire()
    wire.prober.look_for([], 5.0)
    assert wire.prober.get_timer() == 5.0
    assert wire.prober.handle_timer(5.0) is None


@pytest.mark.parametrize("rtt_s", [0.001, 0.2])
def test_a_size_is_lost_after_all_its_tries(rtt_s: float) -> None:
    wire = Wire().found(rtt_s)
    wait_s = max(WAIT_S, 2 * rtt_s)
    wire.prober.probe(frozenset({1500}), 2, 1.0)
    small = wire.take()[0][2]
    wire.prober.answer(small, 1.0 + rtt_s)
    assert wire.prober.get_timer() == 1.0 + wait_s
    assert wire.prober.handle_timer(1.0 + wait_s) == []
    assert [size for _, size, _ in wire.take()] == [SMALL, 1500]
    at = wire.prober.get_timer()
    assert at == pytest.approx(1.0 + 2 * wait_s)
    assert at is not None
    assert wire.prober.handle_timer(at) == [1500]


def test_in_a_hurry_only_the_last_try_is_waited_for_in_full() -> None:
    wire = Wire().found()
    wire.prober.probe(frozenset({1500}), 2, 1.0, hurry=True)
    wire.prober.answer(wire.take()[0][2], 1.001)
    times = []
    while wire.prober.get_timer() is not None:
        times.append(wire.prober.get_timer())
        wire.prober.handle_timer(times[-1])
    assert times == pytest.approx([1.0 + WAIT_S / 3, 1.0 + WAIT_S / 3 + WAIT_S])


def test_where_the_small_one_is_lost_too_nothing_is_said_about_sizes() -> None:
    wire = Wire().found()
    wire.prober.probe(frozenset({1500, 1280}), 1, 1.0)
    assert wire.prober.handle_timer(1.0 + WAIT_S) is None
    assert wire.prober.get_timer() is None


def test_an_answer_speaks_for_smaller_sizes() -> None:
    wire = Wire().found()
    wire.prober.probe(frozenset({1500, 1400, 1280}), 1, 1.0)
    number = next(n for _, size, n in wire.take() if size == 1400)
    wire.prober.answer(number, 1.01)
    assert wire.prober.handle_timer(1.0 + WAIT_S) == [1500]


def test_a_rekeyed_child_carries_the_probes_on() -> None:
    wire = Wire().found()
    wire.prober.move([Target(2, one.source, one.address) for one in SOME])
    wire.prober.probe(frozenset({1400}), 1, 1.0)
    assert {target.child_id for target, _, _ in wire.take()} == {2}


def test_a_new_search_asks_anew() -> None:
    wire = Wire().found()
    wire.prober.probe(frozenset({1500}), 1, 1.0, 1)
    wire.take()
    wire.prober.probe(frozenset({1500}), 1, 1.09, 2)
    sent = wire.take()
    assert [size for _, size, _ in sent] == [SMALL, 1500]
    wire.prober.answer(sent[0][2], 1.1)
    assert wire.prober.handle_timer(1.0 + WAIT_S + 0.001) == []
    assert wire.prober.get_timer() == 1.09 + WAIT_S


# --- ladders


class Ike:
    def __init__(self, refusals: int = 0, fragments: bool = True) -> None:
        self.sent: list[Sequence[int]] = []
        self.refusals, self.fragments = refusals, fragments
        self.prober = IkeProber(self.send)

    def send(self, sizes: Sequence[int], wait_s: float, now: float) -> None:
        if self.refusals:
            self.refusals -= len(sizes) == 1
            raise StateError("a request is outstanding")
        if len(sizes) > 1 and not self.fragments:
            raise StateError("no fragments")
        self.sent.append(sizes)


def test_a_ladder_falls_and_ends_with_what_passes() -> None:
    ike = Ike()
    assert ike.prober.probe(frozenset({1400, 1500}), 576, 0.0)
    assert ike.sent == [(1500, 1400, 576)]
    assert ike.prober.answered(1400, 0.3) == (1400, [1500])
    assert not ike.prober.is_busy


def test_a_ladder_of_another_search_says_nothing() -> None:
    ike = Ike()
    ike.prober.probe(frozenset({1400, 1500}), 576, 0.0, 1)
    assert ike.prober.answered(576, 0.3, 2) is None
    assert not ike.prober.is_busy


def test_a_peer_without_fragments_is_asked_for_one_size_at_a_time() -> None:
    ike = Ike(fragments=False)
    ike.prober.probe(frozenset({1400, 1500}), 576, 0.0)
    assert ike.prober.answered(0, 0.3) == (0, [1500])
    ike.prober.probe(frozenset({1400}), 576, 0.3)
    assert ike.prober.answered(1400, 0.1) == (1400, [])
    assert ike.sent == [(1500,), (1400,)]


def test_a_peer_that_takes_no_fragments_of_it_is_asked_so_from_then_on() -> None:
    ike = Ike()
    ike.prober.probe(frozenset({1400, 1500}), 576, 0.0)
    assert ike.prober.answered(0, 0.9) == (0, [1500])
    ike.prober.probe(frozenset({1400}), 576, 0.9)
    assert ike.sent == [(1500, 1400, 576), (1400,)]


def test_a_cbc_request_proves_its_own_length() -> None:
    ike = Ike()
    ike.prober.probe(frozenset({1500}), 576, 0.0)
    assert ike.prober.answered(1492, 0.1) == (1492, [1500])


def test_one_ladder_at_a_time() -> None:
    ike = Ike()
    ike.prober.probe(frozenset({1500}), 576, 0.0)
    ike.prober.probe(frozenset({1400}), 576, 0.1)
    assert len(ike.sent) == 1


def test_a_busy_ike_sa_is_asked_again_and_not_for_ever() -> None:
    ike = Ike(refusals=3)
    assert ike.prober.probe(frozenset({1500}), 576, 0.0)
    for step in (1, 2, 3):
        assert ike.prober.handle_timer(step * AGAIN_S)
    assert len(ike.sent) == 1
    ike = Ike(refusals=99)
    now, goes_on = 0.0, ike.prober.probe(frozenset({1500}), 576, 0.0)
    while goes_on:
        now += AGAIN_S
        goes_on = ike.prober.handle_timer(now)
    assert now < AGAIN * AGAIN_S
    assert not ike.prober.is_busy


# --- stalls


def looks(
    watch: StallWatch, until: float, big, back, rtt_s: float = 0.001, since: float = 0.0
) -> list[tuple[Look, float]]:
    """What was seen when; `big`, `back` give the time of the last packet at a moment."""
    found, now = [], since
    watch.big_left(now)
    while now <= until and watch.is_active:
        seen = watch.look(big(now), back(now), rtt_s, now)
        if seen is not Look.NOTHING:
            found.append((seen, now))
        now += LOOK_EVERY_S
    return found


def test_traffic_both_ways_is_no_stall_but_is_confirmed() -> None:
    found = looks(StallWatch(), 3.0, lambda now: now, lambda now: now - 0.01)
    assert {seen for seen, _ in found} == {Look.CONFIRM}
    assert len(found) == pytest.approx(3.0 / CONFIRM_S, abs=1)


def test_a_stall_is_seen_soon() -> None:
    found = looks(StallWatch(), 3.0, lambda now: now, lambda now: min(now, 1.0))
    first = next(at for seen, at in found if seen is Look.STALL)
    assert first - 1.0 <= QUIET_S + 3 * LOOK_EVERY_S


def test_the_last_retransmission_counts_too() -> None:
    found = looks(StallWatch(), 1.9, lambda now: 1.2 if now > 1.2 else min(now, 1.0), lambda now: min(now, 1.001))
    assert Look.STALL in {seen for seen, _ in found}


def test_what_was_answered_is_no_stall() -> None:
    found = looks(StallWatch(), 3.0, lambda now: min(now, 1.0), lambda now: min(now, 1.01))
    assert Look.STALL not in {seen for seen, _ in found}


def test_who_only_sends_is_looked_at_less_and_less() -> None:
    found = [at for seen, at in looks(StallWatch(), 60.0, lambda now: now, lambda now: None) if seen is Look.STALL]
    gaps = [b - a for a, b in pairwise(found)]
    assert all(a <= b + LOOK_EVERY_S for a, b in pairwise(gaps))
    assert max(gaps) == pytest.approx(10.0, abs=0.2)


def test_a_long_round_trip_is_waited_for() -> None:
    found = looks(StallWatch(), 3.0, lambda now: now, lambda now: min(now, 1.0), rtt_s=0.4)
    assert next(at for seen, at in found if seen is Look.STALL) >= 1.8


def test_without_big_packets_nobody_looks() -> None:
    watch = StallWatch()
    looks(watch, 60.0, lambda now: min(now, 1.0), lambda now: now)
    assert not watch.is_active
    assert watch.look(1.0, None, 0.0, 1.0 + IDLE_S + 0.1) is Look.NOTHING


# --- ICMP


def outbound(seq: int = 1000, remote=PEER, mtu: int = 1500, esn: bool = True) -> Outbound:
    return Outbound(1, remote, seq, esn, mtu)


def watched(*samples: tuple[float, int]) -> SequenceWatch:
    watch = SequenceWatch()
    for at, seq in samples:
        watch.sample({1: seq}, at)
    return watch


@pytest.mark.parametrize(
    ("news", "known", "reason"),
    [
        (TooBig(PEER, 1300, None, None), [outbound()], "quotes_too_little"),
        (TooBig(PEER, 1300, 7, 1000), [], "unknown_spi"),
        (TooBig(STRANGER, 1300, 7, 1000), [outbound()], "other_destination"),
        (TooBig(PEER, 1300, 7, 1001), [outbound()], "old_sequence_number"),
        (TooBig(PEER, 1300, 7, 500), [outbound()], "old_sequence_number"),
        (TooBig(PEER, 1300, 7, 0), [outbound()], "old_sequence_number"),
        (TooBig(PEER, 575, 7, 1000), [outbound()], "below_minimum"),
        (TooBig(PEER, 0, 7, 1000), [outbound()], "below_minimum"),
        (TooBig(PEER, 1500, 7, 1000), [outbound()], "not_smaller"),
        (TooBig(PEER, 65535, 7, 1000), [outbound()], "not_smaller"),
        (
            TooBig(ip_address("2001:db8::2"), 1279, 7, 1000),
            [outbound(remote=ip_address("2001:db8::2"))],
            "below_minimum",
        ),
    ],
)
def test_icmp_that_is_not_believed(news: TooBig, known: list[Outbound], reason: str) -> None:
    assert judge(news, known, watched((0.0, 500), (RECENT_S, 900)), RECENT_S) == (None, reason)


@pytest.mark.parametrize(("seq", "mtu"), [(501, 1300), (1000, 576), (1000, 1499)])
def test_icmp_that_is_believed(seq: int, mtu: int) -> None:
    assert judge(TooBig(PEER, mtu, 7, seq), [outbound()], watched((0.0, 500)), RECENT_S) == (outbound(), "")


def test_two_peers_may_have_chosen_the_same_spi() -> None:
    known = [outbound(remote=STRANGER), outbound()]
    assert judge(TooBig(PEER, 1300, 7, 900), known, watched(), 1.0) == (outbound(), "")


def test_a_number_is_recent_for_ten_seconds() -> None:
    watch = watched(*((float(at), 100 * at) for at in range(100)))
    assert not watch.is_recent(1, 8900, 9900, 99.0)
    assert watch.is_recent(1, 8901, 9900, 99.0)
    watch.sample({}, 100.0)
    assert watch.is_recent(1, 1, 9900, 100.0)  # forgotten: only that it was used is asked


@pytest.mark.parametrize(
    ("quoted", "last", "number"),
    [
        (5, 5, 5),
        (0xFFFFFFFF, 0x1_0000_0003, 0xFFFFFFFF),
        (3, 0x1_0000_0003, 0x1_0000_0003),
        (9, 3, 0),
        (0xFFFFFFF0, 0x5_0000_0000, 0x4_FFFFFFF0),
    ],
)
def test_the_upper_half_of_a_number_is_guessed(quoted: int, last: int, number: int) -> None:
    assert whole_number(quoted, last, True) == number
