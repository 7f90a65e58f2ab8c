"""The ESP kernels: esp_outbound and esp_inbound (RFC 4303 sections 3.3, 3.4; ESN 2.2.1; UDP encapsulation RFC 3948; tunnel headers RFC 4301 5.1.2).

Each is three passes over up to 64 packets: headers and IVs of all of them; the crypto, in runs of one suite; the finish, in order. That order is
what the measurements want (a crypto loop that nothing interrupts) and what the window needs (checked before, checked again and advanced after the ICV,
so that a duplicate inside one batch is seen). Nothing allocates, locks, raises or touches Python. Left out: transport mode, fragments.
Called by: worker, PacketBatch, embedders.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.engine cimport IV_NONE, IV_RANDOM, IV_SEQUENCE, crypto_op, engine_suite
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_ipv4_header, csum_pseudo6, ecn_decapsulate, ip_info, ip_parse, ip_tos,
)
from ipsec_fast.dataplane.openssl cimport iv_generator, iv_generator_fill, iv_generator_free, iv_generator_new
from ipsec_fast.dataplane.sad cimport (
    OUTER_IPV4, SA, SA_INBOUND, SA_OUTBOUND, esp_last_number, esp_padding, esp_sa, esp_sealed_length, load_u64, store_u64
)
from ipsec_fast.dataplane.status cimport *

from ipsec_fast.dataplane.status import verdict_text
from ipsec_fast.errors import IntegrityError, UsageError


cdef extern from *:
    """
    #include <endian.h>
    static inline void store_be16(uint8_t *p, uint16_t v) { v = htobe16(v); memcpy(p, &v, 2); }
    static inline void store_be32(uint8_t *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
    static inline void store_be64(uint8_t *p, uint64_t v) { v = htobe64(v); memcpy(p, &v, 8); }
    static inline uint16_t load_be16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return be16toh(v); }
    static inline uint32_t load_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
    static const uint8_t esp_padding_bytes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    """
    void store_be16(uint8_t *p, uint16_t v) noexcept nogil
    void store_be32(uint8_t *p, uint32_t v) noexcept nogil
    void store_be64(uint8_t *p, uint64_t v) noexcept nogil
    uint16_t load_be16(const uint8_t *p) noexcept nogil
    uint32_t load_be32(const uint8_t *p) noexcept nogil
    const uint8_t *esp_padding_bytes

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "openssl/crypto.h" nogil:
    void OPENSSL_cleanse(void *p, size_t length) noexcept

cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top
    enum:
        REPLAY_NEW
        REPLAY_OLD
    int replay_check(const replay_window *window, uint64_t seq) noexcept
    int replay_advance(replay_window *window, uint64_t seq) noexcept
    uint64_t replay_infer_esn(const replay_window *window, uint32_t low) noexcept

cdef extern from "esp_check.h" nogil:
    enum:
        ESP_FORM_OK
        ESP_FORM_RUNT
        ESP_TRAILER_OK
        ESP_TRAILER_PADDING
        ESP_TRAILER_NEXT_HEADER
        ESP_TRAILER_INNER
        ESP_TRAILER_DUMMY
    int esp_check_form(uint32_t length, uint32_t iv_length, uint32_t icv_length, uint32_t align, uint32_t *sealed) noexcept
    int esp_check_trailer(const uint8_t *plain, uint32_t length, uint8_t *next_header, uint32_t *inner_length) noexcept


cdef enum:
    CHUNK = 64               # packets per pass: op array and headers stay in L1
    IV_BYTES = 1024
    MAX_PACKET = 65535

cdef struct esp_batch_ctx:
    crypto_op ops[CHUNK]
    const engine_suite *suites[CHUNK]
    uint32_t inner_lengths[CHUNK]
    uint64_t seqs[CHUNK]     # in: the whole number, high half inferred
    uint8_t outer_tos[CHUNK]
    uint8_t ivs[IV_BYTES]
    uint32_t iv_used
    iv_generator *generator
    const uint8_t *test_iv   # NULL but in seal_with_iv_for_test


cdef esp_batch_ctx *esp_batch_ctx_new() noexcept nogil:
    cdef size_t size = (sizeof(esp_batch_ctx) + 63) & ~<size_t> 63
    cdef esp_batch_ctx *ctx = <esp_batch_ctx *> aligned_alloc(64, size)
    if ctx == NULL:
        return NULL
    memset(ctx, 0, size)
    ctx.iv_used = IV_BYTES
    ctx.generator = iv_generator_new()
    if ctx.generator == NULL:
        free(ctx)
        return NULL
    return ctx


cdef void esp_batch_ctx_free(esp_batch_ctx *ctx) noexcept nogil:
    if ctx != NULL:
        iv_generator_free(ctx.generator)
        OPENSSL_cleanse(ctx, sizeof(esp_batch_ctx))
        free(ctx)


cdef inline void run_crypto(esp_batch_ctx *ctx, uint32_t n, bint seal) noexcept nogil:
    # one engine call per run of packets of the same suite
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
    if ctx.iv_used == IV_BYTES:
        if not iv_generator_fill(ctx.generator, ctx.ivs, IV_BYTES):
            return NULL
        ctx.iv_used = 0
    ctx.iv_used += 16
    return ctx.ivs + ctx.iv_used - 16


cdef inline void write_outer(esp_sa *sa, uint8_t *header, uint32_t total, uint8_t tos) noexcept nogil:
    # DSCP and ECN are copied (RFC 6040 section 4.1, normal mode); `total` is outer header to ICV
    cdef uint32_t ip_length = sa.outer_length - 8 * sa.encap
    cdef uint16_t check
    memcpy(header, sa.outer_header, sa.outer_length)
    if sa.outer == OUTER_IPV4:
        header[1] = tos
        store_be16(header + 2, <uint16_t> total)
        sa.outer_id += 1
        store_be16(header + 4, sa.outer_id)
        check = csum_ipv4_header(header, 20)
        memcpy(header + 10, &check, 2)
    else:
        header[0] |= tos >> 4
        header[1] |= <uint8_t> (tos << 4)
        store_be16(header + 4, <uint16_t> (total - 40))
    if sa.encap:
        store_be16(header + ip_length + 4, <uint16_t> (total - ip_length))


cdef inline void write_udp6_checksum(esp_sa *sa, uint8_t *header, uint32_t total) noexcept nogil:
    # IPv6 has no "no checksum" for us (RFC 6936 needs the receiver's consent); over IPv4 it stays zero, as RFC 3948 section 2.1 wants
    cdef uint64_t total_sum = csum_pseudo6(header + 8, header + 24, 17, total - 40)
    cdef uint16_t check = <uint16_t> ~csum_fold(csum_add(total_sum, header + 40, total - 40))
    if check == 0:
        check = 0xFFFF
    memcpy(header + 46, &check, 2)


cdef inline uint8_t prepare_outbound(esp_batch_ctx *ctx, esp_packet *packet, crypto_op *op) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef uint8_t *inner = packet.data
    cdef uint8_t *esp
    cdef const uint8_t *iv = NULL
    cdef uint32_t length = packet.length, padding, sealed, total
    cdef uint64_t seq
    cdef uint8_t next_header
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.direction != SA_OUTBOUND:
        return VERDICT_WRONG_DIRECTION
    next_header = inner_next_header(inner, length)
    if next_header == 0:
        return VERDICT_BAD_INNER
    if length > MAX_PACKET or esp_sealed_length(sa, length) > MAX_PACKET:
        return VERDICT_TOO_BIG
    # the number is taken last: what is dropped above uses none
    if sa.seq >= sa.hard_limit:
        return VERDICT_SEQ_EXHAUSTED if sa.hard_limit == esp_last_number(sa) else VERDICT_LIFETIME
    if length > sa.hard_bytes - sa.bytes:
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
    sa.bytes += length

    padding = esp_padding(sa, length)
    sealed = length + padding + 2
    total = sa.headroom + sealed + sa.icv_length
    memcpy(inner + length, esp_padding_bytes, padding)
    inner[length + padding] = <uint8_t> padding
    inner[length + padding + 1] = next_header
    esp = inner - 8 - sa.iv_length
    memcpy(esp, &sa.spi_be, 4)
    store_be32(esp + 4, <uint32_t> seq)
    op.key = sa.key
    op.data = inner
    op.length = sealed
    op.icv = inner + sealed
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
    packet.next_header = next_header
    if sa.outer_length:
        write_outer(sa, inner - sa.headroom, total, ip_tos(inner))
    packet.data = inner - sa.headroom
    packet.length = total
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
        outbound_chunk(ctx, packets + start, count)
        start += count


cdef void outbound_chunk(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t i, length, used = 0
    cdef esp_packet *packet
    cdef esp_sa *sa
    for i in range(n):
        packet = &packets[i]
        length = packet.length
        packet.verdict = prepare_outbound(ctx, packet, &ctx.ops[used])
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            ctx.inner_lengths[used] = length
            used += 1
        elif packet.sa != NULL:
            packet.sa.drops[packet.verdict] += 1
    run_crypto(ctx, used, True)
    for i in range(used):
        packet = &packets[ctx.ops[i].index]
        sa = packet.sa
        if not ctx.ops[i].ok:
            memset(packet.data, 0, packet.length)
            packet.verdict = VERDICT_CRYPTO_FAILED
            sa.drops[VERDICT_CRYPTO_FAILED] += 1
            sa.bytes -= ctx.inner_lengths[i]
            continue
        if sa.encap and sa.outer != OUTER_IPV4:
            write_udp6_checksum(sa, packet.data, packet.length)
        sa.packets += 1


# --- inbound ---------------------------------------------------------------------------------------------------------------------------------------

cdef inline uint8_t strip_outer(const esp_sa *sa, const esp_packet *packet, uint8_t **esp, uint32_t *length, uint8_t *tos) noexcept nogil:
    cdef ip_info info
    cdef uint8_t *upper
    cdef uint32_t left
    if ip_parse(packet.data, packet.length, &info) != IP_OK or info.version != sa.outer:
        return VERDICT_BAD_OUTER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    upper = packet.data + info.header_length
    left = info.total_length - info.header_length
    tos[0] = info.tos
    if sa.encap:
        # the peer's port may change behind a NAT, ours may not; the checksum is none of our business (RFC 3948 section 2.1)
        if info.protocol != 17 or left < 8 or info.dst_port != load_be16(sa.outer_header + sa.outer_length - 6):
            return VERDICT_BAD_OUTER
        if load_be16(upper + 4) < 8 or load_be16(upper + 4) > left:
            return VERDICT_BAD_OUTER
        esp[0] = upper + 8
        length[0] = <uint32_t> load_be16(upper + 4) - 8
        return VERDICT_OK
    if info.protocol != 50:
        return VERDICT_BAD_OUTER
    esp[0] = upper
    length[0] = left
    return VERDICT_OK


cdef inline uint8_t prepare_inbound(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef crypto_op *op = &ctx.ops[slot]
    cdef uint8_t *esp = packet.data
    cdef uint32_t length = packet.length, sealed = 0, spi_be = 0
    cdef uint64_t seq
    cdef uint8_t verdict
    cdef int result
    if sa == NULL:
        return VERDICT_NO_SA
    if sa.direction != SA_INBOUND:
        return VERDICT_WRONG_DIRECTION
    if sa.outer_length:
        verdict = strip_outer(sa, packet, &esp, &length, &ctx.outer_tos[slot])
        if verdict != VERDICT_OK:
            return verdict
    result = esp_check_form(length, sa.iv_length, sa.icv_length, sa.align, &sealed)
    if result != ESP_FORM_OK:
        return VERDICT_RUNT if result == ESP_FORM_RUNT else VERDICT_BAD_LENGTH
    memcpy(&spi_be, esp, 4)
    if spi_be != sa.spi_be:
        return VERDICT_WRONG_SPI
    seq = load_be32(esp + 4)
    if sa.esn:
        seq = replay_infer_esn(<replay_window *> sa.window, <uint32_t> seq)
    result = replay_check(<replay_window *> sa.window, seq)
    if result != REPLAY_NEW:
        return VERDICT_REPLAY_OLD if result == REPLAY_OLD else VERDICT_REPLAY_SEEN
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


cdef inline uint8_t finish_inbound(esp_batch_ctx *ctx, esp_packet *packet, uint32_t slot) noexcept nogil:
    cdef esp_sa *sa = packet.sa
    cdef crypto_op *op = &ctx.ops[slot]
    cdef uint32_t inner_length = 0
    cdef int result
    if not op.ok:
        memset(packet.data, 0, packet.length)  # no plaintext stays behind
        return VERDICT_BAD_ICV
    result = replay_advance(<replay_window *> sa.window, ctx.seqs[slot])
    if result != REPLAY_NEW:
        return VERDICT_REPLAY_OLD if result == REPLAY_OLD else VERDICT_REPLAY_SEEN
    result = esp_check_trailer(op.data, op.length, &packet.next_header, &inner_length)
    if result != ESP_TRAILER_OK:
        if result == ESP_TRAILER_DUMMY:
            return VERDICT_DUMMY
        if result == ESP_TRAILER_PADDING:
            return VERDICT_BAD_PADDING
        return VERDICT_BAD_NEXT_HEADER if result == ESP_TRAILER_NEXT_HEADER else VERDICT_BAD_INNER
    if sa.outer_length and ecn_decapsulate(op.data, ctx.outer_tos[slot]) != 0:
        return VERDICT_BAD_ECN
    if sa.packets >= sa.hard_limit:
        return VERDICT_LIFETIME
    if inner_length > sa.hard_bytes - sa.bytes:
        sa.hard_limit = sa.packets
        return VERDICT_LIFETIME
    packet.data = op.data
    packet.length = inner_length
    return VERDICT_OK


cdef void esp_inbound(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t start = 0, count
    while start < n:
        count = n - start if n - start < CHUNK else CHUNK
        inbound_chunk(ctx, packets + start, count)
        start += count


cdef void inbound_chunk(esp_batch_ctx *ctx, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef uint32_t i, used = 0
    cdef esp_packet *packet
    for i in range(n):
        packet = &packets[i]
        packet.verdict = prepare_inbound(ctx, packet, used)
        if packet.verdict == VERDICT_OK:
            ctx.ops[used].index = i
            ctx.suites[used] = packet.sa.suite
            used += 1
        elif packet.sa != NULL:
            packet.sa.drops[packet.verdict] += 1
    run_crypto(ctx, used, False)
    for i in range(used):
        packet = &packets[ctx.ops[i].index]
        packet.verdict = finish_inbound(ctx, packet, i)
        if packet.verdict == VERDICT_OK:
            packet.sa.packets += 1
            packet.sa.bytes += packet.length
        else:
            packet.sa.drops[packet.verdict] += 1


# --- one packet, for vectors; in a heap block of exactly its size, so that the sanitizer sees a byte too much ------------------------------------

def seal_with_iv_for_test(SA sa not None, bytes packet not None, uint64_t seq, bytes iv not None):
    """The sealed form of `packet` under a sequence number and IV of the caller's choice. It can repeat a nonce, hence its name."""
    cdef esp_packet one
    cdef uint64_t seq_before = sa.hot.seq, granted_before = sa.hot.granted
    if sa.hot.key == NULL or sa.hot.direction != SA_OUTBOUND:
        raise UsageError("seal_with_iv_for_test needs an outbound SA")
    if len(iv) != sa.hot.iv_length:
        raise UsageError(f"{sa.algorithm} has an IV of {sa.hot.iv_length} bytes, not {len(iv)}")
    if seq == 0 or seq > sa.hot.hard_limit:
        raise UsageError(f"sequence number {seq}: it is 1 to {sa.hot.hard_limit}")
    sa.hot.seq, sa.hot.granted = seq - 1, seq
    try:
        result = run_one(sa, packet, sa.hot.headroom, sa.hot.tailroom, iv, &one)
    finally:
        sa.hot.seq, sa.hot.granted = seq_before, granted_before
    if one.verdict != VERDICT_OK:
        raise UsageError(verdict_text(one.verdict))
    return result


def open_for_test(SA sa not None, bytes packet not None):
    """The inner packet of one sealed packet, by the kernel and with the SA's window; IntegrityError names the verdict."""
    cdef esp_packet one
    if sa.hot.key == NULL or sa.hot.direction != SA_INBOUND:
        raise UsageError("open_for_test needs an inbound SA")
    result = run_one(sa, packet, 0, 0, b"", &one)
    if one.verdict != VERDICT_OK:
        raise IntegrityError(verdict_text(one.verdict))
    return result


cdef bytes run_one(SA sa, bytes packet, uint32_t before, uint32_t behind, bytes iv, esp_packet *one):
    cdef size_t size = before + len(packet) + behind
    cdef uint8_t *block = <uint8_t *> malloc(size if size else 1)
    cdef esp_batch_ctx *ctx = esp_batch_ctx_new()
    if block == NULL or ctx == NULL:
        free(block)
        esp_batch_ctx_free(ctx)
        raise MemoryError
    memset(block, 0, size)
    memcpy(block + before, <const char *> packet, len(packet))
    one.sa, one.data, one.length = sa.hot, block + before, len(packet)
    if sa.hot.direction == SA_OUTBOUND:
        ctx.test_iv = <const uint8_t *> <const char *> iv
        esp_outbound(ctx, one, 1)
    else:
        esp_inbound(ctx, one, 1)
    result = (<char *> one.data)[:one.length] if one.verdict == VERDICT_OK else b""
    esp_batch_ctx_free(ctx)
    free(block)
    return result
