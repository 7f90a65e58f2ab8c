"""Liveness: when the peer is asked, the quick verdict, and what it leaves alone until a replacement stands (RFC 7296 section 2.4)."""

from __future__ import annotations

import pytest
from live_pair import LivePair, back, downs, silent
from pair import Pair, connection

from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.config import ConnectionConfig
from ipsec_fast.ike.events import IkeUp

DEFAULT_S, CONFIGURED_S = 10.0, 5.0
FULL_SCHEDULE_S = 110.0


def site(side: str, **options) -> ConnectionConfig:
    defaults = ConnectionConfig("defaults")
    return connection(side, **{"dpd_delay_s": defaults.dpd_delay_s, "dpd_timeout_s": defaults.dpd_timeout_s, **options})


def up(traffic_every_s: float = 0.1, **options) -> LivePair:
    pair = LivePair(site("a", **options), site("b", **options))
    pair.up()
    if traffic_every_s:
        pair.start_traffic(traffic_every_s)
    pair.run(7.3)
    return pair


def informationals(pair: LivePair) -> int:
    return sum(sent.data[18] == ExchangeType.INFORMATIONAL for sent in pair.sent)


# --- nothing is asked while the peer is heard


def test_a_peer_whose_packets_come_is_never_asked() -> None:
    pair = up()
    pair.run(60.0)
    assert informationals(pair) == 0
    assert not silent(pair.a) + silent(pair.b)


def test_a_peer_that_only_receives_is_asked_and_is_not_found_silent() -> None:
    pair = up()
    pair.one_way = "a"
    pair.run(30.0)
    assert 6 <= informationals(pair) <= 2 * 30
    assert not silent(pair.a) + silent(pair.b)
    pair.check_one_pair()


def test_an_idle_peer_is_asked_by_dpd_delay() -> None:
    pair = up(0.0, dpd_delay_s=20.0)
    assert informationals(pair) == 0
    pair.run(20.0)
    assert informationals(pair) in (2, 4)
    assert not silent(pair.a) + silent(pair.b)


def test_dpd_delay_0_asks_nothing_and_finds_nobody_silent() -> None:
    pair = up(dpd_delay_s=0.0)
    pair.cut("a", "b")
    pair.run(300.0)
    assert informationals(pair) == 0
    assert not silent(pair.a)


@pytest.mark.parametrize("delay_s", [1e-300, 1e-12])
def test_a_delay_below_the_clock_s_resolution_stops_nothing(delay_s: float) -> None:
    pair = Pair(connection("a", dpd_delay_s=delay_s), connection("b", dpd_delay_s=delay_s))
    pair.initiate("a")
    pair.run(0.5)
    assert 4 < len(pair.sent) < 300


# --- found


@pytest.mark.parametrize("cut", ["ab", "a", "b"])
@pytest.mark.parametrize("traffic_every_s", [0.0, 0.1], ids=["idle", "traffic"])
@pytest.mark.parametrize(
    ("options", "limit_s"),
    [({}, DEFAULT_S), ({"dpd_delay_s": 2.0, "dpd_timeout_s": 2.0}, CONFIGURED_S)],
    ids=["default", "configured"],
)
def test_a_dead_peer_is_found_in_time(
    options: dict[str, float], limit_s: float, traffic_every_s: float, cut: str
) -> None:
    pair = up(traffic_every_s, **options)
    began = pair.now
    pair.cut(*cut)
    # packets that still come are proof enough: then only who hears nothing finds out
    finders = [s for s in (pair.a, pair.b) if not traffic_every_s or cut != s.side]
    pair.run(limit_s + 0.2, until=lambda: all(silent(shell) for shell in finders))
    for shell in finders:
        (notice,) = silent(shell)
        assert notice.ike_id == shell.view.ike_id
        assert shell.view.silent_since is not None
        assert shell.view.silent_since - began <= limit_s
        assert shell.view.state == "ESTABLISHED", "found, not deleted"
        assert len(shell.live) == 1


def test_a_request_that_is_no_liveness_check_is_one_all_the_same() -> None:
    pair = up(0.0, dpd_delay_s=1000.0)
    pair.cut("b")
    pair.call("a", "rekey_ike", pair.a.view.ike_id)
    pair.run(4.5)
    assert len(silent(pair.a)) == 1


def test_packets_that_still_come_prove_life_although_no_message_is_answered() -> None:
    pair = up()
    pair.network = lambda sent: ()
    pair.call("a", "check_liveness", pair.a.view.ike_id)
    pair.run(30.0)
    assert not silent(pair.a)


def test_without_a_replacement_the_full_schedule_ends_the_ike_sa() -> None:
    pair = up()
    began = pair.now
    pair.cut("a", "b")
    pair.run(FULL_SCHEDULE_S, until=lambda: not pair.a.views())
    assert 80.0 < pair.now - began < FULL_SCHEDULE_S
    (down,) = downs(pair.a)
    assert down.failed
    assert not down.by_peer
    assert len(silent(pair.a)) == 1, "one verdict"


# --- heard again


def test_a_peer_that_answers_again_is_told_of_and_nothing_else_happened() -> None:
    pair = up()
    pair.cut("a", "b")
    pair.run(20.0)
    pair.cut()
    pair.run(10.0)
    for shell in (pair.a, pair.b):
        assert len(silent(shell)) == len(back(shell)) == 1
        assert shell.view.silent_since is None
    pair.run(30.0)
    pair.check_one_pair()


def test_a_replacement_is_given_up_when_the_peer_answers_again() -> None:
    pair = up()
    pair.cut("a", "b")
    pair.run(20.0)
    old, new = pair.a.view.ike_id, pair.initiate()
    pair.run(1.0)
    pair.network = lambda sent: (0.01,) if sent.data[18] != ExchangeType.IKE_SA_INIT else ()
    pair.cuts = frozenset()
    pair.run(20.0)
    assert pair.a.view.ike_id == old
    (down,) = downs(pair.a)
    assert (down.ike_id, down.failed) == (new, False)
    pair.check_one_pair()


def test_a_replacement_that_stands_takes_over_and_one_pair_remains() -> None:
    pair = up()
    pair.cut("a", "b")
    pair.run(20.0)
    pair.network = lambda sent: (0.01,) if sent.data[18] != ExchangeType.INFORMATIONAL else ()
    new = pair.initiate()
    pair.run(1.0)
    assert pair.a.view.ike_id == new, "the old one went when the new one stood"
    pair.cut()
    pair.run(60.0)
    pair.check_one_pair()


def test_a_replacement_that_is_in_ike_auth_goes_on_although_the_peer_answers_again() -> None:
    """Its INITIAL_CONTACT may have ended the old one at the peer already."""
    pair = up()
    pair.cut("a", "b")
    pair.run(20.0)
    pair.initiate()
    pair.network = lambda sent: () if sent.data[18] == ExchangeType.IKE_AUTH else (0.01,)
    pair.run(20.0, until=lambda: bool(back(pair.a)))
    (new,) = pair.a.views("CONNECTING")
    assert new.tasks_active == ("IKE_AUTH",)
    pair.cut()
    pair.run(30.0)
    assert pair.a.view.ike_id == new.ike_id
    pair.check_one_pair()


def test_both_sides_replace_and_one_pair_remains() -> None:
    pair = up()
    pair.cut("a", "b")
    pair.run(20.0)
    pair.initiate("a")
    pair.initiate("b")
    pair.cut()
    pair.run(40.0)
    pair.check_one_pair()


# --- a peer without its state


@pytest.mark.parametrize("traffic_every_s", [0.0, 0.1], ids=["idle", "traffic"])
def test_a_peer_that_lost_its_state_says_so_and_is_found_sooner(traffic_every_s: float) -> None:
    pair = up(traffic_every_s)
    began = pair.now
    pair.lose_state("b")
    pair.run(10.0, until=lambda: bool(silent(pair.a)))
    assert pair.now - began < 6.5
    assert pair.a.view.state == "ESTABLISHED"
    pair.initiate()
    pair.run(5.0)
    pair.check_one_pair()


def test_a_replacement_begun_by_a_peer_that_sends_no_initial_contact_ends_the_silent_one() -> None:
    pair = up()
    pair.cut("a", "b")
    pair.run(15.0)
    pair.b.endpoint._core.sas.clear()  # its books are gone, and with unique = never it says nothing of it
    pair.cut()
    pair.b.configs[0] = site("b", unique=pair.b.configs[0].unique.NEVER)
    pair.initiate("b")
    pair.run(FULL_SCHEDULE_S)
    assert len(pair.a.of(IkeUp)) == 2
    assert pair.a.view.ike_id == pair.a.of(IkeUp)[-1].ike_id
