"""The Python face of one worker; its state is private to ext/dataplane/worker.pyx."""

cdef struct worker_state

cdef class Worker:
    cdef worker_state *state
    cdef object _tun, _sockets, _tables, _thread, _punt, _notify, _inject
    cdef readonly str engine
