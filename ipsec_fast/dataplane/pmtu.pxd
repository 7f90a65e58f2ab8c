"""MSS clamp and too-big answers. See ext/dataplane/pmtu.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ipsec_fast.dataplane.ip cimport ip_info

cdef enum:
    ANSWER_BYTES = 1280    # no answer is longer

cdef enum:
    MSS_KEPT = 0           # no SYN, no option, or small enough
    MSS_CLAMPED = 1
    MSS_ODD = 2            # untouched: data behind it, a header cut short, an option of a wrong length, AH around it

# The MSS of a SYN becomes at most `mss`. `partial`: the checksum is not complete yet, so it stays.
cdef int clamp_mss(uint8_t *packet, const ip_info *info, uint16_t mss, bint partial) noexcept nogil

# ICMP Fragmentation Needed or ICMPv6 Packet Too Big about `packet` into `out` (ANSWER_BYTES). Its length, 0 if none may be sent.
# `wire_length`: of the packet, or of the longest segment of a super-packet.
cdef uint32_t answer_too_big(
    uint8_t *out, const uint8_t *packet, const ip_info *info, uint32_t wire_length, uint32_t mtu
) noexcept nogil
