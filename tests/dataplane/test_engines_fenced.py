"""Batches in which every packet has a memory page of its own, that ends or begins with it: a byte too far ends the process.

test_engines_agree.py does it packet by packet. Engines that work on many packets at once have lanes, and fill empty ones from others.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from kernel_packets import ipv4, key_of, seal

from ipsec_fast import SA, PacketBatch, protect, unprotect
from ipsec_fast.algorithms import ah_suite, ah_suite_names
from ipsec_fast.dataplane import engine

ENGINES = engine.engines()
ON_ENGINES = [(name, suite) for name, suites in ENGINES.items() for suite in suites]
ON_ENGINES += [("auto", suite) for suite in ENGINES["openssl"] if "-sha" in suite]  # goes by the number of packets
LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
# neighbours in a batch differ, so that lanes end at different times
LENGTHS = [
    20, 1400, 33, 64, 250, 21, 700, 65, 128, 47, 1300, 36, 90, 31, 512, 63,
    79, 40, 1024, 55, 22, 23, 24, 25, 26, 27, 28, 29, 30, 127, 129, 35,
]  # fmt: skip


class Pages:
    """Writable pages, one for each packet, with one before and behind that may not be touched."""

    def __init__(self, count: int) -> None:
        self.map = mmap.mmap(-1, (2 * count + 1) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for i in range(count + 1):
            done = LIBC.mprotect(ctypes.c_void_p(start + 2 * i * PAGE), PAGE, 0)
            assert done == 0, os.strerror(ctypes.get_errno())
        self.count = count

    def place(self, packets: list[bytes], before: int, behind: int, at_end: bool) -> tuple[np.ndarray, np.ndarray]:
        """With so much room before or behind each, exactly."""
        offsets = []
        for i, packet in enumerate(packets):
            page = (2 * i + 1) * PAGE
            offsets.append(page + (PAGE - behind - len(packet) if at_end else before))
            self.map[offsets[-1] : offsets[-1] + len(packet)] = packet
        return np.array(offsets, np.uint32), np.array([len(p) for p in packets], np.uint32)

    def read(self, offsets: np.ndarray, lengths: np.ndarray) -> list[bytes]:
        return [self.map[int(o) : int(o) + int(n)] for o, n in zip(offsets, lengths, strict=True)]


def there_and_back(out: SA, into: SA, rounds: int) -> None:
    pages = Pages(rounds)
    packets = [ipv4(length, fill=length & 255) for length in LENGTHS[:rounds]]
    for at_end in (True, False):
        offsets, lengths = pages.place(packets, out.headroom, out.tailroom, at_end)
        verdicts = bytearray(rounds)
        assert protect(PacketBatch(pages.map, offsets, lengths, out, verdicts)) == rounds
        sealed = pages.read(offsets, lengths)
        offsets, lengths = pages.place([s[:-1] + bytes([s[-1] ^ 1]) for s in sealed], 0, 0, at_end)
        assert unprotect(PacketBatch(pages.map, offsets, lengths, into, verdicts)) == 0
        offsets, lengths = pages.place(sealed, 0, 0, at_end)
        assert unprotect(PacketBatch(pages.map, offsets, lengths, into, verdicts)) == rounds
        assert pages.read(offsets, lengths) == packets


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), ON_ENGINES)
def test_no_packet_of_a_batch_is_read_or_written_beyond_its_ends(name, algorithm, esn):
    for rounds in (2, 5, 17, len(LENGTHS)):
        there_and_back(
            *(SA(way, 300, algorithm, key_of(algorithm), engine=name, esn=esn) for way in ("out", "in")), rounds
        )


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("algorithm", ah_suite_names())
@pytest.mark.parametrize("name", ENGINES)
def test_no_ah_packet_of_a_batch_is_read_or_written_beyond_its_ends(name, algorithm, esn):
    more = {"protocol": "ah", "mode": "transport", "engine": name, "esn": esn}
    key = bytes(range(ah_suite(algorithm).keymat_bytes))
    for rounds in (2, 5, 17, len(LENGTHS)):
        there_and_back(*(SA(way, 300, algorithm, key, **more) for way in ("out", "in")), rounds)


@pytest.mark.parametrize(("name", "algorithm"), ON_ENGINES)
def test_no_key_is_read_beyond_its_ends(name, algorithm):
    pages, key = Pages(1), key_of(algorithm)
    for at_end in (True, False):
        offsets, lengths = pages.place([key], 0, 0, at_end)
        borrowed = memoryview(pages.map)[int(offsets[0]) : int(offsets[0]) + int(lengths[0])]
        out = SA("out", 300, algorithm, borrowed, engine=name)
        wanted = SA("out", 300, algorithm, key, engine="openssl")
        if "-" not in algorithm or algorithm.startswith("null"):  # no IV that nobody can predict
            assert seal([ipv4(60)], out) == seal([ipv4(60)], wanted)
        borrowed.release()
