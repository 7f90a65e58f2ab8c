"""A packet socket as the inner side of a worker. See ext/dataplane/packet_socket.pyx."""

from libc.stdint cimport uint64_t

from ipsec_fast.dataplane.inner cimport InnerPort

cdef class PeerWord:
    cdef uint64_t word

cdef class PacketSocket(InnerPort):
    cdef object _socket, _name, _options, _features
    cdef PeerWord _peer
    cdef object _group
    cdef int _need(self) except -1
