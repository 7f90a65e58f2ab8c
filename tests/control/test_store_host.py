"""The state directory against the host: others' directories, links, locks, full disks, and processes killed at the worst moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from state_samples import ike_record, plain

from ipsec_fast.control.store import GrantMark, MemoryStore
from ipsec_fast.control.store_directory import BOOT_ID, DirectoryStore, HostId, default_mark
from ipsec_fast.control.store_open import open_store
from ipsec_fast.crypto.secret import random_secret, secret_from_buffer
from ipsec_fast.errors import HostError, UsageError

ROOT = Path(__file__).parents[2]
RAW_KEY = bytes(range(32))
KEY = secret_from_buffer(RAW_KEY)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(path: Path, text: str, mark: Path | None = None) -> None:
    """One line; nothing that was there is touched, and the gateway gets a store in memory."""
    before = content(path.parent)
    with pytest.raises(HostError, match=text) as caught:
        DirectoryStore(path, KEY, mark=mark)
    assert "\n" not in str(caught.value)
    opened = open_store(path, KEY, mark)
    assert isinstance(opened.store, MemoryStore)
    assert opened.line == f"state is kept in memory: {caught.value}"
    assert opened.store.keeps == f"memory ({caught.value})"
    assert content(path.parent) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_or_mark_of_somebody_else_is_refused(private: Path) -> None:
    try:
        (private / "theirs").mkdir(mode=0o700)
        os.chown(private / "theirs", 65534, 65534)
    except OSError:
        pytest.skip("this user namespace has one user")
    refuse(private / "theirs", "belongs to user 65534; it must belong to us")
    mark = private / "mine.mark"
    mark.touch(mode=0o600)
    os.chown(mark, 65534, 65534)
    refuse(private / "mine", "mine.mark: belongs to user 65534")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o1777])
def test_a_directory_open_to_others_is_refused(private: Path, mode: int) -> None:
    (private / "state").mkdir()
    (private / "state").chmod(mode)
    refuse(private / "state", "may be read or changed by others .*chmod 700")


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o722])
def test_a_folder_above_that_others_may_change_is_refused(private: Path, mode: int) -> None:
    (private / "above").mkdir()
    (private / "above").chmod(mode)
    refuse(private / "above/state", "above may be changed by others")
    (private / "above").chmod(0o1777)  # like /tmp: nobody can rename what is ours
    DirectoryStore(private / "above/state", KEY).close(keep=False)


def test_a_link_is_refused_as_directory_and_as_mark(private: Path) -> None:
    (private / "elsewhere").mkdir(mode=0o700)
    (private / "state").symlink_to(private / "elsewhere")
    refuse(private / "state", "is a symbolic link")
    (private / "victim").write_text("precious")
    (private / "victim").chmod(0o600)
    (private / "other.mark").symlink_to(private / "victim")
    refuse(private / "other", "other.mark: too many levels of symbolic links")


def test_what_is_no_directory_or_no_file_is_refused(private: Path) -> None:
    (private / "file").touch(mode=0o600)
    refuse(private / "file", "not a directory")
    os.mkfifo(private / "state.mark", 0o600)
    refuse(private / "state", "state.mark: is no file")
    refuse(private / "no/such/place", "no such file or directory")


def test_a_directory_with_files_of_others_is_refused_and_not_emptied(private: Path) -> None:
    (private / "home").mkdir(mode=0o700)
    (private / "home/.ssh").write_text("precious")
    refuse(private / "home", r"holds '\.ssh', which is not ours; name an empty directory")


def test_two_gateways_cannot_share_a_directory_or_a_mark(private: Path) -> None:
    first = DirectoryStore(private / "state", KEY)
    first.load()
    refuse(private / "state", "state: is in use by another gateway")
    refuse(private / "other", "state.mark: is in use by another gateway", mark=default_mark(private / "state"))
    first.close(keep=True)
    second = DirectoryStore(private / "state", KEY)
    second.close(keep=False)


def test_a_short_key_is_refused(private: Path) -> None:
    with pytest.raises(UsageError, match="at least 32 bytes"):
        DirectoryStore(private / "state", random_secret(31))


def test_the_host_is_its_machine_id_and_its_boot(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("3d1219c7\n")
    other.write_text("78fe60ea\n")
    ids = [HostId.read(a, b) for a in (one, other) for b in (one, other)]
    assert len({(each.host, each.boot) for each in ids}) == 4
    assert HostId.read(one, one) == ids[0]
    assert HostId.read(tmp_path / "none", one).boot == ids[0].boot
    assert HostId.read(boot_id=BOOT_ID) == HostId.read()
    assert b"3d1219c7" not in ids[0].host


# --- open_store


def test_without_a_key_nothing_is_written_and_it_is_said(private: Path) -> None:
    opened = open_store(private / "state", None)
    opened.store.put(ike_record(1), {})
    assert list(private.iterdir()) == []
    assert opened.line == "state is kept in memory, no state_key: nothing is written"
    assert opened.store.keeps == "memory (no state_key: nothing is written)"
    opened.store.close(keep=False)


def test_stored_state_is_given_back_and_counted(private: Path) -> None:
    first = open_store(private / "state", KEY, private / "elsewhere.mark")
    assert first.line == f"state directory {private / 'state'}: no IKE SAs stored"
    record = ike_record(1)
    first.store.put(record, {100: GrantMark(1, 1)})
    first.store.close(keep=True)
    assert sorted(path.name for path in private.iterdir()) == ["elsewhere.mark", "state"]
    again = open_store(private / "state", KEY, private / "elsewhere.mark")
    assert again.line == f"state directory {private / 'state'}: 1 IKE SA stored"
    assert [plain(one.record) for one in again.stored] == [plain(record)]
    again.store.close(keep=True)
    other = open_store(private / "state", random_secret(32), private / "elsewhere.mark")
    assert other.stored == ()
    assert "sealed under another state_key; tunnels are negotiated anew" in other.line
    assert other.store.keeps.startswith("directory")
    other.store.close(keep=False)


# --- real processes

CHILD = """
import os, signal, sys
sys.path[:0] = [{support!r}, {root!r}]
from pathlib import Path
from state_samples import ike_record
from ipsec_fast.control.store import GrantMark
from ipsec_fast.control.store_directory import DirectoryStore
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import HostError
key, folder = secret_from_buffer(bytes(range(32))), Path(sys.argv[1])
"""


def child(script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    text = CHILD.format(support=str(ROOT / "tests/support"), root=str(ROOT)) + textwrap.dedent(script)
    command = [*before, sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_kill_9_between_write_and_rename_leaves_the_old_record(private: Path, step: str) -> None:
    done = child(
        """
        store = DirectoryStore(folder / "state", key)
        store.load()
        store.put(ike_record(1, iv_end=1), {100: GrantMark(5, 5)})
        real = getattr(os, sys.argv[2])
        def die(*arguments, **more):
            if sys.argv[2] == "write":
                real(arguments[0], bytes(arguments[1])[:100])     # half of it
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, sys.argv[2], die)
        store.put(ike_record(1, iv_end=2), {100: GrantMark(9, 9)})
        """,
        private,
        step,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (private / "state/ike-1.new").exists()
    store = DirectoryStore(private / "state", KEY)
    (one,) = store.load()
    assert (one.record.iv_end, one.grants) == (1, {100: GrantMark(5, 5)})
    assert sorted(path.name for path in (private / "state").iterdir()) == ["header", "ike-1"]
    store.close(keep=False)


def test_kill_9_at_random_moments_never_loses_what_a_put_returned_for(private: Path) -> None:
    script = """
        store = DirectoryStore(folder / "state", key)
        stored = store.load()
        at = stored[0].record.iv_end if stored else 0
        record = ike_record(1)
        while True:
            at += 1
            store.put(ike_record(1, iv_end=at, keys=record.keys), {100: GrantMark(at, 0)})
            store.put_grants(1, {100: GrantMark(at, at)})
            os.write(1, b"%d\\n" % at)
        """
    text = CHILD.format(support=str(ROOT / "tests/support"), root=str(ROOT)) + textwrap.dedent(script)
    last = 0
    for round_ in range(6):
        with subprocess.Popen([sys.executable, "-c", text, str(private)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(3 + 7 * round_):
                last = int(process.stdout.readline())
            process.kill()
            last = int((process.stdout.read().split() or [last])[-1])
        store = DirectoryStore(private / "state", KEY)
        (one,) = store.load()
        store.close(keep=True)
        assert last <= one.record.iv_end <= last + 1
        assert one.grants[100].in_highest >= last


def test_a_full_disk_is_one_line_and_the_old_record_stays(private: Path) -> None:
    """A tmpfs of 64 KB, filled to the last page, in a mount namespace of its own."""
    inside = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
    mount = f"mount -t tmpfs -o size=64k,mode=700 none {private}"
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*inside, "sh", "-c", mount], capture_output=True).returncode == 0:
            done = child(FULL_DISK, private, before=(*inside, "sh", "-c", mount + ' && exec "$@"', "sh"))
            assert done.returncode == 0, done.stderr
            assert done.stdout.split("\n") == [f"{private / 'state'}: no space left on device", "1 100 100", "3", ""]
            return
    pytest.skip("no mount namespace here")


FULL_DISK = """
store = DirectoryStore(folder / "state", key)
store.load()
store.put(ike_record(1, iv_end=1), {100: GrantMark(100, 0)})
filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError as error:
    assert error.errno == 28, error
for attempt in range(3):
    for write in (lambda: store.put(ike_record(1, iv_end=2), {100: GrantMark(200, 0)}),
                  lambda: store.put_grants(1, {100: GrantMark(300, 0)}), lambda: store.put(ike_record(2), {})):
        try:
            write()
            raise SystemExit("a full disk took a record")
        except HostError as error:
            line = str(error)
print(line)
store.close(keep=True)
store = DirectoryStore(folder / "state", key)
(one,) = store.load()
print(one.record.iv_end, one.grants[100].out_end, one.grants[100].out_end)
os.ftruncate(filler, 0)
store.put(ike_record(1, iv_end=3), {})
store.close(keep=True)
store = DirectoryStore(folder / "state", key)
print(store.load()[0].record.iv_end)
"""


def test_a_disk_that_is_full_from_the_start_means_a_store_in_memory(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        opened = open_store(private / "state", KEY)
    assert opened.line == f"state is kept in memory: {private / 'state'}: no space left on device"
    assert isinstance(opened.store, MemoryStore)


def test_the_lock_ends_with_a_killed_process(private: Path) -> None:
    done = child("store = DirectoryStore(folder / 'state', key); os.kill(os.getpid(), signal.SIGKILL)", private)
    assert done.returncode == -signal.SIGKILL
    store = DirectoryStore(private / "state", KEY)
    assert store.load() == []
    store.close(keep=False)
