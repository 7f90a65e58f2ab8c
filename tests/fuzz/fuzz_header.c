/* One IP packet through everything that reads its headers: parse, transport split, AH's mutable fields, cutting into fragments. */
#include "ah_mutable.h"
#include "fuzz_input.h"
#include "ip_cut.h"
#include "ip_ecn.h"
#include "ip_transport.h"

static void use_ah(const uint8_t *packet, const ip_info *info)
{
    uint32_t field = 0, at = ah_find(packet, info, &field), end = at ? at : info->header_length;
    uint8_t *header;
    MUST(field < info->header_length && at <= info->header_length);
    if (at == 0 && info->version == 6u) { /* outbound: AH goes behind what stays outside */
        end = transport_split(packet, info, &field);
        MUST(end >= 40u && end <= info->header_length);
    }
    for (int sending = 0; sending < 2; sending++) {
        header = copy_of(packet, end);
        if (ah_clear_header(header, end, sending))
            MUST(info->version == 6u ? header[7] == 0 : header[8] == 0 && header[10] == 0);
        read_all(header, end);
        free(header);
    }
}

static void use_transport(const uint8_t *packet, const ip_info *info)
{
    uint32_t field = 0, split = transport_split(packet, info, &field);
    uint8_t *copy = copy_of(packet, info->total_length);
    MUST(split <= info->header_length && field < split);
    MUST(transport_last_field(packet, info) < info->header_length);
    ecn_decapsulate(copy, 3);
    transport_close_header(copy, info->header_length, info->total_length - info->header_length);
    transport_mend_checksum(copy, info->header_length, info->total_length - info->header_length, info->protocol, 0, 0);
    read_all(copy, info->total_length);
    free(copy);
}

/* Each piece fits, each can be parsed, and together they have every byte of the payload once. */
static void use_cut(const uint8_t *packet, const ip_info *info, uint32_t mtu)
{
    ip_cutter cutter;
    ip_info piece_info;
    uint32_t length, sum = 0;
    int parsed;
    if (cut_begin(&cutter, packet, info, mtu, 0x01020304) != CUT_OK)
        return;
    while ((length = cut_length(&cutter)) != 0) {
        uint8_t *piece = (uint8_t *)malloc(length);
        MUST(piece != NULL && length <= mtu);
        cut_next(&cutter, piece);
        /* with the fragment header a chain may have one header more than we take */
        parsed = ip_parse(piece, length, &piece_info);
        MUST(parsed == IP_OK ? piece_info.total_length == length : parsed == IP_BAD_CHAIN && cutter.extra);
        sum += length - cutter.header - cutter.extra;
        read_all(piece, length);
        free(piece);
    }
    MUST(sum == cutter.payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    uint32_t mtu = take16(&in), length = (uint32_t)in.left;
    uint8_t *packet = copy_of(in.at, length);
    ip_info info;
    if (ip_parse(packet, length, &info) == IP_OK) {
        MUST(info.header_length >= 20u && info.header_length <= info.total_length && info.total_length <= length);
        MUST(info.src >= packet && info.dst + (info.version == 4u ? 4 : 16) <= packet + length);
        use_ah(packet, &info);
        use_transport(packet, &info);
        use_cut(packet, &info, mtu % 2048u);
    }
    free(packet);
    return 0;
}
