"""Cutting packets into fragments: ext/include/ip_cut.h for Cython. See ext/dataplane/fragment.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from ipsec_fast.dataplane.ip cimport ip_info


cdef extern from "ip_cut.h" nogil:
    ctypedef struct ip_cutter:
        pass
    enum:
        CUT_OK
        CUT_NO_ROOM      # no 8 bytes of payload, or not all headers, fit into a fragment of this size
        CUT_BAD_PACKET   # an IPv6 fragment, or an IPv4 one that ends beyond 65535 bytes
    # `packet` and its parse; then, until cut_length is 0, cut_next writes that many bytes
    int cut_begin(ip_cutter *cutter, const uint8_t *packet, const ip_info *info, uint32_t mtu, uint32_t ident) noexcept
    uint32_t cut_length(const ip_cutter *cutter) noexcept
    void cut_next(ip_cutter *cutter, uint8_t *place) noexcept
