"""Sequence-stamped UDP between two nodes: how many packets were lost, doubled or overtaken over an interval.

Pure Python, one thread that sends at a steady rate and one that receives; a few thousand packets per second, far below
what fills a queue, so that what is missing was lost by a rekey and not by congestion. Called by the demo and the tests.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field, replace

from .topology import Topology

PORT = 7007
STAMP = struct.Struct(">QQ")


@dataclass
class Tally:
    """What arrived: pure counting, so that it can be tested without a network."""

    seen: set[int] = field(default_factory=set)
    duplicated: int = 0
    overtaken: int = 0
    highest: int = -1

    def add(self, number: int) -> None:
        if number in self.seen:
            self.duplicated += 1
            return
        self.seen.add(number)
        self.overtaken += number < self.highest
        self.highest = max(self.highest, number)


@dataclass(frozen=True)
class FlowResult:
    sent: int
    lost: int
    duplicated: int
    overtaken: int
    longest_gap: int  # numbers missing in a row
    longest_silence_s: float = 0.0  # between two arrivals


class StampedFlow:
    """UDP from one node to another; `start()`, then `stop()` waits for the stragglers and counts."""

    def __init__(
        self,
        net: Topology,
        source: str,
        target: str,
        address: str,
        *,
        packets_per_s: int = 2000,
        size_bytes: int = 200,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._receiver = net.socket(target, family, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._receiver.bind((address, PORT))
        self._sender = net.socket(source, family, socket.SOCK_DGRAM)
        self._sender.connect((address, PORT))
        self._run = time.monotonic_ns()  # a stray packet of an earlier flow is not ours
        self._interval_s = 1 / packets_per_s
        self._filling = bytes(max(0, size_bytes - STAMP.size))
        self._tally = Tally()
        self._sent = 0
        self._silence_s = 0.0
        self._sending = threading.Event()
        self._receiving = threading.Event()
        self._threads = [
            threading.Thread(target=self._receive, daemon=True),
            threading.Thread(target=self._send, daemon=True),
        ]

    def start(self) -> StampedFlow:
        self._sending.set()
        self._receiving.set()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, grace_s: float = 0.5) -> FlowResult:
        """Twice is fine: the second one tells the same."""
        if not self._sending.is_set():
            return self._result()
        self._sending.clear()
        self._threads[1].join()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and len(self._tally.seen) < self._sent:
            time.sleep(0.01)
        self._receiving.clear()
        self._threads[0].join()
        self._sender.close()
        self._receiver.close()
        return self._result()

    @property
    def highest(self) -> int:
        """The highest number that has arrived; -1 before the first one."""
        return self._tally.highest

    @property
    def sent(self) -> int:
        return self._sent

    def _result(self) -> FlowResult:
        return replace(result_of(self._tally, self._sent), longest_silence_s=self._silence_s)

    def _send(self) -> None:
        start = time.monotonic()
        while self._sending.is_set():
            # a refused packet counts as lost: whoever answered "unreachable" lost it
            with contextlib.suppress(OSError):
                self._sender.send(STAMP.pack(self._run, self._sent) + self._filling)
            self._sent += 1
            ahead = start + self._sent * self._interval_s - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)

    def _receive(self) -> None:
        last = time.monotonic()
        while self._receiving.is_set():
            if not select.select([self._receiver], [], [], 0.05)[0]:
                continue
            data = self._receiver.recv(65536)
            if len(data) >= STAMP.size:
                run, number = STAMP.unpack_from(data)
                if run == self._run:
                    self._tally.add(number)
                    now = time.monotonic()
                    self._silence_s, last = max(self._silence_s, now - last), now


def result_of(tally: Tally, sent: int) -> FlowResult:
    missing = [number for number in range(sent) if number not in tally.seen]
    longest = run = 0
    last = -2
    for number in missing:
        run = run + 1 if number == last + 1 else 1
        longest, last = max(longest, run), number
    return FlowResult(sent, len(missing), tally.duplicated, tally.overtaken, longest)
