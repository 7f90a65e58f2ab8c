"""Reassembly: ext/include/ip_fragment.h for Cython, and its owner. See ext/dataplane/reassemble.pyx.

    cdef int result = frag_push(reassembler.table, packet, length, now_ns)
FRAG_PASS: go on with the packet itself. FRAG_JOINED: go on with table.whole, table.whole_length bytes, until the next push. Else: nothing yet, or
dropped and counted. A packet that is no fragment costs a look at two of its bytes (frag_may_be).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "ip_fragment.h" nogil:
    ctypedef struct frag_table:
        uint64_t timeout_ns
        uint32_t datagrams_held
        uint32_t pieces_held
        uint32_t blocks_held
        uint64_t joined
        uint64_t joined_pieces
        uint64_t drops[16]
        size_t bytes
        uint8_t *whole
        uint32_t whole_length
    ctypedef struct frag_key:
        uint32_t id
    ctypedef struct frag_piece:
        frag_key key
    enum:
        FRAG_PASS
        FRAG_JOINED
        FRAG_HELD
        FRAG_BAD_HEADER
        FRAG_BAD_LENGTH
        FRAG_TOO_LONG
        FRAG_TINY
        FRAG_OVERLAP
        FRAG_DUPLICATE
        FRAG_BAD_ECN
        FRAG_TIMEOUT
        FRAG_NO_ROOM
        FRAG_RESULTS
    frag_table *frag_new(uint32_t datagrams, uint32_t payload_bytes, uint64_t timeout_ns, uint64_t seed) noexcept
    void frag_free(frag_table *table) noexcept
    bint frag_may_be(const uint8_t *packet, uint32_t length) noexcept
    int frag_push(frag_table *table, const uint8_t *packet, uint32_t length, uint64_t now_ns) noexcept
    int frag_read(const uint8_t *packet, uint32_t length, frag_piece *piece) noexcept
    void frag_expire(frag_table *table, uint64_t now_ns) noexcept


# The verdict of a FRAG_ result.
cdef uint8_t frag_verdict(int result) noexcept nogil


cdef class Reassembler:
    cdef frag_table *table
