"""The batch between the worker and a driver: slots that become one send each, and the counters of both. See ext/dataplane/port.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ipsec_fast.dataplane.ah cimport ah_batch_ctx
from ipsec_fast.dataplane.esp cimport esp_batch_ctx, esp_packet
from ipsec_fast.dataplane.sad cimport PROTOCOL_AH, esp_sa, outer_tos, sa_sealed_length
from ipsec_fast.dataplane.status cimport VERDICT_SLOTS
from ipsec_fast.dataplane.udp cimport udp_endpoint, udp_port

cdef enum:
    SLOT_BYTES = 65536
    SLOT_COUNT = 64        # of one sendmmsg
    SLOT_SEGMENTS = 64     # older kernels refuse more in one UDP_SEGMENT send
    SLOT_PAYLOAD = 65507   # of one UDP datagram over IPv4
    QUEUE_PACKETS = 1024
    PIECES_BYTES = 128 * 1024
    SEAL_PACKETS = 64      # sealed as soon as so many are there: the slot is still in the cache

# Index of a counter; the names stand in port.pyx in this order.
cdef enum:
    C_POLLS
    C_TUN_READS
    C_TUN_READ_BYTES
    C_TUN_WRITES
    C_TUN_WRITE_BYTES
    C_TUN_WRITE_FAILED
    C_UDP_SENDS
    C_UDP_MESSAGES_OUT
    C_UDP_BYTES_OUT
    C_UDP_RECEIVES
    C_UDP_MESSAGES_IN
    C_UDP_BYTES_IN
    C_UDP_TRUNCATED
    C_UDP_TOO_BIG
    C_UDP_NO_ROUTE
    C_UDP_BLOCKED
    C_UDP_SEGMENT_REFUSED
    C_PACKETS_OUT
    C_BYTES_OUT
    C_PACKETS_IN
    C_BYTES_IN
    C_KEEPALIVES_IN
    C_PUNTED
    C_PUNT_OVERFLOW
    C_NOTICE_OVERFLOW
    C_MERGED
    C_MERGE_REFUSED
    C_MSS_CLAMPED
    C_TOO_BIG_ANSWERED
    C_TOO_BIG_UNANSWERED
    C_FRAGMENTED
    C_BYPASS_NOT_ROUTABLE
    C_UDP_EMPTY
    C_HELD
    C_HELD_OPENED
    C_RAW_MESSAGES_OUT
    C_RAW_MESSAGES_IN
    C_OUTER_FRAGMENTS
    C_ICMP_TOO_BIG
    C_ICMP_TOO_BIG_UNTOLD
    C_ICMP_OTHER
    C_PROBES_SENT
    C_PROBES_UNSENT
    C_PROBES_ANSWERED
    C_MSS_ODD
    C_INNER_REFUSED
    C_INNER_NO_PEER
    C_HANDED_OVER
    C_TAKEN_OVER
    COUNTER_COUNT

cdef struct io_counters:
    uint64_t value[COUNTER_COUNT]
    uint64_t drops[VERDICT_SLOTS]

# One send: a run of sealed packets of one length (the last may be shorter) to one endpoint with one TOS.
cdef struct tx_slot:
    uint8_t *base
    udp_endpoint *to
    uint32_t length
    uint32_t segment
    uint32_t count
    uint32_t first         # of its packets, in tx_queue.packets
    uint8_t tos
    uint8_t closed
    uint8_t mixed          # its packets differ in length, so UDP_SEGMENT cannot split it

cdef struct tx_queue
ctypedef void (*tx_flush_fn)(tx_queue *queue) noexcept nogil

cdef struct tx_queue:
    tx_slot slots[SLOT_COUNT]
    esp_packet packets[QUEUE_PACKETS]
    uint32_t used          # slots
    uint32_t packet_count
    uint32_t sealed        # packets before this one are sealed
    uint32_t bytes
    uint8_t *memory
    uint8_t *pieces        # outer fragments on their way out
    uint32_t piece_id      # identification of the next IPv6 packet that is cut
    esp_batch_ctx *esp     # NULL: packets are never sealed (tests)
    ah_batch_ctx *ah
    bint has_ah            # a packet of an AH SA is among them
    io_counters *counters
    tx_flush_fn flush      # makes room: sends what is there
    void *owner

cdef bint tx_queue_init(tx_queue *queue, esp_batch_ctx *esp, io_counters *counters) noexcept nogil
cdef void tx_queue_free(tx_queue *queue) noexcept nogil
cdef void tx_queue_clear(tx_queue *queue) noexcept nogil
cdef void tx_seal(tx_queue *queue) noexcept nogil
cdef void tx_send(tx_queue *queue, udp_port **ports, uint32_t port_count, int stop_fd) noexcept nogil


# Room for an inner packet of this length that will leave on `sa`; NULL if no datagram can hold it. Whoever asks must fill it at once.
cdef inline uint8_t *tx_reserve(
    tx_queue *queue, esp_sa *sa, udp_endpoint *to, uint8_t tos, uint32_t inner_length
) noexcept nogil:
    cdef uint32_t length = sa_sealed_length(sa, inner_length)
    cdef tx_slot *slot
    cdef esp_packet *packet
    cdef uint8_t *place
    tos = outer_tos(sa, tos)
    if length + to.front > SLOT_PAYLOAD:
        return NULL
    if queue.packet_count == QUEUE_PACKETS:
        queue.flush(queue)
    elif queue.packet_count - queue.sealed >= SEAL_PACKETS:
        tx_seal(queue)
    slot = &queue.slots[queue.used - 1] if queue.used else NULL
    if (
        slot is NULL or slot.closed or length > slot.segment or slot.count == SLOT_SEGMENTS
        or slot.length + length > SLOT_PAYLOAD or slot.to != to or slot.tos != tos
    ):
        if queue.used == SLOT_COUNT:
            queue.flush(queue)
        slot = &queue.slots[queue.used]
        queue.used += 1
        slot.to = to
        slot.tos = tos
        slot.segment = length
        slot.length = to.front  # then there is one packet to a slot
        slot.count = slot.closed = slot.mixed = 0
        slot.first = queue.packet_count
        queue.has_ah = queue.has_ah or sa.protocol == PROTOCOL_AH
    place = slot.base + slot.length + sa.headroom
    packet = &queue.packets[queue.packet_count]
    packet.data = place
    packet.sa = sa
    packet.length = inner_length
    queue.packet_count += 1
    queue.bytes += length
    slot.length += length
    slot.count += 1
    slot.closed = (length < slot.segment) | (to.front != 0)
    return place
