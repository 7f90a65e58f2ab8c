"""The reader never leaves its bytes, and every refusal is a ParseError."""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsec_fast.errors import ParseError
from ipsec_fast.ike.reader import Reader


@pytest.mark.parametrize("count", [-1, 4, 5, 65535])
def test_take_refuses_what_is_not_there(count: int) -> None:
    reader = Reader(b"abc", "thing")
    with pytest.raises(ParseError, match="thing"):
        reader.take(count)


def test_a_refused_read_moves_nothing() -> None:
    reader = Reader(b"abc", "thing")
    with pytest.raises(ParseError):
        reader.u32()
    assert reader.rest() == b"abc"


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 4), (4, 4)])
def test_reader_refuses_to_start_outside(start: int, end: int) -> None:
    with pytest.raises(ParseError):
        Reader(b"abc", "thing", start, end)


def test_sub_reader_ends_where_it_was_told() -> None:
    reader = Reader(b"\1\2\3\4\5", "outer")
    sub = reader.sub(2, "inner")
    with pytest.raises(ParseError, match="inner"):
        sub.take(3)
    assert sub.take(2) == b"\1\2"
    sub.expect_end()
    assert reader.rest() == b"\3\4\5"


def test_expect_end_counts_what_is_left() -> None:
    with pytest.raises(ParseError, match="3 bytes"):
        Reader(b"abc", "thing").expect_end()


@given(
    data=st.binary(max_size=40), steps=st.lists(st.sampled_from(["u8", "u16", "u32", "struct", "take", "sub", "rest"]))
)
def test_reader_behaves_as_slices_do(data: bytes, steps: list[str]) -> None:
    reader, place = Reader(data, "thing"), 0
    for step in steps:
        size = {"u8": 1, "u16": 2, "u32": 4, "struct": 3, "take": 5, "sub": 2, "rest": len(data) - place}[step]
        wanted = data[place : place + size]
        try:
            match step:
                case "struct":
                    got = Struct("!BH").pack(*reader.unpack(Struct("!BH")))
                case "take":
                    got = reader.take(5)
                case "sub":
                    got = reader.sub(2, "sub").rest()
                case "rest":
                    got = reader.rest()
                case _:
                    got = getattr(reader, step)().to_bytes(size, "big")
        except ParseError:
            assert len(wanted) < size
            continue
        assert got == wanted
        place += size
        assert (reader.position, reader.remaining) == (place, len(data) - place)
