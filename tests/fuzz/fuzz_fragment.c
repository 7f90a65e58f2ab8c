/* Packets, most of them fragments, into the reassembly that ships and the table that remembers first fragments: bounds hold, what is made is whole. */
#include "fuzz_input.h"
#include "ip_fragment.h"
#include "ip_track.h"

#define DATAGRAMS 3u
#define PAYLOAD_BYTES 65536u

static void push(frag_table *table, track_table *track, const uint8_t *packet, uint32_t length, uint64_t now_ns)
{
    ip_info info;
    frag_piece piece;
    int result = frag_push(table, packet, length, now_ns);
    MUST(result >= FRAG_PASS && result < FRAG_RESULTS);
    MUST(table->datagrams_held <= DATAGRAMS && table->blocks_held <= PAYLOAD_BYTES / FRAG_BLOCK);
    if (result == FRAG_JOINED) {
        MUST(table->whole_length <= FRAG_WHOLE_BYTES);
        read_all(table->whole, table->whole_length);
        if (ip_parse(table->whole, table->whole_length, &info) == IP_OK)
            MUST(info.total_length == table->whole_length && !info.is_fragment);
    }
    if (frag_may_be(packet, length) && frag_read(packet, length, &piece) == FRAG_HELD) {
        const track_entry *known = track_get(track, &piece.key, now_ns);
        if (known != NULL)
            sink += known->src_port;
        if (piece.offset == 0 && ip_parse(packet, length, &info) == IP_OK)
            track_put(track, &piece.key, &info, now_ns);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    uint64_t now_ns = 1;
    frag_table *table = frag_new(DATAGRAMS, PAYLOAD_BYTES, FRAG_TIMEOUT_NS, 7);
    track_table *track = track_new(8, FRAG_TIMEOUT_NS, 7);
    MUST(table != NULL && track != NULL);
    while (in.left) {
        uint32_t length;
        uint8_t *packet;
        now_ns += (uint64_t)take_byte(&in) << 28;
        packet = take_packet(&in, &length);
        push(table, track, packet, length, now_ns);
        free(packet);
    }
    frag_free(table);
    track_free(track);
    return 0;
}
