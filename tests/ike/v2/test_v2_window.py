"""Message IDs with a window of 1, and the schedule of retransmissions."""

from __future__ import annotations

import pytest

from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.v2.window import Arrival, Window, digest_of, retransmit_wait

INFO = ExchangeType.INFORMATIONAL


def test_only_the_next_message_id_is_new() -> None:
    window = Window()
    assert [window.classify(i, b"d") for i in (0, 1, 2, 0xFFFFFFFF)] == [Arrival.NEW, *[Arrival.WRONG] * 3]


def test_a_request_rests_then_repeats_its_response_for_the_same_bytes_only() -> None:
    window = Window()
    digest = digest_of(b"request")
    window.accept(digest)
    assert window.classify(0, digest) is Arrival.RESTING
    assert window.classify(0, digest_of(b"other")) is Arrival.RESTING
    window.store_response((b"response",))
    assert window.classify(0, digest) is Arrival.REPEATED
    assert window.classify(0, digest_of(b"other")) is Arrival.WRONG
    assert window.classify(1, digest) is Arrival.NEW
    window.accept(digest_of(b"next"))
    window.store_response((b"2",))
    assert window.classify(0, digest) is Arrival.WRONG
    assert window.last_response == (b"2",)


def test_one_request_of_ours_at_a_time() -> None:
    window = Window()
    window.open_request(INFO, (b"x",))
    with pytest.raises(AssertionError):
        window.open_request(INFO, (b"y",))
    assert window.awaits(0, INFO)
    assert not window.awaits(1, INFO)
    assert not window.awaits(0, ExchangeType.CREATE_CHILD_SA)
    assert window.outstanding is not None
    window.outstanding.answered = True
    assert not window.awaits(0, INFO), "a copy of a response that is being worked on"
    window.close_request()
    assert window.next_own == 1
    assert not window.awaits(0, INFO)


def test_only_ike_sa_init_is_ever_replaced() -> None:
    window = Window()
    window.open_request(INFO, (b"x",))
    with pytest.raises(AssertionError):
        window.replace_request((b"y",))


@pytest.mark.parametrize(("octets", "factor"), [(b"\x00\x00", 0.9), (b"\xff\xff", 1.1)])
def test_the_jitter_is_ten_percent_both_ways(octets: bytes, factor: float) -> None:
    assert retransmit_wait(EndpointSettings(), 1, lambda n: octets) == pytest.approx(0.5 * factor)


def test_sixteen_sends_take_93_s_and_no_wait_follows_the_last() -> None:
    settings = EndpointSettings(retransmit_jitter=0.0)
    waits = [retransmit_wait(settings, sends, lambda n: bytes(n)) for sends in range(1, 18)]
    assert waits[16] is None
    assert sum(wait for wait in waits if wait) == pytest.approx(93, abs=1)
