"""What ext/include/net_io.h and the system's headers give to those that send and receive: one set of declarations for all of them.

Declarations alone; there is no compiled module of this name. Called by coalesce, segment, port and worker, and by bench's load and relay.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "net_io.h" nogil:
    enum:
        CONTROL_BYTES
        AF_INET
        AF_INET6
        POLLIN
        POLLOUT
        POLLERR
        POLLHUP
        POLLNVAL
        MSG_DONTWAIT
        MSG_ERRQUEUE
        MSG_TRUNC
        CLOCK_MONOTONIC
        VNET_NEEDS_CSUM
        VNET_GSO_NONE
        VNET_GSO_TCPV4
        VNET_GSO_TCPV6
        VNET_GSO_UDP_L4
        VNET_GSO_ECN
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct pollfd:
        int fd
        short events
        short revents
    struct timespec:
        long tv_sec
        long tv_nsec
    struct vnet_header:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    struct control_view:
        int segment
        int tos
        int family
        uint8_t local[16]
    struct error_view:
        int icmp
        int too_big
        uint32_t mtu
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout) noexcept
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags) noexcept
    long sendmsg(int fd, msghdr *message, int flags) noexcept
    long read(int fd, void *data, size_t size) noexcept
    long writev(int fd, const iovec *vector, int count) noexcept
    int poll(pollfd *fds, unsigned long count, int timeout) noexcept
    int ppoll(pollfd *fds, unsigned long count, timespec *timeout, void *mask) noexcept
    int clock_nanosleep(int clock, int flags, timespec *time, timespec *left) noexcept
    void error_read(msghdr *message, error_view *view) noexcept
    void control_read(msghdr *message, control_view *view) noexcept
    void control_add_segment(msghdr *message, size_t *used, uint16_t segment) noexcept
    void control_add_tos(msghdr *message, size_t *used, int family, int tos) noexcept
    void control_add_source(msghdr *message, size_t *used, int family, const uint8_t *address) noexcept
    uint64_t monotonic_ns() noexcept
    void record_write(uint64_t *to, const uint64_t *source, size_t words) noexcept
    int atomic_get_int_fenced(const int *source) noexcept
    void atomic_set_int_fenced(int *target, int value) noexcept
    uint64_t atomic_get_u64(const uint64_t *source) noexcept
    void atomic_set_u64(uint64_t *target, uint64_t value) noexcept
    void *atomic_get_pointer(void **source) noexcept
    void atomic_set_pointer(void **target, void *value) noexcept
