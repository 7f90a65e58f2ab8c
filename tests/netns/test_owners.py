"""One owner per SA: nobody else may use an SA that a worker holds until the worker has released it."""

from __future__ import annotations

import gc
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from ipsec_fast import SA, SAD, PacketBatch, protect, protect_packet, seal_with_iv_for_test, unprotect, unprotect_packet
from ipsec_fast.dataplane.echo import echo_request
from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.tun import Tun
from ipsec_fast.dataplane.udp import UdpSocket, set_endpoint
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.dataplane.workers import Workers
from ipsec_fast.errors import IpsecFastError, StateError, UsageError
from ipsec_fast.model import TrafficSelector

pytestmark = pytest.mark.netns

LOOPBACK = ip_address("127.0.0.1")
ANY = TrafficSelector.parse("0.0.0.0/0")
PACKET = bytes.fromhex("4500001400000000401100000a0100010a020001")


def outbound(spi: int = 0x1001, port: int = 4999) -> SA:
    sa = SA("out", spi, key=bytes(range(20)))
    set_endpoint(sa, 0, None, LOOPBACK, port)
    sa.tag = spi
    return sa


def inbound(spi: int = 0x2002) -> SA:
    sa = SA("in", spi, key=bytes(range(20)))
    set_selectors(sa, [ANY], [ANY])
    return sa


def policy(sa: SA, owner: int | None = None) -> Policy:
    return Policy("protect", ANY, ANY, sa, owner=owner)


class Ground:
    """Workers on queues of TUN devices and sockets of the loopback device; all of it is closed at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def worker(self, *, start: bool = True, index: int = 0, count: int = 1) -> Worker:
        made, _, _ = self.worker_and_ports(index=index, count=count)
        if start:
            made.start()
        return made

    def worker_and_ports(self, index: int = 0, count: int = 1) -> tuple[Worker, Tun, UdpSocket]:
        tun, sock = Tun("ow%d"), UdpSocket(LOOPBACK, 0)
        made = Worker(tun, [sock], index=index, count=count)
        self.stack.callback(tun.close)
        self.stack.callback(sock.close)
        self.stack.callback(made.stop)
        return made, tun, sock


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        yield Ground(stack)


def seal_in_batch(sa: SA) -> int:
    buffer = np.zeros(256, np.uint8)
    buffer[64 : 64 + len(PACKET)] = np.frombuffer(PACKET, np.uint8)
    numbers = np.array([64], np.uint32), np.array([len(PACKET)], np.uint32)
    return protect(PacketBatch(buffer, *numbers, sa, np.zeros(1, np.uint8)))


def open_in_batch(sa: SA, packet: bytes, *, by_sad: bool) -> int:
    sas: Any = sa
    if by_sad:
        sas = SAD(bare=True)
        sas.add(sa)
    numbers = np.zeros(1, np.uint32), np.array([len(packet)], np.uint32)
    return unprotect(PacketBatch(bytearray(packet), *numbers, sas, np.zeros(1, np.uint8)))


def uses_of(out: SA, into: SA) -> dict[str, Callable[[], Any]]:
    sealed = protect_packet(SA("out", into.spi, key=bytes(range(20))), PACKET)
    return {
        "batch": lambda: seal_in_batch(out),
        "packet": lambda: protect_packet(out, PACKET),
        "chosen IV": lambda: seal_with_iv_for_test(out, PACKET, 5, bytes(8)),
        "open batch": lambda: open_in_batch(into, sealed, by_sad=False),
        "open by SAD": lambda: open_in_batch(into, sealed, by_sad=True),
        "open packet": lambda: unprotect_packet(into, sealed),
    }


@pytest.mark.parametrize("start", [True, False])
def test_no_call_uses_what_a_worker_holds(ground: Ground, start: bool) -> None:
    out, into = outbound(), inbound()
    uses = uses_of(out, into)
    worker = ground.worker(start=start)
    worker.publish(Tables([into], [policy(out)]))
    for name, use in uses.items():
        with pytest.raises(StateError, match="in use by a worker"):
            print(name, use())
    assert (out.seq, into.seq, out.granted) == (0, 0, 0xFFFFFFFF)
    worker.stop()
    assert seal_in_batch(out) == 1
    assert open_in_batch(into, protect_packet(SA("out", 0x2002, key=bytes(range(20))), PACKET), by_sad=True) == 1


def test_a_second_worker_is_refused_and_keeps_its_tables(ground: Ground) -> None:
    out, into, free_in = outbound(), inbound(), inbound(0x3003)
    first, second = ground.worker(), ground.worker()
    first.publish(Tables([into], [policy(out)]))
    before = Tables([], [])
    second.publish(before)
    for tables in (Tables([free_in], [policy(out)]), Tables([free_in, into], [])):
        with pytest.raises(StateError, match="in use by a worker"):
            second.publish(tables)
        assert second.tables is before
    ground.worker(start=False).publish(Tables([free_in], []))  # what was refused holds nothing


def test_an_sa_goes_from_one_worker_to_another_by_publication(ground: Ground) -> None:
    out, into = outbound(), inbound()
    workers = [ground.worker(), ground.worker()]
    for turn in range(50):
        giving, taking = workers[turn % 2], workers[1 - turn % 2]
        giving.publish(Tables([], []))
        taking.publish(Tables([into], [policy(out)]))
    workers[0].publish(Tables([], []))
    workers[1].publish(Tables([], []))
    assert seal_in_batch(out) == 1


def test_tables_that_share_sas_hold_what_either_has_in_turn(ground: Ground) -> None:
    a, b, c = outbound(0x1001), outbound(0x1002), outbound(0x1003)
    worker = ground.worker()
    for _ in range(20):
        worker.publish(Tables([], [policy(a), policy(b)]))
        worker.publish(Tables([], [policy(b), policy(c), policy(b)]))
        assert seal_in_batch(a) == 1
        for sa in (b, c):
            with pytest.raises(StateError):
                seal_in_batch(sa)
        worker.publish(Tables([], [policy(c), policy(a)]))
        assert seal_in_batch(b) == 1


def test_what_comes_back_at_once_stays_held(ground: Ground) -> None:
    """A, without A, A again: the first publication's end must not free what the third one holds."""
    out = outbound()
    worker = ground.worker()
    for _ in range(50):
        worker.publish(Tables([], [policy(out)]))
        worker.publish(Tables([], []))
        worker.publish(Tables([], [policy(out)]))
        worker.counters()
        with pytest.raises(StateError):
            protect_packet(out, PACKET)


def test_several_workers_have_the_sas_of_others_in_their_tables(ground: Ground) -> None:
    """To hand packets over: only the owner holds an outbound SA, and only the worker of its SPI an inbound one."""
    out, even, odd = outbound(), inbound(0x2002), inbound(0x2003)
    workers = [ground.worker(index=index, count=2) for index in range(2)]
    tables = Tables([even, odd], [policy(out, owner=1)])
    for worker in workers:
        worker.publish(tables)
        worker.publish(tables)
    workers[1].stop()
    assert seal_in_batch(out) == 1
    assert open_in_batch(odd, protect_packet(SA("out", 0x2003, key=bytes(range(20))), PACKET), by_sad=False) == 1
    with pytest.raises(StateError):
        open_in_batch(even, bytes(60), by_sad=False)


def test_several_workers_refuse_an_sa_without_an_owner(ground: Ground) -> None:
    out = outbound()
    worker = ground.worker(index=0, count=2)
    with pytest.raises(UsageError, match=r"needs an owner, since only one may number .*Policy\(owner=\.\.\.\)"):
        worker.publish(Tables([], [policy(out)]))
    worker.publish(Tables([], [Policy("protect", ANY, ANY, None), Policy("discard", ANY, ANY)]))
    assert seal_in_batch(out) == 1


@pytest.mark.parametrize(("owner", "count"), [(2, 2), (7, 2), (1, 1)])
def test_an_owner_that_no_worker_is_is_none(ground: Ground, owner: int, count: int) -> None:
    worker = ground.worker(index=0, count=count)
    wanted = f"no worker is its SA's owner: {owner} is given, and there are {count}, counted"
    with pytest.raises(UsageError, match=wanted):
        worker.publish(Tables([], [policy(outbound(), owner=owner)]))


def test_nobody_runs_the_loop_of_a_worker_a_second_time(ground: Ground) -> None:
    worker = ground.worker()
    for one in (worker, Worker.__new__(Worker)):
        with pytest.raises(StateError, match="own thread"):
            one._run()  # type: ignore[attr-defined]


def test_workers_publish_what_moves_among_them_in_any_order(ground: Ground) -> None:
    made: list[Worker] = []

    def make(index: int, count: int, _: object) -> Worker:
        made.append(ground.worker_and_ports(index, count)[0])
        return made[-1]

    workers = Workers(2, make)
    out = outbound()
    workers.start()
    for owner in (1, 0, 1, 0):
        workers.publish(lambda index, owner=owner: Tables([], [policy(out, owner=owner)]))  # type: ignore[misc]
    with pytest.raises(StateError):
        seal_in_batch(out)
    workers.stop()
    assert seal_in_batch(out) == 1


def test_a_call_that_is_under_way_is_not_overtaken_by_a_worker(ground: Ground) -> None:
    out = outbound()
    worker = ground.worker()
    buffer, stride = np.zeros(1024 * 1600, np.uint8), 1600
    offsets, lengths = np.arange(1024, dtype=np.uint32) * stride + 64, np.full(1024, 1400, np.uint32)
    batch = PacketBatch(buffer, offsets, lengths, out, np.zeros(1024, np.uint8))
    outcomes: list[str] = []

    def seal_again_and_again() -> None:
        while "refused" not in outcomes and len(outcomes) < 2000:
            offsets[:], lengths[:] = np.arange(1024, dtype=np.uint32) * stride + 64, 1400
            buffer.reshape(1024, stride)[:, 64:68] = (0x45, 0, 1400 >> 8, 1400 & 255)
            try:
                protect(batch)
            except StateError:  # the worker was first
                outcomes.append("held")

    thread = threading.Thread(target=seal_again_and_again)
    thread.start()
    while thread.is_alive() and "refused" not in outcomes:
        try:
            worker.publish(Tables([], [policy(out)]))
            worker.publish(Tables([], []))
        except StateError as refused:
            outcomes += ["refused", str(refused)]
    thread.join()
    assert "in use by another thread" in outcomes[outcomes.index("refused") + 1]


@pytest.mark.parametrize("order", ["stop first", "tables first", "worker first"])
def test_every_order_of_letting_go_frees_the_sas(ground: Ground, order: str) -> None:
    out, into = outbound(), inbound()
    tun, sock = Tun("ow%d"), UdpSocket(LOOPBACK, 0)
    worker: Worker | None = Worker(tun, [sock])
    assert worker is not None
    tables: Tables | None = Tables([into], [policy(out)])
    worker.publish(tables)
    if order != "worker first":
        worker.start()
    if order == "tables first":
        del tables
        worker.publish(Tables([], []))
    if order == "stop first":
        worker.stop()
        worker.stop()
        worker.publish(Tables([into], [policy(out)]))  # it never runs again, so it holds nothing
    if order != "worker first":
        worker.stop()
    worker = tables = None
    gc.collect()
    tun.close()
    sock.close()
    assert seal_in_batch(out) == 1
    ground.worker().publish(Tables([into], [policy(out)]))


def test_a_worker_that_was_stopped_before_it_began_takes_its_sas_again(ground: Ground) -> None:
    out = outbound()
    first, second = ground.worker(start=False), ground.worker(start=False)
    first.publish(Tables([], [policy(out)]))
    first.stop()
    second.publish(Tables([], [policy(out)]))
    with pytest.raises(StateError, match="in use by a worker"):
        first.start()
    second.stop()
    first.start()
    with pytest.raises(StateError, match="in use by a worker"):
        seal_in_batch(out)


# --- traffic -------------------------------------------------------------------------------------------------------------------


def test_no_number_is_used_twice_while_others_try(ground: Ground) -> None:
    """The worker sends while calls and a second worker try to: what reaches the wire has each number once."""
    receiver = ground.stack.enter_context(UdpCatcher())
    out = outbound(port=receiver.port)
    worker, other = ground.worker(), ground.worker(start=False)
    tables = Tables([], [policy(out)])
    worker.publish(tables)
    refused = 0
    for _ in range(200):
        assert worker.inject(out.tag, echo_request(ip_address("10.1.0.1"), ip_address("10.2.0.1"), 1, 100))
        for use in (lambda: protect_packet(out, PACKET), lambda: seal_in_batch(out), lambda: other.publish(tables)):
            try:
                use()
            except StateError:
                refused += 1
    assert refused == 600
    sequence = [packet[4:8] for packet in receiver.take(200)]
    assert len(set(sequence)) == len(sequence) == 200


class UdpCatcher:
    """A bound socket and what arrives on it."""

    def __enter__(self) -> UdpCatcher:
        self._socket = UdpSocket(LOOPBACK, 0, offload=Offload(udp_gro=False))
        self.port = self._socket.port
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def take(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count and select.select([self._socket.fd], [], [], 5)[0]:
            found.append(self._socket.socket.recv(65535))
        return found


# --- ports ---------------------------------------------------------------------------------------------------------------------


def test_a_port_is_not_closed_under_a_worker(ground: Ground) -> None:
    worker, tun, sock = ground.worker_and_ports()
    worker.start()
    for port in (tun, sock):
        with pytest.raises(StateError, match="stop the worker first"):
            port.close()
        assert port.fd >= 0
    worker.stop()
    for port in (tun, sock):
        port.close()
        port.close()
        assert port.fd == -1
    with pytest.raises(StateError):
        worker.start()


def test_a_descriptor_that_goes_behind_our_back_does_not_spin(ground: Ground) -> None:
    worker, _, sock = ground.worker_and_ports()
    worker.start()
    sock.socket.close()
    before = worker.counters()["polls"]
    for _ in range(20):
        assert worker.inject(1, b"E" * 20)
        time.sleep(0.01)
    assert worker.counters()["polls"] - before <= 100


# --- fork ----------------------------------------------------------------------------------------------------------------------


def said_by(work: Callable[[], Any]) -> str:
    try:
        return f"done: {work()!r}"
    except IpsecFastError as error:
        return f"{type(error).__name__}: {error}"


def in_child(work: Callable[[], list[str]]) -> list[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:
            said = [f"{type(error).__name__}: {error}"]
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read().split("\n")
    os.waitpid(child, 0)
    return said


def test_a_child_of_fork_cannot_use_the_worker_and_the_parent_is_untouched(ground: Ground) -> None:
    receiver = ground.stack.enter_context(UdpCatcher())
    out, into = outbound(port=receiver.port), inbound()
    worker, tun, sock = ground.worker_and_ports()
    tables = Tables([into], [policy(out)])
    worker.publish(tables)
    worker.start()
    idle = ground.worker(start=False)
    echo = echo_request(ip_address("10.1.0.1"), ip_address("10.2.0.1"), 1, 100)

    def work() -> list[str]:
        calls: list[Callable[[], Any]] = [
            lambda: worker.publish(Tables([], [])),
            worker.start,
            lambda: worker.inject(out.tag, echo),
            worker.take_notices,
            worker.take_punted,
            lambda: worker.punt_fd,
            lambda: worker.receive_from(idle),
            lambda: idle.publish(Tables([], [])),
            idle.start,
            lambda: protect_packet(out, PACKET),
        ]
        said = [said_by(call) for call in calls]
        worker.stop()
        idle.stop()
        said.append(str(worker.running))
        sock.close()
        tun.close()
        return said

    said = in_child(work)
    assert len(said) == 11
    assert all("fork" in text and text.startswith("StateError") for text in said[:10]), said
    assert said[10] == "False"
    assert worker.running
    assert worker.inject(out.tag, echo)
    assert [packet[4:8] for packet in receiver.take(1)] == [(1).to_bytes(4, "big")]
    with pytest.raises(StateError):
        protect_packet(out, PACKET)


def test_a_worker_of_a_child_takes_no_sa_of_the_parent(ground: Ground) -> None:
    out, into = outbound(), inbound()
    tables = Tables([into], [policy(out)])

    def work() -> list[str]:
        tun, sock = Tun("ow%d"), UdpSocket(LOOPBACK, 0)
        mine = Worker(tun, [sock])
        refused = said_by(lambda: mine.publish(tables))
        own = outbound(0x6006)
        good = said_by(lambda: [mine.publish(Tables([inbound(0x7007)], [policy(own)])), mine.start()])
        held = said_by(lambda: protect_packet(own, PACKET))
        mine.stop()
        return [refused, good, held, said_by(lambda: len(protect_packet(own, PACKET)) > 0)]

    refused, good, held, free = in_child(work)
    assert refused.startswith("StateError")
    assert "made before a fork" in refused
    assert good.startswith("done")
    assert held.startswith("StateError")
    assert free == "done: True"
