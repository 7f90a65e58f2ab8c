"""A TUN queue as the worker sees it. See ext/dataplane/tun.pyx."""

from libc.stdint cimport uint8_t

cdef struct tun_port:
    int fd
    uint8_t merge_tcp      # super-packets may be written; cleared when the kernel refuses one
    uint8_t merge_udp

cdef class Tun:
    cdef tun_port port
    cdef str _name
    cdef bint _tso, _uso
