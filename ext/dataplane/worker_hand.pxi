"""Handoff between workers: a packet for an SA of another worker is put into that worker's ring. Included by worker.pyx.

One worker numbers and sends on an SA and owns its window (ARCHITECTURE.md, rule 1). So a packet that the kernel gave to another
worker goes to the owner, whole and unsealed, or still sealed. The owner of an inbound SA is its SPI modulo the number of workers,
which every worker and the kernel (system/steering) know without a table. The policy names the owner of an outbound SA. Each pair
of workers has its own ring, so packets of a flow are handed off in the order in which they were read. A full ring is a counted
drop.
"""

cdef enum:
    HAND_OUT = 0             # an inner packet
    HAND_IN = 1              # an ESP packet
    HAND_AH = 2              # an IP packet with AH, which covers its header
    HAND_HOPS = 3            # while tables change two workers may each take the other for the owner
    HAND_BYTES = 1 << 21     # of one ring

cdef struct hand_head:
    uint8_t kind
    uint8_t hops
    uint8_t tos
    packet_source source     # HAND_IN, HAND_AH
    vnet_header vnet         # HAND_OUT
    uint16_t at              # HAND_AH: where AH begins


cdef inline bint hand_over(worker_state *w, uint32_t owner, hand_head *head, const void *data, uint32_t length) noexcept nogil:
    """False: no room, or there is no such worker."""
    if owner >= w.count or w.hand_to[owner] is NULL or not ring_put(w.hand_to[owner], head, sizeof(hand_head), data, length):
        return False
    w.hand_wake[owner] = 1
    w.counters.value[C_HANDED_OVER] += 1
    return True


cdef bint hand_over_outbound(
    worker_state *w, uint32_t owner, uint8_t hops, const vnet_header *vnet, const uint8_t *packet, uint32_t length
) noexcept nogil:
    cdef hand_head head
    memset(&head, 0, sizeof(head))
    head.kind, head.hops, head.vnet = HAND_OUT, <uint8_t>(hops + 1), vnet[0]
    return hops < HAND_HOPS and hand_over(w, owner, &head, packet, length)


cdef bint hand_over_inbound(
    worker_state *w, uint32_t spi, const packet_source *source, uint8_t tos, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef hand_head head
    memset(&head, 0, sizeof(head))
    head.kind, head.tos = HAND_IN, tos
    head.source = source[0]
    return hand_over(w, spi % w.count, &head, data, length)


cdef bint hand_over_ah(
    worker_state *w, uint32_t spi, const packet_source *source, const uint8_t *data, uint32_t length, const uint8_t *ah
) noexcept nogil:
    cdef hand_head head
    memset(&head, 0, sizeof(head))
    head.kind, head.at = HAND_AH, <uint16_t>(ah - data)
    head.source = source[0]
    return hand_over(w, spi % w.count, &head, data, length)


cdef void wake_owners(worker_state *w) noexcept nogil:
    """Once a turn, whoever was handed something in it."""
    cdef uint32_t i
    for i in range(w.count):
        if w.hand_wake[i]:
            w.hand_wake[i] = 0
            ring_wake(w.hand_to[i])


cdef void take_over(worker_state *w, dataplane_tables *tables, uint8_t *record, uint32_t length) noexcept nogil:
    cdef hand_head *head = <hand_head *>record
    cdef uint8_t *data = record + sizeof(hand_head)
    w.counters.value[C_TAKEN_OVER] += 1
    length -= sizeof(hand_head)
    if head.kind == HAND_IN:
        take_esp(w, tables, data, length, head.tos, &head.source)
        return
    if head.kind == HAND_AH:
        take_ah(w, tables, data, length, data + head.at, &head.source)
        return
    handle_from_tun(w, tables, &head.vnet, data, length, head.hops)
    if w.queue.bytes >= FLUSH_BYTES:
        flush_queue(&w.queue)


cdef void hand_turn(worker_state *w, dataplane_tables *tables) noexcept nogil:
    """What others handed to us. A record is let go of when its packet has left or was written: until then it lies in the ring."""
    cdef uint64_t at, woken
    cdef uint32_t i, length = 0
    cdef uint8_t *record
    read(w.hand_fd, &woken, sizeof(woken))
    for i in range(w.count):
        if w.hand_from[i] is NULL:
            continue
        at = w.hand_from[i].read_at
        while True:
            record = ring_next(w.hand_from[i], &at, &length)
            if record is NULL:
                break
            take_over(w, tables, record, length)
        open_batch(w)
        merge_flush(&w.merge)
        if w.queue.used:
            flush_queue(&w.queue)
        ring_release(w.hand_from[i], at)
