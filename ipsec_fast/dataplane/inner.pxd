"""The inner side of a worker: what it reads packets from and writes packets to, a TUN queue or a packet socket. See ext/dataplane/inner.pyx.

Each read gives, and each write takes, one frame: virtio-net header, link header (`header_bytes` of it, none on a TUN), IP packet.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ipsec_fast.dataplane.forks cimport port_users
from ipsec_fast.dataplane.net_io cimport VNET_NEEDS_CSUM, atomic_get_u64, atomic_set_u64, vnet_header

cdef enum:
    VNET_BYTES = 10
    LINK_BYTES = 14        # at most: Ethernet
    MAC_BYTES = 6
    PEER_KNOWN = 1         # seventh byte of a peer word
    INNER_UP = 0
    INNER_DOWN_SEEN = 1
    INNER_DOWN_TOLD = 2

# What inner_strip says of a frame.
cdef enum:
    STRIP_PACKET           # an IP packet stands behind the link header
    STRIP_NONE             # none, and none was expected: it only said where the peer is
    STRIP_REFUSED

cdef struct inner_port:
    int fd
    uint8_t merge_tcp      # super-packets may be written; cleared when the kernel refuses one
    uint8_t merge_udp
    uint8_t header_bytes   # 0, or LINK_BYTES
    uint8_t learns         # the peer is whoever was heard last
    uint8_t down           # INNER_UP, ...; of a packet socket
    uint32_t mtu           # longer packets are not joined to super-packets
    uint32_t room          # bytes of a super-packet
    uint64_t *peer         # MAC address that packets are written to and PEER_KNOWN; sockets of one interface share it
    uint8_t link[2][LINK_BYTES]  # link header of IPv4 and of IPv6, the destination left out

# What stands before the packet in a write.
cdef struct inner_head:
    vnet_header vnet
    uint8_t link[LINK_BYTES]

cdef class InnerPort:
    cdef inner_port port
    cdef port_users users


cdef inline void inner_learn(inner_port *port, const uint8_t *source) noexcept nogil:
    cdef uint64_t word = 0
    cdef uint8_t *at = <uint8_t *>&word
    memcpy(at, source, MAC_BYTES)
    if not port.learns or word == 0 or source[0] & 1:  # no sender has a group address
        return
    at[MAC_BYTES] = PEER_KNOWN
    if atomic_get_u64(port.peer) != word:
        atomic_set_u64(port.peer, word)


# `frame` as read, `length` bytes from the virtio-net header on: checks the link header and makes the virtio-net header relative to the packet.
cdef inline int inner_strip(inner_port *port, uint8_t *frame, long length) noexcept nogil:
    cdef vnet_header *vnet = <vnet_header *>frame
    cdef uint8_t *link = frame + VNET_BYTES
    cdef const uint8_t *own
    if length < VNET_BYTES + LINK_BYTES or memcmp(link + MAC_BYTES, port.link[0] + MAC_BYTES, MAC_BYTES) == 0:
        return STRIP_REFUSED
    inner_learn(port, link + MAC_BYTES)
    if length == VNET_BYTES + LINK_BYTES:
        return STRIP_NONE
    own = port.link[link[LINK_BYTES] >> 4 == 6]
    if memcmp(link + 2 * MAC_BYTES, own + 2 * MAC_BYTES, 2) != 0:
        return STRIP_REFUSED
    if vnet.flags & VNET_NEEDS_CSUM:
        if vnet.csum_start < LINK_BYTES:
            return STRIP_REFUSED
        vnet.csum_start -= LINK_BYTES
    return STRIP_PACKET


# Fills the link header, and makes the virtio-net header relative to it; False: there is no peer yet.
cdef inline bint inner_prepend(inner_port *port, inner_head *head, uint8_t version) noexcept nogil:
    cdef uint64_t word = atomic_get_u64(port.peer)
    if word == 0:
        return False
    memcpy(head.link, port.link[version == 6], LINK_BYTES)
    memcpy(head.link, &word, MAC_BYTES)
    if head.vnet.flags & VNET_NEEDS_CSUM:
        head.vnet.csum_start += LINK_BYTES
        head.vnet.hdr_len += LINK_BYTES
    return True
