"""When a replaced table may be freed: after every worker passed a quiescent point, without a lock in any worker.

The pattern is an epoch counter. A worker stores the epoch it sees at each turn of its loop, and UINT64_MAX while it sleeps in poll. Who
replaced a pointer first swaps it, then calls `retire` with the old object: it is kept until all workers have seen a later epoch. The fences on
both sides make sure that a worker which the reclaimer saw asleep loads the new pointer. Runs with the GIL except for enter and rest.
Called by worker, and by whoever replaces what a worker reads (udp.set_endpoint, spd.set_selectors).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "net_io.h" nogil:
    uint64_t atomic_get_u64(const uint64_t *source) noexcept
    void atomic_set_u64(uint64_t *target, uint64_t value) noexcept
    void atomic_set_u64_fenced(uint64_t *target, uint64_t value) noexcept
    uint64_t atomic_next_u64(uint64_t *counter) noexcept

cdef extern from "pthread.h" nogil:
    int pthread_atfork(void (*before)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil) noexcept

from ..errors import HostError

cdef uint64_t RESTING = 0xFFFFFFFFFFFFFFFFu
cdef uint64_t now = 1
cdef epoch_slot slots[EPOCH_SLOTS]
cdef bint taken[EPOCH_SLOTS]

# what waits for workers, the oldest first
cdef struct waiting:
    waiting *next
    uint64_t epoch           # no worker that has seen it holds `old`
    PyObject *old

cdef waiting *first = NULL
cdef waiting *last = NULL
cdef Py_ssize_t length = 0


cdef void forget_threads() noexcept nogil:
    """In a child of fork no worker and no other thread exists, so none would ever pass a quiescent point."""
    cdef int i
    for i in range(EPOCH_SLOTS):
        slots[i].seen = RESTING
        taken[i] = False


if pthread_atfork(NULL, NULL, forget_threads) != 0:
    raise MemoryError


cdef epoch_slot *epoch_join() except NULL:
    cdef int i
    for i in range(EPOCH_SLOTS):
        if not taken[i]:
            taken[i] = True
            slots[i].seen = RESTING
            return &slots[i]
    raise HostError(f"more than {EPOCH_SLOTS} workers in one process")


cdef void epoch_leave(epoch_slot *slot) noexcept:
    cdef int i
    for i in range(EPOCH_SLOTS):
        if slot is &slots[i]:
            slots[i].seen = RESTING
            taken[i] = False


cdef void epoch_enter(epoch_slot *slot) noexcept nogil:
    atomic_set_u64_fenced(&slot.seen, atomic_get_u64(&now))


cdef void epoch_rest(epoch_slot *slot) noexcept nogil:
    atomic_set_u64(&slot.seen, RESTING)


cdef void append(object old) noexcept:
    global last, first, length
    cdef waiting *one = <waiting *>malloc(sizeof(waiting))
    Py_INCREF(old)
    if one is NULL:  # never freed, because a worker may use it
        return
    one.next, one.epoch, one.old = NULL, atomic_next_u64(&now), <PyObject *>old
    if last is NULL:
        first = one
    else:
        last.next = one
    last = one
    length += 1


cdef waiting *take_passed() noexcept:
    """The front of the list that no worker can still use, taken out of it."""
    global first, last, length
    cdef waiting *passed = first
    cdef waiting *end = NULL
    cdef uint64_t oldest = RESTING
    cdef int i
    for i in range(EPOCH_SLOTS):
        if taken[i]:
            oldest = min(oldest, atomic_get_u64(&slots[i].seen))
    while first is not NULL and first.epoch <= oldest:
        end, first = first, first.next
        length -= 1
    if first is NULL:
        last = NULL
    if end is NULL:
        return NULL
    end.next = NULL
    return passed


cpdef retire(object old):
    """Keep `old`, which no worker can reach any more, until none still uses it."""
    cdef waiting *passed
    cdef waiting *one
    if old is not None:
        append(old)
    # The entries to free are chosen before any is freed, and without allocating a Python object. An allocation may run the garbage
    # collector, and with it finalizers and other threads, which may retire objects that a worker has begun to use meanwhile.
    passed = take_passed()
    while passed is not NULL:
        one, passed = passed, passed.next
        Py_DECREF(<object>one.old)
        free(one)


def retired():
    """How many replaced objects still wait for a worker."""
    retire(None)
    return length
