/* Anti-replay window and ESN: RFC 4303 section 3.4.3, appendix A2 (inference) and A3 (finding the way back after a long gap); bitmap in blocks
 * as in RFC 6479.
 *
 * A plain C header because the proof (tests/prove) and the fuzzer compile it as it ships. Checking and advancing are two calls: the first before
 * the crypto, the second, which checks again, after the ICV. One thread owns a window; others may read `top`. Used by esp.pyx, ah.pyx, replay.pyx.
 */
#ifndef IPSEC_FAST_REPLAY_H
#define IPSEC_FAST_REPLAY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REPLAY_MIN_SIZE 32u /* what every receiver must support (section 3.4.3) */
#define REPLAY_MAX_SIZE 1048576u

/* A3.1 leaves the threshold to us: so many packets of an SA in a row without a good ICV, then one is tried a second time, under the next high
 * half; after as many more, under the one after that. Forged packets cost one ICV check more in 256, and never move anything. */
#define REPLAY_RESYNC_AFTER 256u
#define REPLAY_RESYNC_STEPS 4u

enum replay_result { REPLAY_NEW = 0, REPLAY_OLD = 1, REPLAY_SEEN = 2 };

struct replay_window {
    uint64_t top;        /* highest number accepted */
    uint32_t size;       /* numbers in (top - size, top] are told apart */
    uint32_t block_mask; /* blocks - 1; a power of two, at least one block more than size needs */
    uint32_t failed;     /* ESN: packets without a good ICV since the last good one, or the last trial */
    uint32_t trials;     /* second tries under another high half */
    uint64_t resyncs;    /* and how many of them were right */
    uint64_t ahead;      /* ESN: the highest number that the packets being opened together may have, or top */
    uint32_t pending;    /* ESN: the number of these packets */
    uint64_t blocks[];
};

/* The proof says here what the loop in replay_wipe keeps true; a compiler sees nothing. */
#ifndef REPLAY_WIPE_CONTRACT
#define REPLAY_WIPE_CONTRACT(w, after, done, count)
#endif

static inline uint32_t replay_block_count(uint32_t size)
{
    uint32_t needed = (size + 63u) / 64u + 1u, count = 2u;
    while (count < needed)
        count *= 2u;
    return count;
}

/* All blocks as they are when everything up to and including top was seen. */
static inline void replay_fill(struct replay_window *w, uint64_t top)
{
    memset(w->blocks, 0xff, ((size_t)w->block_mask + 1u) * sizeof(uint64_t));
    /* of the newest block only the bits up to top: the ones above are not seen */
    w->blocks[(top >> 6) & w->block_mask] = UINT64_MAX >> (63u - (top & 63u));
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
    memset(w, 0, sizeof *w);
    w->top = top;
    w->size = size;
    w->block_mask = count - 1u;
    replay_fill(w, top);
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

/* Blocks after + 1, after + 2, ..., `count` of them, become empty; the blocks are a ring. */
static inline void replay_wipe(struct replay_window *w, uint64_t after, uint64_t count)
{
    for (uint64_t done = 0; done < count; done++)
        REPLAY_WIPE_CONTRACT(w, after, done, count)
        w->blocks[(after + done + 1u) & w->block_mask] = 0;
}

/* Check again and mark as seen. Call only once the ICV is known to be good. */
static inline enum replay_result replay_advance(struct replay_window *w, uint64_t seq)
{
    enum replay_result result = replay_check(w, seq);
    if (result != REPLAY_NEW)
        return result;
    w->failed = 0;
    if (seq > w->top) {
        uint64_t from = w->top >> 6, steps = (seq >> 6) - from;
        if (steps > w->block_mask)
            steps = (uint64_t)w->block_mask + 1u;
        replay_wipe(w, from, steps);
        __atomic_store_n(&w->top, seq, __ATOMIC_RELEASE); /* who keeps records reads it */
    }
    w->blocks[(seq >> 6) & w->block_mask] |= (uint64_t)1 << (seq & 63u);
    return REPLAY_NEW;
}

/* The 64-bit number of a packet from its low half (appendix A2.2), for a window with this top and size. 0, which no window accepts, where it
 * would lie before the first or behind the last number. Exact for true numbers in (top - size, top + 2^32 - size]. */
static inline uint64_t replay_infer_at(uint64_t top, uint32_t size, uint32_t low)
{
    uint32_t top_low = (uint32_t)top, high = (uint32_t)(top >> 32);
    uint32_t bottom = top_low - size + 1u; /* modulo 2^32, as in A2.2 */
    if (top_low >= size - 1u) {
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

static inline uint64_t replay_infer_esn(const struct replay_window *w, uint32_t low)
{
    return replay_infer_at(w->top, w->size, low);
}

/* ESN: packets that are opened together get the number that each would get alone, unless an earlier one moves the window too far.
 * REPLAY_JOINS: this packet's number does not depend on the earlier ones. REPLAY_MAY_CHANGE: it does if one of them jumps ahead, so its
 * ciphertext must be kept. REPLAY_WAITS: the earlier ones must be finished first, since their failures may cause a trial (appendix A3). */
enum replay_join { REPLAY_JOINS = 0, REPLAY_MAY_CHANGE, REPLAY_WAITS };
static inline enum replay_join replay_join(const struct replay_window *w, uint32_t low, uint64_t seq)
{
    if (w->pending == 0)
        return REPLAY_JOINS;
    if (w->failed + w->pending >= REPLAY_RESYNC_AFTER)
        return REPLAY_WAITS;
    return replay_infer_at(w->ahead, w->size, low) == seq ? REPLAY_JOINS : REPLAY_MAY_CHANGE;
}

/* `ahead` is the highest number that one of them may turn out to have. */
static inline void replay_joined(struct replay_window *w, uint32_t low)
{
    uint64_t seq;
    if (w->pending++ == 0)
        w->ahead = w->top;
    seq = replay_infer_at(w->ahead, w->size, low);
    if (seq > w->ahead)
        w->ahead = seq;
}

/* All packets that were opened together are finished. */
static inline void replay_settle(struct replay_window *w)
{
    w->pending = 0;
}

/* ESN: a packet of this window had no good ICV. */
static inline void replay_failed(struct replay_window *w)
{
    if (w->failed < REPLAY_RESYNC_AFTER)
        w->failed++;
}

/* Whether the next packet without a good ICV is to be tried under another high half. */
static inline int replay_resync_due(const struct replay_window *w)
{
    return w->failed >= REPLAY_RESYNC_AFTER;
}

/* The number to try it under, above top; 0: none. The window stays as it is until replay_advance takes that number. */
static inline uint64_t replay_resync_number(struct replay_window *w, uint32_t low)
{
    uint64_t seq = replay_infer_esn(w, low), step = (uint64_t)(1u + w->trials % REPLAY_RESYNC_STEPS) << 32;
    w->failed = 0;
    w->trials++;
    return seq == 0 || seq > UINT64_MAX - step ? 0 : seq + step;
}

#endif
