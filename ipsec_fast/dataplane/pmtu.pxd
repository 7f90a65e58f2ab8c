"""MSS clamp and too-big answers. See ext/dataplane/pmtu.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ipsec_fast.dataplane.ip cimport ip_info

cdef enum:
    ANSWER_BYTES = 1280    # no answer is longer

# The MSS of a SYN becomes at most `mss`. True if it changed. `partial`: the checksum is not complete yet, so it stays.
cdef bint clamp_mss(uint8_t *packet, const ip_info *info, uint16_t mss, bint partial) noexcept nogil

# ICMP Fragmentation Needed or ICMPv6 Packet Too Big about `packet` into `out` (ANSWER_BYTES). Its length, 0 if none may be sent.
cdef uint32_t answer_too_big(uint8_t *out, const uint8_t *packet, const ip_info *info, uint32_t mtu) noexcept nogil
