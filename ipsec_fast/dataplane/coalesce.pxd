"""Inner packets into super-packets for the TUN or a packet socket. See ext/dataplane/coalesce.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ipsec_fast.dataplane.inner cimport inner_port
from ipsec_fast.dataplane.ip cimport ip_info
from ipsec_fast.dataplane.net_io cimport iovec
from ipsec_fast.dataplane.port cimport io_counters

cdef enum:
    FLOW_COUNT = 16
    FLOW_SEGMENTS = 64
    FLOW_HEADER = 100      # IPv6 40 and TCP 60

# Packets of one connection, in order, that one write can carry. They stay where they are: only the headers are built anew.
cdef struct merge_flow:
    uint8_t *first         # the first packet; NULL: unused
    uint16_t ip_length
    uint16_t header_length # with TCP or UDP
    uint16_t segment
    uint8_t protocol
    uint8_t version
    uint8_t closed         # after PSH or a short one nothing follows
    uint8_t push
    uint32_t count
    uint32_t payload
    uint32_t next_seq
    uint8_t header[FLOW_HEADER]
    iovec vector[2 + FLOW_SEGMENTS]

cdef struct merge_table:
    merge_flow flows[FLOW_COUNT]
    uint32_t used
    inner_port *tun
    io_counters *counters

# `packet` must stay in place until merge_flush.
cdef void merge_packet(merge_table *table, uint8_t *packet, const ip_info *info) noexcept nogil
cdef void merge_flush(merge_table *table) noexcept nogil
# One packet as it is, with an all-zero virtio-net header, and the link header where there is one.
cdef void write_single(merge_table *table, uint8_t *packet, uint32_t length) noexcept nogil
