/* What the first fragment of a packet said of its upper layer, kept for the later ones: stateful fragment checking (RFC 4301 section 7.3).
 *
 * A set-associative table of fixed size: an entry gives way to a newer one of its set, and is forgotten after the timeout. Only ports and protocol
 * are kept, no verdict and no SA, so a new policy or a rekey counts for the rest of a packet at once. Used by track.pyx. One thread owns a table.
 */
#ifndef IPSEC_FAST_IP_TRACK_H
#define IPSEC_FAST_IP_TRACK_H

#include "ip_fragment.h"

#define TRACK_WAYS 4u

typedef struct track_entry {
    frag_key key;
    uint64_t at_ns;
    uint16_t src_port, dst_port;
    uint8_t protocol, has_ports, used;
} track_entry;

typedef struct track_table {
    uint64_t timeout_ns, seed;
    uint32_t set_mask;
    track_entry entries[];
} track_table;

/* Room for `entries` packets, rounded up to a power of two. NULL: no memory, or out of range. */
static inline track_table *track_new(uint32_t entries, uint64_t timeout_ns, uint64_t seed)
{
    uint32_t count = TRACK_WAYS;
    track_table *t;
    if (entries > 1u << 20)
        return NULL;
    while (count < entries)
        count *= 2u;
    t = (track_table *)calloc(1, sizeof(track_table) + sizeof(track_entry) * (size_t)count);
    if (t == NULL)
        return NULL;
    t->timeout_ns = timeout_ns;
    t->seed = seed;
    t->set_mask = count / TRACK_WAYS - 1u;
    return t;
}

static inline void track_free(track_table *t)
{
    free(t);
}

static inline track_entry *track_set(track_table *t, const frag_key *key)
{
    return &t->entries[(frag_mix(t->seed, key) & t->set_mask) * TRACK_WAYS];
}

static inline int track_is_over(const track_table *t, const track_entry *e, uint64_t now_ns)
{
    return !e->used || (now_ns >= e->at_ns && now_ns - e->at_ns >= t->timeout_ns);
}

/* NULL: no first fragment of this packet was kept. */
static inline const track_entry *track_get(track_table *t, const frag_key *key, uint64_t now_ns)
{
    track_entry *set = track_set(t, key);
    for (uint32_t i = 0; i < TRACK_WAYS; i++)
        if (!track_is_over(t, &set[i], now_ns) && memcmp(&set[i].key, key, sizeof *key) == 0)
            return &set[i];
    return NULL;
}

/* `first` is the parse of a first fragment. */
static inline void track_put(track_table *t, const frag_key *key, const ip_info *first, uint64_t now_ns)
{
    track_entry *set = track_set(t, key), *e = set;
    for (uint32_t i = 0; i < TRACK_WAYS; i++) {
        if (set[i].used && memcmp(&set[i].key, key, sizeof *key) == 0) {
            e = &set[i];
            break;
        }
        if (!track_is_over(t, e, now_ns) && (track_is_over(t, &set[i], now_ns) || set[i].at_ns < e->at_ns))
            e = &set[i];
    }
    e->key = *key;
    e->at_ns = now_ns;
    e->src_port = first->src_port;
    e->dst_port = first->dst_port;
    e->protocol = first->protocol;
    e->has_ports = first->has_ports;
    e->used = 1;
}

#endif
