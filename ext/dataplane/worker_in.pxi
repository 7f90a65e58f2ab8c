"""In: datagrams told apart (keepalive, IKE, ESP), opened as a batch, checked and delivered to the TUN. Included by worker.pyx."""


cdef inline void deliver(worker_state *w, uint32_t i) noexcept nogil:
    """An opened packet to the TUN, or its drop counted."""
    cdef esp_packet *packet = &w.in_packets[i]
    cdef esp_sa *sa = packet.sa
    cdef uint8_t outer_tos = w.in_tos[i]
    cdef ip_info info
    cdef flow_key key
    cdef selector_pair_list *selectors
    cdef uint8_t verdict
    cdef uint16_t mss
    cdef uint64_t used_ns = sa.last_use_ns
    if packet.verdict == VERDICT_OK or packet.verdict == VERDICT_DUMMY or packet.verdict == VERDICT_LIFETIME:
        sa.last_use_ns = w.now_ns
        tell_of_inbound(w, sa, packet.verdict)
        if sa.endpoint is not NULL:
            note_source(w, sa, w.in_from[i], w.in_seqs[i])
    if packet.verdict != VERDICT_OK:
        w.counters.drops[packet.verdict] += 1
        return
    if ip_parse(packet.data, packet.length, &info) != IP_OK:
        drop_inbound(w, i, VERDICT_BAD_INNER)
        return
    selectors = <selector_pair_list *>atomic_get_pointer(&sa.selectors)
    if info.is_fragment:
        verdict = track_inbound(w.track_in, selectors, packet.data, &info, w.now_ns)
        if verdict != VERDICT_OK:
            drop_inbound(w, i, verdict)
            return
    else:
        make_flow_key(&key, &info)
        if not selectors_match(selectors, &key):
            drop_inbound(w, i, VERDICT_SELECTOR_MISMATCH)
            return
    if outer_tos & 3:
        if ecn_decapsulate(packet.data, outer_tos):
            drop_inbound(w, i, VERDICT_BAD_ECN)
            return
    if (info.protocol == ICMP or info.protocol == ICMPV6) and is_own_echo(w, packet.data, &info):
        if tell_more(w, ECHO_ANSWERED, sa.tag, load_number(packet.data + info.header_length + 16), info.total_length):
            w.counters.value[C_PROBES_ANSWERED] += 1
        sa.last_use_ns = used_ns  # it is no traffic
        if not info.is_fragment:  # nobody on this host waits for it; of a fragmented one the rest will come
            return
    mss = load_u16(&sa.mss_ipv4 if info.version == 4 else &sa.mss_ipv6)
    if mss:
        count_clamp(w, clamp_mss(packet.data, &info, mss, False))
    w.counters.value[C_PACKETS_IN] += 1
    w.counters.value[C_BYTES_IN] += info.total_length
    merge_packet(&w.merge, packet.data, &info)


cdef void open_batch(worker_state *w) noexcept nogil:
    cdef uint32_t i
    if w.in_count == 0:
        return
    if w.in_has_ah:
        open_mixed(w)
    else:
        esp_inbound(w.esp, w.in_packets, w.in_count)
    for i in range(w.in_count):
        deliver(w, i)
    w.in_count = 0


cdef void punt(
    worker_state *w, uint32_t index, mmsghdr *message, control_view *view, uint8_t *data, uint32_t length
) noexcept nogil:
    cdef punt_head head
    cdef uint8_t *name = <uint8_t *>message.msg_hdr.msg_name
    memset(&head, 0, sizeof(head))
    head.socket_index = <uint16_t>index
    head.remote_port = <uint16_t>(name[2] << 8 | name[3])
    head.remote_version = copy_sender(w, index, message, head.remote)
    if view.family:
        head.local_version = 4 if view.family == AF_INET else 6
        memcpy(head.local, view.local, 16)
    if ring_push(w.punt, &head, sizeof(head), data, length):
        w.counters.value[C_PUNTED] += 1
    else:
        w.counters.value[C_PUNT_OVERFLOW] += 1


cdef void drop_stranger(worker_state *w, const packet_source *source, uint32_t spi_be) noexcept nogil:
    drop(w, NULL, VERDICT_UNKNOWN_SPI)
    tell_unknown_spi(w, spi_number(spi_be), source.version, <const uint8_t *>source.address)


cdef inline bint take_known(
    worker_state *w, dataplane_tables *tables, uint8_t *data, uint32_t length, uint8_t tos, const packet_source *source
) noexcept nogil:
    """ESP into the batch; False: nobody has its SPI. `source` is read until the batch was opened."""
    cdef uint32_t spi_be, seq_be
    cdef esp_packet *packet
    memcpy(&spi_be, data, 4)
    memcpy(&seq_be, data + 4, 4)
    if w.in_count == IN_PACKETS:
        open_batch(w)
    packet = &w.in_packets[w.in_count]
    packet.sa = find_sa(tables, spi_be)
    if packet.sa is NULL:
        return False
    packet.data = data
    packet.length = length
    w.in_tos[w.in_count] = tos
    w.in_from[w.in_count] = source
    w.in_seqs[w.in_count] = <uint32_t>spi_number(seq_be)
    w.in_count += 1
    return True


cdef void take_esp(
    worker_state *w, dataplane_tables *tables, uint8_t *data, uint32_t length, uint8_t tos, const packet_source *source
) noexcept nogil:
    """ESP of whatever SPI; who comes before its SA does is held. SPIs below 256 are reserved, no SA will come for them."""
    cdef uint32_t spi_be
    memcpy(&spi_be, data, 4)
    if take_known(w, tables, data, length, tos, source):
        return
    if spi_number(spi_be) < 256 or not hold(w, source, tos, spi_be, data, length):
        drop_stranger(w, source, spi_be)


cdef inline void handle_datagram(
    worker_state *w, dataplane_tables *tables, uint32_t index, mmsghdr *message, control_view *view, const packet_source *source,
    uint8_t *data, uint32_t length
) noexcept nogil:
    """One datagram of those that the kernel may have joined: keepalive, IKE or ESP (RFC 3948 section 2)."""
    cdef uint32_t spi_be
    cdef uint8_t tos = <uint8_t>view.tos if view.tos >= 0 else 0
    if length == 1 and data[0] == KEEPALIVE_BYTE:
        w.counters.value[C_KEEPALIVES_IN] += 1
        return
    if length < 8:
        drop(w, NULL, VERDICT_RUNT)
        return
    memcpy(&spi_be, data, 4)
    if spi_be == 0:
        if length < 4 + IKE_HEADER_BYTES:
            drop(w, NULL, VERDICT_RUNT)
            return
        punt(w, index, message, view, data + 4, length - 4)
        return
    if w.count > 1 and spi_number(spi_be) % w.count != w.index:
        if not hand_over_inbound(w, <uint32_t>spi_number(spi_be), source, tos, data, length):
            drop(w, NULL, VERDICT_HANDOVER_FULL)
        return
    if not take_known(w, tables, data, length, tos, source):
        take_esp(w, tables, data, length, tos, source)


cdef inline void prefetch_sas(worker_state *w, const dataplane_tables *tables, uint32_t count, uint32_t size) noexcept nogil:
    """The first datagram of each message stands for those that were joined to it, which are mostly of one SA."""
    cdef uint32_t i, spi_be
    for i in range(count):
        if w.messages[i].msg_len >= 8:
            memcpy(&spi_be, w.receive_memory + i * size, 4)
            sad_prefetch_spi(tables.sad, spi_be, PROTOCOL_ESP)


cdef int receive(worker_state *w, udp_port *port, uint32_t count, uint32_t size, uint32_t before, int flags) noexcept nogil:
    """Up to `count` messages, each `before` bytes into a place of `size` bytes. How many came."""
    cdef uint32_t i
    cdef mmsghdr *message
    for i in range(count):
        message = &w.messages[i]
        w.vectors[i].iov_base = w.receive_memory + i * size + before
        w.vectors[i].iov_len = size - before
        message.msg_hdr.msg_iov = &w.vectors[i]
        message.msg_hdr.msg_iovlen = 1
        message.msg_hdr.msg_name = w.names[i]
        message.msg_hdr.msg_namelen = NAME_BYTES
        message.msg_hdr.msg_control = w.controls[i]
        message.msg_hdr.msg_controllen = CONTROL_BYTES
        message.msg_hdr.msg_flags = 0
    w.counters.value[C_UDP_RECEIVES] += 1
    return recvmmsg(port.fd, w.messages, count, MSG_DONTWAIT | flags, NULL)


cdef void udp_turn(worker_state *w, dataplane_tables *tables, uint32_t index) noexcept nogil:
    cdef udp_port *port = w.ports[index]
    cdef uint32_t count = GRO_MESSAGES if port.udp_gro else PLAIN_MESSAGES, i, at, length, segment
    cdef uint32_t size = GRO_BYTES if port.udp_gro else PLAIN_BYTES
    cdef int got = receive(w, port, count, size, 0, 0)
    cdef mmsghdr *message
    cdef control_view view
    cdef uint8_t *data
    if got <= 0:
        return
    prefetch_sas(w, tables, <uint32_t>got, size)
    for i in range(<uint32_t>got):
        message = &w.messages[i]
        length = message.msg_len
        data = w.receive_memory + i * size
        w.counters.value[C_UDP_MESSAGES_IN] += 1
        w.counters.value[C_UDP_BYTES_IN] += length
        if message.msg_hdr.msg_flags & MSG_TRUNC:
            w.counters.value[C_UDP_TRUNCATED] += 1
            continue
        control_read(&message.msg_hdr, &view)
        fill_source(w, index, message, &w.sources[i])
        segment = view.segment if view.segment > 0 else length
        if length == 0:
            w.counters.value[C_UDP_EMPTY] += 1
        at = 0
        while at < length:
            handle_datagram(w, tables, index, message, &view, &w.sources[i], data + at, min(segment, length - at))
            at += segment
    open_batch(w)
    merge_flush(&w.merge)
