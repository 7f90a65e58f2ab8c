"""In, without UDP: ESP and AH that raw sockets took (RFC 4303, RFC 4302). Included by worker.pyx.

Over IPv4 the IP header stands in front; over IPv6 the kernel has taken it off, with whatever extension headers there were, so for AH, whose ICV covers
it, one is made anew from the addresses: a packet with extension headers before AH fails its ICV. Whether an SA was made for UDP encapsulation does not
matter here: both forms are received at any time (RFC 7296 section 2.23).
"""


cdef void open_mixed(worker_state *w) noexcept nogil:
    """A batch in which packets of AH SAs stand."""
    cdef uint32_t start = 0, end
    cdef uint8_t protocol
    while start < w.in_count:
        protocol, end = w.in_packets[start].sa.protocol, start
        while end < w.in_count and w.in_packets[end].sa.protocol == protocol:
            end += 1
        if protocol == PROTOCOL_AH:
            ah_inbound(w.ah, &w.in_packets[start], end - start)
        else:
            esp_inbound(w.esp, &w.in_packets[start], end - start)
        start = end
    w.in_has_ah = False


cdef inline void make_header_v6(uint8_t *at, const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint8_t tos, uint32_t length) noexcept nogil:
    memset(at, 0, 40)
    at[0] = 0x60 | tos >> 4
    at[1] = <uint8_t>(tos << 4)
    at[4] = <uint8_t>(length >> 8)
    at[5] = <uint8_t>length
    at[6] = protocol
    memcpy(at + 8, src, 16)
    memcpy(at + 24, dst, 16)


cdef void take_ah(
    worker_state *w, dataplane_tables *tables, uint8_t *data, uint32_t length, const uint8_t *ah, const packet_source *source
) noexcept nogil:
    """An IP packet into the batch whose AH begins at `ah`."""
    cdef uint32_t spi_be, seq_be
    cdef esp_packet *packet
    memcpy(&spi_be, ah + 4, 4)
    memcpy(&seq_be, ah + 8, 4)
    if w.in_count == IN_PACKETS:
        open_batch(w)
    packet = &w.in_packets[w.in_count]
    packet.sa = sad_find_spi(tables.sad, spi_be, PROTOCOL_AH)
    if packet.sa is NULL:
        drop_stranger(w, source, spi_be)
        return
    packet.data, packet.length = data, length
    w.in_from[w.in_count] = source
    w.in_tos[w.in_count] = 0  # its kernel reads the outer header, ECN included
    w.in_seqs[w.in_count] = <uint32_t>spi_number(seq_be)
    w.in_has_ah = True
    w.in_count += 1


cdef void handle_raw(
    worker_state *w, dataplane_tables *tables, uint32_t index, mmsghdr *message, packet_source *source, uint8_t *data, uint32_t length
) noexcept nogil:
    """One packet; 40 bytes before `data` are ours."""
    cdef udp_port *port = w.ports[index]
    cdef uint8_t *upper = data
    cdef uint32_t left = length, spi_be
    cdef uint8_t tos = 0
    cdef bint handed
    cdef ip_info info
    cdef control_view view
    if port.family == AF_INET:
        if ip_parse(data, length, &info) != IP_OK or info.version != 4 or info.protocol != port.raw:
            drop(w, NULL, VERDICT_BAD_OUTER)
            return
        if info.is_fragment:
            drop(w, NULL, VERDICT_OUTER_FRAGMENT)
            return
        upper, left, tos = data + info.header_length, info.total_length - info.header_length, info.tos
    else:
        control_read(&message.msg_hdr, &view)
        tos = <uint8_t>view.tos if view.tos >= 0 else 0
        make_header_v6(data - 40, <uint8_t *>message.msg_hdr.msg_name + 8, view.local, port.raw, tos, length)
        data -= 40
        length += 40
    if left < (12 if port.raw == PROTOCOL_AH else 8):
        drop(w, NULL, VERDICT_RUNT)
        return
    fill_source(w, index, message, source)
    memcpy(&spi_be, upper + (4 if port.raw == PROTOCOL_AH else 0), 4)
    if w.count > 1 and spi_number(spi_be) % w.count != w.index:
        if port.raw == PROTOCOL_AH:
            handed = hand_over_ah(w, <uint32_t>spi_number(spi_be), source, data, length, upper)
        else:
            handed = hand_over_inbound(w, <uint32_t>spi_number(spi_be), source, tos, upper, left)
        if not handed:
            drop(w, NULL, VERDICT_HANDOVER_FULL)
        return
    if port.raw == PROTOCOL_AH:
        take_ah(w, tables, data, length, upper, source)
    else:
        take_esp(w, tables, upper, left, tos, source)


cdef void raw_turn(worker_state *w, dataplane_tables *tables, uint32_t index) noexcept nogil:
    cdef int got = receive(w, w.ports[index], PLAIN_MESSAGES, PLAIN_BYTES, RAW_BEFORE, 0)
    cdef uint32_t i
    cdef mmsghdr *message
    if got <= 0:
        return
    for i in range(<uint32_t>got):
        message = &w.messages[i]
        w.counters.value[C_RAW_MESSAGES_IN] += 1
        w.counters.value[C_UDP_MESSAGES_IN] += 1
        w.counters.value[C_UDP_BYTES_IN] += message.msg_len
        if message.msg_hdr.msg_flags & MSG_TRUNC:
            w.counters.value[C_UDP_TRUNCATED] += 1
            continue
        handle_raw(w, tables, index, message, &w.sources[i], w.receive_memory + i * PLAIN_BYTES + RAW_BEFORE, message.msg_len)
    open_batch(w)
    merge_flush(&w.merge)
