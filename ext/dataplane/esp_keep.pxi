"""Transport and BEET mode: the packet's own header goes outside, as it is or with other addresses. Included by esp.pyx.

Transport (RFC 4303 section 3.1.1): the IP header, with IPv4 options or the IPv6 headers that routers look at, moves in front of the UDP or ESP header.
Behind a NAT the checksum of TCP and UDP is mended (RFC 3948 section 3.1.2). BEET (draft-nikander-esp-beet-mode-09): an SA has fixed inner and
outer addresses; the inner header is not sent, but made again from the outer one. Both take whole datagrams only (section 3.3.4).
"""

cdef enum:
    MOST_HEADER = 40 + 256   # IP_CHAIN_BYTES of ip_parse.h; IPv4 has 60

# a packet taken apart, before anything of it is changed
cdef struct kept_header:
    uint32_t length          # of the header that is taken off
    uint32_t field           # transport: offset of the byte that names what follows
    uint32_t pseudo          # BEET: bytes of pseudo header, options in it
    uint32_t options
    uint8_t next_header
    uint8_t copy[MOST_HEADER]


cdef inline bint is_address(const uint8_t *header, const uint8_t *addresses, uint8_t version) noexcept nogil:
    if version == 4:
        return memcmp(header + 12, addresses, 8) == 0
    return memcmp(header + 8, addresses, 32) == 0


cdef uint8_t take_header(const esp_sa *sa, const uint8_t *packet, uint32_t length, kept_header *kept, uint32_t *whole) noexcept nogil:
    """Checks a packet that leaves, and finds its header. `whole` is the packet's own length: link padding behind it is not sent."""
    cdef ip_info info
    if ip_parse(packet, length, &info) != IP_OK or (sa.mode == MODE_BEET and info.version != sa.inner):
        return VERDICT_BAD_INNER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    kept.pseudo = kept.options = 0
    # the copy is sent, because another thread may write to the packet from now on
    memcpy(kept.copy, packet, info.header_length)
    if sa.mode == MODE_TRANSPORT:
        kept.length = transport_split(kept.copy, &info, &kept.field)
        if kept.length == 0:
            return VERDICT_BAD_INNER
        kept.next_header = kept.copy[kept.field]
    else:
        if not is_address(kept.copy, sa.inner_addresses, sa.inner):
            return VERDICT_BAD_INNER
        kept.length = info.header_length if info.version == 4 else 40
        kept.next_header = kept.copy[9] if info.version == 4 else kept.copy[6]
        if info.version == 4 and kept.length > 20:
            kept.options = kept.length - 20
            kept.pseudo = (4 + kept.options + 7) & ~<uint32_t> 7
    if kept.next_header == ESP_NEXT_NONE:  # the receiver would take it for a dummy (RFC 4303 section 2.6)
        return VERDICT_BAD_INNER
    whole[0] = info.total_length
    return VERDICT_OK


cdef inline void write_pseudo(uint8_t *at, const kept_header *kept) noexcept nogil:
    cdef uint32_t filler = kept.pseudo - 4 - kept.options
    at[0] = kept.next_header
    at[1] = <uint8_t> (kept.pseudo // 8 - 1)
    at[2] = <uint8_t> filler
    at[3] = 0
    memset(at + 4, 1, filler)
    memcpy(at + 4 + filler, kept.copy + 20, kept.options)


cdef inline uint8_t *put_header(esp_sa *sa, uint8_t *esp, uint32_t behind, kept_header *kept) noexcept nogil:
    """The outer header in front of ESP, of which `behind` bytes with the ICV follow; gives where the packet begins now."""
    cdef uint8_t *start
    if sa.mode == MODE_BEET:
        start = esp - sa.outer_length
        write_outer(sa, start, sa.outer_length + behind, kept.copy)
        return start
    start = esp - 8 * sa.encap - kept.length
    memcpy(start, kept.copy, kept.length)
    start[kept.field] = 17 if sa.encap else 50
    transport_close_header(start, kept.length, behind + 8 * sa.encap)
    if sa.encap:
        store_be16(esp - 8, sa.sport)
        store_be16(esp - 6, sa.dport)
        store_be16(esp - 4, <uint16_t> (behind + 8))
        store_be16(esp - 2, 0)
    return start


# --- in: after the ICV, `payload` holds `room` bytes ------------------------------------------------------------------------------------------

cdef inline uint8_t restore_transport(
    const esp_sa *sa, esp_packet *packet, const outer_place *place, uint8_t *payload, uint32_t room
) noexcept nogil:
    """`place` was read before the ICV was checked. The header itself is not asked for a length again: others may write to the buffer."""
    cdef uint8_t *start = payload - place.header
    memmove(start, packet.data, place.header)
    start[place.field] = packet.next_header
    transport_close_header(start, place.header, room)
    if sa.nat != NAT_NONE:
        transport_mend_checksum(start, place.header, room, packet.next_header, sa.nat == NAT_ADJUST, sa.original_sum)
    packet.data = start
    packet.length = place.header + room
    return VERDICT_OK


cdef inline void write_inner(const esp_sa *sa, uint8_t *to, const uint8_t *outer, uint8_t next_header, uint32_t header, uint32_t payload) noexcept nogil:
    """What the inner header was, as far as the outer one tells it; its options stand in place."""
    cdef uint8_t tos = ip_tos(outer)
    cdef bint was_v4 = outer[0] >> 4 == 4
    if sa.inner == 4:
        to[0] = <uint8_t> (0x40 | header // 4)
        to[1] = tos
        memset(to + 4, 0, 8)
        if was_v4:
            memcpy(to + 4, outer + 4, 2)
            to[6] = outer[6] & 0x40
        else:
            to[6] = 0x40
        to[8] = outer[8] if was_v4 else outer[7]
        to[9] = next_header
        memcpy(to + 12, sa.inner_addresses, 8)
    else:
        store_be32(to, 0x60000000u | <uint32_t> tos << 20 | flow_label(outer))
        to[6] = next_header
        to[7] = outer[8] if was_v4 else outer[7]
        memcpy(to + 8, sa.inner_addresses, 32)
    transport_close_header(to, header, payload)


cdef inline uint8_t restore_beet(const esp_sa *sa, esp_packet *packet, uint8_t *payload, uint32_t room) noexcept nogil:
    cdef uint8_t outer[40]
    cdef uint8_t options_copy[40]
    cdef uint8_t *start
    cdef uint32_t pseudo = 0, options = 0, header
    if sa.inner == 4 and packet.next_header == ESP_NEXT_BEET:
        if not esp_check_beet(payload, room, &packet.next_header, &pseudo, &options):
            return VERDICT_BAD_INNER
        memcpy(options_copy, payload + pseudo - options, options)
    header = 20 + options if sa.inner == 4 else 40
    memcpy(outer, packet.data, 40)  # ESP and its ICV follow even the shortest header
    payload += pseudo
    room -= pseudo
    start = payload - header
    if start < packet.data:  # an IPv6 header does not always fit where IPv4 and ESP were; there is room behind (set_inner of sad.pyx)
        start = packet.data
        memmove(start + header, payload, room)
    memcpy(start + 20, options_copy, options)
    write_inner(sa, start, outer, packet.next_header, header, room)
    packet.data = start
    packet.length = header + room
    return VERDICT_OK
