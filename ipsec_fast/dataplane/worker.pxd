"""The Python face of one worker; its state is private to ext/dataplane/worker.pyx."""

from ipsec_fast.dataplane.ring cimport record_ring

cdef struct worker_state

cdef class Worker:
    cdef worker_state *state
    cdef object _tun, _sockets, _tables, _thread, _punt, _notify, _inject
    cdef object _crew          # lives as long as we do
    cdef object _hand          # wakes us when another one handed something over
    cdef object _from, _to     # rings, by the worker that fills them; those that we fill
    cdef record_ring *_ring_from(self, int index) except NULL
    cdef readonly str engine
