/* Cutting a packet into fragments, one at a time: IPv4 (RFC 791 section 3.2, options section 3.1), IPv6 (RFC 8200 section 4.5).
 *
 * The first fragment holds all extension headers and the transport header, or nothing is cut (RFC 7112). DF is the caller's to obey. A fragment of
 * IPv4 may be cut again; one of IPv6 is not ours to cut. Used by segment.pyx (before ESP) and fragment.pyx (after it, and for embedders).
 */
#ifndef IPSEC_FAST_IP_CUT_H
#define IPSEC_FAST_IP_CUT_H

#include <stdint.h>
#include <string.h>

#include "ip_checksum.h"
#include "ip_parse.h"

#define CUT_TRANSPORT 20u /* bytes of a transport header that must be in the first fragment */

enum { CUT_OK = 0, CUT_NO_ROOM, CUT_BAD_PACKET };

typedef struct ip_cutter {
    const uint8_t *packet;
    uint32_t header;  /* bytes of it that stand before each piece */
    uint32_t extra;   /* and the fragment header that is put behind them */
    uint32_t payload; /* bytes to cut, and where the next piece starts */
    uint32_t offset;
    uint32_t most;    /* bytes of payload in a piece, unless it is the last */
    uint32_t room;    /* and in the last */
    uint32_t flags;   /* IPv4: offset and flags of the packet itself */
    uint32_t link;    /* IPv6: where the number 44 belongs */
    uint32_t ident;
} ip_cutter;

static inline void cut_store16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Headers that every node on the way reads: up to a routing header, or hop-by-hop options. 0: there is a fragment header already, if of one piece.
 * ip_parse has found the chain sound. */
static inline uint32_t cut_unfragmentable(const uint8_t *packet, const ip_info *info, uint32_t *link)
{
    uint32_t at = 40u, kept = 40u, step;
    uint8_t next = packet[6];
    *link = 6u;
    while (at < info->header_length) {
        if (next == 44)
            return 0;
        step = next == 51 ? ((uint32_t)packet[at + 1u] + 2u) * 4u : ((uint32_t)packet[at + 1u] + 1u) * 8u;
        if (next == 0 || next == 43) {
            kept = at + step;
            *link = at;
        }
        next = packet[at];
        at += step;
    }
    return kept;
}

/* `mtu` bounds each fragment, header included. `ident` is for IPv6; IPv4 has its own in the header. */
static inline int cut_begin(ip_cutter *c, const uint8_t *packet, const ip_info *info, uint32_t mtu, uint32_t ident)
{
    uint32_t first;
    memset(c, 0, sizeof *c);
    c->packet = packet;
    c->ident = ident;
    if (info->version == 4u) {
        c->header = info->header_length;
        c->flags = ip_load16(packet + 6);
        if ((uint32_t)info->fragment_offset + info->total_length - c->header > 65535u) /* its offsets would run into the flags */
            return CUT_BAD_PACKET;
    } else {
        if (info->is_fragment)
            return CUT_BAD_PACKET;
        c->header = cut_unfragmentable(packet, info, &c->link);
        c->extra = 8u;
        if (c->header == 0u)
            return CUT_BAD_PACKET;
    }
    c->payload = info->total_length - c->header;
    if (mtu < c->header + c->extra + 8u)
        return CUT_NO_ROOM;
    c->room = mtu - c->header - c->extra;
    c->most = c->room & ~7u;
    first = info->version == 6u ? info->header_length - c->header + CUT_TRANSPORT : 0u;
    return c->payload > c->room && c->most < first ? CUT_NO_ROOM : CUT_OK;
}

/* Length of the next fragment, 0 when all is cut. */
static inline uint32_t cut_length(const ip_cutter *c)
{
    uint32_t left = c->payload - c->offset;
    return left == 0u ? 0u : c->header + c->extra + (left <= c->room ? left : c->most);
}

/* In later fragments options without the copied flag become NOPs, so that the header keeps its length. */
static inline void cut_drop_options(uint8_t *header, uint32_t length)
{
    uint32_t at = 20u, size;
    while (at < length && header[at] != 0) {
        if (header[at] == 1u) {
            at++;
            continue;
        }
        if (at + 2u > length || header[at + 1u] < 2u || at + header[at + 1u] > length)
            return;
        size = header[at + 1u];
        if (!(header[at] & 0x80u))
            memset(header + at, 1, size);
        at += size;
    }
}

static inline void cut_next(ip_cutter *c, uint8_t *place)
{
    uint32_t length = cut_length(c), size = length - c->header - c->extra, last = c->offset + size == c->payload;
    memcpy(place, c->packet, c->header);
    memcpy(place + c->header + c->extra, c->packet + c->header + c->offset, size);
    if (c->extra == 0u) {
        uint32_t at = (c->flags & 0x1fffu) + c->offset / 8u;
        uint16_t check;
        cut_store16(place + 2, length);
        cut_store16(place + 6, at | (last ? c->flags & 0x2000u : 0x2000u));
        if (at)
            cut_drop_options(place, c->header);
        place[10] = place[11] = 0;
        check = csum_ipv4_header(place, c->header);
        memcpy(place + 10, &check, 2);
    } else {
        uint8_t *fragment = place + c->header;
        cut_store16(place + 4, length - 40u);
        fragment[0] = place[c->link];
        place[c->link] = 44;
        fragment[1] = 0;
        cut_store16(fragment + 2, c->offset | (last ? 0u : 1u));
        cut_store16(fragment + 4, c->ident >> 16);
        cut_store16(fragment + 6, c->ident & 0xffffu);
    }
    c->offset += size;
}

#endif
