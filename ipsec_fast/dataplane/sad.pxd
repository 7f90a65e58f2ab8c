# Security associations as kernels see them. An embedder cimports `SA` and hands `sa.hot` to esp_outbound and esp_inbound.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.engine cimport engine_suite
from ipsec_fast.dataplane.status cimport VERDICT_SLOTS


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t ipsec_fast_load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void ipsec_fast_store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    uint64_t load_u64 "ipsec_fast_load_u64"(const uint64_t *p) noexcept nogil
    void store_u64 "ipsec_fast_store_u64"(uint64_t *p, uint64_t v) noexcept nogil


cdef enum:
    SA_OUTBOUND = 0
    SA_INBOUND = 1
    OUTER_NONE = 0           # ESP header to ICV only: a socket adds the rest (worker)
    OUTER_IPV4 = 4
    OUTER_IPV6 = 6

cdef struct esp_sa
ctypedef void (*sa_release_fn)(esp_sa *sa) noexcept nogil

# The hot part, 64-byte aligned. One thread numbers an outbound SA, one owns an inbound one's window; `granted`, `grant_ask`, limits,
# `mss_*`, `max_inner` and the void pointers may be stored by another thread while it runs, so read them once per packet or batch.
cdef struct esp_sa:
    # first line: what every packet touches
    uint32_t spi_be
    uint8_t direction
    uint8_t esn
    uint8_t outer            # OUTER_*
    uint8_t encap            # 1: outer has a UDP header
    uint8_t iv_length
    uint8_t icv_length
    uint8_t align            # 4, or 16 for CBC
    uint8_t is_aead
    uint8_t iv_kind          # IV_* of engine.pxd
    uint8_t salt_length
    uint16_t outer_length    # outer IP and UDP header
    uint16_t headroom        # bytes that esp_outbound writes before the packet
    uint16_t tailroom        # most bytes that it writes behind
    uint8_t salt[4]
    uint16_t outer_id        # IPv4 identification, counts
    const engine_suite *suite
    void *key
    uint64_t seq             # out: the last number used
    uint64_t granted         # out: numbers up to this may be used
    # second line
    uint64_t hard_limit      # out: numbers up to this may ever be used (2^32-1 without ESN, or a lifetime); in: packets
    uint64_t soft_limit      # from here a new SA is wanted (75 %, or a lifetime); counts as hard_limit does
    uint64_t grant_ask       # out: from here a new grant is wanted (half of the granted block)
    void *window             # in: struct replay_window of ext/include/replay.h
    uint64_t packets
    uint64_t bytes           # of inner packets
    uint64_t soft_bytes      # as soft_limit, of `bytes`
    uint64_t hard_bytes      # no packet takes `bytes` past it: hard_limit is set to what was used, and the SA is at its end
    # third line
    uint64_t last_use_ns     # CLOCK_MONOTONIC, kept by whoever has a clock (worker)
    void *endpoint           # owned by the I/O side, as are the next two
    void *selectors
    void *user
    sa_release_fn release    # NULL, or called once, before this struct is freed
    uint16_t mss_ipv4        # 0: no clamp
    uint16_t mss_ipv6
    uint16_t max_inner       # 0: no limit; the largest inner packet that fits the path
    uint16_t flags           # free for the I/O side
    uint64_t tag             # free for the control side
    int busy                 # a thread is inside a batch with this SA (library calls)
    uint8_t outer_header[48] # template: IPv4 or IPv6, UDP
    uint64_t drops[VERDICT_SLOTS]


# The last sequence number that exists.
cdef inline uint64_t esp_last_number(const esp_sa *sa) noexcept nogil:
    return <uint64_t> -1 if sa.esn else 0xFFFFFFFF

# Bytes of ESP around an inner packet of this length, outer headers of the SA included.
cdef inline uint32_t esp_padding(const esp_sa *sa, uint32_t inner_length) noexcept nogil:
    return (0 - (inner_length + 2)) & <uint32_t> (sa.align - 1)

cdef inline uint32_t esp_sealed_length(const esp_sa *sa, uint32_t inner_length) noexcept nogil:
    return sa.headroom + inner_length + esp_padding(sa, inner_length) + 2 + sa.icv_length

# The largest inner packet whose sealed form (outer headers of the SA included) is at most `sealed` bytes; 0 if none fits.
cdef inline uint32_t esp_max_inner(const esp_sa *sa, uint32_t sealed) noexcept nogil:
    cdef uint32_t fixed = sa.headroom + sa.icv_length
    if sealed < fixed + sa.align:
        return 0
    return ((sealed - fixed) & ~<uint32_t> (sa.align - 1)) - 2


cdef class SA:
    cdef esp_sa *hot
    cdef readonly object src
    cdef readonly object dst
    cdef readonly object encap
    cdef readonly str algorithm
    cdef readonly str mode
    cdef uint32_t window_size
    cdef public object io    # the I/O side keeps what its pointers need alive here
    cdef object __weakref__
