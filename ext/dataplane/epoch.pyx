"""When a replaced table may be freed: after every worker passed a quiescent point (design decision 5), without a lock in any worker.

The pattern is an epoch counter. A worker stores the epoch it sees at each turn of its loop, and UINT64_MAX while it sleeps in poll. Who
replaced a pointer first swaps it, then calls `retire` with the old object: it is kept until all workers have seen a later epoch. The fences on
both sides make sure that a worker which the reclaimer saw asleep loads the new pointer. Runs with the GIL except for enter and rest.
Called by worker, and by whoever replaces what a worker reads (udp.set_endpoint, spd.set_selectors).
"""

from libc.stdint cimport uint64_t

cdef extern from "net_io.h" nogil:
    uint64_t atomic_get_u64(const uint64_t *source) noexcept
    void atomic_set_u64(uint64_t *target, uint64_t value) noexcept
    void atomic_set_u64_fenced(uint64_t *target, uint64_t value) noexcept
    uint64_t atomic_next_u64(uint64_t *counter) noexcept

from ..errors import HostError

cdef uint64_t RESTING = 0xFFFFFFFFFFFFFFFFu
cdef uint64_t now = 1
cdef epoch_slot slots[EPOCH_SLOTS]
cdef bint taken[EPOCH_SLOTS]
cdef list limbo = []


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


cpdef retire(object old):
    """Keep `old`, which no worker can reach any more, until none still uses it. None only looks what can go."""
    if old is not None:
        limbo.append((atomic_next_u64(&now), old))
    cdef uint64_t oldest = RESTING
    cdef int i
    for i in range(EPOCH_SLOTS):
        if taken[i]:
            oldest = min(oldest, atomic_get_u64(&slots[i].seen))
    limbo[:] = [entry for entry in limbo if entry[0] > oldest]


def retired():
    """How many replaced objects still wait for a worker."""
    retire(None)
    return len(limbo)
