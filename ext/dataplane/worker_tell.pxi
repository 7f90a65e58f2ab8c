"""What a worker reports to control by the notify ring: lifetimes, grants, SPIs and policies without an SA, a peer that moved.

Counts drops too. Included by worker.pyx.
"""


cdef bint tell(worker_state *w, uint8_t kind, uint64_t value) noexcept nogil:
    cdef notice_record record
    memset(&record, 0, sizeof(record))
    record.kind = kind
    record.value = value
    if ring_push(w.notify, &record, sizeof(record), NULL, 0):
        return True
    w.counters.value[C_NOTICE_OVERFLOW] += 1
    return False


cdef bint tell_more(worker_state *w, uint8_t kind, uint64_t value, uint32_t number, uint32_t size) noexcept nogil:
    cdef notice_record record
    memset(&record, 0, sizeof(record))
    record.kind = kind
    record.value = value
    record.number = number
    record.size = size
    if ring_push(w.notify, &record, sizeof(record), NULL, 0):
        return True
    w.counters.value[C_NOTICE_OVERFLOW] += 1
    return False


cdef inline void note_big(worker_state *w, esp_sa *sa) noexcept nogil:
    """Control looks closely only at SAs that carry big packets (ICMP is none); it is told of the first one after a second without."""
    if w.now_ns - sa.big_at_ns > SECOND_NS:
        tell(w, BIG_SENT, sa.tag)
    store_u64(&sa.big_at_ns, w.now_ns)


cdef inline uint8_t copy_sender(worker_state *w, uint32_t index, mmsghdr *message, uint8_t *address) noexcept nogil:
    """The address that a message of a socket came from, and its version."""
    cdef uint8_t *name = <uint8_t *>message.msg_hdr.msg_name
    memset(address, 0, 16)
    if w.ports[index].family == AF_INET:
        memcpy(address, name + 4, 4)
        return 4
    memcpy(address, name + 8, 16)
    return 6


cdef inline void fill_source(worker_state *w, uint32_t index, mmsghdr *message, packet_source *source) noexcept nogil:
    """Where a message of a socket came from."""
    cdef const uint8_t *name = <const uint8_t *>message.msg_hdr.msg_name
    source.version = copy_sender(w, index, message, <uint8_t *>source.address)
    source.port = 0 if w.ports[index].raw else <uint16_t>(name[2] << 8 | name[3])


cdef inline bint is_same_source(const packet_source *one, const packet_source *other) noexcept nogil:
    return one.port == other.port and memcmp(one.address, other.address, 16) == 0


cdef void record_source(esp_sa *sa, const packet_source *source, uint64_t at_ns, bint away) noexcept nogil:
    cdef source_record record
    memset(&record, 0, sizeof(record))
    record.at_ns, record.port, record.version, record.away = at_ns, source.port, source.version, away
    memcpy(record.address, source.address, 16)
    record_write(<uint64_t *>&sa.source, <const uint64_t *>&record, sizeof(record) // 8)


cdef inline void note_source(worker_state *w, esp_sa *sa, const packet_source *source, uint32_t seq) noexcept nogil:
    """After the ICV: the newest packet of this SA says where its peer is (RFC 7296 section 2.23). An older one says nothing, because anybody may have
    kept it and sent it from elsewhere. The worker reports once, until control asks for the next report, and control then reads the newest source."""
    cdef const udp_endpoint *known = <const udp_endpoint *>atomic_get_pointer(&sa.endpoint)
    if known is NULL or source.port == 0 or seq != <uint32_t>load_u64(&(<replay_window *>sa.window).top):
        return
    if source.version == known.peer.version and is_same_source(source, &known.peer):
        if sa.source.away:
            record_source(sa, source, w.now_ns, False)
        else:
            store_u64(&sa.source.at_ns, w.now_ns)
        return
    if sa.source.away and sa.source.port == source.port and memcmp(sa.source.address, source.address, 16) == 0:
        store_u64(&sa.source.at_ns, w.now_ns)
    else:
        record_source(sa, source, w.now_ns, True)
    if atomic_get_int_fenced(&sa.source_told) == 0 and tell(w, PEER_MOVED, sa.tag):
        atomic_set_int_fenced(&sa.source_told, 1)


cdef void tell_unknown_spi(worker_state *w, uint64_t spi, uint8_t remote_version, const uint8_t *remote) noexcept nogil:
    """At most once a second; with the sender's address, where control may know it."""
    cdef notice_record record
    if w.unknown_told_ns and w.now_ns - w.unknown_told_ns < SECOND_NS:
        return
    w.unknown_told_ns = w.now_ns
    memset(&record, 0, sizeof(record))
    record.kind = UNKNOWN_SPI
    record.value = spi
    record.remote_version = remote_version
    memcpy(record.remote, remote, 16)
    if not ring_push(w.notify, &record, sizeof(record), NULL, 0):
        w.counters.value[C_NOTICE_OVERFLOW] += 1


cdef inline uint64_t spi_number(uint32_t spi_be) noexcept nogil:
    cdef const uint8_t *at = <const uint8_t *>&spi_be
    return <uint64_t>at[0] << 24 | <uint64_t>at[1] << 16 | <uint64_t>at[2] << 8 | at[3]


cdef bint tell_of_sa(worker_state *w, uint8_t kind, esp_sa *sa) noexcept nogil:
    """The notice has the tag that control gave the SA, because several peers may choose the same outbound SPI."""
    cdef notice_record record
    memset(&record, 0, sizeof(record))
    record.kind = kind
    record.value = spi_number(sa.spi_be)
    record.tag = sa.tag
    if ring_push(w.notify, &record, sizeof(record), NULL, 0):
        return True
    w.counters.value[C_NOTICE_OVERFLOW] += 1
    return False


cdef void tell_once(worker_state *w, esp_sa *sa, uint16_t told, uint8_t kind) noexcept nogil:
    if not sa.flags & told and tell_of_sa(w, kind, sa):
        sa.flags |= told


cdef inline void tell_of_outbound(worker_state *w, esp_sa *sa) noexcept nogil:
    """Lifetime and grant of an SA that is in use; each is told once (a new grant: again)."""
    cdef uint64_t granted
    if sa.seq >= load_u64(&sa.grant_ask):
        granted = load_u64(&sa.granted)
        if granted < sa.hard_limit and <uint64_t>sa.user != granted + 1 and tell_of_sa(w, GRANT_WANTED, sa):
            sa.user = <void *>(granted + 1)
    if sa.seq >= sa.soft_limit or sa.bytes >= sa.soft_bytes:
        tell_once(w, sa, TOLD_REKEY, REKEY_SOON)
    if sa.seq >= sa.hard_limit:
        tell_once(w, sa, TOLD_EXHAUSTED, SEQ_EXHAUSTED if sa.hard_limit == esp_last_number(sa) else LIFE_OVER)


cdef inline void tell_of_inbound(worker_state *w, esp_sa *sa, uint8_t verdict) noexcept nogil:
    if not sa.flags & TOLD_FIRST:
        tell_once(w, sa, TOLD_FIRST, FIRST_INBOUND)
    if sa.packets >= sa.soft_limit or sa.bytes >= sa.soft_bytes:
        tell_once(w, sa, TOLD_REKEY, IN_REKEY_SOON)
    if verdict == VERDICT_LIFETIME:
        tell_once(w, sa, TOLD_EXHAUSTED, IN_LIFE_OVER)


cdef inline void tell_no_sa(worker_state *w, dataplane_tables *tables, policy_row *row, const ip_info *info) noexcept nogil:
    cdef uint64_t *told = &w.no_sa_told_ns[(row - tables.policies) % TOLD_POLICIES]
    if told[0] == 0 or w.now_ns - told[0] >= SECOND_NS:
        told[0] = w.now_ns
        tell_packet(w, row.tag, info)


cdef void tell_packet(worker_state *w, uint64_t tag, const ip_info *info) noexcept nogil:
    """NO_SA, with the packet's addresses, protocol and ports for its selectors (RFC 7296 section 2.9)."""
    cdef notice_record record
    cdef size_t address_bytes = 4 if info.version == 4 else 16
    memset(&record, 0, sizeof(record))
    record.kind = NO_SA
    record.value = tag
    record.remote_version = info.version
    memcpy(record.remote, info.dst, address_bytes)
    memcpy(record.local, info.src, address_bytes)
    record.has_local = True
    record.protocol = info.protocol
    record.has_ports = info.has_ports
    record.number = <uint32_t>info.src_port << 16 | info.dst_port
    if not ring_push(w.notify, &record, sizeof(record), NULL, 0):
        w.counters.value[C_NOTICE_OVERFLOW] += 1


cdef inline void count_clamp(worker_state *w, int result) noexcept nogil:
    if result != MSS_KEPT:
        w.counters.value[C_MSS_CLAMPED if result == MSS_CLAMPED else C_MSS_ODD] += 1


cdef inline void drop(worker_state *w, esp_sa *sa, uint8_t verdict) noexcept nogil:
    """Verdicts of the worker's own; those of the kernels are in the SA already."""
    w.counters.drops[verdict] += 1
    if sa is not NULL:
        count_u64(&sa.drops[verdict], 1)


cdef void drop_inbound(worker_state *w, uint32_t i, uint8_t verdict) noexcept nogil:
    """An opened packet of the batch that is not delivered; its SA remembers its headers."""
    cdef esp_packet *packet = &w.in_packets[i]
    drop(w, packet.sa, verdict)
    last_drop_clear(packet.sa, verdict, w.now_ns, w.in_seqs[i], packet.data, packet.length)
