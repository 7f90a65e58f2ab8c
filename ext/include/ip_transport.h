/* Where ESP and AH stand in a packet that keeps its own header (RFC 4303 section 3.1.1, RFC 4302 section 3.1.1), and the checksums that a NAT on
 * the way spoils (RFC 3948 section 3.1.2).
 *
 * Plain C, because the fuzzer compiles it as it ships. Every packet was taken by ip_parse first. Its header_length bounds each walk here: another
 * thread may have written to the packet since, so no length that is read again leads past it.
 * Used by esp.pyx and ah.pyx.
 */
#ifndef IPSEC_FAST_IP_TRANSPORT_H
#define IPSEC_FAST_IP_TRANSPORT_H

#include <stdint.h>
#include <string.h>

#include "ip_checksum.h"
#include "ip_parse.h"

/* Bytes of header that stay outside; *field is the offset of the byte that names what follows them. IPv6 keeps hop-by-hop, routing and fragment
 * headers outside and what stands before those; destination options behind them are for the destination, and protected. 0: the chain is not the one
 * that ip_parse saw. */
static inline uint32_t transport_split(const uint8_t *packet, const ip_info *info, uint32_t *field)
{
    uint32_t at = 40u, here = 6u, split = 40u;
    *field = info->version == 4u ? 9u : 6u;
    if (info->version == 4u)
        return info->header_length;
    while (at < info->header_length && packet[here] != 51u) {
        uint8_t kind = packet[here];
        here = at;
        at += kind == 44u ? 8u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
        if (at > info->header_length)
            return 0;
        if (kind == 0u || kind == 43u || kind == 44u) {
            split = at;
            *field = here;
        }
    }
    return split;
}

/* The offset of the byte that names what stands at header_length. */
static inline uint32_t transport_last_field(const uint8_t *packet, const ip_info *info)
{
    uint32_t at = 40u, here = 6u;
    if (info->version == 4u)
        return 9u;
    while (at < info->header_length) {
        uint8_t kind = packet[here];
        here = at;
        at += kind == 44u ? 8u : kind == 51u ? ((uint32_t)packet[at + 1u] + 2u) * 4u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
    }
    return here;
}

/* Lengths and, for IPv4, the checksum of a header in front of `payload` bytes. */
static inline void transport_close_header(uint8_t *packet, uint32_t header, uint32_t payload)
{
    uint32_t length = packet[0] >> 4 == 4u ? header + payload : header - 40u + payload;
    uint8_t *at = packet + (packet[0] >> 4 == 4u ? 2 : 4);
    at[0] = (uint8_t)(length >> 8);
    at[1] = (uint8_t)length;
    if (packet[0] >> 4 == 4u) {
        uint16_t check;
        packet[10] = packet[11] = 0;
        check = csum_ipv4_header(packet, header);
        memcpy(packet + 10, &check, 2);
    }
}

static inline uint64_t transport_address_sum(const uint8_t *packet)
{
    return packet[0] >> 4 == 4u ? csum_add(0, packet + 12, 8) : csum_add(0, packet + 8, 32);
}

/* The checksum of a TCP or UDP packet whose addresses were others where it was made: `original` is the sum of those; 0 in `known` computes the
 * whole checksum anew. A UDP packet without checksum keeps none. */
static inline void transport_mend_checksum(uint8_t *packet, uint32_t header, uint32_t payload, uint8_t protocol, int known, uint64_t original)
{
    uint8_t *upper = packet + header, *field = upper + (protocol == 6u ? 16 : 6);
    int is_v4 = packet[0] >> 4 == 4u;
    uint16_t check;
    if ((protocol != 6u || payload < 20u) && (protocol != 17u || payload < 8u))
        return;
    memcpy(&check, field, 2);
    if (protocol == 17u && check == 0 && is_v4)
        return;
    if (known) {
        uint64_t sum = (uint64_t)(uint16_t)~check + (uint16_t)~csum_fold(original) + csum_fold(transport_address_sum(packet));
        check = (uint16_t)~csum_fold(sum);
    } else {
        uint64_t sum = is_v4 ? csum_pseudo4(packet + 12, packet + 16, protocol, payload) : csum_pseudo6(packet + 8, packet + 24, protocol, payload);
        memset(field, 0, 2);
        check = (uint16_t)~csum_fold(csum_add(sum, upper, payload));
    }
    if (protocol == 17u && check == 0)
        check = 0xffff;
    memcpy(field, &check, 2);
}

#endif
