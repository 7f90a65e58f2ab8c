"""A TUN queue. See ext/dataplane/tun.pyx."""

from ipsec_fast.dataplane.inner cimport InnerPort

cdef class Tun(InnerPort):
    cdef str _name
    cdef object _offload
    cdef bint _tso, _uso
