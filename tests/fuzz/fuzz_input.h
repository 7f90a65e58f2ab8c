/* What the targets share: an input read from its front, and packets in heap blocks of exactly their size, so that a byte too far is seen.
 *
 * A target is one file with LLVMFuzzerTestOneInput: clang makes a fuzzer of it (`./run fuzz`), any compiler with fuzz_replay.c a program that
 * replays the corpus (tests/fuzz/test_c_core_corpus.py).
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct input {
    const uint8_t *at;
    size_t left;
} input;

/* Results go here, or the optimiser would remove what made them. */
static volatile uint64_t sink;

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

static inline uint8_t take_byte(input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

static inline uint32_t take16(input *in)
{
    uint32_t high = take_byte(in);
    return high << 8 | take_byte(in);
}

/* A block of exactly the size: two bytes say it, what is not there is not in it. The caller frees it. */
static inline uint8_t *take_packet(input *in, uint32_t *length)
{
    uint32_t size = take16(in);
    uint8_t *packet;
    if (size > in->left)
        size = (uint32_t)in->left;
    packet = (uint8_t *)malloc(size);
    MUST(packet != NULL);
    memcpy(packet, in->at, size);
    in->at += size;
    in->left -= size;
    *length = size;
    return packet;
}

static inline uint8_t *copy_of(const uint8_t *data, uint32_t length)
{
    uint8_t *copy = (uint8_t *)malloc(length);
    MUST(copy != NULL);
    memcpy(copy, data, length);
    return copy;
}

static inline void read_all(const uint8_t *data, uint32_t length)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < length; i++)
        sum += data[i];
    sink += sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
