/* IPv4 and IPv6 headers (RFC 791, RFC 8200) as far as an IPsec gateway must understand them: addresses, upper layer, ports, lengths, fragments.
 *
 * Plain C, because the proof and the fuzzer compile it as it ships. The IPv4 checksum is not verified (the inner one is inside the ICV, the outer
 * one is the kernel's), options and extension headers are skipped, not obeyed. Used by esp.pyx, and by the worker for selectors, clamp, too-big answers.
 */
#ifndef IPSEC_FAST_IP_PARSE_H
#define IPSEC_FAST_IP_PARSE_H

#include <stdint.h>
#include <string.h>

#define IP_CHAIN_HEADERS 8u /* longest chain of IPv6 extension headers: number and bytes */
#define IP_CHAIN_BYTES 256u

enum { IP_OK = 0, IP_SHORT, IP_BAD_VERSION, IP_BAD_HEADER, IP_BAD_LENGTH, IP_BAD_CHAIN };

typedef struct ip_info {
    const uint8_t *src; /* 4 or 16 bytes, inside the packet */
    const uint8_t *dst;
    uint32_t total_length;
    uint16_t header_length;
    uint16_t fragment_offset;
    uint8_t version;
    uint8_t protocol;
    uint8_t more_fragments;
    uint8_t is_fragment;
    uint8_t dont_fragment;
    uint8_t tos;
    uint8_t ttl;
    uint8_t has_ports; /* 0: OPAQUE (RFC 4301 section 4.4.1.1) */
    uint16_t src_port; /* host order; ICMP: type << 8 | code in both */
    uint16_t dst_port;
} ip_info;

static inline uint32_t ip_load16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

/* Ports of TCP, UDP, DCCP, SCTP, UDP-Lite; type and code of ICMP, ICMPv6 and the type of Mobility Header. */
static inline void ip_parse_ports(const uint8_t *packet, ip_info *info)
{
    const uint8_t *upper = packet + info->header_length;
    uint32_t left = info->total_length - info->header_length;
    if (info->fragment_offset != 0)
        return;
    switch (info->protocol) {
    case 6: case 17: case 33: case 132: case 136:
        if (left < 4u)
            return;
        info->src_port = (uint16_t)ip_load16(upper);
        info->dst_port = (uint16_t)ip_load16(upper + 2);
        break;
    case 1: case 58:
        if (left < 2u)
            return;
        info->src_port = info->dst_port = (uint16_t)ip_load16(upper);
        break;
    case 135:
        if (left < 3u)
            return;
        info->src_port = info->dst_port = (uint16_t)(upper[2] << 8);
        break;
    default:
        return;
    }
    info->has_ports = 1;
}

static inline int ip_parse_v4(const uint8_t *packet, uint32_t length, ip_info *info)
{
    uint32_t header = (uint32_t)(packet[0] & 15u) * 4u, total, fragment;
    if (length < 20u)
        return IP_SHORT;
    if (header < 20u)
        return IP_BAD_HEADER;
    if (header > length)
        return IP_SHORT;
    total = ip_load16(packet + 2);
    if (total < header || total > length)
        return IP_BAD_LENGTH;
    fragment = ip_load16(packet + 6);
    info->src = packet + 12;
    info->dst = packet + 16;
    info->total_length = total;
    info->header_length = (uint16_t)header;
    info->fragment_offset = (uint16_t)((fragment & 0x1fffu) * 8u);
    info->more_fragments = (fragment >> 13) & 1u;
    info->is_fragment = (fragment & 0x3fffu) != 0;
    info->dont_fragment = (fragment >> 14) & 1u;
    info->protocol = packet[9];
    info->tos = packet[1];
    info->ttl = packet[8];
    return IP_OK;
}

static inline int ip_parse_v6(const uint8_t *packet, uint32_t length, ip_info *info)
{
    uint32_t at = 40u, total, step, fragments = 0; /* a second fragment header would hide the first */
    uint8_t next;
    if (length < 40u)
        return IP_SHORT;
    total = 40u + ip_load16(packet + 4); /* jumbograms (payload length 0 with an option) end up as a bad chain or an empty packet */
    if (total > length)
        return IP_BAD_LENGTH;
    info->src = packet + 8;
    info->dst = packet + 24;
    info->total_length = total;
    info->dont_fragment = 1;
    info->tos = (uint8_t)(ip_load16(packet) >> 4);
    info->ttl = packet[7];
    next = packet[6];
    for (uint32_t headers = 0;; headers++) {
        if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60 && next != 139 && next != 140)
            break; /* an upper layer, ESP among them, or no next header */
        if (info->fragment_offset != 0)
            break; /* behind a fragment header of a later fragment stands payload */
        if (headers == IP_CHAIN_HEADERS || total - at < 8u || (next == 44 && fragments++))
            return IP_BAD_CHAIN;
        step = next == 44 ? 8u : next == 51 ? ((uint32_t)packet[at + 1u] + 2u) * 4u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
        if (step > total - at || at + step - 40u > IP_CHAIN_BYTES)
            return IP_BAD_CHAIN;
        if (next == 44) {
            uint32_t fragment = ip_load16(packet + at + 2u);
            info->fragment_offset = (uint16_t)(fragment & 0xfff8u);
            info->more_fragments = fragment & 1u;
            info->is_fragment = (fragment & 0xfff9u) != 0; /* an atomic fragment (RFC 6946) is whole */
        }
        next = packet[at];
        at += step;
    }
    info->protocol = next;
    info->header_length = (uint16_t)at;
    return IP_OK;
}

/* `length` bytes may hold more than the packet (TFC padding, link padding); total_length says where it ends. */
static inline int ip_parse(const uint8_t *packet, uint32_t length, ip_info *info)
{
    int result;
    memset(info, 0, sizeof *info);
    if (length < 1u)
        return IP_SHORT;
    info->version = packet[0] >> 4;
    if (info->version == 4u)
        result = ip_parse_v4(packet, length, info);
    else if (info->version == 6u)
        result = ip_parse_v6(packet, length, info);
    else
        result = IP_BAD_VERSION;
    if (result == IP_OK)
        ip_parse_ports(packet, info);
    return result;
}

#endif
