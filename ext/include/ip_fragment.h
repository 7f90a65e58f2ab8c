/* Reassembly of IPv4 and IPv6 fragments (RFC 791 section 3.2, RFC 8200 section 4.5), within memory that is taken once and never grows.
 *
 * Plain C, because the fuzzer compiles it as it ships. The payload of a datagram lies in blocks at its own offsets; a bit for each 8 bytes says
 * what has come, a second one where a piece began, so that a copy of a piece is told from an overlap. What is refused:
 *   - overlapping pieces, or two ends of one datagram: the datagram and its later pieces are dropped until its time is over (RFC 5722);
 *     an exact copy of a piece, by place and by bytes, is dropped alone
 *   - a first piece without the whole chain of headers and the transport header (RFC 1858, RFC 3128, RFC 7112)
 *   - what would end beyond 65535 bytes; an empty piece; a piece before the last whose length is no multiple of 8
 *   - a second fragment header, more than 8 extension headers or 256 bytes of them (as ip_parse.h)
 *   - congestion marked on one piece where another cannot carry the mark (RFC 3168 section 5.3)
 * An atomic fragment (RFC 6946) is whole in itself and touches nothing that is held. When there is no room the oldest datagram goes.
 * One timeout for both versions: 30 s, between the 15 s and 60 s of RFC 791 and RFC 1122; shorter than the 60 s of RFC 8200, because a tunnel's
 * pieces come within the reordering of one path and memory held longer only serves who fills it. No ICMP is sent.
 * Used by reassemble.pyx; track.pyx reads single fragments with it. One thread owns a table.
 */
#ifndef IPSEC_FAST_IP_FRAGMENT_H
#define IPSEC_FAST_IP_FRAGMENT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ip_checksum.h"
#include "ip_ecn.h"
#include "ip_parse.h"

#define FRAG_TIMEOUT_NS 30000000000ull
#define FRAG_BLOCK 2048u                          /* bytes of payload in a block */
#define FRAG_BLOCKS (65536u / FRAG_BLOCK)         /* of the largest datagram */
#define FRAG_WORDS (65536u / 8u / 64u)
#define FRAG_HEADER (40u + IP_CHAIN_BYTES)        /* the longest header kept */
#define FRAG_WHOLE_BYTES (40u + 65535u + 25u)     /* the longest packet made, rounded up */
#define FRAG_NONE 0xffffffffu

/* FRAG_PASS: no fragment, use the packet as it is. FRAG_JOINED: table->whole holds table->whole_length bytes until the next push.
 * FRAG_HELD: kept. From FRAG_FIRST_DROP on: dropped, and counted in table->drops. */
enum {
    FRAG_PASS = 0, FRAG_JOINED, FRAG_HELD,
    FRAG_BAD_HEADER, FRAG_BAD_LENGTH, FRAG_TOO_LONG, FRAG_TINY, FRAG_OVERLAP, FRAG_DUPLICATE, FRAG_BAD_ECN, FRAG_TIMEOUT, FRAG_NO_ROOM,
    FRAG_RESULTS
};
#define FRAG_FIRST_DROP FRAG_BAD_HEADER

typedef struct frag_key { /* without holes: compared as bytes */
    uint8_t src[16];
    uint8_t dst[16];
    uint32_t id;
    uint8_t version;
    uint8_t protocol; /* IPv4 only (RFC 791); the next header of an IPv6 fragment is the first piece's business */
    uint8_t zero[2];
} frag_key;

typedef struct frag_datagram {
    frag_key key;
    uint64_t since_ns;
    uint32_t next_in_bucket;
    uint32_t older, newer;
    uint32_t pieces;   /* held, for the counters */
    uint32_t received; /* bytes */
    uint32_t total;    /* bytes of payload, 0 until the last piece came */
    uint32_t reach;    /* end of the furthest piece */
    uint16_t header_length; /* 0 until the first piece came */
    uint16_t link;     /* IPv6: where the number of the fragment header stood */
    uint8_t next_header;
    uint8_t dead;      /* the reason for which this datagram is dropped */
    uint8_t ecn_seen;  /* a bit for each codepoint */
    uint8_t header[FRAG_HEADER];
    uint32_t blocks[FRAG_BLOCKS];
    uint64_t come[FRAG_WORDS];   /* a bit for each 8 bytes that came */
    uint64_t starts[FRAG_WORDS]; /* a bit where a piece began */
} frag_datagram;

typedef struct frag_table {
    uint64_t timeout_ns;
    uint64_t seed;
    uint32_t datagram_count, block_count, bucket_mask;
    uint32_t oldest, newest;
    uint32_t free_datagram, free_block; /* lists through next_in_bucket, and through the blocks themselves */
    uint32_t datagrams_held, blocks_held, pieces_held;
    uint32_t whole_length;
    uint64_t joined_pieces, joined;
    uint64_t drops[FRAG_RESULTS]; /* packets, by what was said of them */
    size_t bytes;                 /* of everything here: this table never takes more */
    uint32_t *buckets;
    frag_datagram *datagrams;
    uint8_t *blocks;
    uint8_t whole[FRAG_WHOLE_BYTES];
} frag_table;

/* What one fragment says of itself. */
typedef struct frag_piece {
    frag_key key;
    const uint8_t *data;
    uint32_t offset, length;
    uint32_t header_length; /* before the payload, or before the fragment header */
    uint16_t link;
    uint8_t next_header;
    uint8_t more;
    uint8_t ecn;
} frag_piece;

/* --- the table */

/* NULL: no memory, or bounds out of range (1 datagram; 64 KiB, so that every datagram can be whole). */
static inline frag_table *frag_new(uint32_t datagrams, uint32_t payload_bytes, uint64_t timeout_ns, uint64_t seed)
{
    uint32_t blocks = payload_bytes / FRAG_BLOCK, buckets = 16u;
    size_t size;
    uint8_t *at;
    frag_table *t;
    if (datagrams < 1u || datagrams > 1u << 20 || blocks < FRAG_BLOCKS)
        return NULL;
    while (buckets < 2u * datagrams)
        buckets *= 2u;
    size = sizeof(frag_table) + sizeof(frag_datagram) * (size_t)datagrams + 4u * (size_t)buckets + (size_t)blocks * FRAG_BLOCK;
    at = (uint8_t *)calloc(1, size);
    if (at == NULL)
        return NULL;
    t = (frag_table *)at;
    t->bytes = size;
    t->datagrams = (frag_datagram *)(at + sizeof(frag_table));
    t->buckets = (uint32_t *)(t->datagrams + datagrams);
    t->blocks = (uint8_t *)(t->buckets + buckets);
    t->timeout_ns = timeout_ns;
    t->seed = seed;
    t->datagram_count = datagrams;
    t->block_count = blocks;
    t->bucket_mask = buckets - 1u;
    t->oldest = t->newest = FRAG_NONE;
    memset(t->buckets, 0xff, 4u * (size_t)buckets);
    for (uint32_t i = 0; i < datagrams; i++)
        t->datagrams[i].next_in_bucket = i + 1u < datagrams ? i + 1u : FRAG_NONE;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t next = i + 1u < blocks ? i + 1u : FRAG_NONE;
        memcpy(t->blocks + (size_t)i * FRAG_BLOCK, &next, 4);
    }
    return t;
}

static inline void frag_free(frag_table *t)
{
    free(t);
}

static inline uint32_t frag_mix(uint64_t seed, const frag_key *key)
{
    uint64_t words[5], mixed = seed;
    memcpy(words, key, sizeof words);
    for (int i = 0; i < 5; i++) {
        mixed = (mixed ^ words[i]) * 0x9e3779b97f4a7c15ull;
        mixed ^= mixed >> 29;
    }
    return (uint32_t)(mixed >> 32);
}

static inline uint32_t frag_hash(const frag_table *t, const frag_key *key)
{
    return frag_mix(t->seed, key) & t->bucket_mask;
}

static inline uint32_t frag_find(const frag_table *t, const frag_key *key)
{
    uint32_t at = t->buckets[frag_hash(t, key)];
    while (at != FRAG_NONE && memcmp(&t->datagrams[at].key, key, sizeof *key) != 0)
        at = t->datagrams[at].next_in_bucket;
    return at;
}

static inline void frag_drop_blocks(frag_table *t, frag_datagram *d)
{
    for (uint32_t i = 0; i < FRAG_BLOCKS; i++) {
        if (d->blocks[i] == FRAG_NONE)
            continue;
        memcpy(t->blocks + (size_t)d->blocks[i] * FRAG_BLOCK, &t->free_block, 4);
        t->free_block = d->blocks[i];
        d->blocks[i] = FRAG_NONE;
        t->blocks_held--;
    }
}

/* Forgets a datagram; its pieces are counted as `why`. */
static inline void frag_forget(frag_table *t, uint32_t index, int why)
{
    frag_datagram *d = &t->datagrams[index];
    uint32_t *at = &t->buckets[frag_hash(t, &d->key)];
    while (*at != index)
        at = &t->datagrams[*at].next_in_bucket;
    *at = d->next_in_bucket;
    if (d->older != FRAG_NONE)
        t->datagrams[d->older].newer = d->newer;
    else
        t->oldest = d->newer;
    if (d->newer != FRAG_NONE)
        t->datagrams[d->newer].older = d->older;
    else
        t->newest = d->older;
    frag_drop_blocks(t, d);
    t->drops[why] += d->pieces;
    t->pieces_held -= d->pieces;
    t->datagrams_held--;
    d->next_in_bucket = t->free_datagram;
    t->free_datagram = index;
}

/* The datagram is lost, its pieces and those to come are counted as `why` until its time is over. */
static inline int frag_kill(frag_table *t, frag_datagram *d, int why)
{
    frag_drop_blocks(t, d);
    t->drops[why] += d->pieces + 1u;
    t->pieces_held -= d->pieces;
    d->pieces = 0;
    d->dead = (uint8_t)why;
    return why;
}

static inline void frag_expire(frag_table *t, uint64_t now_ns)
{
    while (t->oldest != FRAG_NONE) {
        uint64_t since = t->datagrams[t->oldest].since_ns;
        if (now_ns < since || now_ns - since < t->timeout_ns)
            return;
        frag_forget(t, t->oldest, FRAG_TIMEOUT);
    }
}

static inline uint32_t frag_begin(frag_table *t, const frag_key *key, uint64_t now_ns)
{
    uint32_t index, *bucket;
    frag_datagram *d;
    if (t->free_datagram == FRAG_NONE)
        frag_forget(t, t->oldest, FRAG_NO_ROOM);
    index = t->free_datagram;
    d = &t->datagrams[index];
    t->free_datagram = d->next_in_bucket;
    memset(d, 0, sizeof *d);
    memset(d->blocks, 0xff, sizeof d->blocks);
    d->key = *key;
    d->since_ns = now_ns;
    bucket = &t->buckets[frag_hash(t, key)];
    d->next_in_bucket = *bucket;
    *bucket = index;
    d->older = t->newest;
    d->newer = FRAG_NONE;
    if (t->newest != FRAG_NONE)
        t->datagrams[t->newest].newer = index;
    else
        t->oldest = index;
    t->newest = index;
    t->datagrams_held++;
    return index;
}

/* --- reading one fragment */

/* Bytes that the header of a transport protocol has at least, as far as the piece shows it. */
static inline uint32_t frag_transport_bytes(uint8_t protocol, const uint8_t *upper, uint32_t left)
{
    switch (protocol) {
    case 6:
        return left < 20u || (upper[12] >> 4) < 5u ? 20u : (uint32_t)(upper[12] >> 4) * 4u;
    case 1: case 17: case 50: case 136:
        return 8u;
    case 33: case 51: case 132:
        return 12u;
    case 58:
        return 4u;
    default:
        return 1u;
    }
}

/* Whether a packet may be a fragment at all; all that an ordinary packet costs. A packet too short for it is not. */
static inline int frag_may_be(const uint8_t *packet, uint32_t length)
{
    if (length < 20u)
        return 0;
    if (packet[0] >> 4 == 4u)
        return (packet[6] & 0x3fu) != 0 || packet[7] != 0;
    if (packet[0] >> 4 != 6u || length < 40u)
        return 0;
    switch (packet[6]) {
    case 0: case 43: case 44: case 51: case 60: case 139: case 140:
        return 1;
    default:
        return 0;
    }
}

static inline int frag_read_v4(const uint8_t *packet, uint32_t length, frag_piece *piece)
{
    ip_info info;
    if (ip_parse(packet, length, &info) != IP_OK)
        return FRAG_BAD_HEADER;
    memcpy(piece->key.src, info.src, 4);
    memcpy(piece->key.dst, info.dst, 4);
    piece->key.id = ip_load16(packet + 4);
    piece->key.version = 4;
    piece->key.protocol = info.protocol;
    piece->offset = info.fragment_offset;
    piece->more = info.more_fragments;
    piece->header_length = info.header_length;
    piece->data = packet + info.header_length;
    piece->length = info.total_length - info.header_length;
    if (piece->offset == 0 && piece->length && piece->length < frag_transport_bytes(info.protocol, piece->data, piece->length))
        return FRAG_TINY;
    if (piece->offset && piece->offset < frag_transport_bytes(info.protocol, NULL, 0)) /* its first piece is a tiny one (RFC 1858 section 3.2) */
        return FRAG_TINY;
    return FRAG_HELD;
}

/* FRAG_PASS: there is no fragment header. Unlike ip_parse it says where that header is, and tells a chain that the first piece cuts off. */
static inline int frag_read_v6(const uint8_t *packet, uint32_t length, frag_piece *piece)
{
    uint32_t at = 40u, link = 6u, total = 40u + ip_load16(packet + 4), step, fragment_at = 0;
    uint8_t next = packet[6];
    if (total > length)
        return FRAG_BAD_HEADER;
    for (uint32_t headers = 0;; headers++) {
        if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60 && next != 139 && next != 140)
            break;
        if (fragment_at && piece->offset)
            break;
        if (headers == IP_CHAIN_HEADERS || (next == 44 && fragment_at))
            return FRAG_BAD_HEADER;
        if (total - at < 8u)
            return fragment_at && piece->more ? FRAG_TINY : FRAG_BAD_HEADER;
        step = next == 44 ? 8u : next == 51 ? ((uint32_t)packet[at + 1u] + 2u) * 4u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
        if (at + step - 40u > IP_CHAIN_BYTES)
            return FRAG_BAD_HEADER;
        if (step > total - at)
            return fragment_at && piece->more ? FRAG_TINY : FRAG_BAD_HEADER;
        if (next == 44) {
            fragment_at = at;
            piece->link = (uint16_t)link;
            piece->next_header = packet[at];
            piece->offset = ip_load16(packet + at + 2u) & 0xfff8u;
            piece->more = packet[at + 3u] & 1u;
            memcpy(&piece->key.id, packet + at + 4u, 4);
        }
        link = at;
        next = packet[at];
        at += step;
    }
    if (!fragment_at)
        return FRAG_PASS;
    memcpy(piece->key.src, packet + 8, 16);
    memcpy(piece->key.dst, packet + 24, 16);
    piece->key.version = 6;
    piece->header_length = fragment_at;
    piece->data = packet + fragment_at + 8u;
    piece->length = total - fragment_at - 8u;
    if (piece->offset == 0 && piece->more && next != 59 && total - at < frag_transport_bytes(next, packet + at, total - at))
        return FRAG_TINY;
    return FRAG_HELD;
}

static inline int frag_read(const uint8_t *packet, uint32_t length, frag_piece *piece)
{
    int result;
    memset(piece, 0, sizeof *piece);
    piece->ecn = ip_tos(packet) & 3u;
    result = packet[0] >> 4 == 4u ? frag_read_v4(packet, length, piece) : frag_read_v6(packet, length, piece);
    if (result != FRAG_HELD || (piece->offset == 0 && !piece->more))
        return result;
    if (piece->length == 0 || (piece->more && piece->length % 8u))
        return FRAG_BAD_LENGTH;
    if (piece->offset + piece->length + (piece->key.version == 4 ? 20u : 0u) > 65535u)
        return FRAG_TOO_LONG;
    return FRAG_HELD;
}

/* --- joining */

/* Bits `from` to `to` - 1: any of them set? */
static inline int frag_any(const uint64_t *bits, uint32_t from, uint32_t to)
{
    for (uint32_t i = from / 64u; from < to; i++) {
        uint32_t end = (i + 1u) * 64u < to ? (i + 1u) * 64u : to;
        uint64_t mask = (end - from == 64u ? ~0ull : (1ull << (end - from)) - 1u) << (from % 64u);
        if (bits[i] & mask)
            return 1;
        from = end;
    }
    return 0;
}

static inline void frag_set(uint64_t *bits, uint32_t from, uint32_t to)
{
    for (uint32_t i = from / 64u; from < to; i++) {
        uint32_t end = (i + 1u) * 64u < to ? (i + 1u) * 64u : to;
        bits[i] |= (end - from == 64u ? ~0ull : (1ull << (end - from)) - 1u) << (from % 64u);
        from = end;
    }
}

/* A piece that came before, at this place, with this end and these bytes. Its neighbours begin or have not come, so one bit behind it tells. */
static inline int frag_is_copy(const frag_table *t, const frag_datagram *d, const frag_piece *piece)
{
    uint32_t from = piece->offset / 8u, to = (piece->offset + piece->length + 7u) / 8u, done = 0;
    if (!frag_any(d->starts, from, from + 1u) || frag_any(d->starts, from + 1u, to))
        return 0;
    if (to < FRAG_WORDS * 64u && frag_any(d->come, to, to + 1u) && !frag_any(d->starts, to, to + 1u))
        return 0;
    for (uint32_t i = from; i < to; i++)
        if (!frag_any(d->come, i, i + 1u))
            return 0;
    if (piece->more ? d->total && d->total <= piece->offset + piece->length : d->total != piece->offset + piece->length)
        return 0;
    while (done < piece->length) {
        uint32_t at = piece->offset + done, within = at % FRAG_BLOCK, size = FRAG_BLOCK - within;
        if (size > piece->length - done)
            size = piece->length - done;
        if (memcmp(t->blocks + (size_t)d->blocks[at / FRAG_BLOCK] * FRAG_BLOCK + within, piece->data + done, size) != 0)
            return 0;
        done += size;
    }
    return 1;
}

/* A free block, at the price of the oldest other datagrams: there are as many blocks as the largest needs, so there is always one. */
static inline uint32_t frag_take_block(frag_table *t, uint32_t keep)
{
    uint32_t block;
    while (t->free_block == FRAG_NONE)
        frag_forget(t, t->oldest != keep ? t->oldest : t->datagrams[keep].newer, FRAG_NO_ROOM);
    block = t->free_block;
    memcpy(&t->free_block, t->blocks + (size_t)block * FRAG_BLOCK, 4);
    t->blocks_held++;
    return block;
}

static inline void frag_store(frag_table *t, uint32_t index, const frag_piece *piece)
{
    frag_datagram *d = &t->datagrams[index];
    uint32_t done = 0;
    while (done < piece->length) {
        uint32_t at = piece->offset + done, within = at % FRAG_BLOCK, size = FRAG_BLOCK - within;
        if (size > piece->length - done)
            size = piece->length - done;
        if (d->blocks[at / FRAG_BLOCK] == FRAG_NONE)
            d->blocks[at / FRAG_BLOCK] = frag_take_block(t, index);
        memcpy(t->blocks + (size_t)d->blocks[at / FRAG_BLOCK] * FRAG_BLOCK + within, piece->data + done, size);
        done += size;
    }
}

/* The whole packet from a header, which loses its fragment fields, and `total` bytes that stand behind it already. */
static inline void frag_finish(frag_table *t, const uint8_t *header, uint32_t header_length, uint32_t link, uint8_t next_header, uint32_t total)
{
    uint8_t *whole = t->whole;
    uint32_t length = header_length + total;
    memcpy(whole, header, header_length);
    if (whole[0] >> 4 == 4u) {
        uint16_t check;
        whole[2] = (uint8_t)(length >> 8);
        whole[3] = (uint8_t)length;
        whole[6] &= 0xc0u; /* DF stays */
        whole[7] = 0;
        whole[10] = whole[11] = 0;
        check = csum_ipv4_header(whole, header_length);
        memcpy(whole + 10, &check, 2);
    } else {
        whole[link] = next_header;
        whole[4] = (uint8_t)((length - 40u) >> 8);
        whole[5] = (uint8_t)(length - 40u);
    }
    t->whole_length = length;
    t->joined++;
}

static inline int frag_join(frag_table *t, uint32_t index)
{
    frag_datagram *d = &t->datagrams[index];
    int why = d->header_length + d->total > (d->key.version == 4u ? 65535u : 65575u) ? FRAG_TOO_LONG
        : (d->ecn_seen & 9u) == 9u ? FRAG_BAD_ECN : FRAG_JOINED; /* 9: Not-ECT and CE */
    if (why != FRAG_JOINED) {
        d->pieces--; /* frag_kill counts the piece that has just come */
        t->pieces_held--;
        return frag_kill(t, d, why);
    }
    for (uint32_t at = 0; at < d->total; at += FRAG_BLOCK) {
        uint32_t size = d->total - at < FRAG_BLOCK ? d->total - at : FRAG_BLOCK;
        memcpy(t->whole + d->header_length + at, t->blocks + (size_t)d->blocks[at / FRAG_BLOCK] * FRAG_BLOCK, size);
    }
    if (d->ecn_seen & 8u) { /* before the checksum is made */
        if (d->key.version == 4u)
            d->header[1] |= 3u;
        else
            d->header[1] |= 0x30u;
    }
    frag_finish(t, d->header, d->header_length, d->link, d->next_header, d->total);
    t->joined_pieces += d->pieces;
    t->pieces_held -= d->pieces;
    d->pieces = 0;
    frag_forget(t, index, FRAG_TIMEOUT);
    return FRAG_JOINED;
}

static inline int frag_add(frag_table *t, uint32_t index, const uint8_t *packet, const frag_piece *piece)
{
    frag_datagram *d = &t->datagrams[index];
    uint32_t end = piece->offset + piece->length, from = piece->offset / 8u, to = (end + 7u) / 8u;
    if (d->dead)
        return t->drops[d->dead]++, d->dead;
    if (frag_any(d->come, from, to)) {
        if (frag_is_copy(t, d, piece))
            return t->drops[FRAG_DUPLICATE]++, FRAG_DUPLICATE;
        return frag_kill(t, d, FRAG_OVERLAP);
    }
    if (piece->more ? d->total && end >= d->total : d->total || end < d->reach)
        return frag_kill(t, d, FRAG_OVERLAP);
    frag_store(t, index, piece);
    frag_set(d->come, from, to);
    frag_set(d->starts, from, from + 1u);
    d->ecn_seen |= (uint8_t)(1u << piece->ecn);
    d->received += piece->length;
    d->pieces++;
    t->pieces_held++;
    if (end > d->reach)
        d->reach = end;
    if (!piece->more)
        d->total = end;
    if (piece->offset == 0) {
        memcpy(d->header, packet, piece->header_length);
        d->header_length = (uint16_t)piece->header_length;
        d->link = piece->link;
        d->next_header = piece->next_header;
    }
    return d->received == d->total ? frag_join(t, index) : FRAG_HELD;
}

/* One packet in; `packet` may hold more than the packet (link padding). */
static inline int frag_push(frag_table *t, const uint8_t *packet, uint32_t length, uint64_t now_ns)
{
    frag_piece piece;
    uint32_t index;
    int result;
    if (!frag_may_be(packet, length))
        return FRAG_PASS;
    frag_expire(t, now_ns);
    result = frag_read(packet, length, &piece);
    if (result == FRAG_PASS)
        return FRAG_PASS;
    if (result != FRAG_HELD)
        return t->drops[result]++, result;
    if (piece.offset == 0 && !piece.more) {
        memcpy(t->whole + piece.header_length, piece.data, piece.length);
        frag_finish(t, packet, piece.header_length, piece.link, piece.next_header, piece.length);
        t->joined_pieces++;
        return FRAG_JOINED;
    }
    index = frag_find(t, &piece.key);
    if (index == FRAG_NONE)
        index = frag_begin(t, &piece.key, now_ns);
    return frag_add(t, index, packet, &piece);
}

#endif
