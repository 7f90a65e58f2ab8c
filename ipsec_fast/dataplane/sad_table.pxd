"""The SAD as inbound packets search it (RFC 4301 section 4.1). See ext/dataplane/sad_table.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ipsec_fast.dataplane.esp cimport esp_packet
from ipsec_fast.dataplane.sad cimport esp_sa


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t sad_load_key(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint32_t sad_load_count(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void *sad_load_sa(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline size_t sad_load_if(void *const *sa, const uint64_t *key, uint64_t wanted)
    {
        size_t found = (size_t)__atomic_load_n(sa, __ATOMIC_ACQUIRE);
        return found & -(size_t)(__atomic_load_n(key, __ATOMIC_ACQUIRE) == wanted);
    }
    static inline void sad_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
    """
    uint64_t sad_load_key(const uint64_t *p) noexcept nogil
    uint32_t sad_load_count(const uint32_t *p) noexcept nogil
    void *sad_load_sa(void *const *p) noexcept nogil
    size_t sad_load_if(void *const *sa, const uint64_t *key, uint64_t wanted) noexcept nogil
    void sad_prefetch(const void *p) noexcept nogil

cdef enum:
    SAD_WAYS = 4             # SPIs in a bucket
    SAD_PROBES = 64          # no search looks at more rows: a table that would need it is made anew, with another seed
    SAD_BATCH = 64           # packets whose rows are on their way from memory at the same time
    SAD_BY_DST = 1
    SAD_BY_BOTH = 2

# One cache line, searched without a branch that could be guessed wrong; filled from row 0 on. A key is the SPI as it stands on the wire, protocol << 32;
# 0: no row was ever here, a search ends. `sa` NULL: removed, a search goes on.
cdef struct spi_bucket:
    uint64_t key[SAD_WAYS]
    void *sa[SAD_WAYS]

# The same, with IP version << 40 and SAD_BY_* << 48 in the key.
cdef struct address_row:
    uint64_t key
    void *sa
    uint64_t dst[2]          # as on the wire, IPv4 in the first four bytes
    uint64_t src[2]          # zeros where the key says SAD_BY_DST

cdef struct sad_table:
    uint64_t seed[14]        # 3 for the SPI rows, 11 for the others
    uint32_t spi_shift       # 64 - log2(buckets)
    uint32_t spi_mask
    uint32_t address_shift
    uint32_t address_mask
    uint32_t by_dst          # SAs with such a key; 0 spares that search
    uint32_t by_both
    spi_bucket *spis
    address_row *addresses   # NULL until one is needed

# What is searched for. Addresses may be NULL where only the SPI is known.
cdef struct sad_query:
    uint32_t spi_be
    uint8_t protocol
    uint8_t version
    uint32_t place           # the search's own
    const uint8_t *dst
    const uint8_t *src


# Multiply-shift with secret random factors (Dietzfelbinger): for any two keys that somebody chose without knowing them, the odds to meet are those of
# chance. It is not SipHash; what that would add, safety from one who learns the factors by timing, SAD_PROBES gives in another way.
cdef inline uint32_t spi_place(const sad_table *table, uint64_t key) noexcept nogil:
    return <uint32_t> ((table.seed[0] * <uint32_t> key + table.seed[1] * (key >> 32) + table.seed[2]) >> table.spi_shift)


cdef inline esp_sa *sad_find_placed(const sad_table *table, uint64_t key, uint32_t at) noexcept nogil:
    cdef const spi_bucket *bucket
    cdef uint64_t there
    cdef size_t found
    cdef int i, way
    for i in range(SAD_PROBES // SAD_WAYS):
        bucket = &table.spis[at]
        found = 0
        for way in range(SAD_WAYS):
            found |= sad_load_if(&bucket.sa[way], &bucket.key[way], key)
        if found:
            return <esp_sa *> found
        if sad_load_key(&bucket.key[SAD_WAYS - 1]) == 0:
            return NULL
        at = at + 1 & table.spi_mask
    return NULL


cdef inline uint64_t spi_key(uint32_t spi_be, uint8_t protocol) noexcept nogil:
    return <uint64_t> protocol << 32 | spi_be


cdef inline esp_sa *sad_find_spi(const sad_table *table, uint32_t spi_be, uint8_t protocol) noexcept nogil:
    cdef uint64_t key = spi_key(spi_be, protocol)
    return sad_find_placed(table, key, spi_place(table, key))


# Asks memory for what a search a little later will read.
cdef inline void sad_prefetch_spi(const sad_table *table, uint32_t spi_be, uint8_t protocol) noexcept nogil:
    sad_prefetch(&table.spis[spi_place(table, spi_key(spi_be, protocol))])


# The longest match: SPI and both addresses, SPI and destination, SPI alone.
cdef esp_sa *sad_find(const sad_table *table, sad_query *query) noexcept nogil
# At most SAD_BATCH at once, their cache misses beside each other.
cdef void sad_find_batch(const sad_table *table, sad_query *queries, esp_sa **found, uint32_t n) noexcept nogil
# Gives each packet its SA, or NULL and in `flags` the verdict that says why. `bare`: packets start at the ESP header, not at the IP header.
cdef void sad_assign(const sad_table *table, bint bare, esp_packet *packets, uint32_t n) noexcept nogil


cdef class SadRows:
    cdef sad_table table
    cdef uint32_t spis_used, addresses_used   # rows that end no search


cdef class SAD:
    cdef void *current       # sad_table of `rows`; read it inside an epoch
    cdef SadRows rows
    cdef dict keys           # SA: (destination, source) as packed bytes, b"" where the search leaves it out
    cdef readonly bint bare
    cdef bint with_ah            # a worker's: bare for ESP, and its raw sockets give AH with the IP header
