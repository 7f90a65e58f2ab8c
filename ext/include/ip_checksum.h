/* The internet checksum (RFC 1071), fast: 32-bit words into 64-bit sums, which compilers turn into vector code, with an AVX2 build of the loops
 * picked at run time.
 *
 * Sums are one's complement sums of 16-bit words in memory order; they may be added to each other as plain integers as long as every part but the
 * last has an even length. csum_fold gives the two bytes to store with a plain uint16_t store; invert it for a checksum field.
 */
#ifndef IPSEC_FAST_IP_CHECKSUM_H
#define IPSEC_FAST_IP_CHECKSUM_H

#include <stdint.h>
#include <string.h>

#define CSUM_LOOPS(name, attributes)                                                                                               \
    attributes static uint64_t csum_add_##name(const uint8_t *data, uint32_t words)                                               \
    {                                                                                                                              \
        uint64_t sum = 0;                                                                                                          \
        for (uint32_t i = 0; i < words; i++) {                                                                                     \
            uint32_t word;                                                                                                         \
            memcpy(&word, data + (size_t)i * 4u, 4);                                                                               \
            sum += word;                                                                                                           \
        }                                                                                                                          \
        return sum;                                                                                                                \
    }                                                                                                                              \
    attributes static uint64_t csum_copy_##name(uint8_t *__restrict to, const uint8_t *__restrict from, uint32_t words)           \
    {                                                                                                                              \
        uint64_t sum = 0;                                                                                                          \
        for (uint32_t i = 0; i < words; i++) {                                                                                     \
            uint32_t word;                                                                                                         \
            memcpy(&word, from + (size_t)i * 4u, 4);                                                                               \
            memcpy(to + (size_t)i * 4u, &word, 4);                                                                                 \
            sum += word;                                                                                                           \
        }                                                                                                                          \
        return sum;                                                                                                                \
    }

CSUM_LOOPS(plain, __attribute__((optimize("O3"))))
#if defined(__x86_64__)
CSUM_LOOPS(avx2, __attribute__((target("avx2"), optimize("O3"))))
#define CSUM_PICK(call) (__builtin_cpu_supports("avx2") ? csum_##call##_avx2 : csum_##call##_plain)
#else
#define CSUM_PICK(call) csum_##call##_plain
#endif

static inline uint64_t csum_tail(const uint8_t *data, uint32_t length)
{
    uint8_t last[4] = {0, 0, 0, 0};
    uint32_t word;
    memcpy(last, data, length);
    memcpy(&word, last, 4);
    return word;
}

/* A carry-out of 64 bits cannot happen: a 64 KB packet adds less than 2^46. */
static inline uint64_t csum_add(uint64_t sum, const uint8_t *data, uint32_t length)
{
    uint32_t words = length / 4u;
    sum += CSUM_PICK(add)(data, words);
    return length & 3u ? sum + csum_tail(data + (size_t)words * 4u, length & 3u) : sum;
}

/* memcpy that sums what it moves; the regions must not overlap. */
static inline uint64_t csum_copy(uint64_t sum, uint8_t *to, const uint8_t *from, uint32_t length)
{
    uint32_t words = length / 4u, rest = length & 3u;
    sum += CSUM_PICK(copy)(to, from, words);
    if (rest == 0)
        return sum;
    memcpy(to + (size_t)words * 4u, from + (size_t)words * 4u, rest);
    return sum + csum_tail(from + (size_t)words * 4u, rest);
}

static inline uint16_t csum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

static inline uint64_t csum_pseudo_tail(uint8_t protocol, uint32_t length)
{
    uint8_t tail[8] = {(uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length, 0, 0, 0, protocol};
    uint32_t words[2];
    memcpy(words, tail, 8);
    return (uint64_t)words[0] + words[1];
}

static inline uint64_t csum_pseudo(const uint8_t *src, const uint8_t *dst, uint32_t address_length, uint8_t protocol, uint32_t length)
{
    uint64_t sum = csum_pseudo_tail(protocol, length);
    for (uint32_t i = 0; i < address_length; i += 4u) {
        uint32_t a, b;
        memcpy(&a, src + i, 4);
        memcpy(&b, dst + i, 4);
        sum += (uint64_t)a + b;
    }
    return sum;
}

static inline uint64_t csum_pseudo4(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t length)
{
    return csum_pseudo(src, dst, 4u, protocol, length);
}

static inline uint64_t csum_pseudo6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t length)
{
    return csum_pseudo(src, dst, 16u, protocol, length);
}

/* RFC 1624 equation 3. */
static inline uint16_t csum_update16(uint16_t check, uint16_t old_word, uint16_t new_word)
{
    return (uint16_t)~csum_fold((uint64_t)(uint16_t)~check + (uint16_t)~old_word + new_word);
}

static inline uint16_t csum_ipv4_header(const uint8_t *header, uint32_t header_length)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < header_length; i += 4u) {
        uint32_t word;
        memcpy(&word, header + i, 4);
        sum += word;
    }
    return (uint16_t)~csum_fold(sum);
}

#endif
