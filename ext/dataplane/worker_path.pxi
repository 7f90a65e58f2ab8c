"""What concerns the MTU of a path: ICMP errors of our sockets, echoes that control sends through an SA, and their answers. Included by worker.pyx.

As long as a socket's error queue holds something poll says POLLERR, so the queue is emptied before the socket is read: an error that is pending without an
entry in the queue is then taken by that read, and the loop cannot spin. What a router quotes of a packet need not be more than 8 bytes; the
kernel gives what stood behind the UDP header, or all from the IP header on (raw sockets). Whether it is believed, control decides (control/path_learning).
"""

cdef enum:
    ICMP = 1
    ICMPV6 = 58
    ECHO_REPLY = 0
    ECHO_REPLY_V6 = 129
    ERROR_TURNS = 4          # of PLAIN_MESSAGES each; the rest at the next poll


cdef inline uint32_t load_number(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline bint is_own_echo(worker_state *w, const uint8_t *packet, const ip_info *info) noexcept nogil:
    """An answer to an echo that control made: whole, or the first fragment of one."""
    cdef const uint8_t *upper = packet + info.header_length
    if info.fragment_offset or info.total_length < <uint32_t>info.header_length + 20:
        return False
    return upper[0] == (ECHO_REPLY if info.version == 4 else ECHO_REPLY_V6) and memcmp(upper + 8, w.cookie, 8) == 0


cdef inline uint32_t skip_quoted_header(const udp_port *port, const uint8_t *data, uint32_t length) noexcept nogil:
    """Where ESP starts in what a raw socket's error quotes; `length` where it does not."""
    cdef uint32_t header = 40
    if not port.raw or length < 20:
        return length if port.raw else 0
    if port.family == AF_INET:
        header = (data[0] & 15) * 4
        return header if data[0] >> 4 == 4 and header >= 20 and data[9] == PROTOCOL_ESP else length
    return header if data[0] >> 4 == 6 and data[6] == PROTOCOL_ESP else length


cdef void tell_too_big(worker_state *w, uint32_t index, mmsghdr *message, const uint8_t *data, uint32_t mtu) noexcept nogil:
    cdef notice_record record
    cdef uint32_t at = skip_quoted_header(w.ports[index], data, message.msg_len)
    cdef uint64_t earned = (w.now_ns - w.errors_at_ns) * TOLD_ERRORS_PER_S // SECOND_NS
    if earned:
        w.errors_left = min(<uint64_t>TOLD_ERRORS_BURST, w.errors_left + earned)
        w.errors_at_ns = w.now_ns
    memset(&record, 0, sizeof(record))
    record.kind = TOO_BIG
    record.size = mtu
    record.remote_version = copy_sender(w, index, message, record.remote)
    if at + 8 <= message.msg_len:
        record.value = load_number(data + at)
        record.number = load_number(data + at + 4)
    if w.errors_left and ring_push(w.notify, &record, sizeof(record), NULL, 0):
        w.errors_left -= 1
    else:
        w.counters.value[C_ICMP_TOO_BIG_UNTOLD] += 1


cdef void drain_errors(worker_state *w, uint32_t index) noexcept nogil:
    cdef error_view view
    cdef uint32_t turn, i
    cdef int got
    for turn in range(ERROR_TURNS):
        got = receive(w, w.ports[index], PLAIN_MESSAGES, PLAIN_BYTES, 0, MSG_ERRQUEUE)
        if got <= 0:
            return
        for i in range(<uint32_t>got):
            error_read(&w.messages[i].msg_hdr, &view)
            if view.too_big:
                w.counters.value[C_ICMP_TOO_BIG] += 1
                tell_too_big(w, index, &w.messages[i], w.receive_memory + i * PLAIN_BYTES, view.mtu)
            elif view.icmp:
                w.counters.value[C_ICMP_OTHER] += 1


cdef esp_sa *outbound_with_tag(worker_state *w, dataplane_tables *tables, uint64_t tag) noexcept nogil:
    """Of this worker: what another one owns it alone numbers."""
    cdef uint32_t i
    cdef policy_row *row
    for i in range(tables.policy_count):
        row = &tables.policies[i]
        if row.sa is not NULL and row.sa.tag == tag and (row.owner == w.index or row.owner == OWNER_ANY):
            return row.sa
    return NULL


cdef void inject_turn(worker_state *w, dataplane_tables *tables) noexcept nogil:
    """Packets of control leave on their SA like those from the TUN, but as large as they are: they are to find out what passes."""
    cdef uint64_t tag, count
    cdef uint8_t *packet = w.read_buffer + PACKET_AT
    cdef uint32_t length
    cdef vnet_header vnet
    cdef segment_target target
    cdef ip_info info
    memset(&vnet, 0, sizeof(vnet))
    target.queue = &w.queue
    read(w.inject.wake_fd, &count, 8)
    while True:
        length = ring_pop(w.inject, packet - 8, 65535)
        if length == 0:
            break
        memcpy(&tag, packet - 8, 8)
        target.sa = outbound_with_tag(w, tables, tag)
        if length <= 8 or target.sa is NULL or ip_parse(packet, length - 8, &info) != IP_OK:
            w.counters.value[C_PROBES_UNSENT] += 1
            continue
        target.to = <udp_endpoint *>atomic_get_pointer(&target.sa.endpoint)
        tell_of_outbound(w, target.sa)
        if segment_single(&target, &vnet, packet, &info) == VERDICT_OK:
            w.queue.slots[w.queue.used - 1].closed = True  # a send of its own: what is lost of it says nothing of the next one
            w.counters.value[C_PROBES_SENT] += 1
        else:
            w.counters.value[C_PROBES_UNSENT] += 1
    if w.queue.used:
        flush_queue(&w.queue)
