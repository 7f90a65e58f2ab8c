"""Threads that seal and open for a worker where the cipher is what takes the time. See ext/dataplane/crew.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from ipsec_fast.dataplane.engine cimport crypto_fn, crypto_op

cdef enum:
    CREW_CHUNK = 16        # operations that one thread takes at a time
    CREW_LEAST = 32        # fewer in a run are done before anybody has woken up
    CREW_LEAST_BYTES = 8192
    CREW_MOST = 63
    CREW_KINDS = 16        # of work, told apart by what does it

# What one kind of work costs, done alone and together: nanoseconds per byte, a moving mean; 0: not known.
cdef struct crew_cost:
    crypto_fn run
    double ns[2]
    uint32_t turns

cdef struct crew_state:
    uint64_t ticket        # number of the run, and in the low half how many of its chunks nobody has taken yet
    uint64_t room_a[7]     # what changes at every chunk has cache lines of its own
    uint64_t done          # chunks of this run that are finished
    uint64_t room_b[7]
    crypto_fn run
    crypto_op *ops
    uint32_t n
    uint32_t sleepers
    uint32_t bell          # a futex
    int busy               # a worker has the crew
    int stop
    crew_cost costs[CREW_KINDS]
    uint64_t runs
    uint64_t chunks_helped

cdef class Crew:
    cdef crew_state state
    cdef object _threads
    cdef uint32_t forks        # of the process whose threads they are
    cdef int need_threads(self) except -1
    cdef readonly int size

# Runs all `n` operations of `length` bytes, together with the crew where that has been faster of late, otherwise alone; False, and nothing done, if another
# worker has the crew.
cdef bint crew_run(crew_state *crew, crypto_fn run, crypto_op *ops, uint32_t n, uint32_t length) noexcept nogil
