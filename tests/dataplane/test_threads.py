"""Threads: one SA in two of them is refused, different SAs run side by side, and no number is ever used twice. `./run tsan` runs this."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import pytest
from kernel_packets import Slots, ipv4, key_of, open_batch, pair

from ipsec_fast import SA, protect, protect_packet, unprotect
from ipsec_fast.dataplane import engine
from ipsec_fast.errors import StateError

ROUNDS, BATCH, THREADS = 200, 64, 4


def together(*work: Callable[[], None]) -> None:
    """All at once; the first failure of any is the test's."""
    failed: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        try:
            start.wait()
            one()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def numbers_of(packets: list[bytes]) -> list[tuple[int, int]]:
    return [struct.unpack("!II", packet[:8]) for packet in packets]


@pytest.mark.parametrize("name", list(engine.engines()))
@pytest.mark.parametrize("algorithm", ["aes128gcm16", "aes128-sha256"])
def test_a_shared_sa_numbers_every_packet_once_whoever_gets_it(name, algorithm):
    """Four threads with batches of their own on one SA: who does not get it is told, and tries again."""
    shared = SA("out", 0x1001, algorithm, key_of(algorithm), engine=name)
    used: list[list[tuple[int, int]]] = [[] for _ in range(THREADS)]
    refused = [0] * THREADS

    def work(mine: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(ROUNDS):
                slots = Slots([ipv4(60)] * BATCH, shared, shared.headroom, shared.tailroom)
                try:
                    assert protect(slots.batch) == BATCH
                except StateError:
                    refused[mine] += 1
                    continue
                used[mine] += numbers_of(slots.packets)

        return run

    together(*(work(n) for n in range(THREADS)))
    everything = [number for one in used for number in one]
    assert len(set(everything)) == len(everything) == BATCH * (THREADS * ROUNDS - sum(refused))
    assert sorted(seq for _, seq in everything) == list(range(1, len(everything) + 1))
    assert shared.counters()["packets"] == len(everything)


@pytest.mark.parametrize("name", list(engine.engines()))
def test_different_sas_run_side_by_side(name):
    pairs = [pair("aes128gcm16", spi=0x1001 + n, engine=name) for n in range(THREADS)]
    packets = [ipv4(60 + n) for n in range(BATCH)]

    def work(out: SA, into: SA) -> Callable[[], None]:
        def run() -> None:
            for _ in range(ROUNDS // 4):
                slots = Slots(packets, out, out.headroom, out.tailroom)
                assert protect(slots.batch) == BATCH
                assert open_batch(slots.packets, into).packets == packets

        return run

    together(*(work(*one) for one in pairs))
    assert [into.seq for _, into in pairs] == [BATCH * (ROUNDS // 4)] * THREADS


def test_grants_are_extended_and_read_while_a_batch_runs():
    out = SA("out", 0x1001, key=key_of("aes128gcm16"), granted=BATCH)
    sealed = 0

    def send() -> None:
        nonlocal sealed
        slots = Slots([ipv4(60)] * BATCH, out, out.headroom, out.tailroom)
        starts = slots.offsets.copy()
        while sealed < ROUNDS * BATCH:
            slots.offsets[:], slots.lengths[:] = starts, 60
            slots.buffer.reshape(-1)[:] = 0
            for start in starts.tolist():
                slots.buffer[start : start + 60] = bytearray(ipv4(60))
            sealed += protect(slots.batch)
            assert out.seq == sealed

    def grant() -> None:
        end = BATCH
        while sealed < ROUNDS * BATCH:
            if out.seq + BATCH // 2 >= end:
                end += BATCH
                out.set_grant(end)
            assert out.counters()["packets"] <= end

    together(send, grant)
    assert out.seq == sealed >= ROUNDS * BATCH, "a batch that met its grant early was short"


def test_a_batch_and_a_single_packet_of_one_sa_do_not_meet():
    out, into = pair()
    slots = Slots([ipv4(1400)] * 512, out, out.headroom, out.tailroom)
    singles: list[bytes] = []

    def batch() -> None:
        while True:
            try:
                assert protect(slots.batch) == 512
                return
            except StateError:
                continue

    def single() -> None:
        while len(singles) < 20:
            try:
                singles.append(protect_packet(out, ipv4(60)))
            except StateError:
                continue

    together(batch, single)
    everything = numbers_of([*slots.packets, *singles])
    assert len(set(everything)) == len(everything) == 532
    in_order = sorted([*slots.packets, *singles], key=lambda packet: packet[4:8])
    opened = Slots(in_order, into)
    assert unprotect(opened.batch) == 532
