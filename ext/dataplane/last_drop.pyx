"""The last packet that an SA dropped: verdict, time, number and the headers that say who sent it; no payload, no plaintext behind an IP header.

Counters tell how many, this tells which one: what an operator or an audit log wants (RFC 4303 sections 3.3.3 and 3.4). It costs the packets that are dropped
a copy of at most 74 bytes, the others nothing. The owner of the SA writes, anybody reads: a count that is odd while it is written tells a reader to
try again. Left out: a history. Called by: esp, ah, worker; read by sad.SA.last_drop.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.ip cimport IP_OK, ip_info, ip_parse
from ipsec_fast.dataplane.sad cimport DROP_HEADER_BYTES, MODE_TRANSPORT, PROTOCOL_AH, drop_record, esp_sa

cdef extern from *:
    """
    #include <endian.h>
    static inline uint32_t be32_at(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
    static inline void put_be32(uint8_t *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
    static inline void drop_write(uint64_t *to, const uint64_t *from, size_t words)
    {
        __atomic_store_n(to, to[0] + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        for (size_t i = 1; i < words; i++)
            __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
        __atomic_store_n(to, to[0] + 1, __ATOMIC_RELEASE);
    }
    """
    uint32_t be32_at(const uint8_t *p) noexcept nogil
    void put_be32(uint8_t *p, uint32_t v) noexcept nogil
    void drop_write(uint64_t *to, const uint64_t *from_, size_t words) noexcept nogil

cdef enum:
    AH_FIXED_BYTES = 12      # next header to sequence number
    PORT_BYTES = 4


cdef void keep(
    esp_sa *sa, uint8_t verdict, uint64_t now_ns, uint32_t seq, const uint8_t *header, uint32_t length
) noexcept nogil:
    cdef drop_record record
    memset(&record, 0, sizeof(record))
    if length > DROP_HEADER_BYTES:
        length = DROP_HEADER_BYTES
    record.verdict = verdict
    record.header_length = <uint8_t> length
    record.at_ns = now_ns
    record.seq = seq
    memcpy(record.header, header, length)
    drop_write(<uint64_t *> &sa.last_drop, <const uint64_t *> &record, sizeof(record) // 8)


cdef inline uint32_t find_ah(const uint8_t *packet, const ip_info *info) noexcept nogil:
    """Where the AH of an IP packet begins, 0 if it has none; ip_parse has checked the lengths of the IPv6 chain."""
    cdef uint32_t at = 40
    cdef uint8_t next_header
    if info.version == 4:
        return info.header_length if info.protocol == PROTOCOL_AH else 0
    next_header = packet[6]
    while at + 8 <= info.header_length:
        if next_header == PROTOCOL_AH:
            return at
        at, next_header = at + (8 if next_header == 44 else (packet[at + 1] + 1) * 8), packet[at]
    return 0


cdef void last_drop_arrived(esp_sa *sa, uint8_t verdict, uint64_t now_ns, const uint8_t *packet, uint32_t length) noexcept nogil:
    cdef ip_info info
    cdef uint32_t at = 0, end, seq = 0
    if sa.outer or sa.mode == MODE_TRANSPORT:
        if ip_parse(packet, length, &info) != IP_OK:
            keep(sa, verdict, now_ns, 0, packet, 20 if length > 20 else length)
            return
        length = info.total_length
        at = info.header_length + 8 * sa.encap
        if sa.protocol == PROTOCOL_AH:
            at = find_ah(packet, &info)
            if at == 0:
                keep(sa, verdict, now_ns, 0, packet, info.header_length)
                return
    if sa.protocol == PROTOCOL_AH:
        at += 4
        end = at + AH_FIXED_BYTES - 4
    else:
        end = at + 8 + sa.iv_length
    # what stands elsewhere than the SA says is no number
    if at + 8 <= length and be32_at(packet + at) == be32_at(<const uint8_t *> &sa.spi_be):
        seq = be32_at(packet + at + 4)
    elif sa.outer or sa.mode == MODE_TRANSPORT:
        end = info.header_length
    else:
        end = 8
    keep(sa, verdict, now_ns, seq, packet, end if end < length else length)


cdef void last_drop_numbered(esp_sa *sa, uint8_t verdict, uint64_t now_ns, uint32_t seq) noexcept nogil:
    cdef uint8_t header[8]
    memcpy(header, &sa.spi_be, 4)
    put_be32(header + 4, seq)
    keep(sa, verdict, now_ns, seq, header, 8)


cdef void last_drop_clear(
    esp_sa *sa, uint8_t verdict, uint64_t now_ns, uint32_t seq, const uint8_t *packet, uint32_t length
) noexcept nogil:
    cdef ip_info info
    cdef uint32_t end
    if ip_parse(packet, length, &info) != IP_OK:
        keep(sa, verdict, now_ns, seq, packet, 0)
        return
    end = info.header_length + (PORT_BYTES if info.has_ports else 0)
    keep(sa, verdict, now_ns, seq, packet, end if end < info.total_length else info.total_length)
