"""Where bench rekey takes place: two hosts, two gateways, the relay between them, and a numbered load both ways.

`Ground` is the topology of the demo with a relay; `measure` runs the load over it, with something happening in the meantime or not.
What was lost is told apart by where it went: `Loss` names the sockets and devices that overflowed. Called by rekey.py and the tests.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..demo.namespaces import in_namespace
from ..demo.topology import RELAY_NODES, Topology
from .load import Receiver, Sender
from .relay import Relay

HOSTS = (("host1", "10.1.0.10"), ("host2", "10.2.0.10"))
IKE_PORTS = (500, 4500)
PORT = 7007
BUFFER_BYTES = 64 << 20
SO_RCVBUFFORCE, SO_SNDBUFFORCE, UDP_GRO = 33, 32, 104
PACKET_BYTES = 1000
LATEST_S = 3.0  # how long the last packets may take


@dataclass(frozen=True)
class Wire:
    """The relay's habits; shares of the packets."""

    delay_s: float = 0.0
    reorder: float = 0.0
    reorder_places: int = 64
    duplicate: float = 0.0
    ike_loss: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Count:
    """Both directions of one run together."""

    sent: int
    received: int
    duplicates: int
    seconds: float
    late: int  # how often a sender was kept from the CPU
    missing: tuple[tuple[int, ...], ...] = ()  # of each direction, the first ones

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Ground:
    """The namespaces and the relay while they exist; `with Ground(wire) as ground:`."""

    def __init__(self, wire: Wire, prefix: str = "rekey") -> None:
        self.wire = wire
        self.net = Topology(prefix, relay=True)
        self._stack = ExitStack()
        self.relay: Relay | None = None
        self._run = time.monotonic_ns()

    def __enter__(self) -> Ground:
        with ExitStack() as stack:
            stack.enter_context(self.net)
            pairs = [tuple(self._relay_socket(stack, side, port) for side in (0, 1)) for port in IKE_PORTS]
            wire = self.wire
            self.relay = Relay(
                [(left, right) for left, right in pairs],
                seed=wire.seed,
                delay_s=wire.delay_s,
                reorder=wire.reorder,
                reorder_places=wire.reorder_places,
                duplicate=wire.duplicate,
                ike_loss=wire.ike_loss,
            )
            stack.callback(self.relay.stop)
            self.relay.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def measure(
        self, packets_per_s: int, during: Callable[[], None], *, limit_s: float, size_bytes: int = PACKET_BYTES
    ) -> Count:
        """The load in both directions from before `during` until after it. `limit_s`: the receivers count no longer than that."""
        self._run += 1
        with ExitStack() as stack:
            limit = int(packets_per_s * limit_s) + 1000
            receivers, senders = [], []
            for at, (host, address) in enumerate(HOSTS):
                into = stack.enter_context(self._host_socket(host))
                into.bind((address, PORT))
                receivers.append(Receiver(into, run=self._run + at, limit=limit))
                out = stack.enter_context(self._host_socket(HOSTS[1 - at][0]))
                out.connect((address, PORT))
                segments = max(1, min(8, packets_per_s // 2000))
                senders.append(
                    Sender(
                        out, run=self._run + at, packets_per_s=packets_per_s, size_bytes=size_bytes, segments=segments,
                        limit=limit,
                    )
                )  # fmt: skip
            self._run += 1
            start = time.monotonic()
            for receiver in receivers:
                stack.callback(receiver.stop)
                receiver.start()
            for sender in senders:
                stack.callback(sender.stop)
                sender.start()
            during()
            sent = [sender.stop() for sender in senders]
            seconds = time.monotonic() - start
            _wait_for_the_last(receivers, sum(sent))
            for receiver in receivers:
                receiver.stop()
            missing = tuple(
                tuple(receiver.missing(number, 20)) for receiver, number in zip(receivers, sent, strict=True)
            )
            return Count(
                sent=sum(sent),
                received=sum(receiver.received for receiver in receivers),
                duplicates=sum(receiver.duplicates for receiver in receivers),
                seconds=seconds,
                late=sum(sender.late for sender in senders),
                missing=missing,
            )

    def overflows(self) -> dict[str, int]:
        """Packets that a socket or a device of any node had no room for, so far: `gw1 udp 4500`, `gw1 ipsec0`."""
        found: dict[str, int] = {}
        for node in self.net.nodes:
            found |= {f"{node} {name}": drops for name, drops in _drops(self.net, node).items() if drops}
        return found

    def _relay_socket(self, stack: ExitStack, side: int, port: int) -> socket.socket:
        """Side 0 has gw2's address and talks to gw1, side 1 the other way round."""
        addresses = ("192.0.2.2", "192.0.2.1")
        sock = stack.enter_context(self._socket(RELAY_NODES[side]))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sock.bind((addresses[side], port))
        sock.connect((addresses[1 - side], port))
        return sock

    def _host_socket(self, host: str) -> socket.socket:
        sock = self._socket(host)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        return sock

    def _socket(self, node: str) -> socket.socket:
        sock = self.net.socket(node, socket.AF_INET, socket.SOCK_DGRAM)
        for option in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        return sock


def _wait_for_the_last(receivers: list[Receiver], sent: int) -> None:
    """Until all have come, or none came for half a second."""
    end = time.monotonic() + LATEST_S
    seen, since = -1, time.monotonic()
    while time.monotonic() < end:
        now = sum(receiver.received for receiver in receivers)
        if now == sent or (now == seen and time.monotonic() - since > 0.5):
            return
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.01)


def _drops(net: Topology, node: str) -> dict[str, int]:
    """Of a node: the drops of its UDP sockets by port, and of its devices in both directions."""
    found: dict[str, int] = {}

    def read() -> tuple[str, str]:
        # of this thread, which has moved: /proc/self is the process's first one
        return Path("/proc/thread-self/net/udp").read_text(), Path("/proc/thread-self/net/dev").read_text()

    udp, devices = in_namespace(net.path(node), read)
    for line in udp.splitlines()[1:]:
        words = line.split()
        port = int(words[1].rpartition(":")[2], 16)
        found[f"udp {port}"] = found.get(f"udp {port}", 0) + int(words[-1])
    for line in devices.splitlines()[2:]:
        name, _, text = line.partition(":")
        numbers: list[Any] = [int(word) for word in text.split()]
        found[name.strip()] = numbers[2] + numbers[3] + numbers[10] + numbers[11]
    return found
