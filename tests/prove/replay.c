/* Proofs about ext/include/replay.h, the header that ships, run by `./run prove` with CBMC; each prove_* is one run.
 *
 * The window of a proof is an arbitrary one: any top, any content of its blocks. What one call of replay_advance keeps true of such a window holds
 * after any number of calls, so "never twice, whatever comes between" is a statement about one call and two numbers.
 *
 * All proofs but prove_advance are about every size from 64 to 1,048,576 at once. prove_advance is run for 2 and 4 blocks, its loop unrolled, and
 * for 32 (the default window, 1024, among them), its loop by induction. It carries over to more blocks because size and number of blocks are
 * variables of the code, no constant depends on them, and they enter it in three ways only, each proved for every size: the comparison with size
 * (prove_check); the ring of blocks being a power of two and longer than the window (prove_block_count), so that a block is wiped only when all its
 * numbers are behind the window; and `& block_mask`, which makes any 64-bit index one of the ring (prove_wipe: also which of them a jump wipes).
 */
#include <assert.h>
#include <stdint.h>

static uint64_t top_before, watched[3], before[3];
static uint32_t size_before, mask_before;
#define SAME_HEADER(w) ((w)->top == top_before && (w)->size == size_before && (w)->block_mask == mask_before)

/* Sizes that ship go up to 32,768 blocks, and a jump wipes up to all of them: too many to unroll. So the loop is proved by induction too
 * (goto-instrument --apply-loop-contracts): what it keeps true is said of the blocks that a property reads, and nothing is known of the others
 * afterwards. A block is empty once its turn came, and untouched until then. */
#ifdef LOOP_BY_INDUCTION
#define WIPED_OR_KEPT(w, after, done, k) \
    ((w)->blocks[watched[k]] == (((watched[k] - (after) - 1u) & (w)->block_mask) < (done) ? 0u : before[k]))
#define REPLAY_WIPE_CONTRACT(w, after, done, count) \
    __CPROVER_assigns(done, __CPROVER_object_whole(w)) \
    __CPROVER_loop_invariant(done <= (count) && (count) <= (uint64_t)(w)->block_mask + 1u && SAME_HEADER(w) && \
        WIPED_OR_KEPT(w, after, done, 0) && WIPED_OR_KEPT(w, after, done, 1) && WIPED_OR_KEPT(w, after, done, 2)) \
    __CPROVER_decreases((count) - done)
#endif

#include "replay.h"

uint64_t nondet_u64(void);
uint32_t nondet_u32(void);

/* What every window keeps true besides its size: in the newest block nothing above top is marked. */
static int is_sound(const struct replay_window *w)
{
    uint64_t newest = w->blocks[(w->top >> 6) & w->block_mask];
    return (newest & ~(UINT64_MAX >> (63u - (w->top & 63u)))) == 0;
}

static void take_any(struct replay_window *w, uint32_t size)
{
    w->size = size_before = size;
    w->block_mask = mask_before = replay_block_count(size) - 1u;
    w->top = top_before = nondet_u64();
}

static uint32_t any_size(void)
{
    uint32_t size = nondet_u32();
    __CPROVER_assume(size >= REPLAY_MIN_SIZE && size <= REPLAY_MAX_SIZE);
    return size;
}

#ifdef COUNT
/* Memory of COUNT blocks that has their type: as plain bytes it would be too much to reason about where a loop writes. */
static struct memory {
    struct replay_window head;
    uint64_t blocks[COUNT];
} memory;

static void watch(const struct replay_window *w, int k, uint64_t seq)
{
    watched[k] = (seq >> 6) & w->block_mask;
    before[k] = w->blocks[watched[k]];
}

/* Once refused, for ever refused, so no number is accepted twice; one that is not refused is refused by nothing but its own arrival or the
 * window's passing; top only grows; what the window keeps true stays true. */
void prove_advance(void)
{
    struct replay_window *w = &memory.head;
    struct memory anything;
    uint32_t size = any_size();
    uint64_t seq = nondet_u64(), other = nondet_u64();
    __CPROVER_assume(replay_block_count(size) == COUNT);
    memory = anything;
    take_any(w, size);
    __CPROVER_assume(is_sound(w));
    watch(w, 0, seq);
    watch(w, 1, other);
    watch(w, 2, w->top);
    enum replay_result was = replay_check(w, seq), others = replay_check(w, other);
    enum replay_result result = replay_advance(w, seq);

    assert(result == was);
    assert(replay_check(w, seq) != REPLAY_NEW);
    assert(w->top == (result == REPLAY_NEW && seq > top_before ? seq : top_before));
    assert(w->size == size_before && w->block_mask == mask_before);
    assert(is_sound(w));
    if (others != REPLAY_NEW)
        assert(replay_check(w, other) != REPLAY_NEW);
    else if (other != seq && (other > w->top || w->top - other < w->size))
        assert(replay_check(w, other) == REPLAY_NEW);
}
#endif

/* What is old, seen or new by the RFC's words, of one number: 0 and what is behind the window is old, what is above top is new. No block is
 * read outside of the window's memory. Every size. */
void prove_check(void)
{
    uint32_t size = any_size();
    struct replay_window *w = malloc(sizeof *w + (size_t)replay_block_count(size) * sizeof(uint64_t)); /* of any content */
    uint64_t seq = nondet_u64();
    take_any(w, size);
    enum replay_result result = replay_check(w, seq);
    assert((result == REPLAY_OLD) == (seq == 0 || (seq <= w->top && w->top - seq >= w->size)));
    assert(seq <= w->top || result == REPLAY_NEW);
}

/* A window begins with everything up to top refused and everything above it new, and sound. Every size. */
void prove_new(void)
{
    uint32_t size = any_size();
    uint64_t top = nondet_u64(), seq = nondet_u64();
    struct replay_window *w = replay_new(size, top);
    assert(w->top == top && w->size == size && is_sound(w));
    assert(seq == 0 || (replay_check(w, seq) == REPLAY_NEW) == (seq > top));
    assert(!replay_resync_due(w) && w->resyncs == 0);
}

/* Every size that ships has a power of two of blocks, with one to spare beyond a window that begins anywhere in a block. */
void prove_block_count(void)
{
    uint32_t size = nondet_u32();
    if (size < REPLAY_MIN_SIZE || size > REPLAY_MAX_SIZE) {
        assert(replay_new(size, nondet_u64()) == NULL);
        return;
    }
    uint32_t count = replay_block_count(size);
    assert((count & (count - 1u)) == 0 && count >= 2u);
    assert((uint64_t)(count - 1u) * 64u >= size && count <= REPLAY_MAX_SIZE / 32u);
}

/* The arithmetic of the wiping loop for a ring of any length: in `count` steps it comes by the block of a number above top if and only if that
 * number's block is at most `count` blocks ahead, and by no other in between. The induction of WIPED_OR_KEPT, one step of it. */
void prove_wipe(void)
{
    uint64_t mask = (uint64_t)replay_block_count(any_size()) - 1u, after = nondet_u64(), done = nondet_u64(), block = nondet_u64() & mask;
    __CPROVER_assume(done <= mask);
    uint64_t turn = (block - after - 1u) & mask;
    assert(((after + done + 1u) & mask) == block ? turn == done : turn != done);
    assert((turn < done + 1u) == (turn < done || ((after + done + 1u) & mask) == block));
}

/* Appendix A2.2 is exact over (top - size, top + 2^32 - size], for every size that ships, and never says a number outside of it. */
void prove_esn(void)
{
    struct replay_window w;
    uint64_t seq = nondet_u64();
    uint32_t low = nondet_u32();
    w.size = any_size();
    w.top = nondet_u64();
    __uint128_t past = (__uint128_t)seq + w.size, wide_top = w.top; /* seq > top - size, without going below 0 */
    if (seq != 0 && past > wide_top && past <= wide_top + ((__uint128_t)1 << 32))
        assert(replay_infer_esn(&w, (uint32_t)seq) == seq);
    uint64_t found = replay_infer_esn(&w, low);
    __uint128_t found_past = (__uint128_t)found + w.size;
    if (found != 0) {
        assert((uint32_t)found == low);
        assert(found_past > wide_top && found_past <= wide_top + ((__uint128_t)1 << 32));
    }
}

/* Appendix A3: a trial is due no sooner than after 256 failures, asks for a number above top with the packet's low half, and moves nothing. */
void prove_resync(void)
{
    struct replay_window w;
    uint32_t low = nondet_u32();
    w.size = any_size();
    w.top = nondet_u64();
    w.failed = nondet_u32();
    w.trials = nondet_u32();
    __CPROVER_assume(w.failed <= REPLAY_RESYNC_AFTER);
    struct replay_window old = w;
    replay_failed(&w);
    assert(w.failed == (old.failed < REPLAY_RESYNC_AFTER ? old.failed + 1u : old.failed));
    assert(replay_resync_due(&w) == (w.failed == REPLAY_RESYNC_AFTER) && w.top == old.top && w.size == old.size);
    uint64_t inferred = replay_infer_esn(&w, low), seq = replay_resync_number(&w, low);
    assert(w.failed == 0 && w.top == old.top && w.size == old.size && w.resyncs == old.resyncs);
    if (seq != 0) {
        assert(seq > w.top && (uint32_t)seq == low && inferred != 0);
        assert(seq - inferred >= (uint64_t)1 << 32 && seq - inferred <= (uint64_t)REPLAY_RESYNC_STEPS << 32);
        assert(replay_check(&w, seq) == REPLAY_NEW);
    }
}
