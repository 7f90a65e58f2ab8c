"""The store in a directory: one sealed file per IKE SA, a second small one for its marks, a header that says whose they are.

    header    magic | format | salt | key check | sealed: schema, host, boot, instance
    ike-N     sealed IkeRecord and the marks of its children, bound to instance and name
    marks-N   sealed marks alone; where both files have one, the higher counts
    MARK      outside: which of all the directories that once were is the present one (store_mark.py)

`load` refuses what is not this host's, this boot's, this version's, this key's, whole and newest, and begins afresh. A change is:
mark, file beside, rename, mark. Leaves out: files and locks (store_files.py), the key's file (store_open.py). Called by store_open.py.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..crypto.rest import RestKey
from ..crypto.secret import Secret
from ..errors import StateError
from ..ike.records import IkeRecord
from .store import GrantMark, StoredIke, merge_grants
from .store_codec import decode, encode, schema
from .store_files import StateFiles
from .store_mark import MODULUS, Mark, file_tag

FORMAT = 1
HEADER = struct.Struct("!16sH16s32s")
HEADER_MAGIC = b"ipsec-fast state"
MACHINE_ID, BOOT_ID = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
Marks = tuple[tuple[int, GrantMark], ...]


@dataclass(frozen=True, slots=True)
class HostId:
    """Digests of what names this installation and this boot of it; a container without a machine ID has that of nothing."""

    host: bytes
    boot: bytes

    @classmethod
    def read(cls, machine_id: Path = MACHINE_ID, boot_id: Path = BOOT_ID) -> HostId:
        return cls(_digest_of(machine_id), _digest_of(boot_id))


@dataclass(frozen=True, slots=True)
class _Header:
    schema: bytes
    host: bytes
    boot: bytes
    instance: bytes


@dataclass(frozen=True, slots=True)
class _Record:
    record: IkeRecord
    marks: Marks


class DirectoryStore:
    """HostError where the directory or the mark cannot be used; `load` comes before everything else."""

    def __init__(self, path: Path, key: Secret, *, mark: Path | None = None, host: HostId | None = None) -> None:
        self._host = host or HostId.read()
        self._key = RestKey(key)
        self._files = StateFiles(path)
        try:
            self._mark = Mark(mark or default_mark(path), self._key)
        except BaseException:
            self._files.close()
            raise
        self._instance = b""
        self._tags: dict[str, int] = {}  # of every file but the header; _sum is theirs
        self._sum = 0
        self._marks: dict[int, dict[int, GrantMark]] = {}

    @property
    def keeps(self) -> str:
        return f"directory {self._files.path}"

    def load(self) -> list[StoredIke]:
        if self._instance:
            raise StateError("the stored state is read once, at the start")
        try:
            stored = self._read_all()
        except StateError as error:
            self._begin()
            raise StateError(f"state in {self._files.path} is not used: {error}; tunnels are negotiated anew") from None
        if not self._instance:
            self._begin()
        self._marks = {one.record.ike_id: dict(one.grants) for one in stored}
        for name in [name for name in self._tags if name.startswith("marks-")]:
            if (ike_id := int(name.removeprefix("marks-"))) not in self._marks:  # a crash fell between two removals
                self.remove(ike_id)
        return stored

    def put(self, record: IkeRecord, grants: Mapping[int, GrantMark]) -> None:
        marks = merge_grants(self._marks.get(record.ike_id, {}), grants)
        known = {child.child_id for child in record.children}
        marks = {child_id: mark for child_id, mark in marks.items() if child_id in known or child_id in grants}
        self._write(_record_name(record.ike_id), _Record(record, tuple(marks.items())), _Record)
        self._marks[record.ike_id] = marks

    def put_grants(self, ike_id: int, grants: Mapping[int, GrantMark]) -> None:
        if _record_name(ike_id) not in self._tags:
            return
        marks = merge_grants(self._marks[ike_id], grants)
        self._write(_marks_name(ike_id), tuple(marks.items()), Marks)
        self._marks[ike_id] = marks

    def remove(self, ike_id: int) -> None:
        # the record first: alone, it would be read with the lower marks that it holds itself
        for name in (_record_name(ike_id), _marks_name(ike_id)):
            if name in self._tags:
                total = (self._sum - self._tags[name]) % MODULUS
                self._mark.write(self._sum, total)
                self._files.unlink(name)
                del self._tags[name]
                self._sum = total
                self._mark.write(total, total)
        self._marks.pop(ike_id, None)

    def close(self, keep: bool) -> None:
        if self._key.closed:
            return
        try:
            if not keep:
                self._files.remove()
        finally:
            self._files.close()
            self._mark.close(remove=not keep)
            self._key.close()

    # --- one file

    def _write(self, name: str, value: object, kind: object) -> None:
        if not self._instance:
            raise StateError("load() comes before the first put()")
        sealed = self._key.seal(self._aad(name), encode(value, kind))
        tag = file_tag(self._key, name, sealed)
        total = (self._sum - self._tags.get(name, 0) + tag) % MODULUS
        self._mark.write(self._sum, total)
        self._files.write(name, sealed)
        self._tags[name], self._sum = tag, total
        self._files.sync()
        self._mark.write(total, total)

    def _aad(self, name: str) -> bytes:
        return b"ipsec-fast record\0" + self._instance + name.encode()

    # --- all of them

    def _begin(self) -> None:
        """Empty, under a new instance; what was sealed for an earlier one is refused from now on."""
        self._files.empty()
        self._tags, self._sum, self._marks = {}, 0, {}
        instance = os.urandom(16)
        self._mark.begin(instance)
        salt = os.urandom(16)
        head = HEADER.pack(HEADER_MAGIC, FORMAT, salt, self._key_check(salt))
        header = _Header(schema(_Record), self._host.host, self._host.boot, instance)
        self._files.write("header", head + self._key.seal(head, encode(header, _Header)))
        self._files.sync()
        self._instance = instance

    def _read_all(self) -> list[StoredIke]:
        names = self._files.names()
        if not names:
            return self._miss()
        if "header" not in names:
            raise StateError("its header is missing")
        header = self._read_header(self._files.read("header"))
        if self._mark.state is None:
            raise StateError(f"the generation mark {self._mark.path} is missing or damaged")
        if self._mark.state.instance != header.instance:
            raise StateError(f"it is an older one than the generation mark {self._mark.path} names")
        self._instance = header.instance
        try:
            return self._read_records([name for name in names if name != "header"])
        except BaseException:
            self._instance = b""
            raise

    def _miss(self) -> list[StoredIke]:
        if self._mark.state is not None and (self._mark.state.before, self._mark.state.after) != (0, 0):
            raise StateError(f"the directory was emptied since the generation mark {self._mark.path} was written")
        return []

    def _read_header(self, data: bytes) -> _Header:
        if len(data) < HEADER.size:
            raise StateError(f"its header is cut off after {len(data)} bytes")
        head, sealed = data[: HEADER.size], data[HEADER.size :]
        magic, version, salt, check = HEADER.unpack(head)
        if magic != HEADER_MAGIC:
            raise StateError("its header is none of ours")
        if version != FORMAT:
            raise StateError(f"it has format {version}, this version writes format {FORMAT}")
        if check != self._key_check(salt):
            raise StateError("it is sealed under another state_key")
        try:
            with self._key.open(head, sealed) as opened:
                header: _Header = decode(opened, _Header)
        except StateError:
            raise StateError("its header was cut off or changed") from None
        if header.schema != schema(_Record):
            raise StateError("another version of ipsec-fast wrote it")
        if header.host != self._host.host:
            raise StateError("it is another host's (/etc/machine-id differs)")
        if header.boot != self._host.boot:
            raise StateError("it is from before this boot")
        return header

    def _read_records(self, names: list[str]) -> list[StoredIke]:
        sealed = {name: self._files.read(name) for name in names}
        self._tags = {name: file_tag(self._key, name, data) for name, data in sealed.items()}
        self._sum = sum(self._tags.values()) % MODULUS
        state = self._mark.state
        if state is None or self._sum not in (state.before, state.after):
            raise StateError(f"it is cut off, changed or older than the generation mark {self._mark.path} says")
        self._mark.write(self._sum, self._sum)
        stored = []
        for name in names:
            if name.startswith("ike-"):
                one = self._open(name, sealed[name], _Record)
                if name != _record_name(one.record.ike_id):
                    raise StateError(f"{name} holds the record of IKE SA {one.record.ike_id}")
                beside = _marks_name(one.record.ike_id)
                later: Marks = self._open(beside, sealed[beside], Marks) if beside in sealed else ()
                children = {child.child_id for child in one.record.children}
                marks = merge_grants(dict(one.marks), dict(later))
                marks = {child_id: mark for child_id, mark in marks.items() if child_id in children}
                stored.append(StoredIke(one.record, MappingProxyType(marks)))
        return sorted(stored, key=lambda one: one.record.ike_id)

    def _open(self, name: str, sealed: bytes, kind: Any) -> Any:
        try:
            with self._key.open(self._aad(name), sealed) as opened:
                return decode(opened, kind)
        except StateError as error:
            raise StateError(f"{name}: {error}") from None

    def _key_check(self, salt: bytes) -> bytes:
        return self._key.tag(b"key\0" + salt)


def default_mark(path: Path) -> Path:
    """Beside the directory, so that a copy of the directory does not hold it."""
    return path.with_name(path.name + ".mark")


def _record_name(ike_id: int) -> str:
    return f"ike-{ike_id}"


def _marks_name(ike_id: int) -> str:
    return f"marks-{ike_id}"


def _digest_of(path: Path) -> bytes:
    try:
        data = path.read_bytes().strip()
    except OSError:
        data = b""
    return hashlib.sha256(b"ipsec-fast host\0" + data).digest()
