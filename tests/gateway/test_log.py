"""What the operator reads: one line each, no control characters of strangers, no flood."""

from __future__ import annotations

from dataclasses import replace

from ipsec_fast.gateway.log import BURST, Log, Narrator, line_of
from ipsec_fast.ike.events import ChildFailed, ChildUp, IkeDown, IkeUp, PeerBack, PeerSilent, Progress
from tests.support.fake_control import child_view, ike_view


def test_text_that_a_peer_chose_cannot_write_a_second_line_or_move_the_cursor():
    lines: list[str] = []
    Log(lines.append)("no connection for a\nb\x1b[2J")
    assert len(lines) == 1
    assert lines[0].endswith(r"a\x0ab\x1b[2J" + "\n")


def test_a_flood_is_cut_and_counted():
    lines: list[str] = []
    now = [0.0]
    log = Log(lines.append, lambda: now[0])
    for number in range(BURST + 7):
        log(f"x{number}")
    assert len(lines) == BURST
    now[0] += 1.0
    log("y")
    assert "(7 lines left out) y" in lines[-1]


def test_failures_have_a_line_and_progress_has_none():
    assert (
        line_of(ChildFailed(1, "paris", "net", "offered A, wanted B"), None) == "paris net failed: offered A, wanted B"
    )
    assert line_of(IkeDown(1, "paris", "no answer", failed=True), None) == "paris failed (IKE SA 1): no answer"
    assert line_of(PeerSilent(1, "paris", "192.0.2.2 is silent"), None) == "paris: 192.0.2.2 is silent (IKE SA 1)"
    assert line_of(PeerBack(1, "paris"), None) == "paris: the peer is there again (IKE SA 1)"
    assert line_of(Progress(1, "paris", "sending IKE_SA_INIT"), None) is None


def test_the_line_of_a_child_says_what_was_narrowed():
    one = replace(child_view(), narrowed="by the peer from 10.1.0.0/16")
    lines = [line_of(ChildUp(1, c.child_id, "paris", "net"), ike_view(children=(c,))) for c in (child_view(), one)]
    assert lines[1] == f"{lines[0]}, narrowed by the peer from 10.1.0.0/16"


def told(*notices) -> list[str]:
    narrator = Narrator()
    return [line for notice in notices if (line := narrator.line(notice, None)) is not None]


def test_one_reason_is_one_line_however_many_notices_carry_it():
    failed = ChildFailed(1, "paris", "net", "no answer")
    assert told(
        failed, Progress(1, "paris", "CHILD SA net failed: no answer", level=0), IkeDown(1, "paris", "no answer", True)
    ) == ["paris net failed: no answer"]
    assert len(told(failed, ChildFailed(2, "rome", "net", "no answer"))) == 2


def test_an_ike_sa_that_was_up_and_goes_down_is_always_told():
    lines = told(
        IkeUp(1, "paris"),
        ChildFailed(1, "paris", "net", "x y"),
        IkeDown(1, "paris", "its only Child SA failed: x y", True),
    )
    assert len(lines) == 3


def test_the_same_line_comes_once_in_twenty_seconds():
    lines: list[str] = []
    now = [0.0]
    log = Log(lines.append, lambda: now[0])
    for now[0] in (0.0, 0.5, 19.9, 20.0, 20.1):
        log("refused")
    assert len(lines) == 2
