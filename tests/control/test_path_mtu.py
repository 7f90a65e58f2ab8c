"""The state machine of one path against a model of a path: what passes is what fits, and the machine finds just that."""

from __future__ import annotations

import pytest

from ipsec_fast.control.path_mtu import AGE_S, CONFIRM_TRIES, LATER_S, SUSPECT_TRIES, PathMtu, Probing


def run(path: PathMtu, real: int, now: float = 1.0) -> int:
    """Fates of all probes that are wanted, until none is; how many rounds."""
    rounds = 0
    while path.wanted:
        rounds += 1
        assert rounds < 20
        sizes = sorted(path.wanted)
        for size in sizes:
            if size <= real:
                path.answered(size, now)
        for size in sizes:
            if size > real:
                path.lost(size, now)
    return rounds


def kinds(path: PathMtu) -> list[str]:
    return [event.kind for event in path.take_events()]


def settled(real: int, interface: int = 1500, version: int = 4) -> PathMtu:
    path = PathMtu(version, interface, 0.0, probing=True)
    path.begin(0.1)
    run(path, real)
    assert path.mtu == real
    path.take_events()
    return path


# --- nobody can make it do wrong


def test_fates_of_what_nobody_wants_move_nothing() -> None:
    path = settled(1300)
    path.answered(1500, 2.0)
    path.lost(600, 2.0)
    assert (path.mtu, path.source, kinds(path)) == (1300, "probe", [])


def test_without_probing_no_answer_counts() -> None:
    path = PathMtu(4, 1500, 0.0, probing=False)
    path.begin(0.1)
    path.suspect(0.2)
    path.search_up(0.3)
    assert not path.wanted
    assert (path.mtu, path.source, path.is_settled) == (1500, "interface", True)


def test_where_nobody_answers_nothing_above_the_safe_size_is_sent() -> None:
    path = PathMtu(4, 1500, 0.0, probing=True)
    assert path.mtu == 1500  # for the moment of the first round
    path.give_up(0.7)
    assert (path.mtu, path.source, path.probing) == (1280, "fallback", Probing.IMPOSSIBLE)
    assert kinds(path) == ["unprobeable"]


def test_silence_says_nothing_about_sizes() -> None:
    path = settled(1500)
    path.suspect(5.0)
    path.silent(5.3)
    assert (path.mtu, path.probing, path.wanted, kinds(path)) == (1500, Probing.ASKING, frozenset(), [])
    path.give_up(6.0)
    assert path.mtu == 1500  # a probe has shown it once


# --- the start


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("real", [1280, 1281, 1300, 1399, 1400, 1437, 1452, 1492, 1499, 1500])
def test_the_first_search_finds_the_path_to_the_byte(version: int, real: int) -> None:
    path = PathMtu(version, 1500, 0.0, probing=True)
    path.begin(0.1)
    assert run(path, real) <= 4
    assert (path.mtu, path.source, path.is_settled) == (real, "probe", True)
    (event,) = path.take_events()
    assert (event.kind, event.before, event.mtu) == ("settled", 1500, real)


@pytest.mark.parametrize("real", [576, 900, 1006, 1279, 1400, 5000, 8999, 9000])
def test_a_jumbo_interface_before_any_path(real: int) -> None:
    assert run(settled_start(9000), real) <= 5


def settled_start(interface: int) -> PathMtu:
    path = PathMtu(4, interface, 0.0, probing=True)
    path.begin(0.1)
    return path


@pytest.mark.parametrize("real", range(576, 1501, 7))
def test_sizes_that_no_packet_can_have_are_never_asked_for(real: int) -> None:
    path = PathMtu(4, 1500, 0.0, probing=True)
    path.fit = lambda size: max(0, (size - 61) // 16 * 16 + 61)
    path.begin(0.1)
    assert all((size - 61) % 16 == 0 for size in path.wanted)
    run(path, real)
    assert path.mtu == max(path.fit(real), path.fit(576)) if path.fit(real) < path.fit(1500) else path.mtu == 1500


def test_what_passes_is_used_as_soon_as_the_largest_is_lost() -> None:
    path = PathMtu(4, 1500, 0.0, probing=True)
    path.begin(0.1)
    for size in (576, 1006, 1280, 1300):
        path.answered(size, 0.2)
    assert path.mtu == 1500
    path.lost(1500, 0.4)
    assert path.mtu == 1300
    assert path.wanted


# --- in use


def test_a_stall_falls_back_at_once_and_searches_up_from_there() -> None:
    path = settled(1500)
    path.suspect(10.0)
    assert path.tries == SUSPECT_TRIES
    assert {1500, 1280, 576} <= path.wanted
    for size in sorted(path.wanted)[:-3]:
        if size <= 1400:
            path.answered(size, 10.1)
    assert path.mtu == 1500  # answers to small ones alone prove nothing
    path.lost(1500, 10.2)
    assert (path.mtu, path.source, path.since) == (1400, "fallback", 10.2)
    run(path, 1437)
    assert path.mtu == 1437
    assert kinds(path) == ["fell", "raised"]


def test_a_stall_that_was_none_changes_nothing() -> None:
    path = settled(1500)
    path.suspect(10.0)
    run(path, 1500)
    assert (path.mtu, path.source, kinds(path)) == (1500, "probe", [])


def test_a_confirmation_that_is_lost_becomes_a_suspicion() -> None:
    path = settled(1492)
    path.confirm(10.0)
    assert (path.wanted, path.tries) == ({1492}, CONFIRM_TRIES)
    path.lost(1492, 10.1)
    assert path.mtu == 1492
    assert path.tries == SUSPECT_TRIES
    run(path, 1300)
    assert path.mtu == 1300


def test_below_the_safe_size_ipv4_goes_on_falling_and_ipv6_does_not() -> None:
    for version, real, found in ((4, 1100, 1100), (4, 300, 576), (6, 1100, 1280)):
        path = settled(1500, version=version)
        path.suspect(10.0)
        run(path, real)
        assert path.mtu == found


def test_later_it_looks_whether_more_passes() -> None:
    path = settled(1300)
    at = path.get_timer()
    assert at is not None
    path.handle_timer(at - 1)
    assert not path.wanted
    path.handle_timer(at)
    run(path, 1500)
    assert (path.mtu, path.source, kinds(path)) == (1500, "probe", ["raised"])
    assert path.get_timer() is None  # more than the interface there cannot be


def test_what_still_does_not_pass_is_looked_for_again_at_growing_intervals() -> None:
    path = settled(1300)
    at, waits = 1.0, []
    for _ in range(7):
        due = path.get_timer()
        assert due is not None
        waits.append(due - at)
        at = due
        path.handle_timer(at)
        run(path, 1300, at)
        assert (path.mtu, kinds(path)) == (1300, [])
    assert waits == [*LATER_S, AGE_S, AGE_S]


def test_what_was_found_several_times_may_wait_for_traffic() -> None:
    path = settled(1300)
    for rests in (False, False, False, True):
        assert path.may_rest is rests
        at = path.get_timer()
        assert at is not None
        path.handle_timer(at)
        run(path, 1300, at)
    path.put_off()
    assert (path.get_timer(), path.is_overdue) == (None, True)
    path.search_up(100.0)
    assert path.wanted
    assert not path.is_overdue


def test_after_a_fall_it_looks_soon_again() -> None:
    path = settled(1400)
    for _ in range(6):
        at = path.get_timer()
        assert at is not None
        path.handle_timer(at)
        run(path, 1400, at)
    path.suspect(5000.0)
    run(path, 1300, 5000.0)
    assert path.get_timer() == 5000.0 + LATER_S[0]


# --- ICMP


def test_icmp_counts_at_once_and_is_checked() -> None:
    path = settled(1500)
    path.learned(1300, 5.0)
    assert (path.mtu, path.source) == (1300, "icmp")
    assert run(path, 1300) == 1  # its word is exact: no finer round
    assert (path.mtu, path.source, kinds(path)) == (1300, "icmp", ["learned"])


def test_icmp_that_was_wrong_is_found_out() -> None:
    path = settled(1500)
    path.learned(600, 5.0)
    run(path, 1500)
    assert (path.mtu, path.source, kinds(path)) == (1500, "probe", ["learned", "raised"])


def test_icmp_of_the_first_of_two_narrow_places() -> None:
    path = settled(1500)
    path.learned(1400, 5.0)
    run(path, 1333)
    assert path.mtu == 1333


def test_without_probing_icmp_grows_old() -> None:
    path = PathMtu(4, 1500, 0.0, probing=False)
    path.learned(1300, 5.0)
    path.handle_timer(5.0 + AGE_S - 1)
    assert path.mtu == 1300
    path.handle_timer(5.0 + AGE_S)
    assert (path.mtu, path.source, kinds(path)) == (1500, "interface", ["learned", "aged"])


def test_where_nobody_answers_icmp_grows_old_up_to_the_safe_size() -> None:
    path = PathMtu(4, 1500, 0.0, probing=True)
    path.give_up(0.7)
    path.learned(1000, 5.0)
    path.handle_timer(5.0 + AGE_S)
    assert (path.mtu, path.source) == (1280, "fallback")


# --- the interface


def test_a_smaller_interface_counts_at_once_a_larger_one_is_tried() -> None:
    path = settled(1500)
    path.set_interface(1400, 5.0)
    assert (path.mtu, path.source) == (1400, "interface")
    run(path, 1400)
    path.set_interface(9000, 6.0)
    assert path.mtu == 1400
    run(path, 5000)
    assert (path.mtu, path.source) == (5000, "probe")


def test_without_probing_the_interface_is_what_counts() -> None:
    path = PathMtu(6, 1500, 0.0, probing=False)
    for mtu in (1400, 9000):
        path.set_interface(mtu, 5.0)
        assert (path.mtu, path.source) == (mtu, "interface")


def test_an_interface_below_the_minimum_is_a_fact_all_the_same() -> None:
    path = PathMtu(4, 500, 0.0, probing=True)
    path.begin(0.1)
    run(path, 500)
    assert path.mtu == path.least == path.safe == 500


def test_probing_switched_off_and_on() -> None:
    path = settled(1300)
    path.switch(False, 5.0)
    assert (path.mtu, path.source, path.probing) == (1500, "interface", Probing.OFF)
    path.switch(True, 6.0)
    path.begin(6.1)
    run(path, 1300)
    assert path.mtu == 1300
