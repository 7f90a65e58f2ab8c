"""Out: packets of the TUN matched, clamped, answered or cut, and into the slots of the queue. Included by worker.pyx."""


cdef void flush_queue(tx_queue *queue) noexcept nogil:
    cdef worker_state *w = <worker_state *>queue.owner
    tx_send(queue, w.ports, w.port_count, w.stop_fd)


cdef void answer(worker_state *w, const uint8_t *packet, const ip_info *info, uint32_t wire_length, uint32_t mtu) noexcept nogil:
    cdef uint8_t out[ANSWER_BYTES]
    cdef uint64_t earned = (w.now_ns - w.answers_at_ns) * ANSWERS_PER_S // SECOND_NS
    cdef uint32_t length = 0
    if earned:
        w.answers_left = min(<uint64_t>ANSWERS_BURST, w.answers_left + earned)
        w.answers_at_ns = w.now_ns
    if w.answers_left and not (info.version == 6 and wire_length <= LEAST_MTU_V6):
        length = answer_too_big(out, packet, info, wire_length, mtu)
    if length == 0:
        w.counters.value[C_TOO_BIG_UNANSWERED] += 1
        return
    w.answers_left -= 1
    w.counters.value[C_TOO_BIG_ANSWERED] += 1
    write_single(&w.merge, out, length)


cdef inline uint8_t segment(segment_target *target, const vnet_header *vnet, const uint8_t *packet, const ip_info *info) noexcept nogil:
    if vnet.gso_type != VNET_GSO_NONE:
        return segment_super(target, vnet, packet, info)
    return segment_single(target, vnet, packet, info)


cdef uint8_t send_too_big(
    worker_state *w, segment_target *target, const vnet_header *vnet, uint8_t *packet, const ip_info *info,
    uint32_t wire_length, uint32_t mtu,
) noexcept nogil:
    if info.version == 6 and wire_length <= LEAST_MTU_V6 and target.to.cut is not NULL:
        target.to = target.to.cut
        return segment(target, vnet, packet, info)
    if info.dont_fragment:
        answer(w, packet, info, wire_length, mtu)
        return VERDICT_PMTU_EXCEEDED
    w.counters.value[C_FRAGMENTED] += 1
    return segment_fragmented(target, vnet, packet, info, mtu, w.scratch)


cdef uint8_t send_protected(
    worker_state *w, esp_sa *sa, const vnet_header *vnet, uint8_t *packet, const ip_info *info
) noexcept nogil:
    cdef segment_target target
    cdef uint32_t largest = info.total_length, header, mtu = load_u16(&sa.max_inner)
    cdef uint16_t mss
    target.queue = &w.queue
    target.sa = sa
    target.to = <udp_endpoint *>atomic_get_pointer(&sa.endpoint)
    tell_of_outbound(w, sa)
    if vnet.gso_type != VNET_GSO_NONE:
        header = segment_header_length(vnet, packet, info)
        if header == 0:
            return VERDICT_BAD_INNER
        largest = min(largest, header + vnet.gso_size)
    else:
        mss = load_u16(&sa.mss_ipv4 if info.version == 4 else &sa.mss_ipv6)
        if mss:
            count_clamp(w, clamp_mss(packet, info, mss, vnet.flags & VNET_NEEDS_CSUM))
    if mtu and largest > mtu:
        return send_too_big(w, &target, vnet, packet, info, largest, mtu)
    return segment(&target, vnet, packet, info)


cdef inline void handle_from_tun(
    worker_state *w, dataplane_tables *tables, const vnet_header *vnet, uint8_t *packet, uint32_t length, uint8_t hops
) noexcept nogil:
    cdef ip_info info
    cdef flow_key key
    cdef policy_row *row
    cdef uint8_t verdict = VERDICT_OK
    if ip_parse(packet, length, &info) != IP_OK:
        drop(w, NULL, VERDICT_BAD_INNER)
        return
    if info.is_fragment:
        row = track_outbound(w.track_out, tables, w.cache, packet, &info, w.now_ns, &verdict)
        if verdict != VERDICT_OK:
            drop(w, NULL, verdict)
            return
    else:
        make_flow_key(&key, &info)
        row = find_policy(tables, w.cache, &key)
    if row is NULL or row.action != POLICY_PROTECT:
        if row is not NULL and row.action == POLICY_BYPASS:
            w.counters.value[C_BYPASS_NOT_ROUTABLE] += 1
        else:
            drop(w, NULL, VERDICT_POLICY_DISCARD)
        return
    if row.owner != w.index and row.owner != OWNER_ANY:
        if not hand_over_outbound(w, row.owner, hops, vnet, packet, length):
            drop(w, NULL, VERDICT_HANDOVER_FULL)
        return
    if row.sa is NULL:
        drop(w, NULL, VERDICT_POLICY_NO_SA)
        tell_no_sa(w, tables, row, &info)
        return
    verdict = send_protected(w, row.sa, vnet, packet, &info)
    if verdict == VERDICT_OK:
        w.counters.value[C_BYTES_OUT] += info.total_length
        if row.sa.seq < load_u64(&row.sa.granted) and row.sa.seq < row.sa.hard_limit:  # what is dropped keeps no NAT mapping alive
            row.sa.last_use_ns = w.now_ns
            if info.total_length > BIG_BYTES and info.protocol != ICMP and info.protocol != ICMPV6:  # or answers to probes would cause probes
                note_big(w, row.sa)
    else:
        drop(w, row.sa, verdict)
        last_drop_clear(row.sa, verdict, w.now_ns, <uint32_t>row.sa.seq, packet, length)


cdef void inner_failed(worker_state *w, bint broken) noexcept nogil:
    """After the loss of a TUN device, resume_inner is needed; the interface of a packet socket may come up again by itself."""
    if errno == EAGAIN or errno == EINTR:
        return
    if w.tun.header_bytes and errno != EBADF:
        if errno == ENETDOWN and w.tun.down == INNER_UP:
            w.tun.down = INNER_DOWN_SEEN
    elif broken:
        w.tun_fd = -1
        tell(w, TUN_LOST, 0)


cdef void tun_turn(worker_state *w, dataplane_tables *tables, bint broken) noexcept nogil:
    cdef int i, stripped
    cdef long got
    cdef uint32_t before = VNET_BYTES + w.tun.header_bytes
    cdef uint8_t *frame = w.read_buffer + PACKET_AT - before
    for i in range(TUN_READS):
        got = read(w.tun_fd, frame, 65535 + before)
        w.counters.value[C_TUN_READS] += 1
        if got < 0:
            inner_failed(w, broken)
            break
        if w.tun.header_bytes:
            w.tun.down = INNER_UP
            stripped = inner_strip(w.tun, frame, got)
            if stripped != STRIP_PACKET:
                w.counters.value[C_INNER_REFUSED] += stripped == STRIP_REFUSED
                continue
        if got <= before:
            break
        w.counters.value[C_TUN_READ_BYTES] += got - before
        handle_from_tun(w, tables, <const vnet_header *>frame, frame + before, <uint32_t>(got - before), 0)
        if w.queue.bytes >= FLUSH_BYTES:
            flush_queue(&w.queue)
    if w.queue.used:
        flush_queue(&w.queue)
