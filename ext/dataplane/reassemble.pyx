"""Reassembly before ESP or AH is opened (RFC 4303 section 3.4.1, RFC 4302 section 3.4.1), for embedders and packet drivers.

The core is ext/include/ip_fragment.h, whose head says what is refused and why 30 s. Sockets need none of it: the kernel reassembles what a UDP or raw
socket receives. Who reads a wire (AF_PACKET, a pcap, a PMD) pushes each packet before it looks for the SPI.
Called by: embedders, examples, tests.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ipsec_fast.dataplane.status cimport *

import os

from ..errors import UsageError
from .status import NAMES

MAX_MEMORY_BYTES = 1 << 31


cdef uint8_t frag_verdict(int result) noexcept nogil:
    if result == FRAG_PASS or result == FRAG_JOINED or result == FRAG_HELD:
        return VERDICT_OK
    if result == FRAG_BAD_HEADER:
        return VERDICT_BAD_OUTER
    if result == FRAG_BAD_ECN:
        return VERDICT_BAD_ECN
    if result == FRAG_BAD_LENGTH:
        return VERDICT_FRAGMENT_LENGTH
    if result == FRAG_TOO_LONG:
        return VERDICT_FRAGMENT_TOO_LONG
    if result == FRAG_TINY:
        return VERDICT_FRAGMENT_TINY
    if result == FRAG_OVERLAP:
        return VERDICT_FRAGMENT_OVERLAP
    if result == FRAG_DUPLICATE:
        return VERDICT_FRAGMENT_DUPLICATE
    return VERDICT_FRAGMENT_TIMEOUT if result == FRAG_TIMEOUT else VERDICT_FRAGMENT_EVICTED


cdef uint64_t nanoseconds(double seconds) except? 0:
    if not 0 <= seconds < 1e10:
        raise UsageError(f"{seconds} s: a time is a number of seconds from 0 to 10^10")
    return <uint64_t> (seconds * 1e9)


cdef class Reassembler:
    """Fragments in, whole packets out (RFC 791 section 3.2, RFC 8200 section 4.5), in memory taken once.

    `memory_bytes` holds payload (64 KiB or more; in blocks of 2 KiB), `datagrams` bounds how many are under way; when either
    is full the oldest goes. `timeout_s` counts from a datagram's first fragment. Overlapping, tiny and lying fragments are
    dropped as ext/include/ip_fragment.h says. Not for several threads at once. Raises UsageError for bounds out of range.
    """

    def __cinit__(self, *, memory_bytes=4 << 20, datagrams=256, timeout_s=30.0):
        if not 1 << 16 <= memory_bytes <= MAX_MEMORY_BYTES or not 1 <= datagrams <= 1 << 20 or not 0 < timeout_s <= 3600:
            raise UsageError(
                f"reassembly takes 65536 to {MAX_MEMORY_BYTES} bytes, 1 to {1 << 20} datagrams and up to 3600 s, "
                f"not {memory_bytes} bytes, {datagrams} datagrams and {timeout_s} s"
            )
        self.table = frag_new(datagrams, memory_bytes, nanoseconds(timeout_s), int.from_bytes(os.urandom(8), "big"))
        if self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        frag_free(self.table)

    def push(self, packet, double now):
        """The whole packet that `packet` completes, or is; None: kept for later, or dropped.

        `now` is in seconds, of any clock that does not go back.
        """
        return self.push_for_verdict(packet, now)[1]

    def push_for_verdict(self, packet, double now):
        """(verdict, packet) of the same: (0, None) is kept for later."""
        cdef const uint8_t[::1] view = packet
        cdef uint64_t now_ns = nanoseconds(now)
        cdef uint32_t length = <uint32_t> min(view.shape[0], 65575)
        cdef uint8_t *block
        cdef int result
        if length == 0 or not frag_may_be(&view[0], length):
            return VERDICT_OK, bytes(view)
        # a heap block of exactly the right size, so that a sanitizer sees a byte too much
        block = <uint8_t *> malloc(length)
        if block == NULL:
            raise MemoryError
        memcpy(block, &view[0], length)
        result = frag_push(self.table, block, length, now_ns)
        free(block)
        if result == FRAG_PASS:
            return VERDICT_OK, bytes(view)
        if result == FRAG_JOINED:
            return VERDICT_OK, (<char *> self.table.whole)[:self.table.whole_length]
        return frag_verdict(result), None

    def expire(self, double now):
        """Drops what has waited too long; push does it too."""
        frag_expire(self.table, nanoseconds(now))

    @property
    def allocated_bytes(self):
        """All it ever takes."""
        return self.table.bytes

    @property
    def held(self):
        """Datagrams under way, dropped ones whose fragments may still come among them."""
        return self.table.datagrams_held

    def counters(self):
        """`joined` packets made of `joined_fragments`, `held_fragments`, and `drop_` with the name of each verdict."""
        cdef int i
        found = {
            "joined": self.table.joined, "joined_fragments": self.table.joined_pieces, "held_fragments": self.table.pieces_held,
        }
        for i in range(FRAG_BAD_HEADER, FRAG_RESULTS):
            found[f"drop_{NAMES[frag_verdict(i)]}"] = self.table.drops[i]
        return found
