"""Fragments against selectors with ports: stateful fragment checking, RFC 4301 section 7.3 and appendix D.

The first fragment is matched as any packet, and its protocol and ports are kept (ext/include/ip_track.h); later ones are matched with these. A later
fragment that comes before its first one goes on only where no port could change the answer, otherwise it is dropped as fragment_unmatched: whoever
cuts sends the first fragment first, and holding what cannot be judged would only give room to who fills it. What arrives is kept only after it was
let in. Broken and tiny fragments are dropped here in both directions. Overlaps are the receiving host's: offset 0, where the ports stand, is always judged.
Called by: worker, embedders with a policy of their own.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ipsec_fast.dataplane.ip cimport IP_OK, ip_info, ip_parse
from ipsec_fast.dataplane.reassemble cimport FRAG_HELD, frag_piece, frag_read, frag_verdict
from ipsec_fast.dataplane.sad cimport SA
from ipsec_fast.dataplane.spd cimport (
    FLOW_CACHE_SIZE, Tables, find_policy, find_policy_without_ports, flow_key, make_flow_key, selectors_could_match, selectors_match
)
from ipsec_fast.dataplane.status cimport (
    VERDICT_BAD_INNER, VERDICT_FRAGMENT_UNMATCHED, VERDICT_OK, VERDICT_POLICY_DISCARD, VERDICT_SELECTOR_MISMATCH
)

import os

from ..errors import UsageError

cdef uint64_t TRACK_TIMEOUT_NS = 30000000000


cdef inline void use_first(flow_key *key, const track_entry *first) noexcept nogil:
    key.protocol = first.protocol
    key.has_ports = first.has_ports
    key.src_port = first.src_port
    key.dst_port = first.dst_port


cdef inline bint hides_protocol(const ip_info *info) noexcept nogil:
    """A later IPv6 fragment names the header that its first one begins with; the upper layer may stand behind it."""
    return info.version == 6 and info.protocol in (0, 43, 51, 60, 139, 140)


cdef policy_row *track_outbound(
    track_table *table, dataplane_tables *tables, flow_entry *cache, const uint8_t *packet, const ip_info *info,
    uint64_t now_ns, uint8_t *verdict
) noexcept nogil:
    cdef frag_piece piece
    cdef flow_key key
    cdef const track_entry *first
    cdef policy_row *row
    cdef bint depends = False
    cdef int result = frag_read(packet, info.total_length, &piece)
    verdict[0] = VERDICT_OK if result == FRAG_HELD else frag_verdict(result)
    if verdict[0] != VERDICT_OK:
        return NULL
    make_flow_key(&key, info)
    if info.fragment_offset == 0:
        track_put(table, &piece.key, info, now_ns)
        return find_policy(tables, cache, &key)
    first = track_get(table, &piece.key, now_ns)
    if first is not NULL:
        use_first(&key, first)
        return find_policy(tables, cache, &key)
    row = find_policy_without_ports(tables, &key, hides_protocol(info), &depends)
    if depends:
        verdict[0] = VERDICT_FRAGMENT_UNMATCHED
    return row


cdef uint8_t track_inbound(
    track_table *table, const selector_pair_list *selectors, const uint8_t *packet, const ip_info *info, uint64_t now_ns
) noexcept nogil:
    cdef frag_piece piece
    cdef flow_key key
    cdef const track_entry *first
    cdef int result = frag_read(packet, info.total_length, &piece)
    if result != FRAG_HELD:
        return frag_verdict(result)
    make_flow_key(&key, info)
    if info.fragment_offset == 0:
        if not selectors_match(selectors, &key):
            return VERDICT_SELECTOR_MISMATCH
        track_put(table, &piece.key, info, now_ns)
        return VERDICT_OK
    if selectors_match(selectors, &key):  # any port, or an SA for fragments alone (OPAQUE, RFC 4301 section 7.2)
        return VERDICT_OK
    first = track_get(table, &piece.key, now_ns)
    if first is NULL:
        return VERDICT_FRAGMENT_UNMATCHED if selectors_could_match(selectors, &key, hides_protocol(info)) else VERDICT_SELECTOR_MISMATCH
    use_first(&key, first)
    return VERDICT_OK if selectors_match(selectors, &key) else VERDICT_SELECTOR_MISMATCH


cdef class FragmentTracker:
    """Fragments against selectors with ports: later ones follow their first (RFC 4301 section 7.3).

    Of up to `entries` packets in each direction the ports are known for `timeout_s`; then newer ones take their place.
    What is no fragment is judged as ever. Not for several threads at once. Raises UsageError for bounds out of range.
    """

    def __cinit__(self, *, entries=TRACK_ENTRIES, timeout_s=TRACK_TIMEOUT_NS / 1e9):
        if not 4 <= entries <= 1 << 20 or not 0 < timeout_s <= 3600:
            raise UsageError(f"a tracker has 4 to {1 << 20} entries and up to 3600 s, not {entries} entries and {timeout_s} s")
        seed = int.from_bytes(os.urandom(8), "big")
        self.outbound = track_new(entries, <uint64_t> (timeout_s * 1e9), seed)
        self.inbound = track_new(entries, <uint64_t> (timeout_s * 1e9), seed)
        self.cache = <flow_entry *> calloc(FLOW_CACHE_SIZE, sizeof(flow_entry))
        if self.outbound is NULL or self.inbound is NULL or self.cache is NULL:
            raise MemoryError

    def __dealloc__(self):
        track_free(self.outbound)
        track_free(self.inbound)
        free(self.cache)

    def find(self, Tables tables not None, bytes packet not None, double now):
        """(verdict, policy) of an inner packet that leaves; `now` in seconds of any clock that does not go back."""
        cdef ip_info info
        cdef flow_key key
        cdef uint8_t verdict = VERDICT_OK
        cdef policy_row *row
        cdef const uint8_t *at = <const uint8_t *> <const char *> packet
        if ip_parse(at, <uint32_t> len(packet), &info) != IP_OK:
            return VERDICT_BAD_INNER, None
        if info.is_fragment:
            row = track_outbound(self.outbound, &tables.c, self.cache, at, &info, <uint64_t> (now * 1e9), &verdict)
        else:
            make_flow_key(&key, &info)
            row = find_policy(&tables.c, self.cache, &key)
        if verdict != VERDICT_OK:
            return verdict, None
        return (VERDICT_OK, tables.policies[row - tables.c.policies]) if row is not NULL else (VERDICT_POLICY_DISCARD, None)

    def check(self, SA sa not None, bytes packet not None, double now):
        """The verdict of an inner packet that arrived on this SA."""
        cdef ip_info info
        cdef flow_key key
        cdef const selector_pair_list *selectors = <selector_pair_list *> sa.hot.selectors
        cdef const uint8_t *at = <const uint8_t *> <const char *> packet
        if ip_parse(at, <uint32_t> len(packet), &info) != IP_OK:
            return VERDICT_BAD_INNER
        if info.is_fragment:
            return track_inbound(self.inbound, selectors, at, &info, <uint64_t> (now * 1e9))
        make_flow_key(&key, &info)
        return VERDICT_OK if selectors_match(selectors, &key) else VERDICT_SELECTOR_MISMATCH
