"""A peer that does not answer is reported early, once per attempt, with true figures, and to a waiting command."""

from __future__ import annotations

import re
from dataclasses import replace

from pair import Pair, Sent, child, connection, perfect

from ipsec_fast.algorithms import parse_esp_proposal
from ipsec_fast.gateway.log import Narrator
from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import NO_ANSWER, ChildFailed, IkeDown, IkeUp, Progress

STEADY = EndpointSettings(retransmit_jitter=0.0)
SENTENCE = re.compile(
    r"no answer from 192\.0\.2\.2 to (\d+) requests in (\d+) s; is it up, does a firewall drop UDP (.*)\?"
)


def attempt(lost: object = lambda sent: ()) -> Pair:
    pair = Pair(settings=STEADY)
    pair.network = lost  # type: ignore[assignment]
    pair.initiate()
    return pair


def told(pair: Pair, level: int = 0) -> list[str]:
    return [e.text for e in pair.a.of(Progress) if e.level <= level and e.text.startswith(NO_ANSWER)]


def test_the_second_retransmission_tells_the_log_what_to_look_at() -> None:
    pair = attempt()
    pair.run(1.2)
    assert told(pair) == []
    pair.run(0.3)
    (line,) = told(pair)
    found = SENTENCE.fullmatch(line)
    assert found
    assert found.groups() == ("3", "1", "500 and 4500")


def test_it_is_told_once_for_each_attempt_and_its_end_has_the_figures_of_the_whole() -> None:
    pair = attempt()
    pair.run(200.0)
    assert len(told(pair)) == 1
    (down,) = pair.a.of(IkeDown)
    found = SENTENCE.match(down.reason)
    assert found
    assert found[1] == "16"
    assert 85 < int(found[2]) < 110
    pair.initiate()
    pair.run(3.0)
    assert len(told(pair)) == 2


def test_who_waits_hears_of_each_later_one_with_its_own_figures() -> None:
    pair = attempt()
    pair.run(20.0)
    counts = [int(match[1]) for text in told(pair, level=2) if (match := SENTENCE.fullmatch(text))]
    assert counts == list(range(3, 3 + len(counts)))
    assert len(counts) > 3
    seconds = [int(match[2]) for text in told(pair, level=2) if (match := SENTENCE.fullmatch(text))]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 10


def test_a_lost_ike_auth_names_the_port_that_it_goes_to() -> None:
    pair = attempt(lambda sent: () if sent.data[18] == ExchangeType.IKE_AUTH else perfect(sent))
    pair.run(5.0)
    (line,) = told(pair)
    assert "UDP 4500 (IKE_SA_INIT was answered)?" in line


def test_a_peer_that_answers_in_time_is_not_told_of() -> None:
    slow: list[Sent] = []

    def one_lost(sent: Sent):  # type: ignore[no-untyped-def]
        slow.append(sent)
        return () if len(slow) == 1 else perfect(sent)

    pair = attempt(one_lost)
    pair.run(10.0)
    assert pair.a.of(IkeUp)
    assert told(pair, level=2) == []


def test_an_attempt_that_is_taken_down_is_no_failure_and_says_so() -> None:
    pair = attempt()
    pair.run(1.0)
    pair.call("a", "terminate_ike", pair.a.view.ike_id)
    pair.run(1.0)
    (down,) = pair.a.of(IkeDown)
    assert not down.failed
    assert down.reason == "taken down by us before it was set up with 192.0.2.2"


def test_a_refused_child_is_told_of_once_with_all_that_was_offered() -> None:
    offered = tuple(parse_esp_proposal(text) for text in ("aes256gcm16", "aes128gcm16"))
    mine = replace(child(), proposals=offered)
    pair = Pair(
        connection("a", children=(mine,)), connection("b", children=(child(local="10.7.0.0/24", remote="10.8.0.0/24"),))
    )
    pair.initiate()
    pair.run(10.0)
    narrator = Narrator()
    spoken = (IkeUp, IkeDown, ChildFailed)
    lines = [narrator.line(event, None) for event in pair.a.events if isinstance(event, spoken)]
    (failed,) = pair.a.of(ChildFailed)
    assert all(str(one) in failed.reason for one in offered)
    assert sum(failed.reason in (line or "") for line in lines) == 1
    (down,) = pair.a.of(IkeDown)
    assert down.failed
    assert down.reason == "its only Child SA, net, failed"
