"""The Python face of one worker; its state is private to ext/dataplane/worker.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from ipsec_fast.dataplane.ring cimport record_ring
from ipsec_fast.dataplane.spd cimport Holding

cdef struct worker_state

cdef class Worker:
    cdef worker_state *state
    cdef object _tun, _sockets, _tables, _thread, _punt, _notify, _inject
    cdef Holding _holding      # our hold on the SAs of `_tables`
    cdef bint _uses_ports      # they are not closed while we run
    cdef uint32_t forks        # of the process that we run in
    cdef uint64_t number       # of this worker, among all of the process
    cdef object _crew          # lives as long as we do
    cdef object _hand          # wakes us when another one handed something over
    cdef object _from, _to     # rings, by the worker that fills them; those that we fill
    cdef record_ring *_ring_from(self, int index) except NULL
    cdef int _need(self) except -1
    cdef int _allocate(self) except -1
    cdef object _punted(self, bytes record)
    cdef void _leave_ports(self)
    cdef readonly str engine
