"""Outer headers of tunnel and BEET mode: written from the SA's template, and taken off. Included by esp.pyx.

Rules of RFC 4301 section 5.1.2 and RFC 6040: which of DSCP, ECN, DF, TTL and flow label come from the inner header stands in the SA.
"""


cdef inline uint32_t flow_label(const uint8_t *header) noexcept nogil:
    return load_be32(header) & 0xFFFFF if header[0] >> 4 == 6 else 0


cdef inline void write_outer(esp_sa *sa, uint8_t *header, uint32_t total, const uint8_t *inner) noexcept nogil:
    # `inner` is the inner header, or as many zeros for a dummy packet; `total` is outer header to ICV
    cdef uint32_t ip_length = sa.outer_length - 8 * sa.encap
    cdef uint8_t tos = outer_tos(sa, ip_tos(inner))
    cdef bint is_v4 = inner[0] >> 4 == 4
    cdef uint8_t ttl = inner[8] if is_v4 else inner[7]
    if sa.outer == OUTER_IPV4:
        write_outer4(sa, header, total, tos, ttl, inner[6] & 0x40 if is_v4 else 0x40)
    else:
        memcpy(header, sa.outer_header, 40)
        header[0] |= tos >> 4
        header[1] |= <uint8_t> (tos << 4)
        if sa.rules & RULE_LABEL_COPY:
            store_be32(header, load_be32(header) | flow_label(inner))
        if sa.rules & RULE_TTL_COPY and ttl:
            header[7] = ttl
        store_be16(header + 4, <uint16_t> (total - 40))
    if sa.encap:
        memcpy(header + ip_length, sa.outer_header + ip_length, 8)
        store_be16(header + ip_length + 4, <uint16_t> (total - ip_length))


cdef inline void write_outer4(esp_sa *sa, uint8_t *header, uint32_t total, uint8_t tos, uint8_t ttl, uint32_t df) noexcept nogil:
    # in whole words, and the checksum from the same values: read back from bytes just written they would wait for the store buffer
    cdef const uint8_t *template = sa.outer_header
    cdef uint32_t first = <uint32_t> template[0] << 24 | <uint32_t> tos << 16 | <uint32_t> <uint16_t> total, second, third, i
    cdef uint32_t flags = load_be16(template + 6)
    cdef uint64_t sum
    if sa.rules & RULE_DF_COPY:
        flags = df << 8  # nobody on the way may cut an IPv6 packet
    if not (sa.rules & RULE_TTL_COPY and ttl):
        ttl = template[8]
    second = <uint32_t> sa_next_id(sa, flags & 0x4000) << 16 | flags
    third = <uint32_t> ttl << 24 | <uint32_t> template[9] << 16
    sum = <uint64_t> first + second + third + load_be32(template + 12) + load_be32(template + 16)
    store_be32(header, first)
    store_be32(header + 4, second)
    store_be32(header + 8, third | <uint16_t> ~csum_fold(sum))
    memcpy(header + 12, template + 12, 8)


cdef inline void write_udp6_checksum(uint8_t *packet, uint32_t udp_at, uint32_t total) noexcept nogil:
    # IPv6 has no "no checksum" for us (RFC 6936 needs the receiver's consent); over IPv4 it stays zero, as RFC 3948 section 2.1 wants
    cdef uint64_t total_sum = csum_pseudo6(packet + 8, packet + 24, 17, total - udp_at)
    cdef uint16_t check = <uint16_t> ~csum_fold(csum_add(total_sum, packet + udp_at, total - udp_at))
    if check == 0:
        check = 0xFFFF
    memcpy(packet + udp_at + 6, &check, 2)


cdef inline uint8_t find_esp(const esp_sa *sa, uint8_t *upper, uint8_t protocol, uint32_t left, uint8_t **esp, uint32_t *length) noexcept nogil:
    # what stands behind the outer IP header: ESP, or the UDP header that the SA says is there
    cdef uint32_t udp_length
    if not sa.encap:
        if protocol != 50:
            return VERDICT_BAD_OUTER
        esp[0] = upper
        length[0] = left
        return VERDICT_OK
    # the peer's port may change behind a NAT, ours may not; the checksum is none of our business (RFC 3948 section 2.1)
    if protocol != 17 or left < 8 or load_be16(upper + 2) != sa.dport:
        return VERDICT_BAD_OUTER
    udp_length = load_be16_once(upper + 4)
    if udp_length < 8 or udp_length > left:
        return VERDICT_BAD_OUTER
    esp[0] = upper + 8
    length[0] = udp_length - 8
    return VERDICT_OK


# The values of an outer header, read once, because another thread may write to the buffer while the packet is opened.
cdef struct outer_place:
    uint16_t header          # its bytes
    uint16_t field           # transport mode: offset of the byte that names what follows
    uint8_t tos


cdef inline uint8_t strip_outer(const esp_sa *sa, const esp_packet *packet, uint8_t **esp, uint32_t *length, outer_place *place) noexcept nogil:
    cdef ip_info info
    if ip_parse(packet.data, packet.length, &info) != IP_OK or (sa.outer and info.version != sa.outer):
        return VERDICT_BAD_OUTER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    place.tos = info.tos
    place.header = info.header_length
    if sa.mode == MODE_TRANSPORT:
        place.field = <uint16_t> transport_last_field(packet.data, &info)
    return find_esp(sa, packet.data + info.header_length, info.protocol, info.total_length - info.header_length, esp, length)


cdef inline uint8_t mark_inner(const esp_sa *sa, uint8_t *inner, uint8_t outer) noexcept nogil:
    # RFC 6040 section 4.2 always; the DSCP stays the inner one unless the SA says otherwise (RFC 4301 section 5.1.2)
    cdef uint8_t tos = ip_tos(inner), ecn = ecn_combined(tos, outer)
    if ecn == 4:
        return VERDICT_BAD_ECN
    ecn |= (outer if sa.rules & RULE_DSCP_IN else tos) & 0xFC
    if ecn != tos:
        ip_set_tos(inner, ecn)
    return VERDICT_OK
