"""Several cores for one SA, with any peer: its owner numbers and sends as ever, and others seal or open part of a batch for it.

A run of operations is cut into chunks, and whoever is free takes the next one, the owner too: it never waits for a thread that has not begun, only for
chunks under way. Where other programs want the cores that costs more than it gains; so both ways are timed, and the better one is taken. Numbers, windows and order stay the owner's, so a peer cannot tell. It pays where the cipher outweighs the packet's way through the kernel
(OpenSSL): a sleeping thread needs longer to wake than a fast engine needs for the batch. A key whose library object belongs to one thread has a copy for each
of the crew (crypto_op.spares, SA(crew=)). Called by esp, for a worker that was given a crew; made by workers.
"""

from libc.stdint cimport uint32_t, uint64_t

from ipsec_fast.dataplane.engine cimport crypto_fn, crypto_op
from ipsec_fast.dataplane.forks cimport fork_count

import threading

from ..errors import StateError, UsageError

cdef extern from "crew.h" nogil:
    uint64_t crew_load64(const uint64_t *at) noexcept
    void crew_store64(uint64_t *at, uint64_t value) noexcept
    uint32_t crew_load32(const uint32_t *at) noexcept
    void crew_add32(uint32_t *at, uint32_t value) noexcept
    void crew_add64(uint64_t *at, uint64_t value) noexcept
    bint crew_swap64(uint64_t *at, uint64_t *expected, uint64_t wanted) noexcept
    bint crew_enter(int *busy) noexcept
    void crew_leave(int *busy) noexcept
    void crew_futex_wait(uint32_t *at, uint32_t seen) noexcept
    void crew_futex_wake(uint32_t *at) noexcept
    void crew_pause() noexcept
    void crew_yield() noexcept

cdef extern from "net_io.h" nogil:
    uint64_t monotonic_ns() noexcept

cdef enum:
    OWNER = -1
    SPINS = 4000             # some 50 us: the time between two batches under load
    SPINS_BEFORE_YIELD = 200
    ALONE = 0
    TOGETHER = 1
    TRY_AGAIN = 256
    TRY_RUNS = 16
    MEMORY = 4               # runs that a mean goes back


cdef bint take_chunk(crew_state *crew, int member) noexcept nogil:
    """Does one chunk of the present run; False: all are taken. What the ticket guards does not change before this chunk is counted as done."""
    cdef uint64_t ticket = crew_load64(&crew.ticket)
    cdef uint32_t first, count, i
    while True:
        if ticket & 0xFFFFFFFFu == 0:
            return False
        if crew_swap64(&crew.ticket, &ticket, ticket - 1):
            break
    first = <uint32_t>((ticket & 0xFFFFFFFFu) - 1) * CREW_CHUNK
    count = min(<uint32_t>CREW_CHUNK, crew.n - first)
    if member != OWNER:
        for i in range(first, first + count):
            if crew.ops[i].spares is not NULL:
                crew.ops[i].key = crew.ops[i].spares[member]
        crew_add64(&crew.chunks_helped, 1)
    crew.run(&crew.ops[first], count)
    crew_add64(&crew.done, 1)
    return True


cdef inline crew_cost *cost_of(crew_state *crew, crypto_fn run) noexcept nogil:
    cdef int i
    for i in range(CREW_KINDS - 1):
        if crew.costs[i].run == run:
            return &crew.costs[i]
        if crew.costs[i].run is NULL:
            crew.costs[i].run = run
            return &crew.costs[i]
    return &crew.costs[CREW_KINDS - 1]


cdef inline int way_of(crew_cost *cost, bint *counts) noexcept nogil:
    """0: alone, 1: together; and whether this run tells what the way costs. Every TRY_AGAIN runs the way that was worse gets TRY_RUNS in a row, since other
    programs come and go; the first half of them wakes the crew up, and does not count."""
    cdef uint32_t turn = cost.turns % TRY_AGAIN
    cdef int best = TOGETHER if cost.ns[TOGETHER] != 0 and cost.ns[TOGETHER] < cost.ns[ALONE] else ALONE
    cost.turns += 1
    counts[0] = turn >= TRY_RUNS // 2
    return 1 - best if turn < TRY_RUNS and cost.ns[ALONE] != 0 else best


cdef bint crew_run(crew_state *crew, crypto_fn run, crypto_op *ops, uint32_t n, uint32_t length) noexcept nogil:
    cdef crew_cost *cost
    cdef uint64_t began
    cdef double ns
    cdef int way
    cdef bint counts = False
    if not crew_enter(&crew.busy):
        return False
    cost = cost_of(crew, run)
    way = way_of(cost, &counts)
    began = monotonic_ns()
    if way == TOGETHER:
        run_together(crew, run, ops, n)
    else:
        run(ops, n)
    ns = <double>(monotonic_ns() - began) / length
    if counts or cost.ns[ALONE] == 0:
        cost.ns[way] = ns if cost.ns[way] == 0 else cost.ns[way] + (ns - cost.ns[way]) / MEMORY
    crew_leave(&crew.busy)
    return True


cdef void run_together(crew_state *crew, crypto_fn run, crypto_op *ops, uint32_t n) noexcept nogil:
    cdef uint64_t chunks = (n + CREW_CHUNK - 1) // CREW_CHUNK, waited = 0
    crew.run, crew.ops, crew.n = run, ops, n
    crew_add64(&crew.runs, 1)
    crew_store64(&crew.done, 0)
    crew_store64(&crew.ticket, ((crew_load64(&crew.ticket) >> 32) + 1) << 32 | chunks)
    if crew_load32(&crew.sleepers):
        crew_add32(&crew.bell, 1)
        crew_futex_wake(&crew.bell)
    while take_chunk(crew, OWNER):
        pass
    while crew_load64(&crew.done) != chunks:
        waited += 1
        if waited % SPINS_BEFORE_YIELD:
            crew_pause()
        else:
            crew_yield()


cdef void crew_loop(crew_state *crew, int member) noexcept nogil:
    cdef uint32_t spins = 0, bell
    while not crew_load32(<uint32_t *>&crew.stop):
        if take_chunk(crew, member):
            spins = 0
            continue
        spins += 1
        if spins < SPINS:
            crew_pause()
            continue
        spins = 0
        bell = crew_load32(&crew.bell)
        crew_add32(&crew.sleepers, 1)
        if crew_load64(&crew.ticket) & 0xFFFFFFFFu == 0 and not crew_load32(<uint32_t *>&crew.stop):
            crew_futex_wait(&crew.bell, bell)
        crew_add32(&crew.sleepers, <uint32_t>-1)


cdef class Crew:
    """`size` threads that take part of a batch's cipher work. Without one of them awake its owner does all of it.

    Give it to workers (`Worker(crew=)`) or to a batch (`PacketBatch(crew=)`), and to their SAs the size (`SA(crew=)`).
    `size` is 1 to 63, else UsageError. In a child of fork there are no threads: what needs them raises StateError.
    """

    def __cinit__(self, size):  # once: members go by number
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= CREW_MOST:
            raise UsageError(f"a crew has 1 to {CREW_MOST} threads, not {size!r}")
        self.size = size
        self._threads = ()
        self.forks = fork_count[0]

    cdef int need_threads(self) except -1:
        if self.forks != fork_count[0]:
            raise StateError("this crew was made before a fork: its threads are the parent's; make one in the child")
        return 0

    def start(self):
        """Start the threads. StateError if they run already."""
        self.need_threads()
        if self._threads:
            raise StateError("this crew works already")
        self.state.stop = 0
        self._threads = tuple(
            threading.Thread(target=self._work, args=(member,), name=f"ipsec-fast-crew-{member}", daemon=True) for member in range(self.size)
        )
        for thread in self._threads:
            thread.start()

    def _work(self, int member):
        if threading.current_thread() not in self._threads:
            raise StateError("this is for the crew's own threads: start() runs it")
        with nogil:
            crew_loop(&self.state, member)

    def stop(self):
        """Ends the threads; after the workers that use them. Twice is fine."""
        if self.forks != fork_count[0]:  # the threads are not here
            return
        crew_add32(<uint32_t *>&self.state.stop, 1)
        crew_add32(&self.state.bell, 1)
        crew_futex_wake(&self.state.bell)
        for thread in self._threads:
            thread.join()
        self._threads = ()

    def counters(self):
        """`crew_runs`: batches that were shared; `crew_chunks`: parts of them that the crew did."""
        return {"crew_runs": crew_load64(&self.state.runs), "crew_chunks": crew_load64(&self.state.chunks_helped)}
