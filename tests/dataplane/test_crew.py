"""Batches that several threads seal and open together: the same bytes, verdicts and order as by one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ipsec_fast.algorithms import esp_suite, esp_suite_names
from ipsec_fast.dataplane.crew import Crew
from ipsec_fast.dataplane.packet import PacketBatch, protect, unprotect
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.status import VERDICTS
from ipsec_fast.errors import StateError, UsageError

PACKETS, STRIDE, SPI = 200, 1792, 0x4711
SUITES = tuple(esp_suite_names())


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    found = Crew(3)
    found.start()
    yield found
    found.stop()


class Load:
    """A batch of packets of many sizes, and what is in it."""

    def __init__(self, direction: str, suite: str, crew: Crew | None = None, engine: str = "openssl") -> None:
        key = bytes(range(esp_suite(suite).keymat_bytes))
        self.sa = SA(direction, SPI, suite, key, engine=engine, crew=crew.size if crew else 0)
        rng = np.random.default_rng(7)
        self.buffer = rng.integers(0, 256, (PACKETS, STRIDE), np.uint8)
        self.sizes = rng.integers(40, 1500, PACKETS).astype(np.uint32)
        for row, size in zip(self.buffer, self.sizes.tolist(), strict=True):
            row[64:68] = (0x45, 0, size >> 8, size & 255)
        self.offsets = np.arange(PACKETS, dtype=np.uint32) * STRIDE + 64
        self.lengths = self.sizes.copy()
        self.verdicts = np.zeros(PACKETS, np.uint8)
        self.batch = PacketBatch(self.buffer, self.offsets, self.lengths, self.sa, self.verdicts, crew=crew)

    def take(self, sealed: list[bytes]) -> Load:
        for index, packet in enumerate(sealed):
            self.buffer[index, 8 : 8 + len(packet)] = np.frombuffer(packet, np.uint8)
        self.offsets[:] = np.arange(PACKETS, dtype=np.uint32) * STRIDE + 8
        self.lengths[:] = [len(packet) for packet in sealed]
        return self

    def packets(self) -> list[bytes]:
        flat = self.buffer.reshape(-1)
        return [flat[at : at + n].tobytes() for at, n in zip(self.offsets.tolist(), self.lengths.tolist(), strict=True)]


# --- what is refused


@pytest.mark.parametrize("size", [0, -1, 64, 1.5, "2", None, True])
def test_a_crew_has_1_to_63_threads(size) -> None:
    with pytest.raises(UsageError, match="1 to 63"):
        Crew(size)


@pytest.mark.parametrize("size", [-1, 64, 2.5, "2"])
def test_an_sa_names_a_size_that_a_crew_can_have(size) -> None:
    with pytest.raises(UsageError, match="0 to 63"):
        SA("out", SPI, "aes128gcm16", bytes(20), crew=size)


def test_a_crew_that_works_is_not_started_again() -> None:
    one = Crew(1)
    one.start()
    with pytest.raises(StateError, match="already"):
        one.start()
    one.stop()
    one.stop()


def test_a_crew_at_work_is_not_made_anew() -> None:
    one = Crew(1)
    one.start()
    one.__init__(2)  # type: ignore[misc]
    assert one.size == 1
    with pytest.raises(StateError, match="already"):
        one.start()
    one.stop()


# --- one bad packet is one bad packet


def test_a_bad_icv_and_a_replay_in_the_middle_fail_alone_and_leave_no_plaintext(crew: Crew) -> None:
    sender = Load("out", "aes256-sha256")
    assert protect(sender.batch) == PACKETS
    sealed = sender.packets()
    sealed[100] = sealed[100][:-1] + bytes([sealed[100][-1] ^ 1])
    sealed[150] = sealed[149]
    receiver = Load("in", "aes256-sha256", crew).take(sealed)
    assert unprotect(receiver.batch) == PACKETS - 2
    bad = {index: verdict for index, verdict in enumerate(receiver.verdicts.tolist()) if verdict}
    assert bad == {100: VERDICTS["bad_icv"], 150: VERDICTS["replay_seen"]}
    assert not receiver.buffer[100, 8 : 8 + len(sealed[100])].any()


# --- what it does


@pytest.mark.parametrize("suite", SUITES)
def test_what_a_crew_seals_anybody_opens_and_the_other_way_round(suite: str, crew: Crew) -> None:
    alone, together = Load("out", suite), Load("out", suite, crew)
    assert protect(alone.batch) == protect(together.batch) == PACKETS
    if esp_suite(suite).encryption.iv_bytes != 16:  # those IVs are drawn
        assert alone.packets() == together.packets()
    plain = Load("out", suite).packets()
    for sender in (alone, together):
        for receiver in (Load("in", suite), Load("in", suite, crew)):
            receiver.take(sender.packets())
            assert unprotect(receiver.batch) == PACKETS
            assert receiver.packets() == plain
            assert receiver.sa.seq == PACKETS


def test_the_crew_has_its_part_where_a_key_is_one_threads_own() -> None:
    one = Crew(2)
    one.start()
    try:
        load = Load("out", "aes256-sha256", one)
        assert load.sa.crew == 2
        for _ in range(200):
            load.offsets[:], load.lengths[:] = np.arange(PACKETS, dtype=np.uint32) * STRIDE + 64, load.sizes
            for row, size in zip(load.buffer, load.sizes.tolist(), strict=True):
                row[64:68] = (0x45, 0, size >> 8, size & 255)
            assert protect(load.batch) == PACKETS
            if one.counters()["crew_chunks"]:
                break
        assert one.counters()["crew_runs"] > 0
        assert one.counters()["crew_chunks"] > 0
    finally:
        one.stop()


def test_an_engine_whose_keys_are_shared_works_alone(crew: Crew) -> None:
    sa = SA("out", SPI, "null-sha256", bytes(32), engine="openssl", crew=3)
    assert sa.crew == 0


def test_a_crew_that_was_never_started_is_not_waited_for() -> None:
    load = Load("out", "aes128gcm16", Crew(3))
    assert protect(load.batch) == PACKETS


def test_batches_of_several_threads_share_a_crew(crew: Crew) -> None:
    plain = Load("out", "aes128gcm16").packets()
    wrong: list[str] = []

    def work() -> None:
        for _ in range(30):
            sender, receiver = Load("out", "aes128gcm16", crew), Load("in", "aes128gcm16", crew)
            if protect(sender.batch) != PACKETS or unprotect(receiver.take(sender.packets()).batch) != PACKETS:
                wrong.append("verdict")
            if receiver.packets() != plain:
                wrong.append("bytes")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
