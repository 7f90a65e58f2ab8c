"""Handshakes with a real gateway: our initiator on UDP sockets of one namespace, the responder (ours, or charon) a process in another.

`parallel` of them are under way at once; each is deleted as soon as it stands, and the next one begins when that is answered, so the CPU
times hold the deletion too. Where there are two CPUs the initiator has one and the responder the other. Called by ike_face.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path as FilePath
from types import TracebackType

from ..demo.gateways import DemoGateway, write_psk
from ..demo.topology import Topology
from ..errors import HostError
from ..model import Path
from .charon import CharonGateway
from .ike import LEAST, Figures
from .ike_side import CIPHER, LONDON, OUT, PARIS, Side, connection_of

PORTS = (500, 4500)
MARKER = bytes(4)
PATIENCE_S = 10.0  # without any handshake ending


class Responders:
    """Brings up one responder at a time: `with Responders(parallel) as responders:`, then `open(name, proposals)`."""

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self._stack = contextlib.ExitStack()
        self._affinity = os.sched_getaffinity(0)

    def __enter__(self) -> Responders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, name: str, proposals: Sequence[str]) -> Initiator:
        """`ipsec_fast` or `charon`, listening; the one before it is gone."""
        self._stack.close()
        net = self._stack.enter_context(Topology("ike"))
        folder = FilePath(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ike-", dir="/run")))
        self._stack.callback(net.close_processes)  # before its folder goes
        psk = write_psk(folder)
        kind = CharonGateway if name == "charon" else DemoGateway
        gateway = kind(net, "gw2", folder / "gw2", psk, cipher=CIPHER, proposals=proposals)
        gateway.wait_until_listening()
        self._share_cpus(gateway.process.pid)
        initiator = Initiator(net, gateway, psk.read_bytes().strip(), self._parallel)
        self._stack.callback(initiator.close)
        return initiator

    def _share_cpus(self, pid: int) -> None:
        """The responder gets the last CPU with all its threads, we the first."""
        if len(self._affinity) < 2:
            return
        ours, theirs = min(self._affinity), max(self._affinity)
        for task in FilePath(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {theirs})
        os.sched_setaffinity(0, {ours})
        self._stack.callback(os.sched_setaffinity, 0, self._affinity)


class Initiator:
    """Calling it measures one proposal."""

    def __init__(self, net: Topology, gateway: DemoGateway, psk: bytes, parallel: int) -> None:
        self._gateway, self._psk, self._parallel = gateway, psk, parallel
        self._sockets = {port: net.socket("gw1", socket.AF_INET, socket.SOCK_DGRAM) for port in PORTS}
        for port, sock in self._sockets.items():
            sock.setblocking(False)
            sock.bind((str(LONDON), port))
            sock.connect((str(PARIS), port))

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def __call__(self, proposal: str, seconds: float) -> Figures:
        """HostError where a handshake fails."""
        self._run(proposal, 0.0)  # what is made at first use is no handshake's
        before = self._gateway.cpu_seconds(), time.thread_time()
        count, elapsed = self._run(proposal, seconds)
        responder, initiator = self._gateway.cpu_seconds() - before[0], time.thread_time() - before[1]
        return Figures(count, count / elapsed, 1e3 * initiator / count, 1e3 * responder / count)

    def _run(self, proposal: str, seconds: float) -> tuple[int, float]:
        """(handshakes, seconds from the first one's begin to the last one's end) of those that begin within `seconds`."""
        side = Side(connection_of(True, [proposal]), self._psk)
        start = time.monotonic()
        latest = start
        open_ones: set[int] = set()
        begun = up = 0
        while True:
            now = time.monotonic()
            while len(open_ones) < self._parallel and (now < start + seconds or begun < LEAST):
                open_ones.add(side.begin(now))
                begun += 1
            heard = side.drain(now)
            if heard.failures:
                raise HostError(
                    f"a handshake with {self._gateway.log.name} failed: {heard.failures[0]}; {self._words()}"
                )
            for ike_id in heard.up:
                up += 1
                latest = now
                side.endpoint.terminate_ike(ike_id, now)
            open_ones.difference_update(heard.down)
            self._send(side, now)
            if not open_ones and begun == up and now >= start + seconds:
                return up, latest - start
            if now > max(latest, start) + seconds + PATIENCE_S:
                raise HostError(f"{begun - up} handshakes do not end; {self._words()}")
            if not heard.up and not heard.down:
                self._receive(side, now)

    def _send(self, side: Side, now: float) -> None:
        for path, data in side.datagrams(now):
            with contextlib.suppress(OSError):  # no room, or an ICMP error of an earlier one: it is sent again
                self._sockets[path.local_port].send(MARKER + data if path.marker else data)

    def _receive(self, side: Side, now: float) -> None:
        """What has come, after waiting for it no longer than until the next timer."""
        timer = side.endpoint.get_timer()
        wait = 0.5 if timer is None else min(0.5, max(0.0, timer - now))
        ready, _, _ = select.select(list(self._sockets.values()), [], [], wait)
        now = time.monotonic()
        for sock in ready:
            port = sock.getsockname()[1]
            with contextlib.suppress(OSError):
                while True:
                    data = sock.recv(65535)
                    if port == 500:
                        side.endpoint.receive_datagram(data, OUT, now)
                    elif data[:4] == MARKER:
                        side.endpoint.receive_datagram(data[4:], Path(LONDON, port, PARIS, port, True), now)
        if timer is not None and timer <= now:
            side.endpoint.handle_timer(now)

    def _words(self) -> str:
        return f"its last words: {self._gateway.last_words(2)}"
