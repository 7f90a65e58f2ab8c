"""The state directory: all that must not be used first (cut, bent, foreign, older, mixed), then crashes, then round trips."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from state_samples import child_record, ike_record, plain, secrets_of

from ipsec_fast.control import store_directory
from ipsec_fast.control.store import GrantMark, StoredIke
from ipsec_fast.control.store_directory import DirectoryStore, HostId
from ipsec_fast.crypto.secret import Secret, random_secret, reveal_for_test
from ipsec_fast.errors import HostError, StateError
from ipsec_fast.ike.records import IkeRecord

KEY = random_secret(32)
HERE = HostId(b"h" * 32, b"b" * 32)


class Crash(BaseException):
    """The process ends at this very call."""


def opened(folder: Path, *, key: Secret = KEY, host: HostId = HERE) -> DirectoryStore:
    return DirectoryStore(folder / "state", key, host=host)


def begun(folder: Path) -> DirectoryStore:
    store = opened(folder)
    store.load()
    return store


def loaded(folder: Path) -> dict[int, StoredIke]:
    """What a new process finds; the directory stays."""
    store = opened(folder)
    try:
        return {one.record.ike_id: one for one in store.load()}
    finally:
        store.close(keep=True)


def filled(folder: Path) -> IkeRecord:
    """Two IKE SAs, and one with marks in a file of their own, left as by a crash."""
    store, record = begun(folder), ike_record(1)
    store.put(record, {100: GrantMark(1, 2)})
    store.put(ike_record(2), {})
    store.put_grants(1, {100: GrantMark(3, 2)})
    store.close(keep=True)
    return record


def refuse(folder: Path, text: str, **how: object) -> None:
    """One line that says so; then an empty store that works, and nothing of the old state is ever back."""
    store = opened(folder, **how)  # type: ignore[arg-type]
    with pytest.raises(StateError, match=f"is not used: .*{text}.*; tunnels are negotiated anew") as caught:
        store.load()
    assert str(folder / "state") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (folder / "state").iterdir()] == ["header"]
    record = ike_record(9)
    store.put(record, {})
    store.close(keep=True)
    again = opened(folder, **how)  # type: ignore[arg-type]
    assert [one.record.ike_id for one in again.load()] == [9]
    again.close(keep=False)


FILES = ("state/header", "state/ike-1", "state/marks-1", "state.mark")


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(private: Path, name: str) -> None:
    filled(private)
    shutil.copytree(private, private / "good")
    whole = (private / name).read_bytes()
    lengths = range(len(whole)) if name != "state.mark" else range(128)  # half a mark is one good slot
    for length in lengths if len(whole) < 300 else sorted({0, 1, 39, 40, 41, len(whole) - 1, *lengths[::37]}):
        restore(private / "good", private)
        os.truncate(private / name, length)
        refuse(private, "")


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_refused(private: Path, name: str) -> None:
    filled(private)
    shutil.copytree(private, private / "good")
    whole = (private / name).read_bytes()
    newest = 128 * (int.from_bytes(whole[8:16], "big") < int.from_bytes(whole[136:144], "big")) if "mark" in name else 0
    places = range(newest, newest + 128) if name == "state.mark" else range(0, len(whole), 1 + len(whole) // 100)
    for at in places:
        restore(private / "good", private)
        bent = bytearray(whole)
        bent[at] ^= 1 << at % 8
        (private / name).write_bytes(bent)
        if name == "state.mark":
            # the slot before it verifies: it names the directory before the last change, or on the way to it
            with_older_slot(private)
        else:
            refuse(private, "")


def with_older_slot(folder: Path) -> None:
    """A torn newest mark leaves the one before it, which allows the state that is there."""
    assert sorted(loaded(folder)) == [1, 2]


def restore(source: Path, target: Path) -> None:
    """A copy of directory and mark put back."""
    shutil.rmtree(target / "state", ignore_errors=True)
    shutil.copytree(source / "state", target / "state")
    shutil.copy2(source / "state.mark", target / "state.mark")


def put_back(copy: Path, folder: Path) -> None:
    """A copy of the directory alone put back."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    shutil.copytree(copy, folder / "state")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"key": random_secret(32)}, "sealed under another state_key"),
        ({"host": HostId(b"x" * 32, b"b" * 32)}, "another host's"),
        ({"host": HostId(b"h" * 32, b"x" * 32)}, "from before this boot"),
    ],
)
def test_another_key_host_or_boot_is_refused_and_named(private: Path, how: dict[str, object], text: str) -> None:
    filled(private)
    refuse(private, text, **how)


def test_another_format_and_other_fields_are_refused_and_named(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(private)
    with monkeypatch.context() as patch:
        patch.setattr(store_directory, "FORMAT", 2)
        refuse(private, "has format 1, this version writes format 2")
    filled(private)
    monkeypatch.setattr(store_directory, "schema", lambda kind: bytes(32))
    refuse(private, "another version of ipsec-fast")


def test_a_missing_header_mark_or_file_is_refused_and_named(private: Path) -> None:
    for name, text in (
        ("state/header", "header is missing"),
        ("state.mark", "state.mark is missing or damaged"),
        ("state/ike-2", "cut off, changed or older"),
        ("state/marks-1", "cut off, changed or older"),
    ):
        filled(private)
        (private / name).unlink()
        refuse(private, text)


def test_an_emptied_directory_is_told(private: Path) -> None:
    filled(private)
    shutil.rmtree(private / "state")
    refuse(private, "was emptied since")


def test_a_header_of_another_kind_is_refused(private: Path) -> None:
    filled(private)
    (private / "state/header").write_bytes(b"[something else entirely]" * 10)
    refuse(private, "header is none of ours")


def test_a_file_under_another_name_is_refused(private: Path) -> None:
    filled(private)
    (private / "state/ike-2").rename(private / "state/ike-3")
    refuse(private, "cut off, changed or older")


def test_a_record_that_is_a_link_is_refused(private: Path) -> None:
    filled(private)
    (private / "state/ike-2").rename(private / "elsewhere")
    (private / "state/ike-2").symlink_to(private / "elsewhere")
    refuse(private, "ike-2 cannot be read")
    assert (private / "elsewhere").exists()


def test_a_record_that_others_may_write_is_refused(private: Path) -> None:
    filled(private)
    (private / "state/ike-2").chmod(0o620)
    refuse(private, "ike-2: may be read or changed by others")


def test_a_huge_file_is_refused_without_reading_it_all(private: Path) -> None:
    filled(private)
    os.truncate(private / "state/ike-2", 1 << 40)
    refuse(private, "more than")


# --- rollback


def test_every_older_copy_of_the_directory_is_refused(private: Path) -> None:
    """Random changes, the directory copied after each: with the mark of the end only the last copy is taken."""
    rng, store, kept = random.Random(8), begun(private), {1: ike_record(1)}
    store.put(kept[1], {})
    copies = []
    for step in range(25):
        ike_id = rng.randrange(1, 4)
        change = rng.choice(("put", "marks", "remove")) if ike_id in kept else "put"
        if change == "put":
            kept[ike_id] = ike_record(ike_id, iv_end=step)
            store.put(kept[ike_id], {})
        elif change == "marks":
            store.put_grants(ike_id, {ike_id * 100: GrantMark(step, step)})
        else:
            del kept[ike_id]
            store.remove(ike_id)
        copies.append(private / f"copy-{step}")
        shutil.copytree(private / "state", copies[-1])
    store.close(keep=True)
    shutil.copy2(private / "state.mark", private / "kept.mark")
    for copy in copies[:-1]:
        put_back(copy, private)
        shutil.copy2(private / "kept.mark", private / "state.mark")
        refuse(private, "(older|emptied)")
    put_back(copies[-1], private)
    shutil.copy2(private / "kept.mark", private / "state.mark")
    assert {ike_id: plain(one.record) for ike_id, one in loaded(private).items()} == {
        ike_id: plain(record) for ike_id, record in kept.items()
    }


@pytest.mark.parametrize("name", ["ike-1", "marks-1"])
def test_one_older_file_among_new_ones_is_refused(private: Path, name: str) -> None:
    filled(private)
    shutil.copy2(private / "state" / name, private / "older")
    store = begun(private)
    store.put(ike_record(1), {})
    store.put_grants(1, {100: GrantMark(9, 9)})
    store.close(keep=True)
    shutil.copy2(private / "older", private / "state" / name)
    refuse(private, "cut off, changed or older")


def test_a_removed_record_put_back_is_refused(private: Path) -> None:
    filled(private)
    shutil.copy2(private / "state/ike-2", private / "older")
    store = begun(private)
    store.remove(2)
    store.close(keep=True)
    shutil.copy2(private / "older", private / "state/ike-2")
    refuse(private, "cut off, changed or older")


def test_a_copy_from_before_an_orderly_stop_is_refused(private: Path) -> None:
    filled(private)
    shutil.copytree(private / "state", private / "copy")
    begun(private).close(keep=False)
    put_back(private / "copy", private)
    refuse(private, "mark .* is missing")
    put_back(private / "copy", private)
    begun_store = opened(private)
    with pytest.raises(StateError):
        begun_store.load()
    begun_store.close(keep=True)
    put_back(private / "copy", private)
    refuse(private, "an older one than the generation mark")


# --- crashes


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int, *, behind: bool) -> Callable[[], int]:
    """The call of that number that changes a file ends the process, just before or just behind it; returns how many there were."""
    calls = itertools.count()
    seen = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def patched(*arguments: object, **more: object) -> object:
            nonlocal seen
            seen = next(calls)
            if seen == number and not behind:
                raise Crash
            result = real(*arguments, **more)
            if seen == number:
                raise Crash
            return result

        monkeypatch.setattr(os, name, patched)

    for name in ("open", "write", "rename", "fsync", "pwrite"):
        wrap(name)
    return lambda: seen + 1


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("change", ["put", "put_grants", "remove"])
def test_a_crash_at_any_call_leaves_the_state_before_or_after(
    private: Path, monkeypatch: pytest.MonkeyPatch, change: str, behind: bool
) -> None:
    new = ike_record(1, iv_end=77)
    number, total, outcomes = 0, 1, set()
    while number < total:
        filled(private)
        before = plain(tuple(loaded(private).values()))
        store = begun(private)
        with monkeypatch.context() as patch:
            # a crash cleans nothing up
            patch.setattr(os, "unlink", os.unlink if change == "remove" else lambda *a, **k: None)
            count = crash_at(patch, number, behind=behind)
            try:
                if change == "put":
                    store.put(new, {100: GrantMark(8, 8)})
                elif change == "put_grants":
                    store.put_grants(1, {100: GrantMark(8, 8)})
                else:
                    store.remove(1)
                total = count()
            except Crash:
                total = number + 2
        store.close(keep=True)
        found = loaded(private)
        if plain(tuple(found.values())) == before:
            outcomes.add("before")
        elif change == "remove":
            outcomes.add("after")
            assert sorted(found) == [2]
            assert not (private / "state/marks-1").exists()  # also where the crash fell between the two files
        else:
            outcomes.add("after")
            assert found[1].grants[100] == GrantMark(8, 8)
            assert (found[1].record.iv_end == 77) == (change == "put")
        opened(private).close(keep=False)
        number += 1
    assert len(outcomes) == 2
    assert number > 4


def test_leftovers_of_a_crash_are_swept(private: Path) -> None:
    filled(private)
    (private / "state/ike-1.new").write_bytes(b"half")
    assert sorted(loaded(private)) == [1, 2]
    assert not (private / "state/ike-1.new").exists()


def test_a_failed_write_leaves_the_old_file_and_the_next_one_succeeds(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = filled(private)
    store = begun(private)
    for name in ("pwrite", "open", "write", "fsync", "rename"):
        with monkeypatch.context() as patch:

            def fail(*arguments: object, **more: object) -> int:
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, fail)
            with pytest.raises(HostError, match="no space left on device"):
                store.put(ike_record(1, iv_end=5), {})
        assert plain(store_content(private)[1]) == plain(record)
    store.put(ike_record(2, iv_end=6), {})
    store.put(ike_record(1, iv_end=7), {})
    store.close(keep=True)
    assert [one.record.iv_end for one in loaded(private).values()] == [7, 6]


def store_content(folder: Path) -> dict[int, IkeRecord]:
    """What a process that starts now would find, seen in a copy: the directory itself is locked."""
    copy = folder / "seen"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(mode=0o700)
    restore(folder, copy)
    return {ike_id: one.record for ike_id, one in loaded(copy).items()}


# --- what is stored


def test_a_record_comes_back_with_the_highest_of_its_marks(private: Path) -> None:
    store, record = begun(private), ike_record(1)
    store.put(record, {100: GrantMark(10, 5), 101: GrantMark(1, 0)})
    store.put_grants(1, {100: GrantMark(20, 4)})
    store.put(record, {100: GrantMark(15, 6)})
    store.close(keep=True)
    (one,) = loaded(private).values()
    assert plain(one.record) == plain(record)
    assert one.grants == {100: GrantMark(20, 6), 101: GrantMark(1, 0)}


def test_marks_of_a_child_that_is_gone_are_dropped(private: Path) -> None:
    store = begun(private)
    store.put(ike_record(1), {100: GrantMark(10, 5), 101: GrantMark(1, 0)})
    store.put_grants(1, {100: GrantMark(11, 5)})
    store.put(ike_record(1, children=1), {})
    store.close(keep=True)
    assert loaded(private)[1].grants == {100: GrantMark(11, 5)}


def test_marks_of_an_unknown_ike_sa_write_nothing(private: Path) -> None:
    store = begun(private)
    store.put_grants(5, {1: GrantMark(1, 1)})
    store.remove(5)
    store.close(keep=True)
    assert loaded(private) == {}


def test_nothing_is_put_before_the_old_state_was_read(private: Path) -> None:
    filled(private)
    store = opened(private)
    with pytest.raises(StateError, match="load"):
        store.put(ike_record(3), {})
    store.load()
    with pytest.raises(StateError, match="once"):
        store.load()
    store.close(keep=True)
    assert sorted(loaded(private)) == [1, 2]


def test_many_records_and_restarts(private: Path) -> None:
    kept: dict[int, IkeRecord] = {}
    for round_ in range(5):
        store = begun(private)
        for ike_id in range(round_ * 10, round_ * 10 + 10):
            kept[ike_id] = ike_record(ike_id, children=1)
            store.put(kept[ike_id], {ike_id * 100: GrantMark(ike_id, 0)})
        for ike_id in range(round_ * 10, round_ * 10 + 5):
            store.remove(ike_id)
            del kept[ike_id]
        store.close(keep=True)
        found = loaded(private)
        assert {k: plain(v.record) for k, v in found.items()} == {k: plain(v) for k, v in kept.items()}
        assert all(one.grants == {k * 100: GrantMark(k, 0)} for k, one in found.items())


def test_a_record_with_many_children_is_stored(private: Path) -> None:
    store = begun(private)
    record = ike_record(1, children=0)
    children = tuple(child_record(n) for n in range(1000))
    store.put(ike_record(1, children=0), {})
    store.put(type(record)(**{**fields_of(record), "children": children}), {n: GrantMark(n, n) for n in range(1000)})
    store.close(keep=True)
    assert len(loaded(private)[1].record.children) == len(loaded(private)[1].grants) == 1000


def fields_of(record: IkeRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in IkeRecord.__dataclass_fields__}


def test_no_key_is_readable_in_any_file(private: Path) -> None:
    record = filled(private)
    store = begun(private)
    store.put(record, {})
    data = b"".join(path.read_bytes() for path in private.rglob("*") if path.is_file())
    store.close(keep=True)
    assert len(data) > 2000
    for secret in (*secrets_of(record), reveal_for_test(KEY)):
        assert not [at for at in range(len(secret) - 7) if secret[at : at + 8] in data]
    assert b"paris" not in data
    assert b"london" not in data


def test_files_are_for_their_owner_alone_whatever_the_umask(private: Path) -> None:
    before = os.umask(0)
    try:
        filled(private)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in private.rglob("*")}
    assert modes.pop("state") == 0o700
    assert len(modes) == 5
    assert set(modes.values()) == {0o600}


def test_an_orderly_stop_leaves_nothing(private: Path) -> None:
    filled(private)
    begun(private).close(keep=False)
    assert list(private.iterdir()) == []


def test_closing_twice_is_once(private: Path) -> None:
    store = begun(private)
    store.close(keep=False)
    filled(private)
    store.close(keep=False)
    assert sorted(loaded(private)) == [1, 2]


def test_what_the_status_shows(private: Path) -> None:
    store = begun(private)
    assert store.keeps == f"directory {private / 'state'}"
    store.close(keep=False)
