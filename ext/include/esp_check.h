/* What an inbound ESP packet must look like: RFC 4303 sections 2 and 3.4, tunnel mode.
 *
 * Before the crypto: lengths alone. After a good ICV: padding 1, 2, 3, ..., its length, next header, the inner packet's own length. Plain C,
 * because the proof and the fuzzer compile it as it ships. The outer header is ip_parse.h's business. Used by esp.pyx.
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
    for (uint32_t i = 0; i < length; i++)
        wrong |= padding[i] ^ (uint8_t)(i + 1u);
    return wrong == 0;
}

/* `plain` holds `length` >= 2 authentic bytes. TFC padding (section 2.7) between inner packet and padding is allowed and cut off. */
static inline enum esp_trailer esp_check_trailer(const uint8_t *plain, uint32_t length, uint8_t *next_header, uint32_t *inner_length)
{
    uint32_t pad = plain[length - 2u], room, inner;
    *next_header = plain[length - 1u];
    if (pad > length - 2u)
        return ESP_TRAILER_PADDING;
    room = length - 2u - pad;
    if (!esp_padding_is_right(plain + room, pad))
        return ESP_TRAILER_PADDING;
    if (*next_header == ESP_NEXT_NONE)
        return ESP_TRAILER_DUMMY;
    if (*next_header == ESP_NEXT_IPV4) {
        uint32_t header;
        if (room < 20u || plain[0] >> 4 != 4u)
            return ESP_TRAILER_INNER;
        header = (uint32_t)(plain[0] & 15u) * 4u;
        inner = (uint32_t)plain[2] << 8 | plain[3];
        if (header < 20u || inner < header)
            return ESP_TRAILER_INNER;
    } else if (*next_header == ESP_NEXT_IPV6) {
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

#endif
