/* Anti-replay window and ESN inference: RFC 4303 section 3.4.3, appendix A2; bitmap in blocks as in RFC 6479.
 *
 * A plain C header because the proof and the fuzzer compile it as it ships. Checking and advancing are two calls: the first before the
 * crypto, the second, which checks again, after the ICV. One thread owns a window. Resynchronisation after a loss of more than 2^32 packets
 * (A2.3) is left out: it is optional, and a rekey does it better. Used by esp.pyx, replay.pyx.
 */
#ifndef IPSEC_FAST_REPLAY_H
#define IPSEC_FAST_REPLAY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REPLAY_MIN_SIZE 64u
#define REPLAY_MAX_SIZE 65536u

enum replay_result { REPLAY_NEW = 0, REPLAY_OLD = 1, REPLAY_SEEN = 2 };

struct replay_window {
    uint64_t top;        /* highest number accepted */
    uint32_t size;       /* numbers in (top - size, top] are told apart */
    uint32_t block_mask; /* blocks - 1; a power of two, at least one block more than size needs */
    uint64_t blocks[];
};

static inline uint32_t replay_block_count(uint32_t size)
{
    uint32_t needed = (size + 63u) / 64u + 1u, count = 2u;
    while (count < needed)
        count *= 2u;
    return count;
}

/* Everything up to and including top counts as seen; 0 for a new SA. NULL: size out of range, or no memory. */
static inline struct replay_window *replay_new(uint32_t size, uint64_t top)
{
    if (size < REPLAY_MIN_SIZE || size > REPLAY_MAX_SIZE)
        return NULL;
    uint32_t count = replay_block_count(size);
    struct replay_window *w = (struct replay_window *)malloc(sizeof *w + (size_t)count * sizeof(uint64_t));
    if (w == NULL)
        return NULL;
    w->top = top;
    w->size = size;
    w->block_mask = count - 1u;
    memset(w->blocks, 0xff, (size_t)count * sizeof(uint64_t));
    /* of the newest block only the bits up to top: the ones above are not seen */
    w->blocks[(top >> 6) & w->block_mask] = (top & 63u) == 63u ? UINT64_MAX : ((uint64_t)1 << ((top & 63u) + 1u)) - 1u;
    return w;
}

static inline enum replay_result replay_check(const struct replay_window *w, uint64_t seq)
{
    if (seq == 0)
        return REPLAY_OLD; /* the first packet of an SA carries 1 (section 2.2) */
    if (seq > w->top)
        return REPLAY_NEW;
    if (w->top - seq >= w->size)
        return REPLAY_OLD;
    return (w->blocks[(seq >> 6) & w->block_mask] >> (seq & 63u)) & 1u ? REPLAY_SEEN : REPLAY_NEW;
}

/* Check again and mark as seen. Call only once the ICV is known to be good. */
static inline enum replay_result replay_advance(struct replay_window *w, uint64_t seq)
{
    enum replay_result result = replay_check(w, seq);
    if (result != REPLAY_NEW)
        return result;
    if (seq > w->top) {
        uint64_t from = w->top >> 6, steps = (seq >> 6) - from;
        if (steps > w->block_mask)
            steps = (uint64_t)w->block_mask + 1u;
        for (uint64_t i = 1; i <= steps; i++)
            w->blocks[(from + i) & w->block_mask] = 0;
        if (steps > w->block_mask)
            w->blocks[(seq >> 6) & w->block_mask] = 0;
        w->top = seq;
    }
    w->blocks[(seq >> 6) & w->block_mask] |= (uint64_t)1 << (seq & 63u);
    return REPLAY_NEW;
}

/* The 64-bit number of a packet from its low half (appendix A2.2). 0, which no window accepts, where it would lie before the first
 * or behind the last number. Exact for true numbers in (top - size, top + 2^32 - size]. */
static inline uint64_t replay_infer_esn(const struct replay_window *w, uint32_t low)
{
    uint32_t top_low = (uint32_t)w->top, high = (uint32_t)(w->top >> 32);
    uint32_t bottom = top_low - w->size + 1u; /* modulo 2^32, as in A2.2 */
    if (top_low >= w->size - 1u) {
        if (low < bottom) {
            if (high == UINT32_MAX)
                return 0;
            high++;
        }
    } else if (low >= bottom) {
        if (high == 0)
            return 0;
        high--;
    }
    return (uint64_t)high << 32 | low;
}

#endif
