"""Stateful fragment checking: ext/include/ip_track.h for Cython, and its judges. See ext/dataplane/track.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.ip cimport ip_info
from ipsec_fast.dataplane.reassemble cimport frag_key
from ipsec_fast.dataplane.spd cimport dataplane_tables, flow_entry, policy_row, selector_pair_list

cdef extern from "ip_track.h" nogil:
    ctypedef struct track_entry:
        uint16_t src_port
        uint16_t dst_port
        uint8_t protocol
        uint8_t has_ports
    ctypedef struct track_table:
        uint32_t set_mask
    track_table *track_new(uint32_t entries, uint64_t timeout_ns, uint64_t seed) noexcept
    void track_free(track_table *table) noexcept
    const track_entry *track_get(track_table *table, const frag_key *key, uint64_t now_ns) noexcept
    void track_put(track_table *table, const frag_key *key, const ip_info *first, uint64_t now_ns) noexcept

cdef enum:
    TRACK_ENTRIES = 1024
cdef uint64_t TRACK_TIMEOUT_NS

# A packet with info.is_fragment that leaves: its policy (NULL: none matches, or `verdict` is not VERDICT_OK).
cdef policy_row *track_outbound(
    track_table *table, dataplane_tables *tables, flow_entry *cache, const uint8_t *packet, const ip_info *info,
    uint64_t now_ns, uint8_t *verdict
) noexcept nogil
# One that arrived on an SA with these selectors: its verdict.
cdef uint8_t track_inbound(
    track_table *table, const selector_pair_list *selectors, const uint8_t *packet, const ip_info *info, uint64_t now_ns
) noexcept nogil


cdef class FragmentTracker:
    cdef track_table *outbound
    cdef track_table *inbound
    cdef flow_entry *cache
