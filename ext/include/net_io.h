/* What Cython cannot say for itself about sockets and threads: CMSG macros, constants newer than the headers, C11 atomics.
 *
 * Called by udp, tun, ring and worker. Holds no rule of any protocol.
 */
#ifndef IPSEC_FAST_NET_IO_H
#define IPSEC_FAST_NET_IO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define CONTROL_BYTES 192 /* room for packet info (40), TOS (24), and UDP_SEGMENT or UDP_GRO (24) or an error (64) of one message */

/* As linux/virtio_net.h has it, which lacks UDP_L4 on older systems. */
struct vnet_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
#define VNET_NEEDS_CSUM 1
#define VNET_GSO_NONE 0
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_ECN 0x80

static inline void *control_add(struct msghdr *message, size_t *used, int level, int type, size_t length)
{
    struct cmsghdr *header = (struct cmsghdr *)((uint8_t *)message->msg_control + *used);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(length);
    *used += CMSG_SPACE(length);
    message->msg_controllen = *used;
    return CMSG_DATA(header);
}

static inline void control_add_segment(struct msghdr *message, size_t *used, uint16_t segment)
{
    memcpy(control_add(message, used, IPPROTO_UDP, UDP_SEGMENT, sizeof segment), &segment, sizeof segment);
}

static inline void control_add_tos(struct msghdr *message, size_t *used, int family, int tos)
{
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, type = family == AF_INET ? IP_TOS : IPV6_TCLASS;
    memcpy(control_add(message, used, level, type, sizeof tos), &tos, sizeof tos);
}

static inline void control_add_source(struct msghdr *message, size_t *used, int family, const uint8_t *address)
{
    if (family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, address, 4);
        memcpy(control_add(message, used, IPPROTO_IP, IP_PKTINFO, sizeof info), &info, sizeof info);
    } else {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, address, 16);
        memcpy(control_add(message, used, IPPROTO_IPV6, IPV6_PKTINFO, sizeof info), &info, sizeof info);
    }
}

/* What recvmmsg said beside the bytes: segment size (0: one datagram), TOS (-1: not told), our address (family 0: not told). */
struct control_view {
    int segment, tos, family;
    uint8_t local[16];
};

static inline void control_read(struct msghdr *message, struct control_view *view)
{
    view->segment = 0;
    view->tos = -1;
    view->family = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&view->segment, CMSG_DATA(c), sizeof(int));
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            view->tos = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            memcpy(&view->tos, CMSG_DATA(c), sizeof(int));
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            view->family = AF_INET;
            memcpy(view->local, &info.ipi_addr, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            view->family = AF_INET6;
            memcpy(view->local, &info.ipi6_addr, 16);
        }
    }
}

/* What the error queue of a socket says (IP_RECVERR, IPV6_RECVERR): whether it is ICMP, whether it says too big, and the MTU that it names. */
struct error_view {
    int icmp, too_big;
    uint32_t mtu;
};

static inline void error_read(struct msghdr *message, struct error_view *view)
{
    struct sock_extended_err error;
    memset(view, 0, sizeof *view);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        int v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
        int v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
        if ((!v4 && !v6) || c->cmsg_len < CMSG_LEN(sizeof error))
            continue;
        memcpy(&error, CMSG_DATA(c), sizeof error);
        view->icmp = error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6;
        view->too_big = (error.ee_origin == SO_EE_ORIGIN_ICMP && error.ee_type == 3 && error.ee_code == 4)
            || (error.ee_origin == SO_EE_ORIGIN_ICMP6 && error.ee_type == 2);
        view->mtu = error.ee_info;
    }
}

static inline uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A record of a few words that one thread writes and others copy: its first word is odd while it is written. */
static inline void record_write(uint64_t *to, const uint64_t *from, size_t words)
{
    __atomic_store_n(to, to[0] + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (size_t i = 1; i < words; i++)
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
    __atomic_store_n(to, to[0] + 1, __ATOMIC_RELEASE);
}

static inline void record_read(uint64_t *to, const uint64_t *from, size_t words)
{
    do {
        while ((to[0] = __atomic_load_n(from, __ATOMIC_ACQUIRE)) & 1)
            ;
        for (size_t i = 1; i < words; i++)
            to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (__atomic_load_n(from, __ATOMIC_RELAXED) != to[0]);
}

/* For two threads that each write one word and then read the other's: at least one of them sees the other's write. */
static inline int atomic_get_int_fenced(const int *from) { __atomic_thread_fence(__ATOMIC_SEQ_CST); return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
static inline void atomic_set_int_fenced(int *to, int value) { __atomic_store_n(to, value, __ATOMIC_SEQ_CST); __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline uint64_t atomic_get_u64(const uint64_t *from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
static inline void atomic_set_u64(uint64_t *to, uint64_t value) { __atomic_store_n(to, value, __ATOMIC_RELEASE); }
static inline void atomic_set_u64_fenced(uint64_t *to, uint64_t value) { __atomic_store_n(to, value, __ATOMIC_SEQ_CST); __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline uint64_t atomic_next_u64(uint64_t *of) { __atomic_thread_fence(__ATOMIC_SEQ_CST); return __atomic_add_fetch(of, 1, __ATOMIC_SEQ_CST); }
static inline void *atomic_get_pointer(void *const *from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
static inline void atomic_set_pointer(void **to, void *value) { __atomic_store_n(to, value, __ATOMIC_SEQ_CST); }

#endif
