"""The AH kernels: ah_outbound and ah_inbound (RFC 4302; AES-GMAC as RFC 4543 section 4 and its erratum 3643 have it).

As in esp.pyx, three passes over up to 64 packets. While the ICV is computed the header in front of AH stands as its receiver will know it: mutable
fields zero, predictable ones as at the end (ah_mutable.h); a copy of it is put back afterwards. So the MAC runs over one stretch of memory and
nothing of the payload is copied. The ICV counts as zero; GMAC's IV in front of it is no part of it and counts as it stands, as in the packets of the one
implementation that publishes some (OpenDataPlane). Left out: fragments, UDP (AH has none). Called by: PacketBatch, embedders.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from ipsec_fast.dataplane.engine cimport crypto_op, engine_suite
from ipsec_fast.dataplane.esp cimport esp_packet
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_pseudo6, ecn_combined, ip_info, ip_parse, ip_set_tos, ip_tos, transport_close_header,
    transport_last_field, transport_split,
)
from ipsec_fast.dataplane.last_drop cimport last_drop_arrived, last_drop_clear, last_drop_numbered
from ipsec_fast.dataplane.sad cimport (
    MODE_TRANSPORT, MODE_TUNNEL, OUTER_IPV4, PROTOCOL_AH, RULE_DF_COPY, RULE_DSCP_IN, RULE_LABEL_COPY, RULE_TTL_COPY, SA_INBOUND, SA_OUTBOUND, esp_last_number,
    esp_sa, count_u64, load_u64, outer_tos, sa_next_id, store_u64
)
from ipsec_fast.dataplane.status cimport *


cdef extern from *:
    """
    #include <endian.h>
    static inline void store_be16(uint8_t *p, uint16_t v) { v = htobe16(v); memcpy(p, &v, 2); }
    static inline void store_be32(uint8_t *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
    static inline void store_be64(uint8_t *p, uint64_t v) { v = htobe64(v); memcpy(p, &v, 8); }
    static inline uint16_t load_be16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return be16toh(v); }
    static inline uint32_t load_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
    static inline uint32_t load_be16_once(const uint8_t *p) { const volatile uint8_t *q = p; uint32_t high = q[0]; return high << 8 | q[1]; }
    /* Short stretches whose length is known at run time alone: in whole words that may overlap. A compiler makes a slow loop of memcpy here. */
    static inline void copy_header(uint8_t *to, const uint8_t *from, uint32_t length)
    {
        if (length == 20)
            memcpy(to, from, 20);
        else if (length == 40)
            memcpy(to, from, 40);
        else
            memcpy(to, from, length);
    }
    static inline void copy_icv(uint8_t *to, const uint8_t *from, uint32_t length) /* 8 to 32 bytes */
    {
        uint32_t word = length >= 16 ? 16 : 8;
        if (word == 16) {
            memcpy(to, from, 16);
            memcpy(to + length - 16, from + length - 16, 16);
        } else {
            memcpy(to, from, 8);
            memcpy(to + length - 8, from + length - 8, 8);
        }
    }
    static inline void zero_icv(uint8_t *to, uint32_t length) /* 8 to 48 bytes */
    {
        if (length >= 16) {
            memset(to, 0, 16);
            if (length > 32)
                memset(to + 16, 0, 16);
            memset(to + length - 16, 0, 16);
        } else {
            memset(to, 0, 8);
            memset(to + length - 8, 0, 8);
        }
    }
    """
    void store_be16(uint8_t *p, uint16_t v) noexcept nogil
    void store_be32(uint8_t *p, uint32_t v) noexcept nogil
    void store_be64(uint8_t *p, uint64_t v) noexcept nogil
    uint16_t load_be16(const uint8_t *p) noexcept nogil
    uint32_t load_be32(const uint8_t *p) noexcept nogil
    uint32_t load_be16_once(const uint8_t *p) noexcept nogil
    void copy_header(uint8_t *to, const uint8_t *from_, uint32_t length) noexcept nogil
    void copy_icv(uint8_t *to, const uint8_t *from_, uint32_t length) noexcept nogil
    void zero_icv(uint8_t *to, uint32_t length) noexcept nogil

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t length) noexcept

cdef extern from "ah_mutable.h" nogil:
    enum:
        AH_FIXED_LENGTH
        AH_MOST_HEADER
    bint ah_clear_header(uint8_t *packet, uint32_t end, bint sending) noexcept
    uint32_t ah_find(const uint8_t *packet, const ip_info *info, uint32_t *field) noexcept
    uint32_t ah_length(uint32_t icv_field, uint32_t version) noexcept

cdef extern from "esp_check.h" nogil:
    enum:
        ESP_TRAILER_OK
        ESP_TRAILER_NEXT_HEADER
    int esp_check_inner(const uint8_t *plain, uint32_t room, uint8_t next_header, uint32_t *inner_length) noexcept

cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top
        uint64_t resyncs
    enum:
        REPLAY_NEW
        REPLAY_OLD
    int replay_check(const replay_window *window, uint64_t seq) noexcept
    int replay_advance(replay_window *window, uint64_t seq) noexcept
    uint64_t replay_infer_esn(const replay_window *window, uint32_t low) noexcept
    void replay_failed(replay_window *window) noexcept
    bint replay_resync_due(const replay_window *window) noexcept
    uint64_t replay_resync_number(replay_window *window, uint32_t low) noexcept

include "outer.pxi"

cdef enum:
    CHUNK = 64
    MOST_ICV = 32            # of SHA2-512-256
    MAX_PACKET = 65535
    ALONE = CHUNK            # the place of a packet that is opened by itself, behind those of the chunk

# what stands in a packet while its fields are zero
cdef struct kept_packet:
    uint32_t header          # bytes of IP header in front of AH
    uint32_t field           # in: offset of the byte that names AH
    uint32_t length          # of AH
    uint32_t total           # of the packet
    uint64_t seq
    uint32_t low             # of seq, as it was in the packet
    uint8_t tos
    uint8_t icv[MOST_ICV]    # in: what came
    uint8_t copy[AH_MOST_HEADER]

cdef struct ah_batch_ctx:
    crypto_op ops[CHUNK + 1]
    const engine_suite *suites[CHUNK]
    uint32_t inner_lengths[CHUNK]
    uint32_t lows[CHUNK]     # in: by packet, not by operation
    kept_packet kept[CHUNK + 1]
    const uint8_t *test_iv   # NULL but in seal_with_iv_for_test
    uint64_t now_ns          # of the call; 0: nobody said


cdef ah_batch_ctx *ah_batch_ctx_new() noexcept nogil:
    cdef size_t size = (sizeof(ah_batch_ctx) + 63) & ~<size_t> 63
    cdef ah_batch_ctx *ctx = <ah_batch_ctx *> aligned_alloc(64, size)
    if ctx != NULL:
        memset(ctx, 0, size)
    return ctx


cdef void ah_batch_ctx_free(ah_batch_ctx *ctx) noexcept nogil:
    if ctx != NULL:
        OPENSSL_cleanse(ctx, sizeof(ah_batch_ctx))  # salts stand in the operations
        free(ctx)


cdef void ah_batch_ctx_set_time(ah_batch_ctx *ctx, uint64_t now_ns) noexcept nogil:
    ctx.now_ns = now_ns


cdef void ah_batch_ctx_use_iv_for_test(ah_batch_ctx *ctx, const uint8_t *iv) noexcept nogil:
    ctx.test_iv = iv


cdef inline void run_crypto(ah_batch_ctx *ctx, uint32_t n, bint seal) noexcept nogil:
    cdef uint32_t start = 0, end
    while start < n:
        end = start + 1
        while end < n and ctx.suites[end] == ctx.suites[start]:
            end += 1
        if seal:
            ctx.suites[start].seal(&ctx.ops[start], end - start)
        else:
            ctx.suites[start].open(&ctx.ops[start], end - start)
        start = end


cdef inline bint clear_and_cover(
    esp_sa *sa, uint8_t *packet, kept_packet *kept, crypto_op *op, bint sending, const uint8_t *test_iv
) noexcept nogil:
    """The packet as it is authenticated: mutable fields and ICV zero (when sending it is already), the high half of ESN behind it. False: it cannot be; all
    is as before."""
    cdef uint8_t *iv = packet + kept.header + AH_FIXED_LENGTH
    cdef uint8_t *icv = iv + sa.iv_length
    copy_header(kept.copy, packet, kept.header)
    if not ah_clear_header(packet, kept.header, sending):
        memcpy(packet, kept.copy, kept.header)
        return False
    if not sending:
        copy_icv(kept.icv, icv, sa.icv_length)
        zero_icv(icv, sa.icv_length)
    op.key = sa.key
    op.aad = packet
    # GMAC authenticates the AAD, then the 8 bytes before `data` where they stand; a MAC of its own all that is contiguous
    op.aad_length = kept.total - 8 if sa.is_aead else kept.total
    op.data = packet + kept.total
    op.length = 0
    op.icv = icv if sending else kept.icv
    op.tail_length = 0
    if sa.esn:
        store_be32(op.tail, <uint32_t> (kept.seq >> 32))
        op.tail_length = 4
    if sa.iv_length:
        if sending:
            store_be64(iv, kept.seq)
            if test_iv != NULL:
                memcpy(iv, test_iv, 8)
        memcpy(op.nonce, sa.salt, 4)
        memcpy(op.nonce + 4, iv, 8)
    return True


# --- outbound --------------------------------------------------------------------------------------------------------------------------------------

cdef inline uint8_t place_outbound(esp_sa *sa, esp_packet *packet, kept_packet *kept, uint8_t *next_header) noexcept nogil:
    """Checks a packet that leaves, and says where AH goes; nothing is changed."""
    cdef ip_info info
    cdef uint32_t inner_length = 0
    if sa.mode == MODE_TUNNEL:
        if packet.length < 1:
            return VERDICT_BAD_INNER
        next_header[0] = 4 if packet.data[0] >> 4 == 4 else 41
        if esp_check_inner(packet.data, packet.length, next_header[0], &inner_length) != ESP_TRAILER_OK:
            return VERDICT_BAD_INNER
        kept.header = sa.outer_length
        kept.length = ah_length(sa.iv_length + sa.icv_length, sa.outer)
        kept.total = sa.outer_length + kept.length + inner_length
        return VERDICT_OK if kept.total <= MAX_PACKET else VERDICT_TOO_BIG
    if ip_parse(packet.data, packet.length, &info) != IP_OK:
        return VERDICT_BAD_INNER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    kept.header = transport_split(packet.data, &info, &kept.field)
    if kept.header == 0:
        return VERDICT_BAD_INNER
    next_header[0] = packet.data[kept.field]
    kept.length = ah_length(sa.iv_length + sa.icv_length, info.version)
    kept.total = info.total_length + kept.length
    return VERDICT_OK if kept.total <= MAX_PACKET else VERDICT_TOO_BIG


cdef inline uint8_t prepare_outbound(ah_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef kept_packet *kept = &ctx.kept[slot]
    cdef uint8_t before[AH_MOST_HEADER]
    cdef uint8_t *start
    cdef uint8_t *ah
    cdef uint8_t next_header = 0, verdict
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.protocol != PROTOCOL_AH:
        return VERDICT_WRONG_PROTOCOL
    if sa.direction != SA_OUTBOUND:
        return VERDICT_WRONG_DIRECTION
    verdict = place_outbound(sa, packet, kept, &next_header)
    if verdict != VERDICT_OK:
        return verdict
    # the number is taken last: what is dropped above uses none
    if sa.seq >= sa.hard_limit:
        return VERDICT_SEQ_EXHAUSTED if sa.hard_limit == esp_last_number(sa) else VERDICT_LIFETIME
    if packet.length > sa.hard_bytes - sa.bytes:
        sa.hard_limit = sa.seq
        return VERDICT_LIFETIME
    kept.seq = sa.seq + 1
    if sa.seq >= load_u64(&sa.granted):
        return VERDICT_NO_GRANT
    start = packet.data - kept.length - (kept.header if sa.mode == MODE_TUNNEL else 0)
    ah = start + kept.header
    if sa.mode == MODE_TUNNEL:
        write_outer(sa, start, kept.total, packet.data)
    else:
        memcpy(before, packet.data, kept.header)
        memcpy(start, before, kept.header)
        start[kept.field] = PROTOCOL_AH
        transport_close_header(start, kept.header, kept.total - kept.header)
    ah[0] = packet.next_header = next_header
    ah[1] = <uint8_t> (kept.length // 4 - 2)
    ah[2] = ah[3] = 0
    memcpy(ah + 4, &sa.spi_be, 4)
    store_be32(ah + 8, <uint32_t> kept.seq)
    zero_icv(ah + AH_FIXED_LENGTH, kept.length - AH_FIXED_LENGTH)
    if not clear_and_cover(sa, start, kept, &ctx.ops[slot], True, ctx.test_iv):
        if sa.mode != MODE_TUNNEL:
            memcpy(packet.data, before, kept.header)
        return VERDICT_BAD_INNER
    store_u64(&sa.seq, kept.seq)
    count_u64(&sa.bytes, packet.length)
    packet.data = start
    packet.length = kept.total
    return VERDICT_OK


cdef void ah_outbound(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0, count
    while start < n:
        count = n - start if n - start < CHUNK else CHUNK
        outbound_chunk(ctx, packets + start, count)
        start += count


cdef void outbound_chunk(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t i, length, used = 0
    cdef esp_packet *packet
    cdef esp_sa *sa
    for i in range(n):
        packet = &packets[i]
        length = packet.length
        packet.verdict = prepare_outbound(ctx, packet, used)
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            ctx.inner_lengths[used] = length
            used += 1
        elif packet.sa != NULL:
            count_u64(&packet.sa.drops[packet.verdict], 1)
            last_drop_clear(packet.sa, packet.verdict, ctx.now_ns, <uint32_t> packet.sa.seq, packet.data, packet.length)
    run_crypto(ctx, used, True)
    for i in range(used):
        packet = &packets[ctx.ops[i].index]
        sa = packet.sa
        if not ctx.ops[i].ok:
            memset(packet.data, 0, packet.length)
            packet.verdict = VERDICT_CRYPTO_FAILED
            count_u64(&sa.drops[VERDICT_CRYPTO_FAILED], 1)
            last_drop_numbered(sa, VERDICT_CRYPTO_FAILED, ctx.now_ns, <uint32_t> ctx.kept[i].seq)
            count_u64(&sa.bytes, 0 - <uint64_t> ctx.inner_lengths[i])
            continue
        copy_header(packet.data, ctx.kept[i].copy, ctx.kept[i].header)
        count_u64(&sa.packets, 1)


# --- inbound ---------------------------------------------------------------------------------------------------------------------------------------

cdef inline uint8_t place_inbound(const esp_sa *sa, const esp_packet *packet, kept_packet *kept) noexcept nogil:
    cdef ip_info info
    cdef const uint8_t *ah
    if ip_parse(packet.data, packet.length, &info) != IP_OK or (sa.outer and info.version != sa.outer):
        return VERDICT_BAD_OUTER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    kept.header = ah_find(packet.data, &info, &kept.field)
    if kept.header == 0:
        return VERDICT_BAD_OUTER
    kept.total = info.total_length
    kept.tos = info.tos
    kept.length = ah_length(sa.iv_length + sa.icv_length, info.version)
    if kept.total - kept.header < kept.length:
        return VERDICT_RUNT
    ah = packet.data + kept.header
    if (<uint32_t> ah[1] + 2) * 4 != kept.length:
        return VERDICT_BAD_LENGTH
    return VERDICT_OK if load_be32(ah + 4) == load_be32(<const uint8_t *> &sa.spi_be) else VERDICT_WRONG_SPI


cdef inline uint8_t replay_verdict(int result) noexcept nogil:
    return VERDICT_REPLAY_OLD if result == REPLAY_OLD else VERDICT_REPLAY_SEEN


cdef inline uint8_t prepare_inbound(ah_batch_ctx *ctx, esp_packet *packet, uint32_t slot, uint32_t index) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef kept_packet *kept = &ctx.kept[slot]
    cdef uint8_t verdict
    cdef int result
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.protocol != PROTOCOL_AH:
        return VERDICT_WRONG_PROTOCOL
    if sa.direction != SA_INBOUND:
        return VERDICT_WRONG_DIRECTION
    verdict = place_inbound(sa, packet, kept)
    if verdict != VERDICT_OK:
        return verdict
    kept.seq = ctx.lows[index] = load_be32(packet.data + kept.header + 8)
    if sa.esn:
        kept.seq = replay_infer_esn(<replay_window *> sa.window, <uint32_t> kept.seq)
    # before the window is asked, so that a packet's verdict does not hang on who is in its batch
    if not clear_and_cover(sa, packet.data, kept, &ctx.ops[slot], False, NULL):
        return VERDICT_BAD_OUTER
    result = replay_check(<replay_window *> sa.window, kept.seq)
    if result == REPLAY_NEW:
        return VERDICT_OK
    memcpy(packet.data, kept.copy, kept.header)
    memcpy(packet.data + kept.header + AH_FIXED_LENGTH + sa.iv_length, kept.icv, sa.icv_length)
    return replay_verdict(result)


cdef inline uint64_t number_now(const ah_batch_ctx *ctx, const esp_packet *packet, uint32_t index) noexcept nogil:
    """The number of a packet after all packets before it are finished."""
    if not packet.sa.esn:
        return ctx.lows[index]
    return replay_infer_esn(<replay_window *> packet.sa.window, ctx.lows[index])


cdef uint8_t check_again(esp_packet *packet, crypto_op *op, kept_packet *kept, uint64_t seq) noexcept nogil:
    """Packets before this one moved the window, so its number changed. The packet is still as it was authenticated, except for the high half."""
    cdef int result = replay_check(<replay_window *> packet.sa.window, seq)
    if result != REPLAY_NEW:
        return replay_verdict(result)
    kept.seq = seq
    store_be32(op.tail, <uint32_t> (seq >> 32))
    packet.sa.suite.open(op, 1)
    return VERDICT_OK


cdef bint fits_after_gap(ah_batch_ctx *ctx, esp_sa *sa, uint32_t slot) noexcept nogil:
    """As opens_after_gap of esp.pyx, but nothing was decrypted: the packet still stands as it is authenticated, but for the high half."""
    cdef replay_window *window = <replay_window *> sa.window
    cdef crypto_op *op = &ctx.ops[slot]
    cdef kept_packet *kept = &ctx.kept[slot]
    if not replay_resync_due(window):
        replay_failed(window)
        return False
    kept.seq = replay_resync_number(window, ctx.lows[op.index])
    if kept.seq == 0:
        return False
    store_be32(op.tail, <uint32_t> (kept.seq >> 32))
    sa.suite.open(op, 1)
    window.resyncs += op.ok
    return op.ok


cdef uint8_t refuse_unauthentic(ah_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    """As in esp.pyx: what the packets before it made old or seen is no failure. VERDICT_OK: it has a good ICV under a later high half."""
    cdef esp_sa *sa = packet.sa
    cdef int result = replay_check(<replay_window *> sa.window, number_now(ctx, packet, ctx.ops[slot].index))
    if result != REPLAY_NEW:
        return replay_verdict(result)
    return VERDICT_OK if sa.esn and fits_after_gap(ctx, sa, slot) else VERDICT_BAD_ICV


cdef inline uint8_t accept_inbound(ah_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef crypto_op *op = &ctx.ops[slot]
    cdef kept_packet *kept = &ctx.kept[slot]
    cdef uint8_t *behind = packet.data + kept.header + kept.length
    cdef uint8_t *start
    cdef uint32_t room = kept.total - kept.header - kept.length, inner_length = 0
    cdef uint8_t next_header = packet.data[kept.header], verdict = VERDICT_OK
    cdef uint64_t seq = number_now(ctx, packet, op.index)
    cdef int result
    if seq != kept.seq:
        verdict = check_again(packet, op, kept, seq)
        if verdict != VERDICT_OK:
            return verdict
    if not op.ok:
        verdict = refuse_unauthentic(ctx, packet, slot)
        if verdict != VERDICT_OK:
            return verdict
    result = replay_advance(<replay_window *> sa.window, kept.seq)
    if result != REPLAY_NEW:
        return replay_verdict(result)
    packet.next_header = next_header  # 59 too: dummy packets are ESP's (RFC 4303 section 2.6)
    if sa.mode == MODE_TUNNEL:
        result = esp_check_inner(behind, room, next_header, &inner_length)
        if result != ESP_TRAILER_OK:
            return VERDICT_BAD_NEXT_HEADER if result == ESP_TRAILER_NEXT_HEADER else VERDICT_BAD_INNER
        verdict = mark_inner(sa, behind, kept.tos)
        packet.data = behind
        packet.length = inner_length
    else:
        start = behind - kept.header
        memmove(start, kept.copy, kept.header)
        start[kept.field] = next_header
        transport_close_header(start, kept.header, room)
        packet.data = start
        packet.length = kept.header + room
    if verdict != VERDICT_OK:
        return verdict
    if sa.packets >= sa.hard_limit:
        return VERDICT_LIFETIME
    if packet.length > sa.hard_bytes - sa.bytes:
        sa.hard_limit = sa.packets
        return VERDICT_LIFETIME
    return VERDICT_OK


cdef inline uint8_t finish_inbound(ah_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef uint8_t *data = packet.data
    cdef uint32_t length = packet.length
    cdef uint8_t verdict = accept_inbound(ctx, packet, slot)
    if verdict != VERDICT_OK:
        if packet.sa.mode == MODE_TUNNEL or packet.data == data:
            memcpy(data, ctx.kept[slot].copy, ctx.kept[slot].header)
            last_drop_arrived(packet.sa, verdict, ctx.now_ns, data, length)
        else:
            last_drop_numbered(packet.sa, verdict, ctx.now_ns, ctx.lows[ctx.ops[slot].index])
        memset(data, 0, length)
    return verdict


cdef uint8_t open_alone(ah_batch_ctx *ctx, esp_packet *packet, uint32_t index) noexcept nogil:
    """As in esp.pyx: opens the packet again as if in a batch of its own."""
    cdef uint8_t verdict = prepare_inbound(ctx, packet, ALONE, index)
    if verdict != VERDICT_OK:
        last_drop_arrived(packet.sa, verdict, ctx.now_ns, packet.data, packet.length)
        return verdict
    ctx.ops[ALONE].index = index
    packet.sa.suite.open(&ctx.ops[ALONE], 1)
    return finish_inbound(ctx, packet, ALONE)


cdef inline uint8_t finish_refused(ah_batch_ctx *ctx, esp_packet *packet, uint32_t i) noexcept nogil:
    """A packet that was refused before the crypto; the window is asked again, since earlier packets may have moved it."""
    cdef int result
    if packet.verdict == VERDICT_REPLAY_SEEN or packet.verdict == VERDICT_REPLAY_OLD:
        result = replay_check(<replay_window *> packet.sa.window, number_now(ctx, packet, i))
        if result == REPLAY_NEW:
            return open_alone(ctx, packet, i)
        packet.verdict = replay_verdict(result)
    if packet.sa != NULL:
        last_drop_arrived(packet.sa, packet.verdict, ctx.now_ns, packet.data, packet.length)
    return packet.verdict


cdef void ah_inbound(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0, count
    while start < n:
        count = n - start if n - start < CHUNK else CHUNK
        inbound_chunk(ctx, packets + start, count)
        start += count


cdef void inbound_chunk(ah_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t i, slot = 0, used = 0
    cdef esp_packet *packet
    for i in range(n):
        packet = &packets[i]
        packet.verdict = prepare_inbound(ctx, packet, used, i)
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            used += 1
    run_crypto(ctx, used, False)
    for i in range(n):
        packet = &packets[i]
        if slot < used and ctx.ops[slot].index == i:
            packet.verdict = finish_inbound(ctx, packet, slot)
            slot += 1
        else:
            packet.verdict = finish_refused(ctx, packet, i)
        if packet.verdict == VERDICT_OK:
            count_u64(&packet.sa.packets, 1)
            count_u64(&packet.sa.bytes, packet.length)
        elif packet.sa != NULL:
            count_u64(&packet.sa.drops[packet.verdict], 1)
