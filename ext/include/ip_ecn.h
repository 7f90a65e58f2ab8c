/* ECN at the end of a tunnel: RFC 6040 section 4.2, normal mode. On the way in the outer header gets a copy of the inner TOS; that needs no function. */
#ifndef IPSEC_FAST_IP_ECN_H
#define IPSEC_FAST_IP_ECN_H

#include <stdint.h>
#include <string.h>

#include "ip_checksum.h"

static inline uint8_t ip_tos(const uint8_t *header)
{
    return header[0] >> 4 == 4u ? header[1] : (uint8_t)(header[0] << 4 | header[1] >> 4);
}

/* Figure 4: row inner, column outer (Not-ECT, ECT(1), ECT(0), CE); 4 is the combination that must be dropped. */
static const uint8_t ecn_table[4][4] = {
    {0, 0, 0, 4}, /* Not-ECT */
    {1, 1, 1, 3}, /* ECT(1) */
    {2, 1, 2, 3}, /* ECT(0) */
    {3, 3, 3, 3}, /* CE */
};

/* The header's TOS byte or traffic class, the IPv4 checksum with it. */
static inline void ip_set_tos(uint8_t *header, uint8_t tos)
{
    uint16_t old_word, new_word, check;
    if (header[0] >> 4 == 6u) {
        header[0] = (uint8_t)(0x60u | tos >> 4);
        header[1] = (uint8_t)((header[1] & 0x0fu) | tos << 4);
        return;
    }
    memcpy(&old_word, header, 2);
    header[1] = tos;
    memcpy(&new_word, header, 2);
    memcpy(&check, header + 10, 2);
    check = csum_update16(check, old_word, new_word);
    memcpy(header + 10, &check, 2);
}

/* What the inner ECN becomes; 4: drop. */
static inline uint8_t ecn_combined(uint8_t inner_tos, uint8_t outer_tos)
{
    return ecn_table[inner_tos & 3u][outer_tos & 3u];
}

/* `inner` is a whole IPv4 or IPv6 header and changes in place. 1: drop. */
static inline int ecn_decapsulate(uint8_t *inner, uint8_t outer_tos)
{
    uint8_t tos = ip_tos(inner), ecn = ecn_combined(tos, outer_tos);
    if (ecn == 4u)
        return 1;
    if (ecn != (tos & 3u))
        ip_set_tos(inner, (uint8_t)((tos & 0xfcu) | ecn));
    return 0;
}

#endif
