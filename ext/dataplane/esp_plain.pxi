"""The commonest packets of a batch, by runs of one SA: fields of the SA are read once a run, its counters written once. Included by esp.pyx.

A run ends at the first packet that is in any way out of the ordinary: it, and its verdict, are left to prepare_outbound, prepare_inbound and
finish_inbound, which know every case. What these save is a third of what is not the cipher's (docs/performance.md).
"""


cdef inline bint is_plain_outbound(const esp_batch_ctx *ctx, const esp_sa *sa) noexcept nogil:
    """The commonest outbound SA: tunnel mode, the number as IV in the packet behind a salt of four bytes (GCM, GMAC, ChaCha20, CTR), no TFC padding."""
    return (
        sa != NULL and sa.protocol == PROTOCOL_ESP and sa.direction == SA_OUTBOUND and sa.mode == MODE_TUNNEL and sa.iv_kind == IV_SEQUENCE
        and sa.iv_length == 8 and sa.salt_length == 4 and sa.align == 4 and sa.tfc == 0 and ctx.test_iv == NULL
    )


cdef uint32_t prepare_plain_outbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n, uint32_t first, uint32_t used) noexcept nogil:
    """What prepare_outbound does, for the packets of one plain SA that stand together: its fields are read once, its counters written once. Gives how many
    from `first` on are laid out; the first that is in any way out of the ordinary, and its verdict, are left to prepare_outbound."""
    cdef esp_sa *sa = packets[first].sa
    cdef uint32_t i = first, length, sealed, front, around
    cdef uint64_t seq, last, used_bytes, hard_bytes
    cdef uint8_t *payload
    cdef uint8_t *esp
    cdef uint8_t next_header
    cdef esp_packet *packet
    cdef crypto_op *op
    if not is_plain_outbound(ctx, sa):
        return 0
    front, around = sa.outer_length, <uint32_t> sa.outer_length + 16 + sa.icv_length
    seq, used_bytes, hard_bytes = sa.seq, sa.bytes, sa.hard_bytes
    last = load_u64(&sa.granted)
    if last > sa.hard_limit:
        last = sa.hard_limit
    while i < n and packets[i].sa == sa:
        packet, op = &packets[i], &ctx.ops[used]
        payload, length = packet.data, packet.length
        next_header = inner_next_header(payload, length)
        sealed = (length + 5) & ~<uint32_t> 3
        if next_header == 0 or length > MAX_PACKET or around + sealed > MAX_PACKET or seq >= last or length > hard_bytes - used_bytes:
            break
        seq += 1
        used_bytes += length
        esp = payload - 16
        memcpy(payload + length, esp_padding_bytes, 4)
        payload[sealed - 2] = <uint8_t> (sealed - 2 - length)
        payload[sealed - 1] = next_header
        packet.next_header = next_header
        packet.verdict = VERDICT_OK
        packet.data = esp - front
        packet.length = around + sealed
        if front:
            write_outer(sa, packet.data, around + sealed, payload)
        memcpy(esp, &sa.spi_be, 4)
        store_be32(esp + 4, <uint32_t> seq)
        store_be64(esp + 8, seq)
        memcpy(op.nonce, sa.salt, 4)
        store_be64(op.nonce + 4, seq)
        op.key = sa.key
        op.data = payload
        op.length = sealed
        op.icv = payload + sealed
        op.aad = esp
        op.aad_length = 8
        op.tail_length = 0
        authenticate(sa, op, esp, sealed, seq)
        op.index = i
        ctx.suites[used] = sa.suite
        ctx.inner_lengths[used] = length
        used += 1
        i += 1
    store_u64(&sa.seq, seq)
    store_u64(&sa.bytes, used_bytes)
    return i - first


cdef inline bint is_plain_inbound(const esp_sa *sa) noexcept nogil:
    return (
        sa != NULL and sa.protocol == PROTOCOL_ESP and sa.direction == SA_INBOUND and sa.mode == MODE_TUNNEL and sa.iv_kind == IV_SEQUENCE
        and sa.iv_length == 8 and sa.salt_length == 4 and sa.align == 4
    )


cdef uint32_t prepare_plain_inbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n, uint32_t first, uint32_t used) noexcept nogil:
    """What prepare_inbound does, for the packets of one plain SA that stand together; as prepare_plain_outbound."""
    cdef esp_sa *sa = packets[first].sa
    cdef replay_window *window
    cdef uint32_t i = first, length, sealed, around, low, spi_be = 0, left = CHUNK
    cdef uint64_t seq, ahead = 0
    cdef uint8_t *esp
    cdef bint has_outer, esn
    cdef esp_packet *packet
    cdef crypto_op *op
    if not is_plain_inbound(sa):
        return 0
    window, around, has_outer, esn = <replay_window *> sa.window, <uint32_t> 16 + sa.icv_length, sa.outer_length != 0, sa.esn
    if esn:
        if window.failed + window.pending >= REPLAY_RESYNC_AFTER:
            return 0
        left = REPLAY_RESYNC_AFTER - window.failed - window.pending
        ahead = window.ahead if window.pending else window.top
    while i < n and left and packets[i].sa == sa:
        packet, op = &packets[i], &ctx.ops[used]
        esp, length = packet.data, packet.length
        if has_outer and strip_outer(sa, packet, &esp, &length, &ctx.outers[used]) != VERDICT_OK:
            break
        sealed = length - around
        if length > MAX_PACKET or length < around + 2 or sealed & 3:
            break
        memcpy(&spi_be, esp, 4)
        seq = low = load_be32(esp + 4)
        if esn:
            seq = replay_infer_esn(window, low)
            if seq + window.size <= ahead:  # as replay_join: its number hangs on what comes before it
                break
            if seq > ahead:
                ahead = seq
        if spi_be != sa.spi_be or replay_check(window, seq) != REPLAY_NEW:
            break
        ctx.lows[i] = low
        ctx.seqs[used] = seq
        ctx.again_at[used] = 0
        memcpy(op.nonce, sa.salt, 4)
        memcpy(op.nonce + 4, esp + 8, 8)
        op.key = sa.key
        op.data = esp + 16
        op.length = sealed
        op.icv = op.data + sealed
        op.aad = esp
        op.aad_length = 8
        op.tail_length = 0
        authenticate(sa, op, esp, sealed, seq)
        op.index = i
        ctx.suites[used] = sa.suite
        packet.verdict = VERDICT_OK
        used += 1
        i += 1
        left -= 1
    if esn:
        window.pending += i - first
        window.ahead = ahead
    return i - first


cdef uint32_t finish_plain_inbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n, uint32_t first, uint32_t slot, uint32_t used) noexcept nogil:
    """What finish_inbound does, for the authentic packets of one plain SA that stand together. Everything is checked before the window moves, so that
    accept_inbound finds as it was whatever is left to it."""
    cdef esp_sa *sa = packets[first].sa
    cdef replay_window *window
    cdef uint32_t i = first, room = 0, inner_length = 0
    cdef uint64_t counted, counted_bytes, hard_bytes
    cdef bint has_outer, esn
    cdef esp_packet *packet
    cdef crypto_op *op
    if not is_plain_inbound(sa):
        return 0
    window, has_outer, esn = <replay_window *> sa.window, sa.outer_length != 0, sa.esn
    counted, counted_bytes, hard_bytes = sa.packets, sa.bytes, sa.hard_bytes
    while i < n and slot < used and packets[i].sa == sa:
        packet, op = &packets[i], &ctx.ops[slot]
        if op.index != i or not op.ok or (esn and replay_infer_esn(window, ctx.lows[i]) != ctx.seqs[slot]):
            break
        if esp_check_padding(op.data, op.length, &packet.next_header, &room) != ESP_TRAILER_OK:
            break
        if esp_check_inner(op.data, room, packet.next_header, &inner_length) != ESP_TRAILER_OK:
            break
        if counted >= sa.hard_limit or inner_length > hard_bytes - counted_bytes:
            break
        if has_outer and mark_inner(sa, op.data, ctx.outers[slot].tos) != VERDICT_OK:
            break
        if replay_advance(window, ctx.seqs[slot]) != REPLAY_NEW:
            break
        packet.data = op.data
        packet.length = inner_length
        counted += 1
        counted_bytes += inner_length
        slot += 1
        i += 1
    store_u64(&sa.packets, counted)
    store_u64(&sa.bytes, counted_bytes)
    if esn:
        replay_settle(window)
    return i - first
