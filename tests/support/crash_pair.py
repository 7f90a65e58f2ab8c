"""A Pair whose sides can be killed and started again from what they had stored, and a look at every message for what was used twice."""

from __future__ import annotations

from enum import Enum

from pair import Pair, Sent, Shell

from ipsec_fast.errors import StateError
from ipsec_fast.ike.events import Event
from ipsec_fast.ike.records import IkeRecord

IKE_HEADER, SK_GENERIC, IV_BYTES = 28, 4, 8
SK, SKF, NUMBERS_BYTES, RESPONSE = 46, 53, 4, 0x20


class Moment(Enum):
    """Of a shell's turn: what has been done when it is killed."""

    ACTED = "its events are acted on, nothing is stored"
    STORED = "its records are stored, nothing is sent"
    SENT = "its datagrams are sent"


class Killed(Exception):
    pass


class NextShell(Shell):
    """That of a process after the first."""

    fail_first: dict[type, Exception]

    def answer_to(self, event: Event) -> object:
        if (error := self.fail_first.pop(type(event), None)) is not None:
            raise error
        return super().answer_to(event)


class CrashPair(Pair):
    """`kill_at(side, turn, moment)`: in the so-manieth turn from now in which the side has something to store."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.stored: dict[str, dict[int, IkeRecord]] = {"a": {}, "b": {}}
        self.refused: list[str] = []
        self._plan: tuple[str, int, Moment] | None = None  # of a kill that is to come
        self.turns = {"a": 0, "b": 0}
        self.down: set[str] = set()
        self.kills = 0
        self.fail_first: dict[type, Exception] = {}  # the first ask of a kind in the next process

    def kill_at(self, side: str, turn: int, moment: Moment) -> None:
        self._plan = (side, self.turns[side] + turn, moment)

    def spare(self) -> bool:
        """No kill from now on; whether one had happened."""
        self._plan = None
        return bool(self.down)

    def flush(self) -> None:
        for shell in (self.a, self.b):
            if shell.side not in self.down:
                try:
                    self._turn(shell)
                except Killed:
                    self.down.add(shell.side)
                    self.kills += 1

    def _turn(self, shell: Shell) -> None:
        shell.drain(self.now)
        records, shell.records = shell.records, {}
        if records:
            self.turns[shell.side] += 1
            self._die(shell, Moment.ACTED)
        kept = self.stored[shell.side]
        for ike_id in sorted(records, reverse=True):
            if isinstance(record := records[ike_id], IkeRecord):
                kept[ike_id] = record
        for ike_id, record in records.items():
            if not isinstance(record, IkeRecord):
                kept.pop(ike_id, None)
        if records:
            self._die(shell, Moment.STORED)
        for path, datagrams, _ in shell.endpoint.datagrams_to_send(self.now):
            for data in datagrams:
                self.transmit(shell.side, data, path)
        if records:
            self._die(shell, Moment.SENT)

    def _die(self, shell: Shell, moment: Moment) -> None:
        if self._plan == (shell.side, self.turns[shell.side], moment):
            self._plan = None
            raise Killed

    def _step(self) -> None:
        for side in self.down:  # what comes for a dead one is lost, and its timers with it
            self._wire = [entry for entry in self._wire if entry[2] != side]
        super()._step()

    def _timers(self) -> list[float | None]:
        return [shell.endpoint.get_timer() for shell in (self.a, self.b) if shell.side not in self.down]

    def at(self, arrival):
        side = super().at(arrival)
        return None if side in self.down else side

    def kill(self, side: str) -> None:
        self.down.add(side)
        self.kills += 1

    def restart(self, side: str) -> Shell:
        """A new process: what was stored goes on, what is refused is begun anew."""
        old = self.shell(side)
        shell = NextShell(side, self.kills * 1000 + ord(side), old.endpoint._core.settings, old.configs)
        shell.had_outbound, shell.fail_first = old.had_outbound, self.fail_first
        setattr(self, side, shell)
        self.down.discard(side)
        stored, self.stored[side] = self.stored[side], {}
        for record in stored.values():
            try:
                shell.endpoint.restore(record, shell.configs[0], self.now)
            except StateError as error:
                self.refused.append(str(error))
        self.flush()
        if not shell.live and not shell.views("ESTABLISHED"):
            self.initiate(side)
        return shell


def used_twice(sent: list[Sent]) -> list[str]:
    """IVs of one (IKE SPIs, direction), and message IDs of one (IKE SPIs, direction, kind), under which two messages went out.

    Of a message in fragments, each of a set with so many fragments counts as one.
    """
    seen: dict[tuple, bytes] = {}
    found = []
    for one in sent:
        data = one.data
        if len(data) < IKE_HEADER + SK_GENERIC + IV_BYTES or data[16] not in (SK, SKF):
            continue
        numbers = data[IKE_HEADER + SK_GENERIC :][:NUMBERS_BYTES] if data[16] == SKF else b""
        iv = data[IKE_HEADER + SK_GENERIC + len(numbers) :][:IV_BYTES]
        spis, flags, message_id = data[:16], data[19], data[20:24]
        for what, key in (("IV", iv), ("message ID", (flags & RESPONSE, message_id, numbers))):
            before = seen.setdefault((one.sender, spis, what, key), data)
            if before != data:
                found.append(f"{one.sender}: {what} {key!r}")
    return found
