/* What an inbound ESP packet must look like: RFC 4303 sections 2 and 3.4.
 *
 * Before the crypto: lengths alone. After a good ICV: padding 1, 2, 3, ..., its length, next header; what a
 * mode wants of the rest: the inner packet's own length (tunnel), the pseudo header of options (BEET). Plain C, because the proof and the fuzzer compile it as it ships. The outer header is ip_parse.h's business. Used by esp.pyx.
 */
#ifndef IPSEC_FAST_ESP_CHECK_H
#define IPSEC_FAST_ESP_CHECK_H

#include <stdint.h>
#include <string.h>

#define ESP_HEADER_LENGTH 8u
#define ESP_NEXT_IPV4 4u
#define ESP_NEXT_IPV6 41u
#define ESP_NEXT_NONE 59u

enum esp_form { ESP_FORM_OK = 0, ESP_FORM_RUNT, ESP_FORM_LENGTH };
enum esp_trailer { ESP_TRAILER_OK = 0, ESP_TRAILER_PADDING, ESP_TRAILER_NEXT_HEADER, ESP_TRAILER_INNER, ESP_TRAILER_DUMMY };

/* The length of what is encrypted. `align` is the cipher's block; section 2.4 wants 4 of everyone, and gets it. */
static inline enum esp_form esp_check_form(uint32_t length, uint32_t iv_length, uint32_t icv_length, uint32_t align, uint32_t *sealed)
{
    uint32_t around = ESP_HEADER_LENGTH + iv_length + icv_length;
    if (length < around + 2u)
        return ESP_FORM_RUNT;
    *sealed = length - around;
    return (*sealed & (align - 1u)) ? ESP_FORM_LENGTH : ESP_FORM_OK;
}

/* Padding is at most 255 bytes and its content is fixed (section 2.4): compare with the one right row. */
static inline int esp_padding_is_right(const uint8_t *padding, uint32_t length)
{
    uint8_t wrong = 0;
    if (length < 4u) /* every cipher's but CBC's: no loop that a compiler would widen */
        return (length < 1u || padding[0] == 1u) && (length < 2u || padding[1] == 2u) && (length < 3u || padding[2] == 3u);
    for (uint32_t i = 0; i < length; i++)
        wrong |= padding[i] ^ (uint8_t)(i + 1u);
    return wrong == 0;
}

/* `plain` holds `length` >= 2 authentic bytes. *room is what stands before the padding. */
static inline enum esp_trailer esp_check_padding(const uint8_t *plain, uint32_t length, uint8_t *next_header, uint32_t *room)
{
    uint32_t pad = plain[length - 2u];
    *next_header = plain[length - 1u];
    if (pad > length - 2u)
        return ESP_TRAILER_PADDING;
    *room = length - 2u - pad;
    if (!esp_padding_is_right(plain + *room, pad))
        return ESP_TRAILER_PADDING;
    return *next_header == ESP_NEXT_NONE ? ESP_TRAILER_DUMMY : ESP_TRAILER_OK;
}

/* Tunnel mode: an IP packet in `room` bytes. TFC padding (section 2.7) behind it is allowed and cut off. */
static inline enum esp_trailer esp_check_inner(const uint8_t *plain, uint32_t room, uint8_t next_header, uint32_t *inner_length)
{
    uint32_t inner;
    if (next_header == ESP_NEXT_IPV4) {
        uint32_t header;
        if (room < 20u || plain[0] >> 4 != 4u)
            return ESP_TRAILER_INNER;
        header = (uint32_t)(plain[0] & 15u) * 4u;
        inner = (uint32_t)plain[2] << 8 | plain[3];
        if (header < 20u || inner < header)
            return ESP_TRAILER_INNER;
    } else if (next_header == ESP_NEXT_IPV6) {
        if (room < 40u || plain[0] >> 4 != 6u)
            return ESP_TRAILER_INNER;
        inner = 40u + ((uint32_t)plain[4] << 8 | plain[5]);
    } else {
        return ESP_TRAILER_NEXT_HEADER;
    }
    if (inner > room)
        return ESP_TRAILER_INNER;
    *inner_length = inner;
    return ESP_TRAILER_OK;
}

static inline enum esp_trailer esp_check_trailer(const uint8_t *plain, uint32_t length, uint8_t *next_header, uint32_t *inner_length)
{
    uint32_t room = 0;
    enum esp_trailer result = esp_check_padding(plain, length, next_header, &room);
    return result == ESP_TRAILER_OK ? esp_check_inner(plain, room, *next_header, inner_length) : result;
}

/* BEET (draft-nikander-esp-beet-mode section 5.4.1): IPv4 options of the inner packet travel in a pseudo header, next header 94, padded in front with
 * NOPs to a multiple of 8. *size is the whole of it, *options their bytes at its end. 0: it does not fit. */
#define ESP_NEXT_BEET 94u
static inline int esp_check_beet(const uint8_t *plain, uint32_t room, uint8_t *next_header, uint32_t *size, uint32_t *options)
{
    uint32_t whole, filler;
    if (room < 8u)
        return 0;
    /* read once: another thread may write to the buffer between the checks and the copy that they bound */
    whole = ((uint32_t)*(const volatile uint8_t *)&plain[1] + 1u) * 8u;
    filler = *(const volatile uint8_t *)&plain[2];
    if (whole > room || (filler & 3u) || 4u + filler > whole || whole - 4u - filler > 40u)
        return 0;
    *next_header = plain[0];
    *size = whole;
    *options = whole - 4u - filler;
    return 1;
}

#endif
