"""ESP that comes before its SA does: held a moment, opened when the tables have the SA. Included by worker.pyx.

A responder may send on a new SA as soon as its response has left; the packets are here while control still works on that response
(RFC 7296 section 2.8 lets it). What nobody asks for within HOLD_NS is dropped and counted as any other. Anybody can send such datagrams: there is
room for HOLD_BYTES and HOLD_PACKETS of them, whoever comes later is dropped as before, and looking through them costs the same few us each 2 ms.
"""

cdef enum:
    HOLD_BYTES = 512 * 1024
    HOLD_PACKETS = 1024
    HOLD_POLL_MS = 2         # while something is held the worker looks so often whether its SA has come

cdef uint64_t HOLD_NS = 200000000
cdef uint64_t HOLD_LOOK_NS = HOLD_POLL_MS * 1000000

# stands before each held datagram, at a multiple of 8; spi_be is 0 once it has been opened
cdef struct held_head:
    uint64_t at_ns
    uint32_t spi_be
    uint32_t length
    uint8_t tos
    packet_source source


cdef inline uint32_t held_size(uint32_t length) noexcept nogil:
    return <uint32_t>(sizeof(held_head) + length + 7) & ~<uint32_t>7


cdef bint hold(
    worker_state *w, const packet_source *source, uint8_t tos, uint32_t spi_be, const uint8_t *data, uint32_t length
) noexcept nogil:
    """A copy of the datagram, where there is room."""
    cdef held_head *head
    if held_size(length) > HOLD_BYTES - w.held_bytes or w.held_count == HOLD_PACKETS:
        return False
    head = <held_head *>(w.held + w.held_bytes)
    memset(head, 0, sizeof(held_head))
    head.at_ns = w.now_ns
    head.spi_be = spi_be
    head.length = length
    head.tos = tos
    head.source = source[0]
    memcpy(<uint8_t *>head + sizeof(held_head), data, length)
    w.held_bytes += held_size(length)
    w.held_count += 1
    w.counters.value[C_HELD] += 1
    return True


cdef void open_held(worker_state *w, dataplane_tables *tables) noexcept nogil:
    """In the order of their arrival, and before anything that arrives now."""
    cdef uint32_t at = 0, seq_be
    cdef held_head *head
    cdef esp_packet *packet
    cdef esp_sa *sa
    while at < w.held_bytes:
        head = <held_head *>(w.held + at)
        at += held_size(head.length)
        sa = find_sa(tables, head.spi_be)
        if sa is NULL:
            continue
        if w.in_count == IN_PACKETS:
            open_batch(w)
        packet = &w.in_packets[w.in_count]
        packet.sa = sa
        packet.data = <uint8_t *>head + sizeof(held_head)
        packet.length = head.length
        w.in_tos[w.in_count] = head.tos
        w.in_from[w.in_count] = &head.source
        memcpy(&seq_be, packet.data + 4, 4)
        w.in_seqs[w.in_count] = <uint32_t>spi_number(seq_be)
        w.in_count += 1
        head.spi_be = 0
        w.counters.value[C_HELD_OPENED] += 1
    open_batch(w)
    merge_flush(&w.merge)


cdef void forget_held(worker_state *w, uint64_t older_than_ns) noexcept nogil:
    """Drops what has waited in vain, and closes the gaps."""
    cdef uint32_t at = 0, kept = 0, size
    cdef held_head *head
    while at < w.held_bytes:
        head = <held_head *>(w.held + at)
        size = held_size(head.length)
        if head.spi_be != 0 and head.at_ns >= older_than_ns:
            memmove(w.held + kept, head, size)
            kept += size
            at += size
            continue
        w.held_count -= 1
        if head.spi_be != 0:
            drop(w, NULL, VERDICT_UNKNOWN_SPI)
            tell_unknown_spi(w, spi_number(head.spi_be), head.source.version, <const uint8_t *>head.source.address)
        at += size
    w.held_bytes = kept


cdef void look_for_held(worker_state *w, dataplane_tables *tables) noexcept nogil:
    """With new tables, and now and then: so that a flood of strangers costs the SAs that there are next to nothing."""
    if tables is w.held_tables and w.now_ns - w.held_looked_ns < HOLD_LOOK_NS:
        return
    w.held_tables, w.held_looked_ns = tables, w.now_ns
    open_held(w, tables)
    forget_held(w, w.now_ns - HOLD_NS)
