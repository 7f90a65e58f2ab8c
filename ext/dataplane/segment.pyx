"""What a TUN with virtio-net headers delivers becomes inner packets of wire size, each written once, into its place in a slot.

A super-packet (TSO, USO) is split: headers built in the slot, payload copied with its checksum summed in the same pass. A single packet with
NEEDS_CSUM gets its sum completed on the way. What is too big for the tunnel and may be fragmented is (RFC 791 section 3.2), before ESP, so that the
far gateway has nothing to reassemble. Header rules: lengths, IP ID + 1, TCP sequence; FIN and PSH on the last segment only, CWR on the first only.
Called by worker.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ipsec_fast.dataplane.fragment cimport CUT_NO_ROOM, CUT_OK, cut_begin, cut_length, cut_next, ip_cutter
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_copy, csum_fold, csum_ipv4_header, csum_pseudo4, csum_pseudo6, ip_info, ip_parse
)
from ipsec_fast.dataplane.net_io cimport (
    VNET_GSO_ECN, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4, VNET_NEEDS_CSUM, vnet_header
)
from ipsec_fast.dataplane.port cimport (
    io_counters, tx_queue, tx_queue_clear, tx_queue_free, tx_queue_init, tx_reserve
)
from ipsec_fast.dataplane.sad cimport esp_sa
from ipsec_fast.dataplane.status cimport VERDICT_BAD_INNER, VERDICT_NO_ROOM, VERDICT_OK
from ipsec_fast.dataplane.udp cimport udp_endpoint

cdef enum:
    TCP = 6
    UDP = 17
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80


cdef inline uint32_t load16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef inline uint32_t load32(const uint8_t *at) noexcept nogil:
    return load16(at) << 16 | load16(at + 2)


cdef inline void store16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void store32(uint8_t *at, uint32_t value) noexcept nogil:
    store16(at, value >> 16)
    store16(at + 2, value)


cdef inline void store_ipv4_checksum(uint8_t *packet, uint32_t header) noexcept nogil:
    cdef uint16_t check
    packet[10] = packet[11] = 0
    check = csum_ipv4_header(packet, header)
    memcpy(packet + 10, &check, 2)


cdef uint32_t segment_header_length(const vnet_header *vnet, const uint8_t *packet, const ip_info *info) noexcept nogil:
    cdef uint8_t kind = vnet.gso_type & ~<uint8_t>VNET_GSO_ECN
    cdef uint32_t left = info.total_length - info.header_length, header
    if vnet.gso_size == 0 or info.is_fragment:
        return 0
    if kind == VNET_GSO_UDP_L4:
        header = 8
        if info.protocol != UDP or left <= header:
            return 0
        return info.header_length + header
    if not (kind == VNET_GSO_TCPV4 and info.version == 4) and not (kind == VNET_GSO_TCPV6 and info.version == 6):
        return 0
    if info.protocol != TCP or left < 20:
        return 0
    header = (packet[info.header_length + 12] >> 4) * 4
    return info.header_length + header if 20 <= header < left else 0


cdef inline void build_segment(
    uint8_t *place, const uint8_t *packet, const ip_info *info, uint32_t header, uint32_t offset, uint32_t size, uint32_t index
) noexcept nogil:
    """Segment `index`, whose payload starts `offset` bytes into the payload of the super-packet."""
    cdef uint8_t *upper = place + info.header_length
    cdef uint32_t upper_length = header - info.header_length + size
    cdef uint32_t last = header + offset + size == info.total_length
    cdef uint64_t sum
    cdef uint16_t check
    memcpy(place, packet, header)
    if info.version == 4:
        store16(place + 2, header + size)
        store16(place + 4, load16(place + 4) + index)
        store_ipv4_checksum(place, info.header_length)
        sum = csum_pseudo4(place + 12, place + 16, info.protocol, upper_length)
    else:
        store16(place + 4, header + size - 40)
        sum = csum_pseudo6(place + 8, place + 24, info.protocol, upper_length)
    if info.protocol == TCP:
        store32(upper + 4, load32(upper + 4) + offset)
        if not last:
            upper[13] &= ~<uint8_t>TCP_FIN_PSH
        if index:
            upper[13] &= ~<uint8_t>TCP_CWR
        upper[16] = upper[17] = 0
    else:
        store16(upper + 4, upper_length)
        upper[6] = upper[7] = 0
    sum = csum_add(sum, upper, header - info.header_length)
    sum = csum_copy(sum, place + header, packet + header + offset, size)
    check = <uint16_t>~csum_fold(sum)
    if info.protocol == TCP:
        memcpy(upper + 16, &check, 2)
    else:
        if check == 0:
            check = 0xFFFF
        memcpy(upper + 6, &check, 2)


cdef uint8_t segment_super(
    segment_target *target, const vnet_header *vnet, const uint8_t *packet, const ip_info *info
) noexcept nogil:
    cdef uint32_t header = segment_header_length(vnet, packet, info)
    cdef uint32_t payload, offset = 0, index = 0, size
    cdef uint8_t *place
    if header == 0:
        return VERDICT_BAD_INNER
    payload = info.total_length - header
    while offset < payload:
        size = min(<uint32_t>vnet.gso_size, payload - offset)
        place = tx_reserve(target.queue, target.sa, target.to, info.tos, header + size)
        if place is NULL:
            return VERDICT_NO_ROOM
        build_segment(place, packet, info, header, offset, size, index)
        offset += size
        index += 1
    return VERDICT_OK


cdef inline bint complete_checksum(
    uint8_t *to, const vnet_header *vnet, const uint8_t *packet, const ip_info *info
) noexcept nogil:
    """Copies the packet and stores the sum that NEEDS_CSUM asks for. False: it points outside."""
    cdef uint32_t start = vnet.csum_start, at = start + vnet.csum_offset
    cdef uint16_t check
    if start < info.header_length or at + 2 > info.total_length:
        return False
    memcpy(to, packet, start)
    check = <uint16_t>~csum_fold(csum_copy(0, to + start, packet + start, info.total_length - start))
    if check == 0 and info.protocol == UDP:
        check = 0xFFFF
    memcpy(to + at, &check, 2)
    return True


cdef uint8_t segment_single(
    segment_target *target, const vnet_header *vnet, const uint8_t *packet, const ip_info *info
) noexcept nogil:
    cdef uint8_t *place
    if vnet.flags & VNET_NEEDS_CSUM and (
        vnet.csum_start < info.header_length or <uint32_t>vnet.csum_start + vnet.csum_offset + 2 > info.total_length
    ):
        return VERDICT_BAD_INNER
    place = tx_reserve(target.queue, target.sa, target.to, info.tos, info.total_length)
    if place is NULL:
        return VERDICT_NO_ROOM
    if vnet.flags & VNET_NEEDS_CSUM:
        complete_checksum(place, vnet, packet, info)
    else:
        memcpy(place, packet, info.total_length)
    return VERDICT_OK


cdef uint8_t fragment_into(
    segment_target *target, const uint8_t *packet, const ip_info *info, uint32_t mtu
) noexcept nogil:
    cdef ip_cutter cutter
    cdef uint32_t length
    cdef uint8_t *place
    cdef int result = cut_begin(&cutter, packet, info, mtu, 0)
    if result != CUT_OK:
        return VERDICT_NO_ROOM if result == CUT_NO_ROOM else VERDICT_BAD_INNER
    while True:
        length = cut_length(&cutter)
        if length == 0:
            return VERDICT_OK
        place = tx_reserve(target.queue, target.sa, target.to, info.tos, length)
        if place is NULL:
            return VERDICT_NO_ROOM
        cut_next(&cutter, place)


cdef uint8_t segment_fragmented(
    segment_target *target, const vnet_header *vnet, uint8_t *packet, const ip_info *info, uint32_t mtu, uint8_t *scratch
) noexcept nogil:
    """TCP is split finer instead; a UDP super-packet datagram by datagram, through `scratch` (64 KB)."""
    cdef vnet_header finer = vnet[0]
    cdef uint32_t header, payload, offset = 0, index = 0, size
    cdef ip_info part
    cdef uint8_t verdict
    if vnet.gso_type == VNET_GSO_NONE:
        if vnet.flags & VNET_NEEDS_CSUM:
            if not complete_checksum(scratch, vnet, packet, info):
                return VERDICT_BAD_INNER
            return fragment_into(target, scratch, info, mtu)
        return fragment_into(target, packet, info, mtu)
    header = segment_header_length(vnet, packet, info)
    if header == 0:
        return VERDICT_BAD_INNER
    if info.protocol == TCP:
        if mtu < header + 8:
            return VERDICT_NO_ROOM
        finer.gso_size = <uint16_t>(mtu - header)
        return segment_super(target, &finer, packet, info)
    payload = info.total_length - header
    while offset < payload:
        size = min(<uint32_t>vnet.gso_size, payload - offset)
        build_segment(scratch, packet, info, header, offset, size, index)
        if ip_parse(scratch, header + size, &part) != IP_OK:
            return VERDICT_BAD_INNER
        verdict = fragment_into(target, scratch, &part, mtu)
        if verdict != VERDICT_OK:
            return verdict
        offset += size
        index += 1
    return VERDICT_OK


cdef void forget(tx_queue *queue) noexcept nogil:
    tx_queue_clear(queue)


def segments(bytes frame, *, int mtu=0):
    """For tests: (verdict, packets) of a frame (virtio-net header, packet) as a TUN delivers it; above `mtu` it is fragmented."""
    if len(frame) < sizeof(vnet_header):
        raise ValueError(f"a frame starts with {sizeof(vnet_header)} bytes of virtio-net header, this one has {len(frame)}")
    cdef tx_queue *queue = <tx_queue *>PyMem_Calloc(1, sizeof(tx_queue))
    cdef bytearray frame_copy = bytearray(frame)
    cdef bytearray scratch = bytearray(70000)
    cdef vnet_header vnet
    cdef io_counters counters
    cdef esp_sa sa
    cdef udp_endpoint to
    cdef ip_info info
    cdef segment_target target
    cdef uint8_t *packet = <uint8_t *><char *>frame_copy + sizeof(vnet_header)
    cdef uint8_t verdict = VERDICT_BAD_INNER
    cdef uint32_t i
    if queue is NULL or not tx_queue_init(queue, NULL, &counters):
        raise MemoryError
    memset(&sa, 0, sizeof(sa))
    memset(&to, 0, sizeof(to))
    sa.align = 1
    sa.tos_keep = 0xFF
    target.queue, target.sa, target.to = queue, &sa, &to
    queue.flush = forget
    memcpy(&vnet, <const char *>frame, sizeof(vnet_header))
    try:
        if ip_parse(packet, <uint32_t>(len(frame) - sizeof(vnet_header)), &info) == IP_OK:
            if mtu:
                verdict = segment_fragmented(&target, &vnet, packet, &info, <uint32_t>mtu, <uint8_t *><char *>scratch)
            elif vnet.gso_type:
                verdict = segment_super(&target, &vnet, packet, &info)
            else:
                verdict = segment_single(&target, &vnet, packet, &info)
        return verdict, [
            (<char *>queue.packets[i].data)[:queue.packets[i].length] for i in range(queue.packet_count)
        ]
    finally:
        tx_queue_free(queue)
        PyMem_Free(queue)
