"""Quiescent points of the workers. See ext/dataplane/epoch.pyx."""

from libc.stdint cimport uint64_t

cdef enum:
    EPOCH_SLOTS = 256

cdef struct epoch_slot:
    uint64_t seen          # the epoch that this worker saw last; UINT64_MAX: it holds nothing (asleep, or not running)
    uint64_t room[7]       # a cache line of its own

cdef epoch_slot *epoch_join() except NULL
cdef void epoch_leave(epoch_slot *slot) noexcept
cdef void epoch_enter(epoch_slot *slot) noexcept nogil    # from here on pointers may be loaded; again: those loaded before are forgotten
cdef void epoch_rest(epoch_slot *slot) noexcept nogil     # no loaded pointer is used any more
cpdef retire(object old)
