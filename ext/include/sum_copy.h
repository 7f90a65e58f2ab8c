/* Internet checksums (RFC 1071) fast enough to ride along with a copy: 32-bit words are added into 64-bit lanes, folded at the end.
 *
 * sum_copy copies and sums in one pass, so that the payload of a segment is read once on its way into the slot. The sums are of words in
 * memory order; the folded result is stored as it is. Whoever continues a sum behind an odd number of bytes must swap it himself: nobody
 * here does, every part but the last has an even length. Called by segment, coalesce and pmtu.
 */
#ifndef IPSEC_FAST_SUM_COPY_H
#define IPSEC_FAST_SUM_COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One clone with AVX2 chosen by the loader where the C library can do that; elsewhere the compiler's baseline. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) \
    && !defined(__SANITIZE_THREAD__)
#define SUM_CLONES __attribute__((target_clones("avx2", "default"), noinline))
#else
#define SUM_CLONES __attribute__((noinline))
#endif

static inline uint64_t sum_tail(const uint8_t *from, size_t length)
{
    uint64_t sum = 0;
    uint16_t half;
    uint32_t word;
    if (length >= 4) {
        memcpy(&word, from, 4);
        sum += word;
        from += 4;
        length -= 4;
    }
    if (length >= 2) {
        memcpy(&half, from, 2);
        sum += half;
        from += 2;
        length -= 2;
    }
    if (length) {
        uint8_t last[2] = {from[0], 0};
        memcpy(&half, last, 2);
        sum += half;
    }
    return sum;
}

/* A header of some ten bytes: no call, no vector set-up. */
static inline uint64_t sum_small(const uint8_t *from, size_t length)
{
    uint64_t sum = 0;
    uint32_t word;
    while (length >= 8) {
        memcpy(&word, from, 4);
        sum += word;
        memcpy(&word, from + 4, 4);
        sum += word;
        from += 8;
        length -= 8;
    }
    return sum + sum_tail(from, length);
}

SUM_CLONES static uint64_t sum_bytes(const uint8_t *restrict from, size_t length)
{
    uint64_t sum = 0;
    size_t words = length / 4;
    for (size_t i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, from + 4 * i, 4);
        sum += word;
    }
    return sum + sum_tail(from + 4 * words, length - 4 * words);
}

SUM_CLONES static uint64_t sum_copy(uint8_t *restrict to, const uint8_t *restrict from, size_t length)
{
    uint64_t sum = 0;
    size_t words = length / 4;
    for (size_t i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, from + 4 * i, 4);
        memcpy(to + 4 * i, &word, 4);
        sum += word;
    }
    memcpy(to + 4 * words, from + 4 * words, length - 4 * words);
    return sum + sum_tail(from + 4 * words, length - 4 * words);
}

static inline uint16_t sum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* RFC 1624, equation 3: the checksum after a 16-bit word changed from `before` to `after` (all as they stand in memory). */
static inline uint16_t sum_update(uint16_t checksum, uint16_t before, uint16_t after)
{
    return (uint16_t)~sum_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~before + after);
}

#endif
