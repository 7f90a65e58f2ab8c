"""Packets from the TUN into slots. See ext/dataplane/segment.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ipsec_fast.dataplane.ip cimport ip_info
from ipsec_fast.dataplane.net_io cimport vnet_header
from ipsec_fast.dataplane.port cimport tx_queue
from ipsec_fast.dataplane.sad cimport esp_sa
from ipsec_fast.dataplane.udp cimport udp_endpoint

# Where the packets of one read go.
cdef struct segment_target:
    tx_queue *queue
    esp_sa *sa
    udp_endpoint *to

# Each gives a verdict (VERDICT_OK: everything is in the queue). `packet` is the whole inner packet, `info` its parse.
cdef uint8_t segment_single(
    segment_target *target, const vnet_header *vnet, const uint8_t *packet, const ip_info *info
) noexcept nogil
cdef uint8_t segment_super(
    segment_target *target, const vnet_header *vnet, const uint8_t *packet, const ip_info *info
) noexcept nogil
# The same for what is larger than `mtu` and may be fragmented (IPv4 without DF).
cdef uint8_t segment_fragmented(
    segment_target *target, const vnet_header *vnet, uint8_t *packet, const ip_info *info, uint32_t mtu, uint8_t *scratch
) noexcept nogil
# Headers of each segment of a super-packet, 0 if it is none that we can split.
cdef uint32_t segment_header_length(const vnet_header *vnet, const uint8_t *packet, const ip_info *info) noexcept nogil
