"""Selectors and policies as the worker reads them. See ext/dataplane/spd.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.ip cimport ip_info
from ipsec_fast.dataplane.sad cimport PROTOCOL_ESP, esp_sa
from ipsec_fast.dataplane.sad_table cimport SAD, sad_find_spi, sad_table

cdef enum:
    POLICY_DISCARD = 0
    POLICY_BYPASS = 1
    POLICY_PROTECT = 2
    FLOW_CACHE_SIZE = 1024
    FLOW_CACHE_POLICIES = 4  # up to so many a look at each is faster than the cache
    OWNER_ANY = 0xFFFF       # no worker owns what the policy names

# An address as two numbers; IPv4 stands in `low`.
cdef struct wide_address:
    uint64_t high
    uint64_t low

cdef struct selector:
    wide_address start
    wide_address end
    uint8_t version
    uint8_t protocol       # 0: any
    uint8_t any_port
    uint8_t opaque         # only packets without ports
    uint16_t start_port
    uint16_t end_port

cdef struct flow_key:
    wide_address src
    wide_address dst
    uint16_t src_port
    uint16_t dst_port
    uint8_t version
    uint8_t protocol
    uint8_t has_ports
    uint8_t zero

cdef struct selector_pair_list:
    uint32_t local_count
    uint32_t remote_count
    selector *local
    selector *remote

cdef struct policy_row:
    selector local
    selector remote
    esp_sa *sa
    uint64_t tag
    uint16_t owner           # the worker that sends on `sa`
    uint8_t action

cdef struct dataplane_tables:
    const sad_table *sad
    uint32_t policy_count
    policy_row *policies
    uint64_t generation    # never the same twice; caches compare it

cdef struct flow_entry:
    flow_key key
    uint64_t generation
    uint32_t policy        # policy_count: none matches

cdef void make_flow_key(flow_key *key, const ip_info *info) noexcept nogil
cdef bint selectors_match(const selector_pair_list *pairs, const flow_key *key) noexcept nogil
cdef policy_row *find_policy(dataplane_tables *tables, flow_entry *cache, const flow_key *key) noexcept nogil
# For a later fragment whose first one is unknown: the first policy that matches whatever the ports are. `depends`: the ports would decide.
cdef policy_row *find_policy_without_ports(
    dataplane_tables *tables, const flow_key *key, bint any_protocol, bint *depends
) noexcept nogil
cdef bint selectors_could_match(const selector_pair_list *pairs, const flow_key *key, bint any_protocol) noexcept nogil


cdef inline esp_sa *find_sa(const dataplane_tables *tables, uint32_t spi_be) noexcept nogil:
    return sad_find_spi(tables.sad, spi_be, PROTOCOL_ESP)


cdef class Policy:
    cdef readonly object local, remote, outbound
    cdef readonly str action
    cdef readonly object tag, owner

cdef class Tables:
    cdef dataplane_tables c
    cdef SAD sad
    cdef bint made
    cdef readonly tuple inbound, policies

# The SAs that one worker holds for one publication: nobody else may use them.
cdef class Holding:
    cdef Tables tables
    cdef uint64_t holder, serial
    cdef uint32_t worker, workers   # whose, of how many
    cdef bint has(self, const esp_sa *sa) noexcept
    cdef Py_ssize_t take_all(self, Py_ssize_t n) noexcept
    # StateError if somebody else uses one of the SAs; then nothing is changed.
    cdef int take(self) except -1
    # The worker will stop reading these tables. SAs that no later publication took become free with this object.
    cdef void begin_to_leave(self) noexcept
    # Release the SAs at once, if the worker's thread does not run.
    cdef void leave(self) noexcept

cdef Holding hold(Tables tables, uint64_t number, uint32_t worker, uint32_t workers)
