"""A raw socket as the worker sees it. See ext/dataplane/raw_socket.pyx."""

from ipsec_fast.dataplane.udp cimport udp_port

cdef class RawSocket:
    cdef udp_port port_
    cdef object _socket, _local
    cdef int _version, _protocol
