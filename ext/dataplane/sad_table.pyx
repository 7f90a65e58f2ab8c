"""SAD: inbound SAs by SPI, by SPI and destination, by SPI, destination and source; the longest match wins (RFC 4301 section 4.1).

Two open-addressed tables without a lock: one keyed by SPI and protocol, one that has addresses too and that is not looked at while it is empty. The seed
is random and no search looks at more than SAD_PROBES rows: an insert that would need more makes the table anew with another seed, so nobody who may choose
SPIs can make searches long. A batch first asks memory for the rows of all its packets, then reads them. Readers run beside `add` and `remove`: a row is
filled before its SA is stored, a row of a removed SA is not used for another key, a table that is full is replaced by one pointer swap, and what was
removed is freed after every reader passed a quiescent point (epoch.pyx). ESP and AH are two SPI spaces; the protocol is part of the longer keys too, where
section 4.1 leaves it out: a packet of the other protocol is then no match instead of a match to discard.
Left out: the SPD; what a packet's inner addresses may be. Called by: spd.Tables (the worker), PacketBatch, embedders, bench.
"""

import ipaddress
import os

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.epoch cimport retire
from ipsec_fast.dataplane.esp cimport esp_packet
from ipsec_fast.dataplane.ip cimport IP_OK, ip_info, ip_parse
from ipsec_fast.dataplane.sad cimport MODE_TRANSPORT, OUTER_NONE, PROTOCOL_AH, PROTOCOL_ESP, SA, SA_INBOUND, esp_sa, sa_need
from ipsec_fast.dataplane.status cimport VERDICT_BAD_OUTER, VERDICT_OK, VERDICT_OUTER_FRAGMENT, VERDICT_RUNT, VERDICT_UNKNOWN_SPI

from ..errors import UsageError

cdef extern from *:
    """
    static inline void store_key(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void store_count(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void store_sa(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    """
    void store_key(uint64_t *p, uint64_t v) noexcept nogil
    void store_count(uint32_t *p, uint32_t v) noexcept nogil
    void store_sa(void **p, void *v) noexcept nogil

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept

cdef extern from "sys/mman.h" nogil:
    enum:
        MADV_HUGEPAGE
    int madvise(void *block, size_t size, int advice) noexcept

cdef enum:
    HUGE_PAGE = 1 << 21
    LEAST_ROWS = 16
    ADDRESS_SEED = 3
    UDP_PROTOCOL = 17
    SEEDS_PER_SIZE = 4       # tried before the table is doubled
    MANY_BUCKETS = 1023      # of 1000 SAs or more: what few SAs need is in a cache already

_PROTOCOLS = {50: "ESP", 51: "AH"}


# --- search ----------------------------------------------------------------------------------------------------------------------------------------

cdef inline void wide(uint64_t *to, const uint8_t *address, uint8_t version) noexcept nogil:
    to[0] = to[1] = 0
    memcpy(to, address, 4 if version == 4 else 16)


cdef inline uint32_t address_place(const sad_table *table, uint64_t key, const uint64_t *dst, const uint64_t *src) noexcept nogil:
    cdef const uint64_t *seed = table.seed + ADDRESS_SEED
    cdef uint64_t sum = seed[0] * <uint32_t> key + seed[1] * (key >> 32) + seed[2]
    sum += seed[3] * <uint32_t> dst[0] + seed[4] * (dst[0] >> 32) + seed[5] * <uint32_t> dst[1] + seed[6] * (dst[1] >> 32)
    sum += seed[7] * <uint32_t> src[0] + seed[8] * (src[0] >> 32) + seed[9] * <uint32_t> src[1] + seed[10] * (src[1] >> 32)
    return <uint32_t> (sum >> table.address_shift)


cdef inline bint any_addresses(const sad_table *table) noexcept nogil:
    return sad_load_count(&table.by_both) or sad_load_count(&table.by_dst)


cdef inline bint same_addresses(const address_row *row, const uint64_t *dst, const uint64_t *src) noexcept nogil:
    return row.dst[0] == dst[0] and row.dst[1] == dst[1] and row.src[0] == src[0] and row.src[1] == src[1]


cdef inline uint64_t address_key(const sad_query *query, uint64_t how) noexcept nogil:
    return how << 48 | <uint64_t> query.version << 40 | <uint64_t> query.protocol << 32 | query.spi_be


cdef esp_sa *find_by_addresses(const sad_table *table, uint64_t key, const uint64_t *dst, const uint64_t *src) noexcept nogil:
    cdef uint32_t at = address_place(table, key, dst, src)
    cdef const address_row *row
    cdef uint64_t there
    cdef void *sa
    cdef int i
    for i in range(SAD_PROBES):
        row = &table.addresses[at]
        sa = sad_load_sa(&row.sa)
        there = sad_load_key(&row.key)
        # addresses are stored before the key, so a key that is there has its own
        if there == key and sa is not NULL and same_addresses(row, dst, src):
            return <esp_sa *> sa
        if there == 0:
            return NULL
        at = at + 1 & table.address_mask
    return NULL


cdef esp_sa *find_longest(const sad_table *table, const sad_query *query) noexcept nogil:
    """By SPI and addresses; NULL leaves the SPI alone to be tried."""
    cdef uint64_t dst[2]
    cdef uint64_t src[2]
    cdef esp_sa *sa = NULL
    wide(dst, query.dst, query.version)
    if query.src is not NULL and sad_load_count(&table.by_both):
        wide(src, query.src, query.version)
        sa = find_by_addresses(table, address_key(query, SAD_BY_BOTH), dst, src)
    if sa is NULL and sad_load_count(&table.by_dst):
        src[0] = src[1] = 0
        sa = find_by_addresses(table, address_key(query, SAD_BY_DST), dst, src)
    return sa


cdef inline void prepare(const sad_table *table, sad_query *query) noexcept nogil:
    query.place = spi_place(table, spi_key(query.spi_be, query.protocol))
    sad_prefetch(&table.spis[query.place])


cdef inline esp_sa *find_prepared(const sad_table *table, const sad_query *query) noexcept nogil:
    cdef esp_sa *sa = NULL
    if query.dst is not NULL and any_addresses(table):
        sa = find_longest(table, query)
    return sa if sa is not NULL else sad_find_placed(table, spi_key(query.spi_be, query.protocol), query.place)


cdef esp_sa *sad_find(const sad_table *table, sad_query *query) noexcept nogil:
    prepare(table, query)
    return find_prepared(table, query)


cdef void sad_find_batch(const sad_table *table, sad_query *queries, esp_sa **found, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        prepare(table, &queries[i])
    for i in range(n):
        found[i] = find_prepared(table, &queries[i])


cdef inline uint8_t read_bare(const esp_packet *packet, sad_query *query) noexcept nogil:
    if packet.length < 8:
        return VERDICT_RUNT
    memcpy(&query.spi_be, packet.data, 4)
    query.protocol = PROTOCOL_ESP
    return VERDICT_OK


cdef inline const uint8_t *find_ah(const uint8_t *packet, const ip_info *info) noexcept nogil:
    """The AH of an IPv6 packet: ip_parse counts it among the extension headers, and has checked their lengths."""
    cdef uint32_t at = 40
    cdef uint8_t next_header = packet[6]
    while at + 8 <= info.header_length:
        if next_header == PROTOCOL_AH:
            return packet + at
        at, next_header = at + (8 if next_header == 44 else (packet[at + 1] + 1) * 8), packet[at]
    return NULL


cdef inline uint8_t read_outer(const esp_packet *packet, sad_query *query) noexcept nogil:
    cdef ip_info info
    cdef const uint8_t *at
    cdef uint32_t left
    if ip_parse(packet.data, packet.length, &info) != IP_OK:
        return VERDICT_BAD_OUTER
    if info.is_fragment:
        return VERDICT_OUTER_FRAGMENT
    at = packet.data + info.header_length
    left = info.total_length - info.header_length
    query.version, query.dst, query.src = info.version, info.dst, info.src
    query.protocol = info.protocol
    if info.version == 6 and find_ah(packet.data, &info) is not NULL:  # around ESP too: then AH comes first
        at, query.protocol = find_ah(packet.data, &info), PROTOCOL_AH
        left = info.total_length - <uint32_t> (at - packet.data)
    if query.protocol == UDP_PROTOCOL:
        # whose port this is, the SA knows (esp.pyx); SPI 0 is the non-ESP marker and no SA has it (RFC 3948 section 2.2)
        if left < 16:
            return VERDICT_RUNT
        at += 8
        query.protocol = PROTOCOL_ESP
    elif query.protocol != PROTOCOL_ESP and query.protocol != PROTOCOL_AH:
        return VERDICT_BAD_OUTER
    elif left < 8:
        return VERDICT_RUNT
    memcpy(&query.spi_be, at + (4 if query.protocol == PROTOCOL_AH else 0), 4)
    return VERDICT_OK


cdef void sad_assign(const sad_table *table, bint bare, esp_packet *packets, uint32_t n) noexcept nogil:
    cdef sad_query queries[SAD_BATCH]
    cdef esp_packet *packet
    cdef uint32_t start = 0, count, i
    while start < n:
        count = n - start if n - start < SAD_BATCH else SAD_BATCH
        memset(queries, 0, count * sizeof(sad_query))
        for i in range(count):
            packet = &packets[start + i]
            packet.sa = NULL
            packet.flags = read_bare(packet, &queries[i]) if bare else read_outer(packet, &queries[i])
            if packet.flags == VERDICT_OK:
                prepare(table, &queries[i])
        for i in range(count):
            packet = &packets[start + i]
            if packet.flags != VERDICT_OK:
                continue
            packet.sa = find_prepared(table, &queries[i])
            if packet.sa is NULL:
                packet.flags = VERDICT_UNKNOWN_SPI
            else:
                sad_prefetch(packet.sa)
                sad_prefetch(<const uint8_t *> packet.sa + 64)
                sad_prefetch(<const uint8_t *> packet.sa + 128)
        if table.spi_mask >= MANY_BUCKETS:
            for i in range(count):
                if packets[start + i].flags == VERDICT_OK and packets[start + i].sa is not NULL:
                    prefetch_behind(packets[start + i].sa)
        start += count


cdef inline void prefetch_behind(const esp_sa *sa) noexcept nogil:
    """What the kernels read through an SA: its window, and of its key what says where the rest is (the engine asks for that)."""
    sad_prefetch(sa.window)
    sad_prefetch(<const uint8_t *> sa.window + 64)
    sad_prefetch(<const uint8_t *> sa.window + 128)
    sad_prefetch(sa.key)
    sad_prefetch(&sa.protocol)
    sad_prefetch(&sa.hard_at_ns)


# --- the tables ------------------------------------------------------------------------------------------------------------------------------------

cdef void *zeroed(size_t size) except NULL:
    """In huge pages where it is large and the system gives them: otherwise each search would miss in the TLB too."""
    cdef bint large = size >= HUGE_PAGE
    cdef void *block = aligned_alloc(HUGE_PAGE if large else 64, size)
    if block is NULL:
        raise MemoryError
    if large:
        madvise(block, size, MADV_HUGEPAGE)
    memset(block, 0, size)
    return block


cdef class SadRows:
    """Owns the memory of one sad_table."""

    def __cinit__(self, uint32_t spi_bits, uint32_t address_bits):
        cdef bytes seed = os.urandom(sizeof(self.table.seed))
        memcpy(self.table.seed, <const char *> seed, sizeof(self.table.seed))
        self.table.spi_shift, self.table.spi_mask = 64 - spi_bits, (1u << spi_bits) - 1
        self.table.spis = <spi_bucket *> zeroed(sizeof(spi_bucket) << spi_bits)
        if address_bits:
            self.table.address_shift, self.table.address_mask = 64 - address_bits, (1u << address_bits) - 1
            self.table.addresses = <address_row *> zeroed(sizeof(address_row) << address_bits)

    def __dealloc__(self):
        free(self.table.spis)
        free(self.table.addresses)


cdef bint put_spi(SadRows rows, uint64_t key, esp_sa *sa) noexcept:
    """False where the table is half full, or the key would stand too far from its place."""
    cdef sad_table *table = &rows.table
    cdef spi_bucket *bucket
    cdef uint32_t at = spi_place(table, key)
    cdef int i, way
    if rows.spis_used >= (table.spi_mask + 1) * (SAD_WAYS // 2):
        return False
    for i in range(SAD_PROBES // SAD_WAYS):
        bucket = &table.spis[at]
        for way in range(SAD_WAYS):
            if bucket.key[way] == 0 or bucket.key[way] == key:
                rows.spis_used += bucket.key[way] == 0
                store_key(&bucket.key[way], key)
                store_sa(&bucket.sa[way], sa)
                return True
        at = at + 1 & table.spi_mask
    return False


cdef void take_spi(SadRows rows, uint64_t key) noexcept:
    """The key is there."""
    cdef uint32_t at = spi_place(&rows.table, key)
    cdef int way
    while True:
        for way in range(SAD_WAYS):
            if rows.table.spis[at].key[way] == key:
                store_sa(&rows.table.spis[at].sa[way], NULL)
                return
        at = at + 1 & rows.table.spi_mask


cdef bint put_addresses(SadRows rows, uint64_t key, const uint64_t *dst, const uint64_t *src, esp_sa *sa) noexcept:
    cdef sad_table *table = &rows.table
    cdef address_row *row
    cdef uint32_t at
    cdef int i
    if table.addresses is NULL or rows.addresses_used >= (table.address_mask + 1) // 2:
        return False
    at = address_place(table, key, dst, src)
    for i in range(SAD_PROBES):
        row = &table.addresses[at]
        if row.key == 0 or (row.key == key and same_addresses(row, dst, src)):
            rows.addresses_used += row.key == 0
            memcpy(row.dst, dst, 16)
            memcpy(row.src, src, 16)
            store_key(&row.key, key)
            store_sa(&row.sa, sa)
            return True
        at = at + 1 & table.address_mask
    return False


cdef inline void count(uint32_t *of, int32_t more) noexcept nogil:
    store_count(of, of[0] + <uint32_t> more)


cdef bint put(SadRows rows, SA sa, bytes dst, bytes src) noexcept:
    cdef uint64_t wide_dst[2]
    cdef uint64_t wide_src[2]
    cdef sad_query query
    cdef uint64_t how = SAD_BY_BOTH if src else SAD_BY_DST
    fill_query(&query, sa.hot.spi_be, sa.hot.protocol, dst, src)
    if not dst:
        return put_spi(rows, spi_key(query.spi_be, query.protocol), sa.hot)
    wide(wide_dst, query.dst, query.version)
    wide_src[0] = wide_src[1] = 0
    if src:
        wide(wide_src, query.src, query.version)
    if not put_addresses(rows, address_key(&query, how), wide_dst, wide_src, sa.hot):
        return False
    count(&rows.table.by_both if src else &rows.table.by_dst, 1)
    return True


cdef void take_out(SadRows rows, SA sa, bytes dst, bytes src) noexcept:
    cdef sad_table *table = &rows.table
    cdef uint32_t i
    cdef uint64_t wide_dst[2]
    cdef uint64_t wide_src[2]
    cdef sad_query query
    fill_query(&query, sa.hot.spi_be, sa.hot.protocol, dst, src)
    if not dst:
        take_spi(rows, spi_key(query.spi_be, query.protocol))
        return
    wide(wide_dst, query.dst, query.version)
    wide_src[0] = wide_src[1] = 0
    if src:
        wide(wide_src, query.src, query.version)
    i = address_place(table, address_key(&query, SAD_BY_BOTH if src else SAD_BY_DST), wide_dst, wide_src)
    while table.addresses[i].sa is not <void *> sa.hot:
        i = i + 1 & table.address_mask
    store_sa(&table.addresses[i].sa, NULL)
    count(&table.by_both if src else &table.by_dst, -1)


cdef void fill_query(sad_query *query, uint32_t spi_be, uint8_t protocol, bytes dst, bytes src) noexcept:
    memset(query, 0, sizeof(sad_query))
    query.spi_be, query.protocol = spi_be, protocol
    if dst:
        query.version = 4 if len(dst) == 4 else 6
        query.dst = <const uint8_t *> <const char *> dst
    if src:
        query.src = <const uint8_t *> <const char *> src


cdef inline bint starts_at_ip(const esp_sa *sa) noexcept nogil:
    return sa.outer != OUTER_NONE or sa.mode == MODE_TRANSPORT


cdef uint32_t bits_for(size_t count):
    cdef uint32_t bits = 4
    while (<size_t> 1 << bits) < count * 5 // 2:
        bits += 1
    return bits


# --- the face --------------------------------------------------------------------------------------------------------------------------------------

cdef class SAD:
    """Inbound SAs as packets find them: RFC 4301 section 4.1, the longest match first. Hand it to a PacketBatch in place of the SAs.

    Packets start at their IP header, ESP may be inside UDP, and SAs have `src` and `dst` or are of transport mode; with `bare`
    packets start at the ESP header, and SAs have neither.
    One thread at a time adds and removes; batches of other threads may run meanwhile, each SA in one of them at a time.
    """

    def __cinit__(self, *, bare=False):
        self.bare = bool(bare)
        self.keys = {}
        self.rows = SadRows(bits_for(LEAST_ROWS) - 2, 0)
        self.current = &self.rows.table

    def __len__(self):
        return len(self.keys)

    def __iter__(self):
        return iter(tuple(self.keys))

    def __contains__(self, sa):
        return sa in self.keys

    def __repr__(self):
        return f"<SAD of {len(self.keys)} SAs>"

    def add(self, SA sa not None, dst=None, src=None):
        """Packets find `sa` from now on: by its SPI, with `dst` only those sent there, with `src` only those from there too.

        Raises UsageError: an outbound SA, a key that is taken, a source without a destination.
        """
        name = f"SA {sa.spi:#010x}"
        sa_need(sa)
        if sa.spi < 256:
            raise UsageError(f"{name}: SPIs below 256 are reserved (RFC 4303 section 2.1)")
        if sa.hot.direction != SA_INBOUND:
            raise UsageError(f"{name} is {sa.direction}bound, where the other direction is needed: a SAD is searched for what arrives")
        if self.bare and starts_at_ip(sa.hot) and not (self.with_ah and sa.hot.protocol == PROTOCOL_AH):
            raise UsageError(f"{name} starts at an IP header, and the packets of a bare SAD start at the ESP header")
        if not self.bare and not starts_at_ip(sa.hot):
            raise UsageError(f"{name} has no outer addresses: give it src and dst, or make SAD(bare=True) for packets that start at the ESP header")
        if src is not None and dst is None:
            raise UsageError(f"{name}: RFC 4301 section 4.1 searches by source only together with the destination")
        if self.bare and dst is not None:
            raise UsageError(f"{name}: packets of a bare SAD have no addresses to search by")
        if sa in self.keys:
            raise UsageError(f"{name} stands twice: it is in this SAD already")
        cdef bytes to = _packed(dst, "dst"), from_ = _packed(src, "src")
        if to and from_ and len(to) != len(from_):
            raise UsageError(f"{name}: src {src} and dst {dst}: one is IPv4, the other IPv6")
        if exact_owner(self, sa.hot.spi_be, sa.hot.protocol, to, from_) is not None:
            raise UsageError(f"SPI {sa.spi:#010x} stands twice among the inbound SAs{f' for {dst}' if dst is not None else ''}")
        if not put(self.rows, sa, to, from_):
            grow(self, sa, to, from_)
        self.keys[sa] = (to, from_)

    def remove(self, SA sa not None):
        """No packet finds `sa` from now on; it is freed once no batch under way can hold it."""
        if sa not in self.keys:
            raise UsageError(f"SA {sa.spi:#010x} is not in this SAD")
        to, from_ = self.keys.pop(sa)
        take_out(self.rows, sa, to, from_)
        retire(sa)

    def find(self, spi, dst=None, src=None, protocol=50):
        """The SA that a packet with these would find; None: there is none. `protocol` is 50 (ESP) or 51 (AH)."""
        cdef sad_query query
        cdef uint32_t spi_be
        cdef esp_sa *found
        if not isinstance(spi, int) or not 0 <= spi <= 0xFFFFFFFF:
            raise UsageError(f"SPI {spi!r}: it is 0 to 4294967295")
        if protocol not in _PROTOCOLS:
            raise UsageError(f"protocol {protocol!r}: it is 50 (ESP) or 51 (AH)")
        packed_dst, packed_src = _packed(dst, "dst"), _packed(src, "src")
        if packed_dst and packed_src and len(packed_dst) != len(packed_src):
            raise UsageError(f"src {src} and dst {dst}: one is IPv4, the other IPv6")
        spi_bytes = spi.to_bytes(4, "big")
        memcpy(&spi_be, <const char *> spi_bytes, 4)
        fill_query(&query, spi_be, protocol, packed_dst, packed_src)
        found = sad_find(&self.rows.table, &query)
        return None if found is NULL else <object> found.owner

    @property
    def longest_search(self):
        """The most rows that the search for any SA in here looks at; at most 64."""
        cdef uint32_t longest = 0, i, place
        cdef int way
        cdef sad_table *table = &self.rows.table
        for i in range(table.spi_mask + 1):
            for way in range(SAD_WAYS):
                if table.spis[i].sa[way] is not NULL:
                    longest = max(longest, ((i - spi_place(table, table.spis[i].key[way]) & table.spi_mask) + 1) * SAD_WAYS)
        if table.addresses is not NULL:
            for i in range(table.address_mask + 1):
                if table.addresses[i].sa is not NULL:
                    place = address_place(table, table.addresses[i].key, table.addresses[i].dst, table.addresses[i].src)
                    longest = max(longest, (i - place & table.address_mask) + 1)
        return longest

    @property
    def table_bytes(self):
        """Memory of the tables, without the SAs themselves."""
        cdef sad_table *table = &self.rows.table
        cdef size_t size = (table.spi_mask + 1) * sizeof(spi_bucket)
        return size + ((table.address_mask + 1) * sizeof(address_row) if table.addresses is not NULL else 0)


cdef object exact_owner(SAD sad, uint32_t spi_be, uint8_t protocol, bytes dst, bytes src):
    """Who has exactly this key."""
    cdef sad_query query
    cdef esp_sa *found
    fill_query(&query, spi_be, protocol, dst, src)
    found = sad_find(&sad.rows.table, &query)
    if found is NULL:
        return None
    owner = <object> found.owner
    return owner if sad.keys[owner] == (dst, src) else None


cdef bint put_all(SadRows rows, SAD sad):
    cdef SA sa
    for sa, (dst, src) in sad.keys.items():
        if not put(rows, sa, dst, src):
            return False
    return True


cdef grow(SAD sad, SA extra, bytes dst, bytes src):
    """New tables with another seed, larger where they are full; swapped in by one pointer store."""
    cdef SadRows fresh
    cdef size_t by_address = sum([1 for key in sad.keys.values() if key[0]]) + (1 if dst else 0)
    cdef uint32_t spi_bits = bits_for(max(LEAST_ROWS, len(sad.keys) + 1 - by_address))
    cdef uint32_t address_bits = bits_for(by_address) if by_address else 0
    for attempt in range(1, 64):
        fresh = SadRows(spi_bits - 2, address_bits)  # SAD_WAYS is 4
        if put(fresh, extra, dst, src) and put_all(fresh, sad):
            break
        if attempt % SEEDS_PER_SIZE == 0:
            spi_bits, address_bits = spi_bits + 1, address_bits + 1 if address_bits else 0
    else:
        raise MemoryError  # 63 seeds in a row that failed: not by chance
    old, sad.rows = sad.rows, fresh
    store_sa(&sad.current, &fresh.table)
    retire(old)


cdef bytes _packed(address, what):
    if address is None:
        return b""
    try:
        return ipaddress.ip_address(address).packed
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
