"""The log in a flood (docs/attacks.md, rows 80 and 83): few lines a second, all of the
operator's, none too long, and no memory.
"""

from __future__ import annotations

import logging

import pytest

from ipsec_fast.gateway.daemon import _logging_to
from ipsec_fast.gateway.log import (
    LINE_CHARACTERS,
    TOLD_LINES,
    TOLD_SAS,
    Cause,
    Log,
    Narrator,
    cause_of,
    tell,
)
from ipsec_fast.ike.events import ChildDown, ChildUp, IkeDown, IkeUp, Notice, PeerSilent, Progress


class Book:
    """A log with a clock of its own; `told` are its lines, without the time of day."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.log = Log(self.lines.append, lambda: self.now)
        self.narrator = Narrator()

    def hear(self, notice: Notice) -> None:
        line = self.narrator.line(notice, None)
        if line is not None:
            tell(self.log, line, *cause_of(notice))

    @property
    def told(self) -> list[str]:
        return [line[9:].rstrip("\n") for line in self.lines]


def refused(number: int) -> Progress:
    return Progress(number, "", f"IKE_SA_INIT from 203.0.113.{number % 250} refused: number {number}", "ike", 0)


def loop_of_a_peer(number: int, connection: str = "any") -> list[Notice]:
    """A peer with a secret of ours comes, has its Child SA, and goes."""
    return [
        IkeUp(number, connection),
        ChildUp(number, number, connection, "net"),
        ChildDown(number, number, connection, "net", f"deleted by peer {number}", 0.0),
        IkeDown(number, connection, f"deleted by peer {number}", False, True),
    ]


def test_strangers_use_up_no_line_of_anybody_else() -> None:
    book = Book()
    for number in range(10_000):
        book.hear(refused(number))
    news = [
        IkeUp(20_000, "paris"),
        PeerSilent(20_000, "paris", "192.0.2.2 is silent"),
        IkeDown(20_000, "paris", "gone", True),
    ]
    for notice in news:
        book.hear(notice)
    tell(book.log, "the configuration was read again", Cause.OPERATOR)
    book.log("the device ipsec0 is gone")
    assert [
        text in "\n".join(book.told)
        for text in ("paris established", "is silent", "paris failed", "read again", "ipsec0")
    ] == [True] * 5


def test_no_flood_of_strangers_writes_more_than_ten_lines_in_any_second() -> None:
    book = Book()
    times: list[float] = []
    book.log._write = lambda line: times.append(book.now)
    for number in range(20_000):
        book.now += 0.001
        book.hear(refused(number))
    assert max(sum(1 for other in times if at <= other < at + 1) for at in times) <= 10


@pytest.mark.parametrize("connections", [1, 2])
def test_peers_that_come_and_go_in_a_loop_write_few_lines_and_hide_no_other_peer(connections: int) -> None:
    book = Book()
    times: list[float] = []
    write = book.lines.append
    book.log._write = lambda line: (times.append(book.now), write(line))
    for number in range(3000):
        book.now += 0.01
        for notice in loop_of_a_peer(number, f"any{number % connections}"):
            book.hear(notice)
    steady = [at for at in times if at > 1002]
    assert max(sum(1 for other in steady if at <= other < at + 1) for at in steady) <= 10
    book.hear(IkeUp(90_000, "paris"))
    book.hear(IkeDown(90_000, "paris", "its lifetime is over", True))
    assert "paris established" in book.told[-2]
    assert "paris failed" in book.told[-1]


def most_in_a_second(times: list[float]) -> int:
    return max(sum(1 for other in times if at <= other < at + 1) for at in times)


def test_the_first_line_of_each_child_comes_however_many_come_at_once() -> None:
    book = Book()
    for number in range(200):
        book.hear(ChildUp(1, number, "paris", f"net{number}"))
    assert len(book.told) == 10, "in the first second"
    for _ in range(19):
        book.now += 1
        book.log("tick", Cause.OPERATOR)
    told = [line for line in book.told if "tick" not in line]
    assert told == [f"paris net{number} installed (child {number})" for number in range(200)]


def test_what_waits_comes_by_the_timer_of_the_loop_and_at_the_end() -> None:
    book = Book()
    timers: list[tuple[float, object]] = []

    class Handle:
        def cancel(self) -> None:
            timers.clear()

    book.log.later = lambda seconds, call: (timers.append((book.now + seconds, call)), Handle())[1]
    for number in range(35):
        book.hear(ChildUp(1, number, "paris", f"net{number}"))
    for second in (1, 2):
        assert len(timers) == 1
        book.now, call = timers.pop()
        call()
        assert len(book.told) == 10 + 10 * second
    book.log.flush()
    assert len(book.told) == 35
    assert not timers


@pytest.mark.parametrize("connections", [1, 300])
def test_no_flood_of_peers_and_strangers_together_writes_more_than_ten_lines_a_second(connections: int) -> None:
    """Holders of good secrets on many connections come and go while strangers are refused; nobody hides an honest peer."""
    book = Book()
    times: list[float] = []
    write = book.lines.append
    book.log._write = lambda line: (times.append(book.now), write(line))
    for number in range(3000):
        book.now += 0.01
        book.hear(refused(number))
        for notice in loop_of_a_peer(number, f"any{number % connections}"):
            book.hear(notice)
    assert most_in_a_second(times) <= 10
    assert len(book.log._waiting) <= 1024
    if connections == 1:
        book.now += 1
        book.hear(IkeUp(90_000, "paris"))
        assert "paris established" in book.told[-1]


def test_a_flood_of_strangers_leaves_room_for_the_lines_of_peers() -> None:
    book = Book()
    for number in range(5000):
        book.now += 0.001
        book.hear(refused(number))
        if number % 500 == 0:
            book.hear(IkeUp(number, f"paris{number}"))
    assert sum("established" in line for line in book.told) == 10


def test_what_was_left_out_is_counted_and_told_once() -> None:
    book = Book()
    for number in range(1000):
        book.hear(refused(number))
    told = len(book.told)
    book.now += 10
    book.hear(refused(1000))
    book.now += 10
    book.hear(refused(1001))
    assert f"({1000 - told} lines left out)" in book.told[-2]
    assert "left out" not in book.told[-1]


def test_the_operators_own_lines_are_told_again_even_if_they_are_the_same() -> None:
    book = Book()
    for _ in range(3):
        tell(book.log, "nothing changed", Cause.OPERATOR)
    assert book.told == ["nothing changed"] * 3


def test_a_log_that_knows_no_causes_gets_the_line() -> None:
    lines: list[str] = []
    tell(lines.append, "x", Cause.STRANGER)
    assert lines == ["x"]


@pytest.mark.parametrize("character", ["x", "\x00", "\U0001f600", "\n"])
def test_no_line_is_long(character: str) -> None:
    book = Book()
    book.log(character * 480_055)
    assert len(book.told[0]) <= 8 * LINE_CHARACTERS
    assert book.told[0].endswith(f"... ({480_055 - LINE_CHARACTERS} characters more)")
    assert sum(map(len, book.log._recent)) <= 2 * LINE_CHARACTERS


def test_nothing_of_strangers_is_remembered() -> None:
    """Each refused IKE_SA_INIT used to stay in memory for ever."""
    book = Book()
    for number in range(5000):
        book.hear(refused(number))
    assert not book.narrator._told
    assert len(book.log._recent) <= 64


def test_of_peers_as_much_is_remembered_as_repeats_need() -> None:
    book = Book()
    for number in range(2000):
        for text in "abcdefghijkl":
            book.hear(Progress(number, "any", f"{text} {number}", "ike", 0))
    assert len(book.narrator._told) <= TOLD_SAS
    assert max(map(len, book.narrator._told.values())) <= TOLD_LINES
    for number in range(3000):
        book.hear(ChildUp(1, number, f"c{number}", "net"))
    assert len(book.log._told) <= 1024


def test_a_mistake_of_ours_that_is_made_for_every_datagram_fills_no_log() -> None:
    book = Book()
    with _logging_to(book.log):
        for number in range(500):
            try:
                raise ValueError(number)
            except ValueError:
                logging.getLogger("ipsec_fast.ike").exception("internal error in receive_datagram, %d", number)
    assert "internal error" in book.told[0]
    assert any("Traceback" in line for line in book.told)
    assert len(book.told) <= 60


def test_warnings_of_what_an_operator_loads_are_his_lines() -> None:
    """Each load tells them again, and mistakes of ours have used up none of their room."""
    book = Book()
    with _logging_to(book.log):
        for number in range(100):
            logging.getLogger("ipsec_fast.ike").warning("mistake %d", number)
        for _ in range(2):
            logging.getLogger("ipsec_fast.configuration").warning("connections.a.mobike: ignored")
    assert len([line for line in book.told if line.endswith("mobike: ignored")]) == 2
