# Security associations as kernels see them. An embedder cimports `SA` and hands `sa.hot` to esp_outbound and esp_inbound.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.engine cimport engine_suite
from ipsec_fast.dataplane.forks cimport fork_count
from ipsec_fast.dataplane.status cimport VERDICT_SLOTS


cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    static inline uint64_t ipsec_fast_load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void ipsec_fast_store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    /* a counter that one thread writes and others read: no locked instruction, and no torn read either */
    static inline void ipsec_fast_count_u64(uint64_t *p, uint64_t n) { __atomic_store_n(p, *p + n, __ATOMIC_RELAXED); }
    /* Reads a counter that one thread increments without atomics: a whole word, old or new. Hidden from ThreadSanitizer, which would
       otherwise demand that every counter of the packet path is atomic. */
    __attribute__((noinline, no_sanitize("thread"), unused)) static uint64_t ipsec_fast_statistic(const uint64_t *p)
    {
        return __atomic_load_n(p, __ATOMIC_RELAXED);
    }
    /* SAs to one peer share identifications, and different threads may use them */
    static inline uint64_t ipsec_fast_take_ids(uint64_t *p, uint64_t n) { return __atomic_fetch_add(p, n, __ATOMIC_RELAXED); }
    /* single fields that control changes while a worker reads them */
    static inline uint16_t ipsec_fast_load_u16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void ipsec_fast_store_u16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    /* 1: swapped, 2: `to` was there already, 0: neither */
    static inline int ipsec_fast_swap_u64(uint64_t *p, uint64_t from, uint64_t to)
    {
        uint64_t found = from;
        return __atomic_compare_exchange_n(p, &found, to, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) ? 1 : found == to ? 2 : 0;
    }
    static inline uint64_t ipsec_fast_coarse_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    """
    uint64_t coarse_ns "ipsec_fast_coarse_ns"() noexcept nogil   # CLOCK_MONOTONIC, exact to a tick
    uint64_t load_u64 "ipsec_fast_load_u64"(const uint64_t *p) noexcept nogil
    void store_u64 "ipsec_fast_store_u64"(uint64_t *p, uint64_t v) noexcept nogil
    void count_u64 "ipsec_fast_count_u64"(uint64_t *p, uint64_t n) noexcept nogil
    uint64_t statistic "ipsec_fast_statistic"(const uint64_t *p) noexcept nogil
    uint64_t take_ids "ipsec_fast_take_ids"(uint64_t *p, uint64_t n) noexcept nogil
    uint16_t load_u16 "ipsec_fast_load_u16"(const uint16_t *p) noexcept nogil
    void store_u16 "ipsec_fast_store_u16"(uint16_t *p, uint16_t v) noexcept nogil
    int swap_u64 "ipsec_fast_swap_u64"(uint64_t *p, uint64_t from_, uint64_t to) noexcept nogil


cdef enum:
    SA_OUTBOUND = 0
    SA_INBOUND = 1
    OUTER_NONE = 0           # ESP header to ICV only: a socket adds the rest (worker); transport mode: the packet's own
    OUTER_IPV4 = 4
    OUTER_IPV6 = 6
    PROTOCOL_ESP = 50
    PROTOCOL_AH = 51
    MODE_TUNNEL = 0
    MODE_TRANSPORT = 1
    MODE_BEET = 2
    # header rules that are not in the template
    RULE_DF_COPY = 1
    RULE_TTL_COPY = 2
    RULE_LABEL_COPY = 4
    RULE_DSCP_IN = 8         # in: the inner packet takes the outer DSCP
    RULE_ONE_COUNT = 16      # all its IPv4 identifications come from the peer's count, also with DF: it was the peer's first SA
    # transport mode through a NAT (RFC 3948 section 3.1.2)
    NAT_NONE = 0
    NAT_ADJUST = 1           # by the addresses of the other side
    NAT_RECOMPUTE = 2

# The lower half of esp_sa.holder: who uses the SA, 0 for nobody. The upper half is fork_count of the process that made the SA.
# Calls that look SAs up use numbers between HOLDER_CALL and HOLDER_LEAVING.
cdef enum:
    HOLDER_CALL = 1
    HOLDER_LEAVING = 1 << 29 # with HOLDER_WORKER: tables without this SA are published, the worker may not have seen them yet
    HOLDER_WORKER = 1 << 30  # and its number, below HOLDER_LEAVING

cdef enum:
    DROP_HEADER_BYTES = 74   # IPv6, UDP, ESP and an IV of 16 need 72

# The last packet that was dropped (last_drop.pyx); a whole number of 8 bytes.
cdef struct drop_record:
    uint64_t writes          # odd while it is written
    uint64_t at_ns           # 0: no clock
    uint32_t seq
    uint8_t verdict          # 0: none was
    uint8_t header_length
    uint8_t header[DROP_HEADER_BYTES]

# Where the newest packet of an inbound SA came from; a whole number of 8 bytes. Written by its worker while it follows the peer.
cdef struct source_record:
    uint64_t writes          # odd while it is written
    uint64_t at_ns           # of the newest packet from any source; 0: there was none
    uint64_t address[2]      # as on the wire, IPv4 in the first four bytes
    uint16_t port
    uint8_t version
    uint8_t away             # it differs from the SA's endpoint
    uint32_t unused

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
    uint16_t outer_id        # IPv4 identification where DF is always set, counts
    uint8_t mode             # MODE_*
    uint8_t rules            # RULE_*
    uint8_t tos_keep         # the outer TOS is the inner one under this mask, or'ed with tos_set
    uint8_t tos_set
    uint16_t tfc             # out: shorter inner packets are padded to this many bytes (RFC 4303 section 2.7)
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
    uint64_t big_at_ns       # out: when a big packet last left, for who watches the path's MTU
    void *endpoint           # owned by the I/O side, as are the next two
    void *selectors
    void *user
    sa_release_fn release    # NULL, or called once, before this struct is freed
    uint16_t mss_ipv4        # 0: no clamp
    uint16_t mss_ipv6
    uint16_t max_inner       # 0: no limit; the largest inner packet that fits the path
    uint16_t flags           # free for the I/O side
    uint64_t tag             # free for the control side
    uint64_t holder          # who uses the SA now: HOLDER_* and the process
    uint64_t held_at         # of a worker: the last publication that took this SA
    uint8_t made             # 1: SA.__init__ is complete; before that the kernels must not use the SA
    uint64_t *ids            # IPv4 outside, where DF may be clear: the counter of identifications to this peer; else NULL
    uint8_t outer_header[48] # template: IPv4 or IPv6, UDP
    uint16_t sport           # of encap
    uint16_t dport
    uint8_t nat              # NAT_*
    uint8_t protocol         # PROTOCOL_*
    uint8_t inner            # BEET: IP version of the inner packets
    uint8_t inner_addresses[32]  # BEET: source, destination
    uint64_t original_sum    # NAT_ADJUST: one's complement sum of the addresses that the other side saw
    uint64_t drops[VERDICT_SLOTS]
    void *owner              # the SA object; for who holds the GIL
    drop_record last_drop
    # limits of time, for library calls (sa_check_time); monotonic
    uint64_t soft_at_ns      # UINT64_MAX: none
    uint64_t hard_at_ns
    uint64_t idle_ns         # 0: none
    uint64_t used_packets    # when last_use_ns was set
    source_record source
    int source_told          # PEER_MOVED was sent, and control has not allowed the next one yet
    void **spares            # `spare_count` times the key, one for each thread of a crew; NULL: no crew helps with this SA
    uint32_t spare_count


# The holder word of an unused SA of this process.
cdef inline uint64_t holder_none() noexcept nogil:
    return <uint64_t> fork_count[0] << 32

# To be called once before the kernels, also by cimport: True if the SA is this thread's until sa_leave. False if another thread or a
# worker has it, or if it was made before a fork, since the parent goes on with the same key and numbers.
cdef inline bint sa_enter(esp_sa *sa) noexcept nogil:
    return swap_u64(&sa.holder, holder_none(), holder_none() | HOLDER_CALL) == 1

cdef inline void sa_leave(esp_sa *sa) noexcept nogil:
    store_u64(&sa.holder, holder_none())
cdef enum:
    IDS = 65535              # number of IPv4 identifications: all but 0, which the kernel would replace

# An identification that no other packet without DF from the same address to the same peer has, until all were used (RFC 6864
# section 4.1).
cdef inline uint16_t next_shared_id(uint64_t *ids) noexcept nogil:
    return <uint16_t> (1 + take_ids(ids, 1) % IDS)

# The next IPv4 identification of an outer header. With DF nothing depends on it.
cdef inline uint16_t sa_next_id(esp_sa *sa, bint df) noexcept nogil:
    if sa.ids != NULL and (not df or sa.rules & RULE_ONE_COUNT):
        return next_shared_id(sa.ids)
    sa.outer_id += 1
    sa.outer_id += sa.outer_id == 0
    return sa.outer_id

# The identification counter of a (source, destination, protocol) for packets without DF. It lives as long as an SA uses it.
cdef class PeerIds:
    cdef uint64_t next
    cdef object __weakref__

cdef PeerIds peer_ids_of(src, dst, int protocol, int start)

# Once a call, before the kernels: an SA whose time is over gets a hard limit of what it has used, so that kernels need no clock.
cdef inline bint sa_check_time(esp_sa *sa, uint64_t now_ns) noexcept nogil:
    if now_ns < sa.hard_at_ns and (sa.idle_ns == 0 or now_ns < sa.last_use_ns + sa.idle_ns):
        return True
    sa.hard_at_ns = 0
    sa.hard_limit = sa.packets if sa.direction == SA_INBOUND else sa.seq
    return False

# Once a call, behind the kernels.
cdef inline void sa_note_use(esp_sa *sa, uint64_t now_ns) noexcept nogil:
    if sa.packets != sa.used_packets:
        sa.used_packets = sa.packets
        sa.last_use_ns = now_ns

# The last sequence number that exists.
cdef inline uint64_t esp_last_number(const esp_sa *sa) noexcept nogil:
    return <uint64_t> -1 if sa.esn else 0xFFFFFFFF

# The TOS that goes outside.
cdef inline uint8_t outer_tos(const esp_sa *sa, uint8_t tos) noexcept nogil:
    return (tos & sa.tos_keep) | sa.tos_set

# Bytes that are sealed for an inner packet of this length (tunnel mode), TFC padding included.
cdef inline uint32_t esp_filled(const esp_sa *sa, uint32_t inner_length) noexcept nogil:
    return inner_length if inner_length > sa.tfc else sa.tfc

cdef inline uint32_t esp_padding(const esp_sa *sa, uint32_t payload) noexcept nogil:
    return (0 - (payload + 2)) & <uint32_t> (sa.align - 1)

# Tunnel mode: the length of the sealed packet, outer headers of the SA included.
cdef inline uint32_t esp_sealed_length(const esp_sa *sa, uint32_t inner_length) noexcept nogil:
    cdef uint32_t payload = esp_filled(sa, inner_length)
    return sa.headroom + payload + esp_padding(sa, payload) + 2 + sa.icv_length

# Tunnel mode, ESP or AH: the length of the packet that leaves, outer headers of the SA included.
cdef inline uint32_t sa_sealed_length(const esp_sa *sa, uint32_t inner_length) noexcept nogil:
    return sa.headroom + inner_length if sa.protocol == PROTOCOL_AH else esp_sealed_length(sa, inner_length)

# The largest payload whose ESP (header to ICV) is at most `room` bytes; 0 if none fits.
cdef inline uint32_t esp_max_payload(const esp_sa *sa, uint32_t room) noexcept nogil:
    cdef uint32_t fixed = 8 + sa.iv_length + sa.icv_length
    if room < fixed + sa.align:
        return 0
    return ((room - fixed) & ~<uint32_t> (sa.align - 1)) - 2


# As sa_enter, but waits for a worker that is about to release the SA; StateError says who has it.
cdef int sa_enter_late(esp_sa *sa) except -1
# Waits, at most a second, until no worker is about to release this SA; 0 if none was.
cdef int sa_settle(esp_sa *sa) except -1
# Raises what sa_enter refuses.
cdef int sa_refuse(esp_sa *sa) except -1
# UsageError for an SA whose __init__ did not run, or failed.
cdef int sa_need(SA sa) except -1


cdef class SA:
    cdef esp_sa *hot
    cdef PeerIds peer_ids
    cdef readonly object src
    cdef readonly object dst
    cdef readonly object encap
    cdef readonly object inner
    cdef readonly object original
    cdef readonly object header
    cdef readonly str algorithm
    cdef readonly str mode
    cdef readonly str protocol
    cdef uint32_t window_size
    cdef public object io    # the I/O side keeps what its pointers need alive here
    cdef object __weakref__

# From now on all IPv4 identifications of this SA are its peer's: an AH packet keeps its own where it is cut outside, since the ICV covers it.
cdef int sa_count_for_peer(SA sa) except -1
