/* What AH authenticates of the IP header in front of it (RFC 4302 section 3.3.3.1, appendix A): fields that change on the way count as zero, those
 * whose last value is known count as that.
 *
 * Plain C, because the fuzzer compiles it as it ships. Every packet was taken by ip_parse first. Another thread may have written to it since, so each
 * length is read once here, and checked against the end that ip_parse found.
 * The header is changed in place; whoever calls keeps a copy and puts it back. Used by ah.pyx.
 */
#ifndef IPSEC_FAST_AH_MUTABLE_H
#define IPSEC_FAST_AH_MUTABLE_H

#include <stdint.h>
#include <string.h>

#include "ip_parse.h"

#define AH_FIXED_LENGTH 12u
#define AH_MOST_HEADER 296u /* IPv6 and IP_CHAIN_BYTES of extension headers */

/* A compiler may not read it again between the check and the use. */
#define AH_READ_ONCE(byte) (*(const volatile uint8_t *)&(byte))

/* Options that no router changes (appendix A1): end of list, NOP, security, extended and commercial security, router alert, directed multicast. */
static inline int ah_option_is_fixed(uint8_t kind)
{
    return kind == 130u || kind == 133u || kind == 134u || kind == 148u || kind == 149u;
}

/* 0: an option does not fit. `sending`: the destination is the last one of a source route that has hops left (its pointer is not behind its end);
 * what arrives at its end has none, and a router that changed the destination otherwise is found out. */
static inline int ah_clear_v4(uint8_t *header, uint32_t length, int sending)
{
    uint32_t at = 20u;
    header[1] = 0;
    header[6] = header[7] = 0;
    header[8] = 0;
    header[10] = header[11] = 0;
    while (at < length) {
        uint8_t kind = header[at];
        uint32_t size;
        if (kind == 0u)
            return 1;
        if (kind == 1u) {
            at++;
            continue;
        }
        if (at + 2u > length)
            return 0;
        size = AH_READ_ONCE(header[at + 1u]);
        if (size < 2u || size > length - at)
            return 0;
        if (kind == 131u || kind == 137u) { /* loose and strict source route */
            if (size < 7u)
                return 0;
            if (sending && header[at + 2u] + 3u <= size)
                memcpy(header + 16, header + at + size - 4u, 4);
        }
        if (!ah_option_is_fixed(kind))
            memset(header + at, 0, size);
        at += size;
    }
    return 1;
}

/* The home address option of RFC 6275 counts as it stands: who swaps addresses does so before or behind us.
 * Hop-by-hop or destination options of `size` bytes: the third bit of an option's type says that its data may change. */
static inline int ah_clear_options(uint8_t *header, uint32_t size)
{
    uint32_t at = 2u;
    while (at < size) {
        uint32_t data;
        if (header[at] == 0u) {
            at++;
            continue;
        }
        if (at + 2u > size)
            return 0;
        data = AH_READ_ONCE(header[at + 1u]);
        if (at + 2u + data > size)
            return 0;
        if (header[at] & 0x20u)
            memset(header + at + 2u, 0, data);
        at += 2u + data;
    }
    return 1;
}

/* Type 2 (RFC 6275) is predictable: at its end the home address is the destination. Type 0 is refused (RFC 5095), others where they are not at their end. */
static inline int ah_clear_routing(uint8_t *packet, uint8_t *header, uint32_t size)
{
    uint8_t home[16];
    if (header[2] == 0u)
        return 0;
    if (header[3] == 0u)
        return 1;
    if (header[2] != 2u || size != 24u || header[3] != 1u)
        return 0;
    memcpy(home, header + 8, 16);
    memcpy(header + 8, packet + 24, 16);
    memcpy(packet + 24, home, 16);
    header[3] = 0;
    return 1;
}

/* Up to `end`, where AH begins. */
static inline int ah_clear_v6(uint8_t *packet, uint32_t end)
{
    uint32_t at = 40u;
    uint8_t kind = packet[6];
    packet[0] = 0x60u;
    packet[1] = packet[2] = packet[3] = 0;
    packet[7] = 0;
    while (at < end) {
        uint32_t size = kind == 44u ? 8u : ((uint32_t)AH_READ_ONCE(packet[at + 1u]) + 1u) * 8u;
        uint8_t next = packet[at];
        if (size > end - at)
            return 0;
        if ((kind == 0u || kind == 60u) && !ah_clear_options(packet + at, size))
            return 0;
        if (kind == 43u && !ah_clear_routing(packet, packet + at, size))
            return 0;
        kind = next;
        at += size;
    }
    return 1;
}

/* The header of `end` bytes as AH sees it; 0: it cannot be authenticated. */
static inline int ah_clear_header(uint8_t *packet, uint32_t end, int sending)
{
    return packet[0] >> 4 == 4u ? ah_clear_v4(packet, end, sending) : ah_clear_v6(packet, end);
}

/* Where AH begins in a packet that arrived, 0 where there is none; *field is the offset of the byte that names it. */
static inline uint32_t ah_find(const uint8_t *packet, const ip_info *info, uint32_t *field)
{
    uint32_t at = 40u;
    *field = info->version == 4u ? 9u : 6u;
    if (info->version == 4u)
        return info->protocol == 51u ? info->header_length : 0u;
    while (at < info->header_length) {
        uint8_t kind = packet[*field];
        if (kind == 51u)
            return at;
        *field = at;
        at += kind == 44u ? 8u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
    }
    return 0;
}

/* Bytes of the whole header for so many of IV and ICV (section 2.2): a multiple of 4 in IPv4, of 8 in IPv6. */
static inline uint32_t ah_length(uint32_t icv_field, uint32_t version)
{
    return version == 4u ? (AH_FIXED_LENGTH + icv_field + 3u) & ~3u : (AH_FIXED_LENGTH + icv_field + 7u) & ~7u;
}

#endif
