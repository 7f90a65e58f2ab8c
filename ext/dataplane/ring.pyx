"""The ring between a worker and Python: one thread pushes records without the GIL, the other takes them when the eventfd says so.

A record is a 32-bit length and its bytes, padded to 8; a record that does not fit before the end of the memory leaves a skip mark and starts
at the beginning. Full means counted and lost, never waited for. It does not know what a record means. Called by worker, up: punted
packets, notices; down: packets that control has made; and across: packets of another worker's SAs (worker_hand.pxi).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import os

cdef extern from "net_io.h" nogil:
    uint64_t atomic_get_u64(const uint64_t *source) noexcept
    void atomic_set_u64(uint64_t *target, uint64_t value) noexcept
    long write(int fd, const void *data, size_t size) noexcept

cdef enum:
    LENGTH_BYTES = 4


cdef uint32_t SKIP = 0xFFFFFFFFu


cdef inline uint64_t padded(uint64_t size) noexcept nogil:
    return (size + LENGTH_BYTES + 7) & ~<uint64_t>7


cdef bint ring_push(
    record_ring *ring, const void *head, uint32_t head_bytes, const void *body, uint32_t body_bytes
) noexcept nogil:
    if not ring_put(ring, head, head_bytes, body, body_bytes):
        return False
    ring_wake(ring)
    return True


cdef void ring_wake(record_ring *ring) noexcept nogil:
    cdef uint64_t one = 1
    write(ring.wake_fd, &one, 8)


cdef bint ring_put(
    record_ring *ring, const void *head, uint32_t head_bytes, const void *body, uint32_t body_bytes
) noexcept nogil:
    cdef uint64_t need = padded(<uint64_t>head_bytes + body_bytes), at = ring.write_at, offset = at & (ring.size - 1)
    cdef uint64_t to_end = ring.size - offset, skip = 0
    cdef uint32_t length = head_bytes + body_bytes
    if need > to_end:
        skip = to_end
    if at + skip + need - atomic_get_u64(&ring.read_at) > ring.size:
        atomic_set_u64(&ring.overflows, ring.overflows + 1)
        return False
    if skip:
        memcpy(ring.memory + offset, &SKIP, LENGTH_BYTES)
        at += skip
        offset = 0
    memcpy(ring.memory + offset, &length, LENGTH_BYTES)
    memcpy(ring.memory + offset + LENGTH_BYTES, head, head_bytes)
    if body_bytes:
        memcpy(ring.memory + offset + LENGTH_BYTES + head_bytes, body, body_bytes)
    atomic_set_u64(&ring.write_at, at + need)
    return True


cdef uint8_t *ring_next(record_ring *ring, uint64_t *at, uint32_t *length) noexcept nogil:
    cdef uint64_t offset
    while at[0] != atomic_get_u64(&ring.write_at):
        offset = at[0] & (ring.size - 1)
        memcpy(length, ring.memory + offset, LENGTH_BYTES)
        if length[0] == SKIP:
            at[0] += ring.size - offset
            continue
        at[0] += padded(length[0])
        return ring.memory + offset + LENGTH_BYTES
    return NULL


cdef void ring_release(record_ring *ring, uint64_t at) noexcept nogil:
    atomic_set_u64(&ring.read_at, at)


cdef uint32_t ring_pop(record_ring *ring, uint8_t *to, uint32_t room) noexcept nogil:
    """The oldest record into `to`, its length; 0: none is there. What does not fit is cut."""
    cdef uint64_t at = ring.read_at
    cdef uint32_t length = 0
    cdef uint8_t *record = ring_next(ring, &at, &length)
    length = min(length, room) if record is not NULL else 0
    if length:
        memcpy(to, record, length)
    ring_release(ring, at)
    return length


cdef class Wake:
    """An eventfd; what several rings wake their one consumer by."""

    def __cinit__(self):
        self.fd = -1
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)


cdef class Ring:
    """Records of bytes from one producer to one consumer; `fd` is readable while `take` may have something."""

    def __cinit__(self, size_t size, Wake wake=None):
        if size < 64 or size & (size - 1):
            raise ValueError(f"a ring has a power of two of bytes, at least 64, not {size}")
        self.ring.memory = <uint8_t *>calloc(size, 1)
        if self.ring.memory is NULL:
            raise MemoryError
        self.ring.size = size
        self.wake = Wake() if wake is None else wake
        self.ring.wake_fd = self.wake.fd

    def __dealloc__(self):
        free(self.ring.memory)
        self.ring.memory = NULL

    @property
    def fd(self):
        """Readable while `take` may have something."""
        return self.ring.wake_fd

    @property
    def overflows(self):
        """Records for which there was no room."""
        return atomic_get_u64(&self.ring.overflows)

    def push(self, bytes record):
        """The producer's side for who holds the GIL; False if there was no room."""
        return ring_push(&self.ring, <const char *>record, <uint32_t>len(record), NULL, 0)

    def take(self):
        """All records that are there, oldest first."""
        return self.take_records()

    cdef list take_records(self):
        cdef record_ring *ring = &self.ring
        cdef uint64_t at = ring.read_at, offset, until
        cdef uint32_t length
        cdef list records = []
        try:
            os.eventfd_read(ring.wake_fd)
        except BlockingIOError:
            pass  # nobody pushed since the last call; what is there is taken all the same
        until = atomic_get_u64(&ring.write_at)
        while at != until:
            offset = at & (ring.size - 1)
            memcpy(&length, ring.memory + offset, LENGTH_BYTES)
            if length == SKIP:
                at += ring.size - offset
                continue
            records.append(PyBytes_FromStringAndSize(<char *>ring.memory + offset + LENGTH_BYTES, length))
            at += padded(length)
        atomic_set_u64(&ring.read_at, at)
        return records
