/* Decapsulation on the C core that ships: outer IP header, ESP's form, window and ESN, trailer, inner header, ECN; tunnel, transport, BEET.
 *
 * An input is the shape of an SA and then packets. There is no cipher in the core: what is "sealed" stands there in clear, so the fuzzer plays the
 * peer who has the key and sends anything; a byte before each packet says whether its ICV is good. Beside memory errors it looks for numbers accepted
 * twice, a window moved by a bad ICV, and lengths that lead out of the packet.
 */
#include "esp_check.h"
#include "fuzz_input.h"
#include "ip_ecn.h"
#include "ip_parse.h"
#include "ip_transport.h"
#include "replay.h"

enum { TUNNEL, TRANSPORT, BEET };
#define MOST_PACKETS 64

typedef struct association {
    uint32_t iv_length, icv_length, align;
    int mode, outer, encap, esn;
    struct replay_window *window;
    uint64_t accepted[MOST_PACKETS];
    uint32_t accepted_count;
} association;

static void take_association(input *in, association *sa)
{
    static const uint32_t ivs[4] = {0, 8, 16, 8}, icvs[4] = {8, 12, 16, 32}, sizes[4] = {64, 65, 1024, 4096};
    uint8_t shape = take_byte(in), more = take_byte(in), top = take_byte(in);
    memset(sa, 0, sizeof *sa);
    sa->iv_length = ivs[shape & 3u];
    sa->icv_length = icvs[shape >> 2 & 3u];
    sa->align = shape & 16u ? 16u : 4u;
    sa->mode = (more & 3u) % 3u;
    sa->outer = sa->mode != TUNNEL || (more & 4u);
    sa->encap = (more & 8u) != 0;
    sa->esn = (more & 16u) != 0;
    /* tops beside 0, 2^32, 2 * 2^32 and 2^64, where the mistakes are */
    sa->window = replay_new(sizes[more >> 5 & 3u], ((uint64_t)(top & 3u) << 32) + (uint64_t)(top >> 2) - (top & 128u));
    MUST(sa->window != NULL);
}

static int find_esp(const association *sa, const uint8_t *packet, uint32_t length, ip_info *info, const uint8_t **esp, uint32_t *esp_length)
{
    *esp = packet;
    *esp_length = length;
    if (!sa->outer)
        return 1;
    if (ip_parse(packet, length, info) != IP_OK || info->is_fragment)
        return 0;
    MUST(info->header_length <= info->total_length && info->total_length <= length);
    *esp = packet + info->header_length;
    *esp_length = info->total_length - info->header_length;
    if (!sa->encap)
        return info->protocol == 50;
    if (info->protocol != 17 || *esp_length < 8 || ip_load16(*esp + 4) < 8 || ip_load16(*esp + 4) > *esp_length)
        return 0;
    *esp_length = ip_load16(*esp + 4) - 8u;
    *esp += 8;
    return 1;
}

/* 1: the number is new and now taken. */
static int pass_window(association *sa, uint32_t low, int good)
{
    struct replay_window *w = sa->window;
    uint64_t top = w->top, seq = sa->esn ? replay_infer_esn(w, low) : low;
    if (sa->esn && seq != 0)
        MUST((uint32_t)seq == low);
    if (replay_check(w, seq) != REPLAY_NEW)
        return 0;
    if (!good) {
        if (sa->esn && replay_resync_due(w)) {
            uint64_t again = replay_resync_number(w, low);
            MUST(again == 0 || (again > top && (uint32_t)again == low));
        }
        replay_failed(w);
        MUST(w->top == top);
        return 0;
    }
    for (uint32_t i = 0; i < sa->accepted_count; i++)
        MUST(sa->accepted[i] != seq);
    MUST(replay_advance(w, seq) == REPLAY_NEW && replay_check(w, seq) != REPLAY_NEW);
    MUST(w->top == (seq > top ? seq : top));
    sa->accepted[sa->accepted_count++] = seq;
    return 1;
}

static void open_tunnel(const uint8_t *plain, uint32_t room, uint8_t next_header, uint8_t tos)
{
    uint32_t length = 0;
    ip_info info;
    uint8_t *inner;
    if (esp_check_inner(plain, room, next_header, &length) != ESP_TRAILER_OK)
        return;
    MUST(length >= 20u && length <= room);
    inner = copy_of(plain, length);
    ecn_decapsulate(inner, tos);
    if (ip_parse(inner, length, &info) == IP_OK) {
        MUST(info.total_length == length && info.header_length <= length);
        sink += info.src[0] + info.dst[0] + info.src_port + info.dst_port;
    }
    read_all(inner, length);
    free(inner);
}

static void open_transport(const uint8_t *packet, const uint8_t *plain, uint32_t room, uint8_t next_header, const ip_info *info)
{
    uint32_t header = info->header_length, field = 0, length = header + room;
    uint8_t *whole = (uint8_t *)malloc(length);
    MUST(whole != NULL);
    memcpy(whole, packet, header);
    memcpy(whole + header, plain, room);
    MUST(transport_split(whole, info, &field) <= header && field < header);
    field = transport_last_field(whole, info);
    MUST(field < header);
    whole[field] = next_header;
    transport_close_header(whole, header, room);
    transport_mend_checksum(whole, header, room, next_header, 0, 0);
    transport_mend_checksum(whole, header, room, next_header, 1, 12345);
    read_all(whole, length);
    free(whole);
}

static void open_beet(const uint8_t *plain, uint32_t room, uint8_t next_header)
{
    uint32_t size = 0, options = 0;
    if (next_header != ESP_NEXT_BEET || !esp_check_beet(plain, room, &next_header, &size, &options))
        return;
    MUST(size >= 8u && size <= room && options <= 40u && options <= size - 4u);
    read_all(plain + size - options, options);
}

static void open_one(association *sa, const uint8_t *packet, uint32_t length, uint8_t control)
{
    const uint8_t *esp;
    uint32_t esp_length, sealed = 0, room = 0, unused = 0;
    uint8_t next_header = 0, again = 0;
    uint8_t *plain;
    ip_info info;
    memset(&info, 0, sizeof info);
    if (!find_esp(sa, packet, length, &info, &esp, &esp_length))
        return;
    if (esp_check_form(esp_length, sa->iv_length, sa->icv_length, sa->align, &sealed) != ESP_FORM_OK)
        return;
    MUST(8u + sa->iv_length + sealed + sa->icv_length == esp_length && sealed >= 2u);
    if (!pass_window(sa, ip_load16(esp + 4) << 16 | ip_load16(esp + 6), control & 1u))
        return;
    plain = copy_of(esp + 8u + sa->iv_length, sealed);
    if (esp_check_padding(plain, sealed, &next_header, &room) == ESP_TRAILER_OK) {
        MUST(room <= sealed - 2u);
        if (sa->mode == TUNNEL)
            open_tunnel(plain, room, next_header, sa->outer ? info.tos : control);
        else if (sa->mode == TRANSPORT)
            open_transport(packet, plain, room, next_header, &info);
        else
            open_beet(plain, room, next_header);
    }
    sink += esp_check_trailer(plain, sealed, &again, &unused);
    free(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    association sa;
    take_association(&in, &sa);
    for (uint32_t i = 0; i < MOST_PACKETS && in.left; i++) {
        uint8_t control = take_byte(&in);
        uint32_t length;
        uint8_t *packet = take_packet(&in, &length);
        open_one(&sa, packet, length, control);
        free(packet);
    }
    free(sa.window);
    return 0;
}
