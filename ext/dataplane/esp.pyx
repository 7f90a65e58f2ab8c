"""The ESP kernels: esp_outbound and esp_inbound (RFC 4303 sections 3.3, 3.4; ESN 2.2.1; UDP encapsulation RFC 3948).

Each is three passes over up to 64 packets: headers and IVs of all of them; the crypto, in runs of one suite; the finish, in order. That order is
what the measurements want (a crypto loop that nothing interrupts) and what the window needs (checked before, checked again and advanced after the ICV,
so that a duplicate inside one batch is seen). Nothing allocates, locks, raises or touches Python. Outer headers: outer.pxi; transport and BEET
mode: esp_keep.pxi. Left out: fragments. Called by: worker, PacketBatch, embedders.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from ipsec_fast.dataplane.crew cimport CREW_LEAST, CREW_LEAST_BYTES, crew_run, crew_state
from ipsec_fast.dataplane.engine cimport IV_NONE, IV_RANDOM, IV_SEQUENCE, crypto_op, engine_suite
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_pseudo6, ecn_combined, ip_info, ip_parse, ip_set_tos, ip_tos, transport_close_header,
    transport_last_field, transport_mend_checksum, transport_split,
)
from ipsec_fast.dataplane.forks cimport fork_count
from ipsec_fast.dataplane.openssl cimport iv_generator, iv_generator_fill, iv_generator_free, iv_generator_new
from ipsec_fast.dataplane.last_drop cimport last_drop_arrived, last_drop_clear, last_drop_numbered
from ipsec_fast.dataplane.sad cimport (
    MODE_BEET, MODE_TRANSPORT, MODE_TUNNEL, NAT_ADJUST, NAT_NONE, OUTER_IPV4, PROTOCOL_ESP, RULE_DF_COPY, RULE_DSCP_IN, RULE_LABEL_COPY,
    RULE_TTL_COPY, SA_INBOUND, SA_OUTBOUND, esp_filled, esp_last_number, esp_padding, esp_sa, count_u64, load_u64, outer_tos, sa_next_id, store_u64
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
    static const uint8_t esp_no_header[40] = {0};
    static const uint8_t esp_padding_bytes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    """
    void store_be16(uint8_t *p, uint16_t v) noexcept nogil
    void store_be32(uint8_t *p, uint32_t v) noexcept nogil
    void store_be64(uint8_t *p, uint64_t v) noexcept nogil
    uint16_t load_be16(const uint8_t *p) noexcept nogil
    uint32_t load_be32(const uint8_t *p) noexcept nogil
    uint32_t load_be16_once(const uint8_t *p) noexcept nogil
    const uint8_t *esp_no_header
    const uint8_t *esp_padding_bytes

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t length) noexcept

cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top
        uint32_t size
        uint32_t failed
        uint64_t resyncs
        uint64_t ahead
        uint32_t pending
    enum:
        REPLAY_NEW
        REPLAY_OLD
        REPLAY_RESYNC_AFTER
        REPLAY_JOINS
        REPLAY_MAY_CHANGE
        REPLAY_WAITS
    int replay_join(const replay_window *window, uint32_t low, uint64_t seq) noexcept
    void replay_joined(replay_window *window, uint32_t low) noexcept
    void replay_settle(replay_window *window) noexcept
    int replay_check(const replay_window *window, uint64_t seq) noexcept
    int replay_advance(replay_window *window, uint64_t seq) noexcept
    uint64_t replay_infer_esn(const replay_window *window, uint32_t low) noexcept
    void replay_failed(replay_window *window) noexcept
    bint replay_resync_due(const replay_window *window) noexcept
    uint64_t replay_resync_number(replay_window *window, uint32_t low) noexcept

cdef extern from "esp_check.h" nogil:
    enum:
        ESP_FORM_OK
        ESP_FORM_RUNT
        ESP_TRAILER_OK
        ESP_TRAILER_PADDING
        ESP_TRAILER_NEXT_HEADER
        ESP_TRAILER_INNER
        ESP_TRAILER_DUMMY
        ESP_NEXT_NONE
        ESP_NEXT_BEET
    int esp_check_form(uint32_t length, uint32_t iv_length, uint32_t icv_length, uint32_t align, uint32_t *sealed) noexcept
    int esp_check_padding(const uint8_t *plain, uint32_t length, uint8_t *next_header, uint32_t *room) noexcept
    int esp_check_inner(const uint8_t *plain, uint32_t room, uint8_t next_header, uint32_t *inner_length) noexcept
    bint esp_check_beet(const uint8_t *plain, uint32_t room, uint8_t *next_header, uint32_t *size, uint32_t *options) noexcept


include "outer.pxi"

cdef enum:
    CHUNK = 64               # packets per pass: op array and headers stay in L1
    IV_BYTES = 1024
    MAX_PACKET = 65535
    ALONE = CHUNK            # the place of a packet that is opened by itself, behind those of the chunk
    AGAIN_BYTES = 131072     # ciphertext that is kept for a second try, at least one packet of any size
    CHUNK_ENDS = 255         # no verdict: the packets before this one must be finished first

cdef struct esp_batch_ctx:
    crypto_op ops[CHUNK + 1]
    const engine_suite *suites[CHUNK]
    uint32_t inner_lengths[CHUNK]
    uint64_t seqs[CHUNK + 1]     # in: the whole number, high half inferred
    uint32_t lows[CHUNK]         # in: what of it was in the packet; by packet, not by operation
    outer_place outers[CHUNK + 1]    # in: by operation
    uint8_t ivs[IV_BYTES]
    uint32_t iv_used
    uint32_t iv_forks        # when they were made: a child of fork has the same bytes here, and may not use them
    iv_generator *generator
    uint8_t *again           # in: ciphertext of packets of this chunk, AGAIN_BYTES
    uint32_t again_used
    uint32_t again_at[CHUNK + 1]  # by operation: one more than where its own begins there; 0: it has none
    const uint8_t *test_iv   # NULL but in seal_with_iv_for_test
    uint64_t now_ns          # of the call; 0: nobody said
    crew_state *crew         # NULL: this thread does everything itself
    uint32_t crew_size


cdef esp_batch_ctx *esp_batch_ctx_new() noexcept nogil:
    cdef size_t size = (sizeof(esp_batch_ctx) + 63) & ~<size_t> 63
    cdef esp_batch_ctx *ctx = <esp_batch_ctx *> aligned_alloc(64, size)
    if ctx == NULL:
        return NULL
    memset(ctx, 0, size)
    ctx.iv_used = IV_BYTES
    ctx.generator = iv_generator_new()
    ctx.again = <uint8_t *> malloc(AGAIN_BYTES)
    if ctx.generator == NULL or ctx.again == NULL:
        esp_batch_ctx_free(ctx)
        return NULL
    return ctx


cdef void esp_batch_ctx_free(esp_batch_ctx *ctx) noexcept nogil:
    if ctx != NULL:
        iv_generator_free(ctx.generator)
        free(ctx.again)
        OPENSSL_cleanse(ctx, sizeof(esp_batch_ctx))
        free(ctx)


cdef void esp_batch_ctx_set_time(esp_batch_ctx *ctx, uint64_t now_ns) noexcept nogil:
    ctx.now_ns = now_ns


cdef void esp_batch_ctx_set_crew(esp_batch_ctx *ctx, crew_state *crew, uint32_t size) noexcept nogil:
    ctx.crew, ctx.crew_size = crew, size


cdef void esp_batch_ctx_use_iv_for_test(esp_batch_ctx *ctx, const uint8_t *iv) noexcept nogil:
    ctx.test_iv = iv


cdef bint run_with_crew(esp_batch_ctx *ctx, const esp_packet *packets, uint32_t start, uint32_t end, bint seal) noexcept nogil:
    """Whether a crew had its part in this run; False: nothing is done yet."""
    cdef uint32_t i, length = 0
    cdef const esp_sa *sa
    for i in range(start, end):
        sa = packets[ctx.ops[i].index].sa
        if sa.spare_count < ctx.crew_size:
            return False
        ctx.ops[i].spares = sa.spares
        length += ctx.ops[i].length
    if length < CREW_LEAST_BYTES:
        return False
    return crew_run(ctx.crew, ctx.suites[start].seal if seal else ctx.suites[start].open, &ctx.ops[start], end - start, length)


cdef inline void run_crypto(esp_batch_ctx *ctx, const esp_packet *packets, uint32_t n, bint seal) noexcept nogil:
    # one engine call per run of packets of the same suite
    cdef uint32_t start = 0, end
    while start < n:
        end = start + 1
        while end < n and ctx.suites[end] == ctx.suites[start]:
            end += 1
        if ctx.crew != NULL and end - start >= CREW_LEAST and run_with_crew(ctx, packets, start, end, seal):
            pass
        elif seal:
            ctx.suites[start].seal(&ctx.ops[start], end - start)
        else:
            ctx.suites[start].open(&ctx.ops[start], end - start)
        start = end


include "esp_keep.pxi"
include "esp_plain.pxi"


# --- outbound --------------------------------------------------------------------------------------------------------------------------------------

cdef inline uint8_t inner_next_header(const uint8_t *inner, uint32_t length) noexcept nogil:
    # 0 where it is no IP packet; its own length may be shorter than what is there (TFC padding), not longer
    if length >= 20 and inner[0] >> 4 == 4:
        return 4 if inner[0] & 15 >= 5 and load_be16(inner + 2) >= 20 and load_be16(inner + 2) <= length else 0
    if length >= 40 and inner[0] >> 4 == 6:
        return 41 if 40 + <uint32_t> load_be16(inner + 4) <= length else 0
    return 0


cdef inline const uint8_t *next_cbc_iv(esp_batch_ctx *ctx) noexcept nogil:
    if ctx.test_iv != NULL:
        return ctx.test_iv
    if ctx.iv_used == IV_BYTES or ctx.iv_forks != fork_count[0]:
        if not iv_generator_fill(ctx.generator, ctx.ivs, IV_BYTES):
            return NULL
        ctx.iv_used = 0
        ctx.iv_forks = fork_count[0]
    ctx.iv_used += 16
    return ctx.ivs + ctx.iv_used - 16


cdef inline uint8_t prepare_outbound(esp_batch_ctx *ctx, esp_packet *packet, crypto_op *op, bint dummy) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef uint8_t *payload = packet.data
    cdef uint8_t *esp
    cdef const uint8_t *iv = NULL
    cdef uint32_t length = packet.length, filled, padding, sealed, front
    cdef uint64_t seq
    cdef uint8_t next_header, verdict
    cdef kept_header kept
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.protocol != PROTOCOL_ESP:
        return VERDICT_WRONG_PROTOCOL
    if sa.direction != SA_OUTBOUND:
        return VERDICT_WRONG_DIRECTION
    front = sa.outer_length
    if dummy:
        if sa.mode != MODE_TUNNEL:
            return VERDICT_BAD_INNER
        next_header = ESP_NEXT_NONE
    elif sa.mode == MODE_TUNNEL:
        next_header = inner_next_header(payload, length)
        if next_header == 0:
            return VERDICT_BAD_INNER
    else:
        verdict = take_header(sa, payload, length, &kept, &length)
        if verdict != VERDICT_OK:
            return verdict
        payload += kept.length - kept.pseudo
        length -= kept.length - kept.pseudo
        next_header = ESP_NEXT_BEET if kept.pseudo else kept.next_header
        if sa.mode == MODE_TRANSPORT:
            front = kept.length + 8 * sa.encap
    filled = esp_filled(sa, length)
    padding = esp_padding(sa, filled)
    sealed = filled + padding + 2
    if packet.length > MAX_PACKET or front + 8 + sa.iv_length + sealed + sa.icv_length > MAX_PACKET:
        return VERDICT_TOO_BIG
    # the number is taken last: what is dropped above uses none
    if sa.seq >= sa.hard_limit:
        return VERDICT_SEQ_EXHAUSTED if sa.hard_limit == esp_last_number(sa) else VERDICT_LIFETIME
    if packet.length > sa.hard_bytes - sa.bytes:
        sa.hard_limit = sa.seq
        return VERDICT_LIFETIME
    if sa.seq >= load_u64(&sa.granted):
        return VERDICT_NO_GRANT
    if sa.iv_kind == IV_RANDOM:
        iv = next_cbc_iv(ctx)
        if iv == NULL:
            return VERDICT_CRYPTO_FAILED
    seq = sa.seq + 1
    store_u64(&sa.seq, seq)
    count_u64(&sa.bytes, packet.length)

    esp = payload - 8 - sa.iv_length
    if dummy:
        memset(payload, 0, length)
    if filled > length:
        memset(payload + length, 0, filled - length)
    # a whole block, wherever it ends: trailer and ICV come over it, and all lies within the SA's tailroom
    memcpy(payload + filled, esp_padding_bytes, 4)
    if sa.align > 4:
        memcpy(payload + filled + 4, esp_padding_bytes + 4, 12)
    payload[filled + padding] = <uint8_t> padding
    payload[filled + padding + 1] = next_header
    packet.next_header = next_header
    if sa.mode != MODE_TUNNEL:
        if kept.pseudo:
            write_pseudo(payload, &kept)
        packet.data = put_header(sa, esp, 8 + sa.iv_length + sealed + sa.icv_length, &kept)
    else:
        packet.data = esp - front
        if front:
            write_outer(sa, packet.data, front + 8 + sa.iv_length + sealed + sa.icv_length, esp_no_header if dummy else payload)
    packet.length = front + 8 + sa.iv_length + sealed + sa.icv_length
    memcpy(esp, &sa.spi_be, 4)
    store_be32(esp + 4, <uint32_t> seq)
    op.key = sa.key
    op.data = payload
    op.length = sealed
    op.icv = payload + sealed
    op.aad = esp
    op.aad_length = 8
    op.tail_length = 0
    if sa.iv_kind == IV_SEQUENCE:
        # the IV is the 64-bit number: whoever captures the wire can check that none comes twice
        memcpy(op.nonce, sa.salt, 4)
        if ctx.test_iv != NULL:
            memcpy(op.nonce + sa.salt_length, ctx.test_iv, 8)
        else:
            store_be64(op.nonce + sa.salt_length, seq)
        if sa.iv_length:
            memcpy(esp + 8, op.nonce + sa.salt_length, 8)
    elif sa.iv_kind == IV_RANDOM:
        memcpy(op.nonce, iv, 16)
        memcpy(esp + 8, iv, 16)
    authenticate(sa, op, esp, sealed, seq)
    return VERDICT_OK


cdef inline void authenticate(const esp_sa *sa, crypto_op *op, const uint8_t *esp, uint32_t sealed, uint64_t seq) noexcept nogil:
    # an AEAD covers the header; a MAC of its own covers header, IV and data where they stand, and with ESN the high half behind them
    if sa.is_aead:
        if sa.esn:
            write_esn_aad(op, esp, seq)
        return
    op.aad_length = 8 + sa.iv_length + sealed
    if sa.esn:
        store_be32(op.tail, <uint32_t> (seq >> 32))
        op.tail_length = 4


cdef inline void write_esn_aad(crypto_op *op, const uint8_t *esp, uint64_t seq) noexcept nogil:
    # SPI, high half, low half (RFC 4106 section 5); the high half is not on the wire
    memcpy(op.aad_store, esp, 4)
    store_be64(op.aad_store + 4, seq)
    op.aad = op.aad_store
    op.aad_length = 12


cdef void esp_outbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0, count
    while start < n:
        count = n - start if n - start < CHUNK else CHUNK
        outbound_chunk(ctx, packets + start, count, False)
        start += count


cdef void esp_outbound_dummies(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0, count
    while start < n:
        count = n - start if n - start < CHUNK else CHUNK
        outbound_chunk(ctx, packets + start, count, True)
        start += count


cdef inline void outbound_chunk(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n, bint dummy) noexcept nogil:
    cdef uint32_t i = 0, length, plain, used = 0
    cdef esp_packet *packet
    cdef esp_sa *sa
    while i < n:
        if not dummy:
            plain = prepare_plain_outbound(ctx, packets, n, i, used)
            used += plain
            i += plain
            if i == n:
                break
        packet = &packets[i]
        length = packet.length
        packet.verdict = prepare_outbound(ctx, packet, &ctx.ops[used], dummy)
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            ctx.inner_lengths[used] = length
            used += 1
        elif packet.sa != NULL:
            count_u64(&packet.sa.drops[packet.verdict], 1)
            last_drop_clear(packet.sa, packet.verdict, ctx.now_ns, <uint32_t> packet.sa.seq, packet.data, 0 if dummy else packet.length)
        i += 1
    run_crypto(ctx, packets, used, True)
    for i in range(used):
        packet = &packets[ctx.ops[i].index]
        sa = packet.sa
        if not ctx.ops[i].ok:
            last_drop_numbered(sa, VERDICT_CRYPTO_FAILED, ctx.now_ns, load_be32(ctx.ops[i].data - 4 - sa.iv_length))
            memset(packet.data, 0, packet.length)
            packet.verdict = VERDICT_CRYPTO_FAILED
            count_u64(&sa.drops[VERDICT_CRYPTO_FAILED], 1)
            count_u64(&sa.bytes, 0 - <uint64_t> ctx.inner_lengths[i])
            continue
        if sa.encap and packet.data[0] >> 4 == 6:
            write_udp6_checksum(packet.data, <uint32_t> (ctx.ops[i].data - packet.data) - 16 - sa.iv_length, packet.length)
        count_u64(&sa.packets, 1)


# --- inbound ---------------------------------------------------------------------------------------------------------------------------------------

cdef inline uint8_t replay_verdict(int result) noexcept nogil:
    return VERDICT_REPLAY_OLD if result == REPLAY_OLD else VERDICT_REPLAY_SEEN


cdef inline bint keep_ciphertext(esp_batch_ctx *ctx, uint32_t slot, const uint8_t *data, uint32_t length) noexcept nogil:
    """Keep the ciphertext for a second try, since the first one decrypts in place. False if there is no room."""
    if length > AGAIN_BYTES - ctx.again_used:
        return False
    memcpy(ctx.again + ctx.again_used, data, length)
    ctx.again_at[slot] = ctx.again_used + 1
    ctx.again_used += length
    return True


cdef bint join_others(
    esp_batch_ctx *ctx, esp_sa *sa, uint32_t slot, uint32_t low, uint64_t seq, const uint8_t *data, uint32_t length
) noexcept nogil:
    """ESN: whether this packet can be opened together with those of its SA before it, of which none is finished yet. Keeps what a second try needs."""
    cdef replay_window *window = <replay_window *> sa.window
    cdef int join
    ctx.again_at[slot] = 0
    if slot == ALONE:
        return True
    join = replay_join(window, low, seq)
    if join == REPLAY_WAITS:
        return False
    if join == REPLAY_MAY_CHANGE or replay_resync_due(window):
        if replay_check(window, seq) == REPLAY_NEW and not keep_ciphertext(ctx, slot, data, length):
            return False
    replay_joined(window, low)
    return True


cdef inline uint8_t prepare_inbound(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot, uint32_t index) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef crypto_op *op = &ctx.ops[slot]
    cdef uint8_t *esp = packet.data
    cdef uint32_t length = packet.length, sealed = 0, spi_be = 0
    cdef uint64_t seq
    cdef uint8_t verdict
    cdef int result
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.protocol != PROTOCOL_ESP:
        return VERDICT_WRONG_PROTOCOL
    if sa.direction != SA_INBOUND:
        return VERDICT_WRONG_DIRECTION
    if sa.outer_length or sa.mode != MODE_TUNNEL:
        verdict = strip_outer(sa, packet, &esp, &length, &ctx.outers[slot])
        if verdict != VERDICT_OK:
            return verdict
    if length > MAX_PACKET:
        return VERDICT_BAD_LENGTH  # of no datagram; engines need not count further
    result = esp_check_form(length, sa.iv_length, sa.icv_length, sa.align, &sealed)
    if result != ESP_FORM_OK:
        return VERDICT_RUNT if result == ESP_FORM_RUNT else VERDICT_BAD_LENGTH
    memcpy(&spi_be, esp, 4)
    if spi_be != sa.spi_be:
        return VERDICT_WRONG_SPI
    seq = ctx.lows[index] = load_be32(esp + 4)
    if sa.esn:
        seq = replay_infer_esn(<replay_window *> sa.window, <uint32_t> seq)
        if not join_others(ctx, sa, slot, ctx.lows[index], seq, esp + 8 + sa.iv_length, sealed):
            return CHUNK_ENDS
    result = replay_check(<replay_window *> sa.window, seq)
    if result != REPLAY_NEW:
        return replay_verdict(result)
    ctx.seqs[slot] = seq
    op.key = sa.key
    op.data = esp + 8 + sa.iv_length
    op.length = sealed
    op.icv = op.data + sealed
    op.aad = esp
    op.aad_length = 8
    op.tail_length = 0
    if sa.iv_kind == IV_SEQUENCE:
        memcpy(op.nonce, sa.salt, 4)
        if sa.iv_length:
            memcpy(op.nonce + sa.salt_length, esp + 8, 8)
        else:
            store_be64(op.nonce + sa.salt_length, seq)
    elif sa.iv_kind == IV_RANDOM:
        memcpy(op.nonce, esp + 8, 16)
    authenticate(sa, op, esp, sealed, seq)
    return VERDICT_OK


cdef bint opens_after_gap(esp_batch_ctx *ctx, esp_sa *sa, uint32_t slot) noexcept nogil:
    """Whether a packet without a good ICV has one under a later high half (RFC 4303 appendix A3). Tried once in REPLAY_RESYNC_AFTER of them, with the
    copy that prepare_inbound made of it. Such a packet is the only one of its SA in its chunk (replay_join)."""
    cdef replay_window *window = <replay_window *> sa.window
    cdef crypto_op *op = &ctx.ops[slot]
    cdef uint64_t seq
    if ctx.again_at[slot] == 0 or not replay_resync_due(window):
        replay_failed(window)
        return False
    seq = replay_resync_number(window, ctx.lows[op.index])
    if seq == 0:
        return False
    ctx.seqs[slot] = seq
    memcpy(op.data, ctx.again + ctx.again_at[slot] - 1, op.length)
    if sa.iv_kind == IV_SEQUENCE and sa.iv_length == 0:
        store_be64(op.nonce + sa.salt_length, seq)
    authenticate(sa, op, op.data - 8 - sa.iv_length, op.length, seq)
    sa.suite.open(op, 1)
    window.resyncs += op.ok
    return op.ok


cdef inline uint64_t number_now(const esp_batch_ctx *ctx, const esp_packet *packet, uint32_t index) noexcept nogil:
    """The number of a packet after all packets before it are finished."""
    if not packet.sa.esn:
        return ctx.lows[index]
    return replay_infer_esn(<replay_window *> packet.sa.window, ctx.lows[index])


cdef uint8_t refuse_unauthentic(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    """A packet without a good ICV. If those before it in its batch made its number old or seen, it counts as no failure:
    in a batch of its own it would not have reached the cipher. VERDICT_OK: it has a good ICV under a later high half."""
    cdef esp_sa *sa = packet.sa
    cdef int result = replay_check(<replay_window *> sa.window, number_now(ctx, packet, ctx.ops[slot].index))
    if result != REPLAY_NEW:
        return replay_verdict(result)
    return VERDICT_OK if sa.esn and opens_after_gap(ctx, sa, slot) else VERDICT_BAD_ICV


cdef inline uint8_t accept_inbound(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef crypto_op *op = &ctx.ops[slot]
    cdef uint32_t inner_length = 0, room = 0
    cdef uint8_t verdict
    cdef int result
    if not op.ok:
        verdict = refuse_unauthentic(ctx, packet, slot)
        if verdict != VERDICT_OK:
            return verdict
    result = replay_advance(<replay_window *> sa.window, ctx.seqs[slot])
    if result != REPLAY_NEW:
        return replay_verdict(result)
    result = esp_check_padding(op.data, op.length, &packet.next_header, &room)
    if result == ESP_TRAILER_OK and sa.mode == MODE_TUNNEL:
        result = esp_check_inner(op.data, room, packet.next_header, &inner_length)
    if result != ESP_TRAILER_OK:
        if result == ESP_TRAILER_DUMMY:
            return VERDICT_DUMMY
        if result == ESP_TRAILER_PADDING:
            return VERDICT_BAD_PADDING
        return VERDICT_BAD_NEXT_HEADER if result == ESP_TRAILER_NEXT_HEADER else VERDICT_BAD_INNER
    verdict = VERDICT_OK
    if sa.mode == MODE_TUNNEL:
        if sa.outer_length:
            verdict = mark_inner(sa, op.data, ctx.outers[slot].tos)
        packet.data = op.data
        packet.length = inner_length
    elif sa.mode == MODE_TRANSPORT:
        verdict = restore_transport(sa, packet, &ctx.outers[slot], op.data, room)
    else:
        verdict = restore_beet(sa, packet, op.data, room)
    if verdict != VERDICT_OK:
        return verdict
    if sa.packets >= sa.hard_limit:
        return VERDICT_LIFETIME
    if packet.length > sa.hard_bytes - sa.bytes:
        sa.hard_limit = sa.packets
        return VERDICT_LIFETIME
    return VERDICT_OK


cdef inline uint8_t finish_inbound(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef uint8_t *data = packet.data
    cdef uint32_t length = packet.length
    cdef uint8_t verdict = accept_inbound(ctx, packet, slot)
    if verdict != VERDICT_OK:
        if packet.sa.mode == MODE_TUNNEL or packet.data == data:
            last_drop_arrived(packet.sa, verdict, ctx.now_ns, data, length)
        else:  # the packet's own header stands where ESP's was
            last_drop_numbered(packet.sa, verdict, ctx.now_ns, ctx.lows[ctx.ops[slot].index])
        memset(data, 0, length)  # no plaintext stays behind
    return verdict


cdef uint8_t open_alone(esp_batch_ctx *ctx, esp_packet *packet, uint32_t index) noexcept nogil:
    """Opens again, as if in a batch of its own, a packet whose number changed when those before it moved the window."""
    cdef crypto_op *op = &ctx.ops[ALONE]
    cdef uint8_t verdict = prepare_inbound(ctx, packet, ALONE, index)
    if verdict != VERDICT_OK:
        last_drop_arrived(packet.sa, verdict, ctx.now_ns, packet.data, packet.length)
        return verdict
    op.index = index
    packet.sa.suite.open(op, 1)
    return finish_inbound(ctx, packet, ALONE)


cdef void esp_inbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0
    while start < n:
        start += inbound_chunk(ctx, packets + start, n - start if n - start < CHUNK else CHUNK)


cdef uint32_t inbound_chunk(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    """Process some of the packets; returns how many, at least one."""
    cdef uint32_t i, plain, slot = 0, used = 0
    cdef esp_packet *packet
    ctx.again_used = 0
    i = 0
    while i < n:
        plain = prepare_plain_inbound(ctx, packets, n, i, used)
        used += plain
        i += plain
        if i == n:
            break
        packet = &packets[i]
        packet.verdict = prepare_inbound(ctx, packet, used, i)
        if packet.verdict == CHUNK_ENDS:
            n = i
            break
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            used += 1
        i += 1
    run_crypto(ctx, packets, used, False)
    i = 0
    while i < n:
        if slot < used and ctx.ops[slot].index == i:
            plain = finish_plain_inbound(ctx, packets, n, i, slot, used)
            slot += plain
            i += plain
            if i == n:
                break
        finish_one(ctx, &packets[i], i, &slot, used)
        i += 1
    return n


cdef inline uint8_t finish_opened(esp_batch_ctx *ctx, esp_packet *packet, uint32_t i, uint32_t slot) noexcept nogil:
    cdef crypto_op *op = &ctx.ops[slot]
    if not packet.sa.esn or number_now(ctx, packet, i) == ctx.seqs[slot]:
        return finish_inbound(ctx, packet, slot)
    if ctx.again_at[slot] == 0:  # replay_join keeps the ciphertext of each that can come here
        op.ok = 0
        return finish_inbound(ctx, packet, slot)
    memcpy(op.data, ctx.again + ctx.again_at[slot] - 1, op.length)
    return open_alone(ctx, packet, i)


cdef inline uint8_t finish_refused(esp_batch_ctx *ctx, esp_packet *packet, uint32_t i) noexcept nogil:
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


cdef inline void finish_one(esp_batch_ctx *ctx, esp_packet *packet, uint32_t i, uint32_t *slot, uint32_t used) noexcept nogil:
    if slot[0] < used and ctx.ops[slot[0]].index == i:
        packet.verdict = finish_opened(ctx, packet, i, slot[0])
        slot[0] += 1
    else:
        packet.verdict = finish_refused(ctx, packet, i)
    if packet.sa != NULL and packet.sa.esn and packet.sa.window != NULL:
        replay_settle(<replay_window *> packet.sa.window)
    if packet.verdict == VERDICT_OK:
        count_u64(&packet.sa.packets, 1)
        count_u64(&packet.sa.bytes, packet.length)
    elif packet.sa != NULL:
        count_u64(&packet.sa.drops[packet.verdict], 1)
