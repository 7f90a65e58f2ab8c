"""MTU is arithmetic (docs/mtu.md): the MSS of every SYN is clamped, and a packet that does not fit is answered, never lost in silence.

Clamped is the MSS option of a SYN or SYN-ACK that is all header, also behind IPv4 options and IPv6 extension headers, and never upwards. What is
odd about a SYN (data, a TCP header cut short, an option of a wrong length, two of them, AH around it) leaves it untouched.
Answers are ICMP type 3 code 4 (RFC 792, RFC 1191) and ICMPv6 type 2 (RFC 4443 section 3.2), sent in the name of the packet's destination: the one
address that surely is routed through the TUN, so that strict reverse path filters let it in. Of a super-packet one segment is quoted. No answer to
ICMP errors, to later fragments, from or to what is no host (RFC 1122 section 3.2.2, RFC 4443 section 2.4). Rate limits are the worker's.
Called by worker; fragments are made in segment.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_ipv4_header, csum_pseudo6, csum_update16, ip_info, ip_parse
)

cdef enum:
    TCP = 6
    ICMP = 1
    ICMPV6 = 58
    FRAGMENT = 44
    AH = 51
    ICMPV6_REDIRECT = 137
    TCP_SYN = 2
    OPTION_END = 0
    OPTION_NOP = 1
    OPTION_MSS = 2
    MIN_MTU_V4 = 68          # RFC 791: the least that every link takes
    MIN_MTU_V6 = 1280
    MIN_REASSEMBLY_V4 = 576  # no answer over IPv4 is longer (RFC 1812 section 4.3.2.3)


cdef inline uint32_t load16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef inline void store16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline bint is_behind_ah(const uint8_t *packet, const ip_info *info) noexcept nogil:
    """AH of IPv6 covers TCP: it may not be changed. (ip_parse found the chain sound; behind AH of IPv4 it looks for nothing.)"""
    cdef uint32_t at = 40, step
    cdef uint8_t next_header = packet[6]
    while info.version == 6 and at < info.header_length:
        if next_header == AH:
            return True
        step = 8 if next_header == FRAGMENT else (<uint32_t>packet[at + 1] + 1) * 8
        next_header = packet[at]
        at += step
    return False


cdef int clamp_mss(uint8_t *packet, const ip_info *info, uint16_t mss, bint partial) noexcept nogil:
    cdef uint8_t *tcp = packet + info.header_length
    cdef uint32_t left = info.total_length - info.header_length, header, at = 20, size, found = 0
    if info.protocol != TCP or info.fragment_offset:
        return MSS_KEPT
    if left < 14:  # not even its flags are here
        return MSS_ODD
    if not tcp[13] & TCP_SYN:
        return MSS_KEPT
    header = (tcp[12] >> 4) * 4
    if header != left or header < 20:  # cut short, or with data
        return MSS_ODD
    while at < header and tcp[at] != OPTION_END:
        if tcp[at] == OPTION_NOP:
            at += 1
            continue
        if at + 2 > header or tcp[at + 1] < 2 or at + tcp[at + 1] > header:
            return MSS_ODD
        size = tcp[at + 1]
        if tcp[at] == OPTION_MSS:
            if size != 4 or found:  # of two, nobody knows which one the other side obeys
                return MSS_ODD
            found = at + 2
        at += size
    if found == 0 or load16(tcp + found) <= mss:  # without the option it is 536 or 1220 (RFC 9293 section 3.7.1)
        return MSS_KEPT
    if is_behind_ah(packet, info):
        return MSS_ODD
    replace_mss(tcp, found, mss, partial)
    return MSS_CLAMPED


cdef inline void replace_mss(uint8_t *tcp, uint32_t at, uint16_t mss, bint partial) noexcept nogil:
    """RFC 1624. Behind an odd number of NOPs the MSS stands across two words: then both count, bytes swapped into place."""
    cdef uint16_t check, before, after
    cdef uint8_t old[2]
    cdef uint8_t new[2]
    memcpy(old, tcp + at, 2)
    store16(new, mss)
    if at & 1:
        old[0], old[1] = old[1], old[0]
        new[0], new[1] = new[1], new[0]
    store16(tcp + at, mss)
    if partial:
        return
    memcpy(&check, tcp + 16, 2)
    memcpy(&before, old, 2)
    memcpy(&after, new, 2)
    check = csum_update16(check, before, after)
    memcpy(tcp + 16, &check, 2)


cdef inline bint is_icmp_error(const uint8_t *packet, const ip_info *info) noexcept nogil:
    cdef uint8_t kind
    if info.protocol != ICMP and info.protocol != ICMPV6:
        return False
    if info.total_length <= info.header_length:
        return True  # nobody knows
    kind = packet[info.header_length]
    if info.protocol == ICMPV6:
        return kind < 128 or kind == ICMPV6_REDIRECT
    return kind == 3 or kind == 4 or kind == 5 or kind == 11 or kind == 12


cdef inline bint is_host_v4(const uint8_t *address) noexcept nogil:
    """May be one end of an answer: not "this network", loopback, multicast, reserved or broadcast (RFC 1122 section 3.2.1.3)."""
    return address[0] != 0 and address[0] != 127 and address[0] < 224


cdef inline bint is_host_v6(const uint8_t *address) noexcept nogil:
    """Not multicast, :: or ::1 (RFC 4291 section 2.4)."""
    cdef uint32_t i
    cdef uint8_t others = 0
    for i in range(15):
        others |= address[i]
    return address[0] != 0xFF and (others != 0 or address[15] > 1)


cdef uint32_t answer_too_big(uint8_t *out, const uint8_t *packet, const ip_info *info, uint32_t wire_length, uint32_t mtu) noexcept nogil:
    if info.fragment_offset or is_icmp_error(packet, info):
        return 0
    if info.version == 4:
        return answer_v4(out, packet, info, wire_length, mtu) if is_host_v4(info.src) and is_host_v4(info.dst) else 0
    # a multicast destination might be answered (RFC 4443 section 2.4 e.3), but cannot be a source
    return answer_v6(out, packet, info, wire_length, mtu) if is_host_v6(info.src) and is_host_v6(info.dst) else 0


cdef inline uint32_t answer_v4(uint8_t *out, const uint8_t *packet, const ip_info *info, uint32_t wire_length, uint32_t mtu) noexcept nogil:
    cdef uint32_t quoted = min(wire_length, <uint32_t>(MIN_REASSEMBLY_V4 - 28)), length = 28 + quoted
    cdef uint16_t check
    memset(out, 0, 28)
    out[0] = 0x45
    out[1] = 0xC0  # internetwork control, as kernels send errors
    store16(out + 2, length)
    out[8] = 64
    out[9] = ICMP
    memcpy(out + 12, info.dst, 4)
    memcpy(out + 16, info.src, 4)
    check = csum_ipv4_header(out, 20)
    memcpy(out + 10, &check, 2)
    out[20] = 3
    out[21] = 4
    store16(out + 26, max(<uint32_t>MIN_MTU_V4, min(mtu, <uint32_t>65535)))
    memcpy(out + 28, packet, quoted)
    if wire_length != info.total_length:
        store16(out + 30, wire_length)
        out[38] = out[39] = 0
        check = csum_ipv4_header(out + 28, info.header_length)
        memcpy(out + 38, &check, 2)
    check = <uint16_t>~csum_fold(csum_add(0, out + 20, 8 + quoted))
    memcpy(out + 22, &check, 2)
    return length


cdef inline uint32_t answer_v6(uint8_t *out, const uint8_t *packet, const ip_info *info, uint32_t wire_length, uint32_t mtu) noexcept nogil:
    cdef uint32_t quoted = min(wire_length, <uint32_t>(ANSWER_BYTES - 48)), length = 48 + quoted
    cdef uint16_t check
    mtu = max(mtu, <uint32_t>MIN_MTU_V6)
    memset(out, 0, 48)
    out[0] = 0x60
    store16(out + 4, 8 + quoted)
    out[6] = ICMPV6
    out[7] = 64
    memcpy(out + 8, info.dst, 16)
    memcpy(out + 24, info.src, 16)
    out[40] = 2
    store16(out + 44, mtu >> 16)
    store16(out + 46, mtu & 0xFFFF)
    memcpy(out + 48, packet, quoted)
    if wire_length != info.total_length:
        store16(out + 52, wire_length - 40)
    check = <uint16_t>~csum_fold(csum_add(csum_pseudo6(out + 8, out + 24, ICMPV6, 8 + quoted), out + 40, 8 + quoted))
    memcpy(out + 42, &check, 2)
    return length


def clamped(bytes packet, int mss, *, bint partial=False):
    """What the worker's MSS clamp says of a packet and how it leaves it, for tests. `partial`: its checksum is not complete yet."""
    cdef bytearray copy = bytearray(packet)
    cdef ip_info info
    cdef uint8_t *at = <uint8_t *><char *>copy
    if ip_parse(at, <uint32_t>len(copy), &info) != IP_OK:
        return "bad", packet
    said = ("kept", "clamped", "odd")[clamp_mss(at, &info, <uint16_t>mss, partial)]
    return said, bytes(copy)


def too_big_answer(bytes packet, int mtu, *, int wire_length=0):
    """The ICMP or ICMPv6 answer to a packet above `mtu`, for tests; empty if none may be sent. `wire_length`: a super-packet's segment."""
    cdef uint8_t out[ANSWER_BYTES]
    cdef ip_info info
    cdef const uint8_t *at = <const uint8_t *><const char *>packet
    if ip_parse(at, <uint32_t>len(packet), &info) != IP_OK:
        return b""
    return (<char *>out)[:answer_too_big(out, at, &info, <uint32_t>wire_length or info.total_length, <uint32_t>mtu)]
