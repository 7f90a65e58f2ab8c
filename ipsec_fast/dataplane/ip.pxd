# IP header parse, checksums, ECN: ext/include/ip_parse.h, ip_checksum.h, ip_ecn.h and ip_transport.h for Cython. Not for embedders: the headers are not installed.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ip_parse.h" nogil:
    ctypedef struct ip_info:
        const uint8_t *src       # 4 or 16 bytes, inside the packet
        const uint8_t *dst
        uint32_t total_length    # as the header says; at most the given length
        uint16_t header_length   # up to the upper layer: IPv4 with options, IPv6 with its extension headers
        uint16_t fragment_offset # bytes
        uint8_t version          # 4 or 6
        uint8_t protocol         # upper layer; of a later fragment what its header says
        uint8_t more_fragments
        uint8_t is_fragment      # offset or more_fragments
        uint8_t dont_fragment    # IPv4 DF; 1 for IPv6
        uint8_t tos              # DSCP and ECN
        uint8_t ttl
        uint8_t has_ports        # 0: OPAQUE (later fragment, too short, other protocols)
        uint16_t src_port        # host order. ICMP: type << 8 | code in both
        uint16_t dst_port
    # 0, or why not
    enum:
        IP_OK
        IP_SHORT
        IP_BAD_VERSION
        IP_BAD_HEADER
        IP_BAD_LENGTH
        IP_BAD_CHAIN
    int ip_parse(const uint8_t *packet, uint32_t length, ip_info *info) noexcept

cdef extern from "ip_checksum.h" nogil:
    # running sums are one's complement sums in memory order; fold gives the 16 bits to store with a plain uint16_t store, not inverted
    uint64_t csum_add(uint64_t sum, const uint8_t *data, uint32_t length) noexcept
    uint64_t csum_copy(uint64_t sum, uint8_t *to, const uint8_t *from_, uint32_t length) noexcept
    uint16_t csum_fold(uint64_t sum) noexcept
    uint64_t csum_pseudo4(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t length) noexcept
    uint64_t csum_pseudo6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t length) noexcept
    # the checksum field after a 16-bit word changed (RFC 1624); all in memory order
    uint16_t csum_update16(uint16_t check, uint16_t old, uint16_t new) noexcept
    uint16_t csum_ipv4_header(const uint8_t *header, uint32_t header_length) noexcept  # the value to store; its field must be zero

cdef extern from "ip_ecn.h" nogil:
    # RFC 6040 figure 4: 0, or 1 where the combination is illegal (drop). `inner` is an IPv4 or IPv6 header, changed in place.
    int ecn_decapsulate(uint8_t *inner, uint8_t outer_tos) noexcept
    uint8_t ip_tos(const uint8_t *header) noexcept
    uint8_t ecn_combined(uint8_t inner_tos, uint8_t outer_tos) noexcept  # the inner ECN, 4 where the packet must be dropped
    void ip_set_tos(uint8_t *header, uint8_t tos) noexcept  # the IPv4 checksum with it

cdef extern from "ip_transport.h" nogil:
    uint32_t transport_split(const uint8_t *packet, const ip_info *info, uint32_t *field) noexcept
    uint32_t transport_last_field(const uint8_t *packet, const ip_info *info) noexcept
    void transport_close_header(uint8_t *packet, uint32_t header, uint32_t payload) noexcept
    void transport_mend_checksum(
        uint8_t *packet, uint32_t header, uint32_t payload, uint8_t protocol, bint known, uint64_t original) noexcept
