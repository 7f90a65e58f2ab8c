/* What crew.pyx needs of C: compare-and-swap, a futex, and the processor's word for waiting. Holds no rule of its own. Called by crew. */
#ifndef IPSEC_FAST_CREW_H
#define IPSEC_FAST_CREW_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline uint64_t crew_load64(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void crew_store64(uint64_t *at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); }
static inline uint32_t crew_load32(const uint32_t *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
static inline void crew_add32(uint32_t *at, uint32_t value) { __atomic_add_fetch(at, value, __ATOMIC_SEQ_CST); }
static inline void crew_add64(uint64_t *at, uint64_t value) { __atomic_add_fetch(at, value, __ATOMIC_ACQ_REL); }
static inline int crew_swap64(uint64_t *at, uint64_t *expected, uint64_t wanted)
{
    return __atomic_compare_exchange_n(at, expected, wanted, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline int crew_enter(int *busy)
{
    int none = 0;
    return __atomic_compare_exchange_n(busy, &none, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
static inline void crew_leave(int *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
static inline void crew_futex_wait(uint32_t *at, uint32_t seen) { syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0); }
static inline void crew_futex_wake(uint32_t *at) { syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, 0x7fffffff, 0, 0, 0); }
static inline void crew_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
static inline void crew_yield(void) { sched_yield(); }

#endif
