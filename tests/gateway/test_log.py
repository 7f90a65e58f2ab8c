"""What the operator reads: one line each, no control characters of strangers, no flood."""

from __future__ import annotations

from ipsec_fast.gateway.log import BURST, Log, line_of
from ipsec_fast.ike.events import ChildFailed, IkeDown, Progress


def test_text_that_a_peer_chose_cannot_write_a_second_line_or_move_the_cursor():
    lines: list[str] = []
    Log(lines.append)("no connection for a\nb\x1b[2J")
    assert len(lines) == 1
    assert lines[0].endswith(r"a\x0ab\x1b[2J" + "\n")


def test_a_flood_is_cut_and_counted():
    lines: list[str] = []
    now = [0.0]
    log = Log(lines.append, lambda: now[0])
    for _ in range(BURST + 7):
        log("x")
    assert len(lines) == BURST
    now[0] += 1.0
    log("y")
    assert "(7 lines left out) y" in lines[-1]


def test_failures_have_a_line_and_progress_has_none():
    assert (
        line_of(ChildFailed(1, "paris", "net", "offered A, wanted B"), None) == "paris net failed: offered A, wanted B"
    )
    assert line_of(IkeDown(1, "paris", "no answer", failed=True), None) == "paris failed (IKE SA 1): no answer"
    assert line_of(Progress(1, "paris", "sending IKE_SA_INIT"), None) is None
