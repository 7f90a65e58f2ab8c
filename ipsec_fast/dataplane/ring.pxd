"""One producer, one consumer: records of bytes through memory, a wake-up by eventfd. See ext/dataplane/ring.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct record_ring:
    uint8_t *memory
    uint64_t size          # a power of two
    uint64_t read_at       # the consumer's, both count bytes and never wrap
    uint64_t write_at      # the producer's
    uint64_t overflows     # records that found no room
    int wake_fd

cdef class Wake:
    cdef readonly int fd

cdef class Ring:
    cdef record_ring ring
    cdef Wake wake
    cdef list take_records(self)

# The oldest record into `to`, cut to `room` bytes; its length, 0 if there is none. The caller empties the eventfd first.
cdef uint32_t ring_pop(record_ring *ring, uint8_t *to, uint32_t room) noexcept nogil

# As ring_push, but the consumer is not woken: for a producer that pushes many records in a turn and wakes once, by ring_wake.
cdef bint ring_put(
    record_ring *ring, const void *head, uint32_t head_bytes, const void *body, uint32_t body_bytes
) noexcept nogil
cdef void ring_wake(record_ring *ring) noexcept nogil
# The consumer: the record at `at` (begin with read_at), which moves behind it; NULL: no more. It stays until ring_release(ring, at).
cdef uint8_t *ring_next(record_ring *ring, uint64_t *at, uint32_t *length) noexcept nogil
cdef void ring_release(record_ring *ring, uint64_t at) noexcept nogil
# False: no room, counted. Never waits; wakes the consumer.
cdef bint ring_push(
    record_ring *ring, const void *head, uint32_t head_bytes, const void *body, uint32_t body_bytes
) noexcept nogil
