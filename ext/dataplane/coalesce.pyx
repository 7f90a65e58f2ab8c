"""Consecutive inner packets of one TCP or UDP flow become one super-packet, one write to the TUN or packet socket.

Merged are only packets that the kernel can split again into the very same: same addresses, ports, TOS, TTL, DF, flow label, acknowledgement number
and TCP options, next sequence number, no flag but ACK and a last PSH, no fragment, no IP option, equal payloads but for a shorter last one. The
checksums of each are verified first, or a bad packet would become a good one; what fails goes out alone, untouched, for the receiver to judge. A flow is
written before its next packet that cannot join, so order within a flow is kept. A super-packet that the kernel refuses is written packet by
packet, and its protocol is not merged again. The batch ends every merge: nothing waits for a timer. Called by worker.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.errno cimport EINTR, EINVAL, ENETDOWN, ENOTCONN, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ipsec_fast.dataplane.inner cimport (
    INNER_DOWN_SEEN, INNER_UP, VNET_BYTES, inner_head, inner_port, inner_prepend
)
from ipsec_fast.dataplane.ip cimport (
    IP_OK, csum_add, csum_fold, csum_ipv4_header, csum_pseudo4, csum_pseudo6, ip_info, ip_parse
)
from ipsec_fast.dataplane.net_io cimport (
    VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4, VNET_NEEDS_CSUM, iovec, vnet_header, writev
)
from ipsec_fast.dataplane.port cimport (
    C_INNER_NO_PEER, C_MERGE_REFUSED, C_MERGED, C_TUN_WRITE_BYTES, C_TUN_WRITE_FAILED, C_TUN_WRITES, io_counters
)

cdef enum:
    TCP = 6
    UDP = 17
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    IP_DF = 0x40


cdef inline uint32_t load16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef inline uint32_t load32(const uint8_t *at) noexcept nogil:
    return load16(at) << 16 | load16(at + 2)


cdef inline void store16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef int write_vector(
    merge_table *table, inner_head *head, uint8_t version, iovec *vector, int count, uint32_t length
) noexcept nogil:
    """`vector` but for its first entry, which is the head. 0, or errno; ENOTCONN: nobody was heard yet to whom it could go."""
    cdef long written
    vector[0].iov_base = head
    vector[0].iov_len = VNET_BYTES + table.tun.header_bytes
    if table.tun.header_bytes and not inner_prepend(table.tun, head, version):
        return ENOTCONN
    while True:
        table.counters.value[C_TUN_WRITES] += 1
        written = writev(table.tun.fd, vector, count)
        if written >= 0:
            table.counters.value[C_TUN_WRITE_BYTES] += length
            table.tun.down = INNER_UP
            return 0
        if errno == ENETDOWN and table.tun.down == INNER_UP:
            table.tun.down = INNER_DOWN_SEEN
        if errno != EINTR:
            return errno


cdef void write_single(merge_table *table, uint8_t *packet, uint32_t length) noexcept nogil:
    cdef inner_head head
    cdef iovec vector[2]
    cdef int failed
    memset(&head.vnet, 0, sizeof(vnet_header))
    vector[1].iov_base = packet
    vector[1].iov_len = length
    failed = write_vector(table, &head, packet[0] >> 4, vector, 2, length)
    if failed:
        table.counters.value[C_INNER_NO_PEER if failed == ENOTCONN else C_TUN_WRITE_FAILED] += 1


cdef inline uint64_t pseudo_sum(const uint8_t *packet, uint8_t version, uint8_t protocol, uint32_t length) noexcept nogil:
    if version == 4:
        return csum_pseudo4(packet + 12, packet + 16, protocol, length)
    return csum_pseudo6(packet + 8, packet + 24, protocol, length)


cdef inline void write_apart(merge_table *table, merge_flow *flow) noexcept nogil:
    """Every packet still has its own header in front of its payload: the merged header was built elsewhere."""
    cdef uint32_t i
    for i in range(flow.count):
        write_single(
            table,
            <uint8_t *>flow.vector[2 + i].iov_base - flow.header_length,
            flow.header_length + <uint32_t>flow.vector[2 + i].iov_len,
        )


cdef void flow_write(merge_table *table, merge_flow *flow) noexcept nogil:
    cdef inner_head head
    cdef vnet_header *vnet = &head.vnet
    cdef uint32_t length = flow.header_length + flow.payload
    cdef uint8_t *header = flow.header
    cdef uint8_t *upper = header + flow.ip_length
    cdef uint16_t check
    cdef int failed
    if flow.count == 1:
        write_apart(table, flow)
        flow.first = NULL
        return
    memset(vnet, 0, sizeof(vnet_header))
    memcpy(header, flow.first, flow.header_length)
    if flow.version == 4:
        store16(header + 2, length)
        header[10] = header[11] = 0
        check = csum_ipv4_header(header, flow.ip_length)
        memcpy(header + 10, &check, 2)
        vnet.gso_type = VNET_GSO_TCPV4
    else:
        store16(header + 4, length - 40)
        vnet.gso_type = VNET_GSO_TCPV6
    check = csum_fold(pseudo_sum(header, flow.version, flow.protocol, length - flow.ip_length))
    if flow.protocol == TCP:
        upper[13] |= flow.push
        memcpy(upper + 16, &check, 2)
        vnet.csum_offset = 16
    else:
        store16(upper + 4, 8 + flow.payload)
        memcpy(upper + 6, &check, 2)
        vnet.csum_offset = 6
        vnet.gso_type = VNET_GSO_UDP_L4
    vnet.flags = VNET_NEEDS_CSUM
    vnet.hdr_len = flow.header_length
    vnet.gso_size = flow.segment
    vnet.csum_start = flow.ip_length
    flow.vector[1].iov_base = header
    flow.vector[1].iov_len = flow.header_length
    failed = write_vector(table, &head, flow.version, flow.vector, 2 + flow.count, length)
    if failed == 0:
        table.counters.value[C_MERGED] += flow.count
    else:
        if failed == EINVAL:
            table.counters.value[C_MERGE_REFUSED] += 1
            if flow.protocol == TCP:
                table.tun.merge_tcp = 0
            else:
                table.tun.merge_udp = 0
        write_apart(table, flow)
    flow.first = NULL


cdef inline bint can_start(merge_table *table, const uint8_t *packet, const ip_info *info, uint32_t *header) noexcept nogil:
    """A packet of a kind that merges at all, its checksum good."""
    cdef const uint8_t *upper = packet + info.header_length
    cdef uint32_t length = info.total_length - info.header_length
    if info.is_fragment or info.header_length != (20 if info.version == 4 else 40) or info.total_length > table.tun.mtu:
        return False
    if info.version == 4 and csum_ipv4_header(packet, 20) != 0:
        return False
    if info.protocol == TCP:
        if not table.tun.merge_tcp or length <= 20 or upper[13] & ~<uint8_t>TCP_PSH != TCP_ACK:
            return False
        header[0] = (upper[12] >> 4) * 4
        if header[0] < 20:
            return False
    elif info.protocol == UDP:
        if not table.tun.merge_udp or length <= 8 or load16(upper + 4) != length or load16(upper + 6) == 0:
            return False
        header[0] = 8
    else:
        return False
    if header[0] >= length:
        return False
    return csum_fold(csum_add(pseudo_sum(packet, info.version, info.protocol, length), upper, length)) == 0xFFFF


cdef inline merge_flow *find_flow(merge_table *table, const uint8_t *packet, const ip_info *info) noexcept nogil:
    cdef uint32_t i, addresses = 8 if info.version == 4 else 32, at = 12 if info.version == 4 else 8
    cdef merge_flow *flow
    for i in range(table.used):
        flow = &table.flows[i]
        if (
            flow.first is not NULL and flow.protocol == info.protocol and flow.version == info.version
            and memcmp(flow.first + at, packet + at, addresses) == 0
            and memcmp(flow.first + flow.ip_length, packet + info.header_length, 4) == 0
        ):
            return flow
    return NULL


cdef inline bint can_join(
    merge_flow *flow, const uint8_t *packet, const ip_info *info, uint32_t header, uint32_t room
) noexcept nogil:
    cdef const uint8_t *upper = packet + info.header_length
    cdef const uint8_t *first_upper = flow.first + flow.ip_length
    cdef uint32_t payload = info.total_length - info.header_length - header
    if (
        flow.closed or flow.header_length != info.header_length + header or flow.count == FLOW_SEGMENTS
        or payload > flow.segment or flow.header_length + flow.payload + payload > room
    ):
        return False
    if info.version == 4:
        if flow.first[1] != packet[1] or flow.first[8] != packet[8] or flow.first[6] != packet[6]:
            return False
        # a split counts identifications up, and without DF they matter to whoever reassembles
        if not packet[6] & IP_DF and load16(packet + 4) != (load16(flow.first + 4) + flow.count & 0xFFFF):
            return False
    elif memcmp(flow.first, packet, 4) != 0 or flow.first[7] != packet[7]:
        return False
    if info.protocol == UDP:
        return True
    return (
        load32(upper + 4) == flow.next_seq
        and memcmp(upper + 8, first_upper + 8, 5) == 0  # acknowledgement, header length, reserved bits
        and memcmp(upper + 14, first_upper + 14, 2) == 0
        and memcmp(upper + 18, first_upper + 18, header - 18) == 0  # urgent pointer, options
    )


cdef inline merge_flow *free_flow(merge_table *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.used):
        if table.flows[i].first is NULL:
            return &table.flows[i]
    if table.used == FLOW_COUNT:
        merge_flush(table)
    table.used += 1
    return &table.flows[table.used - 1]


cdef void merge_packet(merge_table *table, uint8_t *packet, const ip_info *info) noexcept nogil:
    cdef uint32_t header = 0, payload
    cdef bint good = can_start(table, packet, info, &header)
    cdef uint8_t *upper = packet + info.header_length
    cdef merge_flow *flow = NULL
    if table.used and info.total_length - info.header_length >= 4:
        flow = find_flow(table, packet, info)
    if flow is not NULL and not (good and can_join(flow, packet, info, header, table.tun.room)):
        flow_write(table, flow)
        flow = NULL
    if not good:
        write_single(table, packet, info.total_length)
        return
    payload = info.total_length - info.header_length - header
    if flow is NULL:
        flow = free_flow(table)
        flow.first = packet
        flow.ip_length = info.header_length
        flow.header_length = <uint16_t>(info.header_length + header)
        flow.segment = <uint16_t>payload
        flow.protocol = info.protocol
        flow.version = info.version
        flow.closed = flow.push = 0
        flow.count = flow.payload = 0
        flow.next_seq = load32(upper + 4)
    flow.vector[2 + flow.count].iov_base = upper + header
    flow.vector[2 + flow.count].iov_len = payload
    flow.count += 1
    flow.payload += payload
    flow.next_seq += payload
    if payload < flow.segment:
        flow.closed = 1
    if info.protocol == TCP and upper[13] & TCP_PSH:
        flow.push = TCP_PSH
        flow.closed = 1


cdef void merge_flush(merge_table *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.used):
        if table.flows[i].first is not NULL:
            flow_write(table, &table.flows[i])
    table.used = 0


def merged(list packets, int fd):
    """For tests: writes one batch of packets to `fd` (a datagram socket) as a TUN would get them."""
    cdef merge_table *table = <merge_table *>PyMem_Calloc(1, sizeof(merge_table))
    cdef io_counters counters
    cdef inner_port tun
    cdef ip_info info
    cdef list copies = [bytearray(packet) for packet in packets]
    cdef uint8_t *at
    memset(&tun, 0, sizeof(tun))
    tun.fd = fd
    tun.mtu = tun.room = 0xFFFF
    tun.merge_tcp = tun.merge_udp = 1
    table.tun, table.counters = &tun, &counters
    for copy in copies:
        at = <uint8_t *><char *>copy
        if ip_parse(at, <uint32_t>len(copy), &info) == IP_OK:
            merge_packet(table, at, &info)
    merge_flush(table)
    PyMem_Free(table)
