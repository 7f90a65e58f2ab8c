"""A UDP socket and an SA's endpoint as the worker sees them. See ext/dataplane/udp.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.forks cimport port_users

cdef struct udp_port:
    int fd
    int family             # AF_INET or AF_INET6
    uint8_t udp_segment    # cleared when the kernel refuses it
    uint8_t udp_gro
    uint8_t wildcard       # the source address of a send must be named
    uint8_t raw            # 50 or 51: a raw socket, whole packets leave (raw_socket.pyx)

# Where a datagram came from.
cdef struct packet_source:
    uint8_t address[16]    # as on the wire, IPv4 in the first four bytes
    uint16_t port          # 0: it was no UDP
    uint8_t version

cdef struct udp_endpoint

# Never changed after it was made: an SA that moves, or whose path changes, gets a new one.
cdef struct udp_endpoint:
    uint8_t name[28]       # sockaddr_in or sockaddr_in6
    uint32_t name_bytes
    int family
    uint16_t socket_index
    uint16_t mtu           # raw: longer packets without DF leave in fragments of so many bytes; 0: none does
    uint8_t raw            # the SA writes the outer header; the socket must be raw
    uint8_t outside        # raw: DF is taken off what is cut
    uint8_t front          # outside: bytes of `header`, which goes before what the SA wrote, if that has no outer header
    uint8_t has_local
    uint8_t local[16]
    udp_endpoint *cut      # for packets that are too long and must not be (IPv6 up to 1280 bytes): a raw one that cuts; NULL: there is none
    uint8_t header[48]
    packet_source peer
    uint8_t moved          # raw: the SA writes the peer's old address and port; the driver replaces them by `peer`
    uint64_t *ids          # outside: the counter of IPv4 identifications to this peer

cdef class UdpSocket:
    cdef udp_port port_
    cdef port_users users
    cdef object _socket, _local, _mark, _large
    cdef int _number, _version
