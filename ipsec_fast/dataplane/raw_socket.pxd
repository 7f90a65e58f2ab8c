"""A raw socket as the worker sees it. See ext/dataplane/raw_socket.pyx."""

from ipsec_fast.dataplane.forks cimport port_users
from ipsec_fast.dataplane.udp cimport udp_port

cdef class RawSocket:
    cdef udp_port port_
    cdef port_users users
    cdef object _socket, _local
    cdef int _version, _protocol
