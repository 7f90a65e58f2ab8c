"""Who runs beside whom when tests run in several processes (tests/support/turns.py)."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import turns


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Others than those that this test's own turn holds."""
    found = {name: tmp_path / name for name in ("DOOR", "ROOM")}
    for name, path in found.items():
        path.touch()
        monkeypatch.setattr(turns, name, path)
    return found


def is_free(path: Path, how: int) -> bool:
    with path.open("rb") as file:  # an open file of its own, as another process has
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_one_that_is_alone_has_nobody_beside_it(locks: dict[str, Path]) -> None:
    with turns.turn(alone=True):
        assert not is_free(locks["ROOM"], fcntl.LOCK_SH)
    assert is_free(locks["ROOM"], fcntl.LOCK_EX)


def test_others_run_side_by_side_and_keep_out_one_that_wants_to_be_alone(locks: dict[str, Path]) -> None:
    with turns.turn(alone=False), turns.turn(alone=False):
        assert is_free(locks["DOOR"], fcntl.LOCK_EX)
        assert is_free(locks["ROOM"], fcntl.LOCK_SH)
        assert not is_free(locks["ROOM"], fcntl.LOCK_EX)


def test_a_test_that_fails_leaves_the_room(locks: dict[str, Path]) -> None:
    with pytest.raises(ZeroDivisionError), turns.turn(alone=True):
        raise ZeroDivisionError
    assert is_free(locks["ROOM"], fcntl.LOCK_EX)
