"""Everything of the gateway that moves packets: one worker for each core, its TUN queue and its sockets, and how the kernel spreads
packets over them.

The first worker's sockets are the ones that IKE sends through. A second gateway on this host fails to bind them, though those of
further workers share the port. Left out: what the workers are told (control.children), routes and addresses. Called by daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ..dataplane.offload import Offload
from ..dataplane.raw_socket import RawSocket
from ..dataplane.spd import Tables
from ..dataplane.tun import Tun
from ..dataplane.udp import UdpSocket
from ..dataplane.worker import Worker
from ..dataplane.workers import Workers
from ..model import Address, TrafficSelector
from ..system.routes import MARK
from ..system.steering import Rule, TunSteering, steer_by_spi
from .config import GatewaySettings
from .ike_io import NAT_PORT, NatSockets

Owners = Callable[[], Sequence[tuple[TrafficSelector, int | None]]]


def worker_count(settings: GatewaySettings) -> int:
    """As configured; "auto" is one for each processor that we may run on."""
    return settings.workers or len(os.sched_getaffinity(0))


class Forwarding:
    """Context manager. `open` raises HostError, naming what cannot be had; leaving closes what was opened."""

    def __init__(self, count: int, offload: Offload, engine: str) -> None:
        self._count, self._offload, self._engine = count, offload, engine
        self._closing = contextlib.ExitStack()
        self.nat = self._closing.enter_context(contextlib.closing(NatSockets()))

    def __enter__(self) -> Forwarding:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def open(self, addresses: Sequence[Address], tun: str) -> None:
        nat = self.nat
        nat.open(addresses, self._nat_socket)
        nat.open_raw(addresses, lambda address: _raw_socket(address, receive=True))
        for _ in range(1, self._count):
            nat.open_more(self._nat_socket_beside, lambda one: _raw_socket(one.local, one.version, receive=False))
        if self._count > 1:
            for one in nat.sockets:
                steer_by_spi(one.socket, self._count)
        queues = self._queues = [self._open_queue(tun, exclusive=index == 0) for index in range(self._count)]
        self.tun_name = queues[0].name
        self.workers = Workers(
            self._count,
            lambda index, count, crew: Worker(
                queues[index],
                nat.of_worker(index),
                engine=self._engine,
                offload=self._offload,
                index=index,
                count=count,
                crew=crew,
            ),
        )
        self._steering = TunSteering(queues[0].fd, self._count)

    @property
    def has_tun(self) -> bool:
        """Whether all queues are attached to an existing device."""
        return all(queue.is_attached for queue in self._queues)

    def remake_tun(self) -> None:
        """Make the TUN device again, with all its queues, after it was deleted. HostError; may be repeated."""
        for index, queue in enumerate(self._queues):
            if not queue.is_attached:
                queue.reattach(exclusive=index == 0)
        self._steering.forget()

    def start(self) -> None:
        self._closing.callback(self.workers.stop)
        self.workers.start()

    def publish(self, tables: Callable[[int], Tables], owners: Sequence[tuple[TrafficSelector, int | None]]) -> None:
        """New tables for every worker; the kernel is told of them last, since what it gets wrong workers put right."""
        self.workers.publish(tables)
        if self._count > 1:
            self._steering.set_rules(Rule(network, owner) for ts, owner in owners for network in ts.networks())

    @property
    def steers(self) -> bool:
        """Whether the kernel takes our word for which worker gets what the TUN device sends."""
        return self._steering.works

    def _open_queue(self, tun: str, *, exclusive: bool) -> Tun:
        return self._closing.enter_context(contextlib.closing(Tun(tun, offload=self._offload, exclusive=exclusive)))

    def _nat_socket(self, address: Address) -> UdpSocket:
        local = None if address.is_unspecified else address
        return UdpSocket(local, NAT_PORT, version=address.version, offload=self._offload, mark=MARK)

    def _nat_socket_beside(self, one: UdpSocket) -> UdpSocket:
        return UdpSocket(one.local, NAT_PORT, version=one.version, offload=self._offload, mark=MARK, beside=one)


def _raw_socket(address: Address | None, version: int = 4, *, receive: bool) -> RawSocket:
    if address is not None:
        version, address = address.version, None if address.is_unspecified else address
    return RawSocket(address, version=version, mark=MARK, receive=receive)
